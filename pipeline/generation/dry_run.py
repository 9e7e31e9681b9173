"""--dry-run: what a run would do, what would be kept, how large it would be and how long it would take. Nothing is written.

A sample of the corpus goes through the run's own worker. Legend: N tokens, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsmooth.pipeline.commit.commit import finished_units
from textsmooth.pipeline.executors.select import select_executor
from textsmooth.pipeline.generation.reuse import Gone, reusable
from textsmooth.pipeline.generation.run import resolve
from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.rows import bad_text, row_columns, typed_rows
from textsmooth.pipeline.progress import Progress
from textsmooth.pipeline.units.bad_rows import select_rows
from textsmooth.pipeline.units.worker import UnitWorker
from textsmooth.schemas.config import GenerateOptions, GenerationConfig
from textsmooth.schemas.errors import ConflictError, CorpusError
from textsmooth.schemas.manifest import MANIFEST, PLAN
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.stages.corpus.reader import Rows, scan
from textsmooth.stages.corpus.source_file import SCAN_ROWS
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.soft_ids.codec import find_codec
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.soft_ids.topk import ChunkSoftIds
from textsmooth.stages.soft_ids.truncation import Loss, Truncation, TruncationLoss
from textsmooth.stages.tokens.tokenize import NO_LIMIT, tokenize

SEED = 0
ROWS = 512  # of the sample, at most
LEAST = 32  # rows that go through the teacher, however slow it is
STRETCHES = 16  # parts of the corpus that the sample is taken from
TOKENIZE_S = 3.0  # after which no more rows of the sample are tokenized
SCORE_S = 10.0  # in which the teacher and the figures should be done
TOPKS = (4, 8, 16, 32, 64, 128)
MASSES = (0.9, 0.95, 0.99, 0.999)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was measured on some rows of the corpus."""

    rows: int  # tokenized
    lines: int  # rows of tokens that they make: more where long rows are cut into windows
    tokens: int  # specials included
    long_rows: int  # longer than max_length
    whole_tokens: int  # if no row were cut; overlaps of windows not counted
    scored_rows: int  # through the teacher: the first so many of `rows`
    scored_tokens: int
    smoothed: int  # tokens with soft ids among them
    reached_mass: int | None  # those whose entries reach --mass; None without one
    losses: tuple[Loss, ...]  # over those
    p_original: dict[float | None, float]  # over those: quantiles, and the mean as None; empty where there are none
    content_bytes: int  # of the scored rows in shards, without what a shard without rows has
    empty_bytes: int  # of a shard without rows
    tokens_per_s: float  # through the teacher, all passes


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a run would do."""

    out: str  # path or URI of the folder
    plan: Plan
    done: int  # units that are there
    rows_left: int
    finished: bool  # there is nothing to do
    removes: bool  # another run is removed first: --overwrite
    refused: str | None = None  # why it would not run as it is asked for
    sample: Sample | None = None  # None if finished, or if no unit would run
    scope: tuple[Unit, ...] = ()  # what the sample stands for: all units; of a run that takes shards over, those that would run
    taken: int = 0  # units that would be taken over; their bytes were not looked at
    notes: tuple[str, ...] = ()  # remarks on columns and labels
    previous_gone: str | None = None  # why none can be, where that was planned
    statistics: dict[str, Any] | None = None  # the manifest's, if finished

    @property
    def truncation(self) -> Truncation:
        return Truncation(topk=self.plan.config.topk, mass=self.plan.config.mass)

    @property
    def exact(self) -> bool:
        """Whether the sample is all that it stands for."""
        return self.sample is not None and self.sample.rows == self.scope_rows

    @cached_property
    def scope_rows(self) -> int:
        return sum(unit.rows for unit in self.scope)

    def of_all(self, count: float) -> float:
        """A count in the sample, scaled up to all that it stands for."""
        assert self.sample is not None
        return count * self.scope_rows / self.sample.rows

    def bytes(self, loss: Loss) -> float:
        """All shards, were the entries those of `loss`: as many bytes more or less as there are ids and log-probabilities."""
        sample = self.sample
        assert sample is not None
        chosen = next(found for found in sample.losses if found.truncation == self.truncation)
        per_entry = find_codec(self.plan.config.codec).entry_bytes(self.plan.teacher.vocab_size)
        other = (loss.entries - chosen.entries) * sample.smoothed * per_entry if sample.smoothed else 0
        return len(self.scope) * sample.empty_bytes + (sample.content_bytes + other) * self.of_all(sample.tokens) / max(
            sample.scored_tokens, 1
        )

    @property
    def seconds(self) -> float:
        """Of the teacher, over the rows that are not done."""
        assert self.sample is not None
        return self.of_all(self.sample.tokens) * self.rows_left / self.scope_rows / self.sample.tokens_per_s


def preview(options: GenerateOptions, progress: Progress | None = None) -> Preview:
    """Plan a run, put a sample of its rows through the teacher, and say what the run would do; nothing is written.

    Raises what `generate` raises, but that the folder holds another run: that is told beside the rest. Of a finished dataset the
    teacher is not loaded: it has its own statistics.
    """
    with progress or Progress("none") as shown, select_executor(options) as executor:
        refused = None
        try:
            resolved = resolve(options, shown, executor)
        except ConflictError as error:  # said, and shown all the same: nothing is written
            resolved = resolve(replace(options, overwrite=True), shown, executor)
            refused = str(error)
        out, plan, new, previous = resolved.out, resolved.plan, resolved.new, resolved.previous
        finished = not new and out.size(MANIFEST) is not None
        done = {} if new or finished else finished_units(out, plan)
        statistics = sample = None
        left = [] if finished else [unit for unit in plan.units if unit.id not in done]
        taken = {unit.id for unit in reusable(previous, left, skip_bad_rows=options.skip_bad_rows)}
        run = tuple(unit for unit in left if unit.id not in taken)
        scope = plan.units if previous is None else run
        if finished:
            statistics = read_manifest(out).statistics
        elif scope:
            torch.set_num_threads(plan.runtime["threads"])
            sample = measure(UnitWorker(plan, resolved.request.sources, out), rows_of(plan, resolved.request.sources, scope), shown)
        return Preview(
            out=str(out),
            plan=plan,
            done=len(plan.units) if finished else len(done),
            rows_left=sum(unit.rows for unit in run),
            finished=finished,
            removes=new and out.size(PLAN) is not None,
            refused=refused,
            sample=sample,
            statistics=statistics,
            scope=scope,
            taken=len(taken),
            notes=resolved.notes,
            previous_gone=previous.why if isinstance(previous, Gone) else None,
        )


def draw(units: Sequence[Unit], rows: int = ROWS) -> list[tuple[Unit, NDArray[np.int64]]]:
    """Which rows of which units to look at, counted in the unit: about `rows` of them, the same each time; all if there are no more.

    Evenly spaced places in the corpus, then rows of the units there: every row has the same chance, and only some units are read.
    """
    rng = np.random.default_rng(SEED)
    sizes = np.array([unit.rows for unit in units])
    total = int(sizes.sum())
    if total <= rows:
        return [(unit, np.arange(unit.rows)) for unit in units]
    places = min(max(STRETCHES, -(-rows // int(sizes.max()))), rows)
    at = (np.arange(places) + rng.random()) * total / places
    hits = np.bincount(np.searchsorted(np.cumsum(sizes), at, side="right"), minlength=len(units))
    wanted = np.minimum(hits * (rows // places), sizes)
    return [(units[i], np.sort(rng.choice(sizes[i], wanted[i], replace=False))) for i in map(int, np.flatnonzero(wanted))]


def rows_of(plan: Plan, sources: Sources, units: Sequence[Unit] = ()) -> Rows:
    """The sampled rows of units, all of the plan's by default, in random order: any first part is a sample too."""
    names = row_columns(plan.corpus)
    found: Rows = {name: [] for name in names}
    for unit, wanted in draw(units or plan.units):
        picked = _pick(unit, wanted, names, sources)
        bad = {index for index, _ in bad_text(picked, plan.corpus)}  # there only if they will be left out
        picked = select_rows(picked, np.array([i for i in range(len(wanted)) if i not in bad], np.int64)) if bad else picked
        for name, values in typed_rows(picked, plan.corpus, sources.files[unit.file]).items():
            found[name] += values
    order = np.random.default_rng(SEED).permutation(len(found[names[0]]))
    return {name: [values[i] for i in order] for name, values in found.items()}


def _pick(unit: Unit, wanted: NDArray[np.int64], names: tuple[str, ...], sources: Sources) -> Rows:
    file = sources.files[unit.file]
    found: Rows = {name: [] for name in names}
    low, stop = 0, unit.start + int(wanted[-1]) + 1
    for part in scan(file, names, rows=SCAN_ROWS, limit=stop, start=unit.start, offset=unit.offset or 0):
        inside = wanted[(wanted >= low) & (wanted < low + part.count)] - low
        for name in names:
            found[name] += [part.rows[name][i] for i in inside]
        low += part.count
    if unit.start + low < stop:
        raise CorpusError(f"{file} ends before row {stop}: it changed meanwhile; run the same command again")
    return found


def truncations(config: GenerationConfig, vocab_size: int) -> tuple[Truncation, ...]:
    """What is compared: every k of TOPKS up to V and the one asked for, then every mass at that k."""
    topks = sorted({config.topk, *(k for k in TOPKS if k <= vocab_size)})
    masses = sorted({*MASSES, *([config.mass] if config.mass < 1 else [])})
    return (*(Truncation(topk=k) for k in topks), *(Truncation(topk=config.topk, mass=mass) for mass in masses))


class _Watched:
    """The sparsifier, with the figures taken from the same logits; keeps the time that these took."""

    def __init__(self, sparsify: Any, truncation_loss: TruncationLoss) -> None:
        self.sparsify, self.truncation_loss, self.seconds = sparsify, truncation_loss, 0.0

    def __call__(self, logits: Tensor, original: Tensor) -> ChunkSoftIds:
        found: ChunkSoftIds = self.sparsify(logits, original)
        if logits.device.type == "cuda":
            torch.cuda.synchronize(logits.device)  # what was waiting there is not ours
        start = time.perf_counter()
        self.truncation_loss.add(logits, original)
        self.seconds += time.perf_counter() - start
        return found


def measure(worker: UnitWorker, rows: Rows, shown: Progress) -> Sample:
    """Tokenize rows, and put the first of them through the teacher, both as many as the time allows."""
    plan = worker.plan
    config = plan.config
    lengths = _Lengths(worker)
    total = len(next(iter(rows.values())))
    lengths.add(rows, total)
    truncation_loss = TruncationLoss(truncations(config, plan.teacher.vocab_size), config.extra_temperatures)
    watched = _Watched(worker.sparsify, truncation_loss)
    worker.sparsify = watched
    scored = content = empty = 0
    sums = UnitStats()
    speeds: list[tuple[int, float]] = []
    for part in _blocks(rows, lengths.rows):
        count = len(next(iter(part.values())))
        ready = worker.tokenize(part)
        before = watched.seconds
        found = worker.score(ready)
        speeds.append((len(ready.tokens.input_ids), found.seconds - (watched.seconds - before)))
        unit = Unit(split="sample", number=0, file="", start=0, stop=count, row=0, offset=None, rows_sha256="", id="")
        data, stats = worker.encode(unit, ready, found)
        empty = _empty_bytes(pa.ipc.open_file(data).schema)
        content += data.size - empty
        scored, sums = scored + count, sums + stats
        shown.sampling(scored)
    warm = speeds[1:] or speeds  # the first pass through a teacher is slower
    original = truncation_loss.p_original
    return Sample(
        rows=lengths.rows,
        lines=lengths.lines,
        tokens=lengths.tokens,
        long_rows=lengths.long_rows,
        whole_tokens=lengths.whole_tokens,
        scored_rows=scored,
        scored_tokens=sums.tokens,
        smoothed=sums.smoothed,
        reached_mass=sums.reached_mass,
        losses=truncation_loss.losses(),
        p_original={None: float(original.mean()), **{q: float(np.quantile(original, q)) for q in QUANTILES}} if len(original) else {},
        content_bytes=content,
        empty_bytes=empty,
        tokens_per_s=max(sum(n for n, _ in warm), 1) / max(sum(s for _, s in warm), 1e-9),
    )


def _empty_bytes(schema: pa.Schema) -> int:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist([], schema))
    return int(sink.getvalue().size)


class _Lengths:
    """Counts tokens, as the run truncations them and as they would be uncut."""

    def __init__(self, worker: UnitWorker) -> None:
        self.worker = worker
        self.rows = self.lines = self.tokens = self.long_rows = self.whole_tokens = 0

    def add(self, rows: Rows, total: int) -> None:
        start = time.perf_counter()
        while self.rows < total and (self.rows < LEAST or time.perf_counter() - start < TOKENIZE_S):
            self._block(_slice(rows, self.rows, self.rows + LEAST))

    def _block(self, rows: Rows) -> None:
        plan = self.worker.plan
        cut = self.worker.tokenize(rows).tokens
        first, *second = (rows[column] for column in plan.corpus.text_columns)
        pairs = second[0] if second else None
        whole = tokenize(self.worker.tokenizer, first, pairs, max_length=NO_LIMIT, vocab_size=plan.teacher.vocab_size)
        lengths = np.diff(whole.row_offsets)
        self.rows, self.lines = self.rows + len(lengths), self.lines + len(cut)
        self.tokens, self.whole_tokens = self.tokens + len(cut.input_ids), self.whole_tokens + len(whole.input_ids)
        self.long_rows += int((lengths > plan.config.max_length).sum())


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    return {name: values[start:stop] for name, values in rows.items()}


def _blocks(rows: Rows, total: int) -> Iterator[Rows]:
    """The first `total` rows in ever larger blocks, each as long as the last one lets expect that it fits into SCORE_S."""
    start = time.perf_counter()
    done, count = 0, min(LEAST, total)
    while count:
        before = time.perf_counter()
        yield _slice(rows, done, done + count)
        now = time.perf_counter()
        done += count
        affordable = int((start + SCORE_S - now) / max((now - before) / count, 1e-9))
        count = min(3 * done, total - done)
        if affordable < count:
            count = affordable if affordable >= LEAST else 0
