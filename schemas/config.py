"""Options and settings of generation: frozen, keyword-only dataclasses that check their values when they are constructed.

GenerateOptions is the one place of an option of `textsmooth gen`: the command line, the job file and textsmooth.pipeline.generate() take
name, type, default, help and checks from its field (options.py).
"""

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from textsmooth.schemas.canonical import lean
from textsmooth.schemas.codecs import canonical_codec, check_codec
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.options import (
    REQUIRED,
    Numbers,
    OptionalPath,
    RequiredPath,
    Texts,
    check_options,
    described,
    number,
    option,
    to_text,
    to_tuple,
    whole,
)
from textsmooth.schemas.type_checks import Converted

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
SPECIALS = ("plain", "smoothed")
DEFAULT_TEACHER = "google-bert/bert-base-uncased"
CONTEXTS = ("unmasked", "masked:N")
LONG_ROWS = ("truncate", "window")
EXECUTORS = ("auto", "inline", "ray")
STREAMING = ("auto", "always", "never")
PROGRESS_MODES = ("auto", "rich", "json", "none")
COLDEST = 0.001  # lowest temperature: below it only the argmax is left, and float32 overflows


def check_place(option: str, place: str) -> None:
    """UsageError for a URI that contains credentials; the message leaves them out, because it may end up in a log."""
    if re.match(r"\w+://[^@]*:[^@]*@", place):
        scheme, _, rest = place.partition("://")
        shown = f"{scheme}://…@{rest.rpartition('@')[2]}"
        raise UsageError(f"{option} {shown}: credentials do not belong in a URI; use AWS_PROFILE or the like")


def context_passes(context: str) -> int:
    """Number of forward passes over a row: N of `masked:N`, 1 of `unmasked`. UsageError for another context."""
    if context == "unmasked":
        return 1
    masked = re.fullmatch(r"masked:([1-9][0-9]{0,3})", context)
    if masked is None or int(masked[1]) < 2:
        raise UsageError(f"context {context!r} is neither `unmasked` nor `masked:N` with N from 2 to 9999")
    return int(masked[1])


def check_context(context: str, specials: str) -> None:
    """UsageError for an unknown context, or for a masked context together with smoothed special tokens."""
    if context_passes(context) > 1 and specials != "plain":
        raise UsageError(f"special tokens are never masked: --specials {specials} does not go with --context {context}")


def check_temperatures(temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """The temperatures in ascending order without repeats; UsageError unless each is finite and at least COLDEST."""
    for temperature in temperatures:
        if not (math.isfinite(temperature) and temperature >= COLDEST):
            raise UsageError(f"temperature must be a finite number of at least {COLDEST:g}, not {temperature:g}")
    return tuple(sorted(set(temperatures)))


_check_mass = number("a number", above=0, most=1)


def check_mass(mass: float) -> None:
    """UsageError unless 0 < mass <= 1."""
    _check_mass("mass", mass)


def check_stride(stride: int, window_tokens: int) -> None:
    """UsageError unless windows of so many tokens of text, which share `stride` of them, hold a question and advance."""
    if not 1 <= stride < window_tokens / 2:
        raise UsageError(f"stride must be at least 1 and less than half of the {window_tokens} tokens of text in a window, not {stride}")


def _check_temperatures(_: str, temperatures: tuple[float, ...]) -> None:
    check_temperatures(temperatures)


def _check_context(_: str, context: str) -> None:
    context_passes(context)


def _check_gpus(name: str, gpus: float) -> None:
    number("a number", least=0)(name, gpus)
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"{name} {gpus:g}: a worker has a part of one GPU, or whole ones")


def _check_workers(_: str, count: str) -> None:
    workers(count)


def _check_unique(name: str, columns: tuple[str, ...]) -> None:
    for column in columns:
        if columns.count(column) > 1:
            raise UsageError(f"--{name} names {column!r} twice")


def _check_text_columns(name: str, columns: tuple[str, ...]) -> None:
    _check_unique(name, columns)
    if len(columns) > 2:
        raise UsageError(f"a row has one text or a pair: give --{name} once or twice, not {len(columns)} times")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Every setting that decides the bytes of a dataset, nothing left at `auto`.

    Part of the plan and of every unit's id: two runs with the same config, corpus, teacher and libraries write the same bytes.
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
    stride: int = 0  # tokens that neighboring windows of a long row share; 0 where rows are truncated

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", check_temperatures(tuple(float(t) for t in self.temperatures)))
        check_options(self, GenerateOptions, skip=("stride",))  # 0 where rows are truncated
        whole(1)("chunk-tokens", self.chunk_tokens)
        check_context(self.context, self.specials)
        if self.long == "window":
            check_stride(self.stride, self.max_length)

    @property
    def passes(self) -> int:
        """Forward passes over a row."""
        return context_passes(self.context)

    @property
    def windows(self) -> bool:
        """Whether long rows are cut into overlapping windows."""
        return self.long == "window"

    @property
    def extra_temperatures(self) -> tuple[float, ...]:
        """The temperatures whose log-partition is stored: all but 1, where it is 0."""
        return tuple(t for t in self.temperatures if t != 1.0)

    def to_json(self) -> dict[str, Any]:
        return {**lean(self, ("stride",)), "temperatures": list(self.temperatures)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        names = {f.name for f in fields(cls)}
        settings: dict[str, Any] = {k: tuple(v) if k == "temperatures" else v for k, v in value.items() if k in names}
        return cls(**settings)


_PATH: dict[str, Any] = {"convert": to_text, "check": check_place}
_CORPUS = {"group": "Corpus"}
_TEACHER = {"group": "Teacher"}
_SOFT_IDS = {"group": "Soft ids"}
_ROWS = {"group": "Rows, batches and shards"}
_DEVICE = {"group": "Device"}
_WORKERS = {"group": "Workers"}
_OUTPUT = {"group": "Output"}


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of `textsmooth gen`. None stands for `auto`: it is resolved once and then written into the plan."""

    corpus: RequiredPath = field(
        default=REQUIRED,
        kw_only=False,
        metadata=described(
            help="Text to smooth: demo; glue/TASK, squad; OWNER/NAME[:config] on the Hub; a folder laid out like that; files, globs, URIs.",
            **_CORPUS,
            **_PATH,
        ),
    )
    corpus_revision: str | None = option(None, help="Branch, tag or commit of a corpus on the Hub.", unset="main", **_CORPUS)
    streaming: str = option(
        "auto", help="Whether to read files on the Hub in place instead of downloading them first.", choices=STREAMING, **_CORPUS
    )
    splits: Texts = option(
        (), help="Split to read; repeatable, or a,b.", unset="all", flag="split", commas=True, convert=to_tuple, **_CORPUS
    )
    text_columns: Texts = option(
        (),
        help="Column with the text; give it twice for a pair of texts.",
        unset="found by name",
        flag="text-column",
        convert=to_tuple,
        check=_check_text_columns,
        **_CORPUS,
    )
    label_column: str | None = option(None, help="Column with the label.", unset="label, if there is one", **_CORPUS)
    keep_columns: Texts = option(
        (),
        help="Column to copy into the dataset; repeatable, or a,b.",
        unset="none",
        commas=True,
        convert=to_tuple,
        check=_check_unique,
        **_CORPUS,
    )
    limit: int | None = option(None, help="Read only the first N rows of each split.", unset="all", metavar="N", check=whole(1), **_CORPUS)

    teacher: OptionalPath = option(
        None,
        help="Masked language model: OWNER/NAME on the Hub, a folder, or demo.",
        unset=f"{DEFAULT_TEACHER}; demo for the demo corpus",
        **_TEACHER,
        **_PATH,
    )
    teacher_revision: str | None = option(None, help="Branch, tag or commit of a teacher on the Hub.", unset="main", **_TEACHER)
    task_teacher: OptionalPath = option(
        None, help="Fine-tuned classifier or span model whose logits are stored as teacher_logits.", unset="none", **_TEACHER, **_PATH
    )
    task_teacher_revision: str | None = option(None, help="Branch, tag or commit of a task teacher on the Hub.", unset="main", **_TEACHER)

    topk: int = option(32, help="Keep at most this many entries per token.", check=whole(1), **_SOFT_IDS)
    mass: float = option(1.0, help="Keep the fewest entries whose probabilities sum to this, from 0 to 1.", check=_check_mass, **_SOFT_IDS)
    temperatures: Numbers = option(
        (1.0,),
        help="Temperatures at which students can use exact probabilities, such as 0.5,1,2.",
        commas=True,
        convert=to_tuple,
        check=_check_temperatures,
        **_SOFT_IDS,
    )
    context: str = option(
        "unmasked",
        help="What the teacher sees: the unmasked text, or with masked:N every token masked once, in N forward passes.",
        metavar="unmasked|masked:N",
        check=_check_context,
        **_SOFT_IDS,
    )
    specials: str = option("plain", help="Whether to smooth special tokens too.", choices=SPECIALS, **_SOFT_IDS)
    codec: str = option(
        "plain",
        help="Layout of soft ids in shards: plain, compact, or compact:BOUND, the largest mean total variation, such as compact:5e-4.",
        metavar="plain|compact[:BOUND]",
        convert=canonical_codec,
        check=check_codec,
        **_SOFT_IDS,
    )

    max_length: int | None = option(
        None, help="Maximum tokens per row, special tokens included.", none_word="auto", check=whole(1), **_ROWS
    )
    long: str | None = option(
        None, help="What to do with longer rows: truncate them, or cut them into windows.", unset="by task", choices=LONG_ROWS, **_ROWS
    )
    stride: int | None = option(None, help="Tokens that neighboring windows of a row share.", none_word="auto", check=whole(1), **_ROWS)
    max_batch_tokens: int | None = option(
        None, help="Maximum tokens per forward pass, padding included.", none_word="auto", check=whole(1), **_ROWS
    )
    rows_per_shard: int = option(2048, help="Rows per shard, the unit of work and of resuming.", check=whole(1), **_ROWS)

    dtype: str | None = option(None, help="Number format of the teacher.", none_word="auto", choices=DTYPES, **_DEVICE)
    device: str | None = option(None, help="Device of the teacher: cpu, cuda, cuda:1, mps.", none_word="auto", **_DEVICE)
    threads: int | None = option(
        None,
        help="CPU threads of the forward pass; auto: OMP_NUM_THREADS, or all available CPUs.",
        none_word="auto",
        check=whole(1),
        **_DEVICE,
    )

    executor: str = option(
        "auto",
        help="What runs the units: this process, or Ray; auto: Ray for several workers or GPUs, or with a Ray address.",
        choices=EXECUTORS,
        **_WORKERS,
    )
    num_workers: Converted[int | str | None, str | None] = option(
        None,
        help="Number of workers on Ray: N, or MIN-MAX for an autoscaling pool.",
        metavar="N|MIN-MAX",
        unset="one per visible GPU",
        convert=to_text,
        check=_check_workers,
        **_WORKERS,
    )
    initial_workers: int | None = option(None, help="Workers that an autoscaling pool starts with.", unset="MIN", **_WORKERS)
    gpus_per_worker: float | None = option(
        None, help="GPUs per worker; 0.5: two workers share one.", unset="1 where there are GPUs, else 0", check=_check_gpus, **_WORKERS
    )
    cpus_per_worker: float | None = option(
        None, help="CPUs that Ray reserves per worker.", unset="1", check=number("a number", least=0), **_WORKERS
    )
    ray_address: str | None = option(
        None, help="Ray cluster to join: HOST:PORT, or auto.", unset="RAY_ADDRESS, else a local cluster is started", **_WORKERS
    )
    ship_code: bool = option(False, help="Send this checkout to the workers, as a wheel.", **_WORKERS)
    unit_timeout_s: float | None = option(
        None,
        help="Seconds after which a running unit counts as hung.",
        flag="unit-timeout",
        unset="no limit",
        check=number("seconds", above=0),
        **_WORKERS,
    )

    out: OptionalPath = option(
        None, help="Folder of the dataset: local, s3://… or gs://….", unset="smoothed/<corpus>-<teacher>-k<topk>", **_OUTPUT, **_PATH
    )
    from_previous: OptionalPath = option(
        None,
        help="Incremental generation: reuse shards of this finished dataset whose rows are unchanged.",
        unset="none",
        **_OUTPUT,
        **_PATH,
    )
    skip_bad_rows: bool = option(False, help="Skip rows that cannot be smoothed, and list them in quarantine.jsonl.", **_OUTPUT)
    overwrite: bool = option(False, help="Remove the run that is in the output folder first.", **_OUTPUT)
    price_per_hour: float | None = option(
        None,
        help="Price of one worker, in any currency: --dry-run and run.json then report the cost of the run.",
        unset="none",
        check=number("a number", least=0),
        **_OUTPUT,
    )
    progress: str = option("auto", help="How to show progress on stderr.", choices=PROGRESS_MODES, **_OUTPUT)

    def __post_init__(self) -> None:
        check_options(self)
        check_context(self.context, self.specials)
        if self.stride is not None and self.long == "truncate":
            raise UsageError("--stride is what neighboring windows share; it does not go with --long truncate")
        self._check_workers()

    def _check_workers(self) -> None:
        low, high = workers(self.num_workers)
        if self.initial_workers is not None and not low <= self.initial_workers <= high:
            raise UsageError(f"initial-workers {self.initial_workers} is not within --num-workers {self.num_workers or 'auto'}")
        if self.executor == "inline":
            needs_ray = {
                "num-workers": self.num_workers not in (None, "1"),
                "initial-workers": self.initial_workers,
                "gpus-per-worker": self.gpus_per_worker,
                "cpus-per-worker": self.cpus_per_worker,
                "ray-address": self.ray_address,
                "ship-code": self.ship_code,
            }
            for name, value in needs_ray.items():
                if value:
                    raise UsageError(f"--{name} is for several workers: it does not go with --executor inline")


def workers(count: str | None) -> tuple[int, int]:
    """The least and the most workers of `N` or `MIN-MAX`; (1, 1) for None. UsageError for another text."""
    if count is None:
        return 1, 1
    numbers = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", count)
    if numbers is None:
        raise UsageError(f"num-workers {count!r} is neither a number N of at least 1 nor a range MIN-MAX")
    least, most = int(numbers[1]), int(numbers[2] or numbers[1])
    if most < least:
        raise UsageError(f"num-workers {count!r}: its MIN is above its MAX")
    return least, most
