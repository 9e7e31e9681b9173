"""What a user may set, checked when it is put together: frozen, keyword-only dataclasses."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from textsmooth.schemas.errors import UsageError

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
SPECIALS = ("plain", "smoothed")
CODECS = ("plain",)
CONTEXTS = ("unmasked",)
LONG_ROWS = ("truncate",)
COLDEST = 0.001  # temperature: below, only the argmax is left and float32 runs out


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} {value!r} is not one of {', '.join(allowed)}")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a whole number of at least 1, not {value!r}")


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

    def __post_init__(self) -> None:
        for name in ("topk", "max_length", "max_batch_tokens", "chunk_tokens", "rows_per_shard"):
            _positive(name.replace("_", "-"), getattr(self, name))
        check_mass(self.mass)
        object.__setattr__(self, "temperatures", check_temperatures(tuple(float(t) for t in self.temperatures)))
        _one_of("specials", self.specials, SPECIALS)
        _one_of("codec", self.codec, CODECS)
        _one_of("context", self.context, CONTEXTS)
        _one_of("long", self.long, LONG_ROWS)
        _one_of("dtype", self.dtype, DTYPES)

    @property
    def extra_temperatures(self) -> tuple[float, ...]:
        """The temperatures whose log-partition is stored: all but 1, where it is 0."""
        return tuple(t for t in self.temperatures if t != 1.0)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "temperatures": list(self.temperatures)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        known = {f.name for f in fields(cls)}
        found: dict[str, Any] = {k: tuple(v) if k == "temperatures" else v for k, v in value.items() if k in known}
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What `textsmooth gen` was asked for. None stands for `auto`: resolved once, then written into the plan."""

    corpus: str
    out: str | None = None
    splits: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    keep_columns: tuple[str, ...] = ()
    limit: int | None = None  # rows of each split
    teacher: str | None = None
    topk: int = 32
    mass: float = 1.0
    temperatures: tuple[float, ...] = (1.0,)
    specials: str = "plain"
    max_length: int | None = None
    max_batch_tokens: int | None = None
    rows_per_shard: int = 2048
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        _positive("topk", self.topk)
        _positive("rows-per-shard", self.rows_per_shard)
        check_mass(self.mass)
        check_temperatures(self.temperatures)
        _one_of("specials", self.specials, SPECIALS)
        if self.dtype is not None:
            _one_of("dtype", self.dtype, DTYPES)
        for name in ("limit", "max_length", "max_batch_tokens", "threads"):
            if getattr(self, name) is not None:
                _positive(name.replace("_", "-"), getattr(self, name))
        for name, values in (("text-column", self.text_columns), ("keep-columns", self.keep_columns)):
            for value in values:
                if values.count(value) > 1:
                    raise UsageError(f"--{name} names {value!r} twice")
        if len(self.text_columns) > 2:
            raise UsageError(f"a row has one text or a pair: give --text-column once or twice, not {len(self.text_columns)} times")
