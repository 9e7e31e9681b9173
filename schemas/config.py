"""What a user may set, checked when it is put together: frozen, keyword-only dataclasses."""

import math
import re
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from textsmooth.schemas.canonical import lean
from textsmooth.schemas.codecs import CODECS
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.type_checks import check_types

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
SPECIALS = ("plain", "smoothed")
DEFAULT_TEACHER = "google-bert/bert-base-uncased"
CONTEXTS = ("unmasked", "masked:N")
LONG_ROWS = ("truncate", "window")
EXECUTORS = ("auto", "inline", "ray")
STREAMING = ("auto", "always", "never")
COLDEST = 0.001  # temperature: below, only the argmax is left and float32 runs out


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} {value!r} is not one of {', '.join(allowed)}")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a whole number of at least 1, not {value!r}")


def check_place(option: str, place: str | None) -> None:
    """UsageError, which does not repeat it, for a URI with credentials in it: such lines end up in logs."""
    if place is not None and re.match(r"\w+://[^@]*:[^@]*@", place):
        scheme, _, rest = place.partition("://")
        shown = f"{scheme}://…@{rest.rpartition('@')[2]}"
        raise UsageError(f"{option} {shown}: credentials do not belong into a URI; use AWS_PROFILE or the like")


def context_passes(context: str) -> int:
    """How many forward passes a row takes: N of `masked:N`, 1 if nothing is masked. UsageError if it is neither."""
    if context == "unmasked":
        return 1
    found = re.fullmatch(r"masked:([1-9][0-9]{0,3})", context)
    if found is None or int(found[1]) < 2:
        raise UsageError(f"context {context!r} is neither `unmasked` nor `masked:N` with N from 2 to 9999")
    return int(found[1])


def check_context(context: str, specials: str) -> None:
    """UsageError for an unknown context, and for smoothed special tokens where every smoothed token is a masked one."""
    if context_passes(context) > 1 and specials != "plain":
        raise UsageError(f"special tokens are never masked: --specials {specials} does not go with --context {context}")


def check_temperatures(temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """The temperatures in ascending order without repeats; UsageError unless each is finite and at least COLDEST."""
    for temperature in temperatures:
        if not (math.isfinite(temperature) and temperature >= COLDEST):
            raise UsageError(f"temperature must be a finite number of at least {COLDEST:g}, not {temperature:g}")
    return tuple(sorted(set(temperatures)))


def check_mass(mass: float) -> None:
    """UsageError unless 0 < mass <= 1."""
    if not (0 < mass <= 1):
        raise UsageError(f"mass must be above 0 and at most 1, not {mass:g}")


def check_stride(stride: int, room: int) -> None:
    """UsageError unless windows with room for so many tokens of text, stride of them shared, can hold a question and advance."""
    if not 1 <= stride < room / 2:
        raise UsageError(f"stride must be at least 1 and less than half of the {room} tokens of text in a window, not {stride}")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Every setting that decides the bytes of a dataset, nothing left at `auto`.

    Part of the plan and of every unit's id: two runs with equal configs, corpus, teacher and libraries write equal bytes.
    """

    topk: int = 32
    mass: float = 1.0
    temperatures: tuple[float, ...] = (1.0,)
    context: str = "unmasked"
    specials: str = "plain"
    codec: str = "plain"
    max_length: int = 512  # tokens, specials included
    long: str = "truncate"
    max_batch_tokens: int = 4096  # padded tokens of one forward pass
    chunk_tokens: int = 256  # tokens of one vocabulary projection
    rows_per_shard: int = 2048
    dtype: DType = "float32"
    device: str = "cpu"  # device kind: cpu, cuda, mps
    stride: int = 0  # tokens that neighbouring windows of a long row share; 0 where rows are truncated

    def __post_init__(self) -> None:
        for name in ("topk", "max_length", "max_batch_tokens", "chunk_tokens", "rows_per_shard"):
            _positive(name.replace("_", "-"), getattr(self, name))
        check_mass(self.mass)
        object.__setattr__(self, "temperatures", check_temperatures(tuple(float(t) for t in self.temperatures)))
        _one_of("specials", self.specials, SPECIALS)
        _one_of("codec", self.codec, tuple(CODECS))
        check_context(self.context, self.specials)
        _one_of("long", self.long, LONG_ROWS)
        _one_of("dtype", self.dtype, DTYPES)
        if self.long == "window":
            check_stride(self.stride, self.max_length)

    @property
    def passes(self) -> int:
        """Forward passes over a row."""
        return context_passes(self.context)

    @property
    def extra_temperatures(self) -> tuple[float, ...]:
        """The temperatures whose log-partition is stored: all but 1, where it is 0."""
        return tuple(t for t in self.temperatures if t != 1.0)

    def to_json(self) -> dict[str, Any]:
        return {**lean(self, ("stride",)), "temperatures": list(self.temperatures)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        known = {f.name for f in fields(cls)}
        found: dict[str, Any] = {k: tuple(v) if k == "temperatures" else v for k, v in value.items() if k in known}
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What `textsmooth gen` was asked for. None stands for `auto`: resolved once, then written into the plan."""

    corpus: str
    corpus_revision: str | None = None  # of a corpus on the Hub: branch, tag or commit
    streaming: str = "auto"  # whether files on the Hub are read from there, instead of being fetched first
    out: str | None = None
    splits: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    keep_columns: tuple[str, ...] = ()
    limit: int | None = None  # rows of each split
    teacher: str | None = None
    teacher_revision: str | None = None
    task_teacher: str | None = None  # a classifier or span model whose logits are written too
    task_teacher_revision: str | None = None
    topk: int = 32
    mass: float = 1.0
    temperatures: tuple[float, ...] = (1.0,)
    context: str = "unmasked"
    specials: str = "plain"
    codec: str = "plain"
    max_length: int | None = None
    long: str | None = None
    stride: int | None = None
    max_batch_tokens: int | None = None
    rows_per_shard: int = 2048
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    overwrite: bool = False
    executor: str = "auto"
    num_workers: str | None = None  # N, or MIN-MAX: a pool that grows and shrinks
    initial_workers: int | None = None  # of a pool that grows and shrinks
    gpus_per_worker: float | None = None
    cpus_per_worker: float | None = None
    ray_address: str | None = None
    ship_code: bool = False  # this checkout, as a wheel, to the workers
    unit_timeout_s: float | None = None  # a unit that takes longer hangs
    skip_bad_rows: bool = False
    from_previous: str | None = None  # a smoothed dataset whose unchanged shards are taken over
    price_per_hour: float | None = None  # of one worker, in any currency

    def __post_init__(self) -> None:
        check_types(self)
        for option in ("corpus", "out", "teacher", "task_teacher", "from_previous"):
            check_place(option.replace("_", "-"), getattr(self, option))
        _one_of("executor", self.executor, EXECUTORS)
        self._check_workers()
        _positive("topk", self.topk)
        _positive("rows-per-shard", self.rows_per_shard)
        check_mass(self.mass)
        check_temperatures(self.temperatures)
        _one_of("specials", self.specials, SPECIALS)
        _one_of("codec", self.codec, tuple(CODECS))
        _one_of("streaming", self.streaming, STREAMING)
        check_context(self.context, self.specials)
        if self.dtype is not None:
            _one_of("dtype", self.dtype, DTYPES)
        if self.long is not None:
            _one_of("long", self.long, LONG_ROWS)
        if self.stride is not None and self.long == "truncate":
            raise UsageError("--stride is what neighbouring windows share; it does not go with --long truncate")
        for name in ("limit", "max_length", "stride", "max_batch_tokens", "threads"):
            if getattr(self, name) is not None:
                _positive(name.replace("_", "-"), getattr(self, name))
        for name, values in (("text-column", self.text_columns), ("keep-columns", self.keep_columns)):
            for value in values:
                if values.count(value) > 1:
                    raise UsageError(f"--{name} names {value!r} twice")
        if self.unit_timeout_s is not None and not (math.isfinite(self.unit_timeout_s) and self.unit_timeout_s > 0):
            raise UsageError(f"unit-timeout must be seconds above 0, not {self.unit_timeout_s:g}")
        if self.price_per_hour is not None and not (math.isfinite(self.price_per_hour) and self.price_per_hour >= 0):
            raise UsageError(f"price-per-hour must be a number of at least 0, not {self.price_per_hour:g}")
        if len(self.text_columns) > 2:
            raise UsageError(f"a row has one text or a pair: give --text-column once or twice, not {len(self.text_columns)} times")

    def _check_workers(self) -> None:
        low, high = workers(self.num_workers)
        for name in ("gpus_per_worker", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name.replace('_', '-')} must be a number of at least 0, not {value:g}")
        gpus = self.gpus_per_worker or 0
        if gpus > 1 and gpus != int(gpus):
            raise UsageError(f"gpus-per-worker {gpus:g}: a worker has part of one GPU, or whole ones")
        if self.initial_workers is not None and not low <= self.initial_workers <= high:
            raise UsageError(f"initial-workers {self.initial_workers} is not within --num-workers {self.num_workers or 'auto'}")
        if self.executor == "inline":
            asked = {
                "num-workers": self.num_workers not in (None, "1"),
                "initial-workers": self.initial_workers,
                "gpus-per-worker": self.gpus_per_worker,
                "cpus-per-worker": self.cpus_per_worker,
                "ray-address": self.ray_address,
                "ship-code": self.ship_code,
            }
            for name, value in asked.items():
                if value:
                    raise UsageError(f"--{name} is for several workers: it does not go with --executor inline")


def workers(asked: str | None) -> tuple[int, int]:
    """The least and the most workers of `N` or `MIN-MAX`; (1, 1) if nothing was asked. UsageError if it is neither."""
    if asked is None:
        return 1, 1
    found = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", asked)
    if found is None:
        raise UsageError(f"num-workers {asked!r} is neither a number N of at least 1 nor a range MIN-MAX")
    if found[2] and int(found[2]) < int(found[1]):
        raise UsageError(f"num-workers {asked!r}: its MIN is above its MAX")
    return int(found[1]), int(found[2] or found[1])
