"""One unit from start to receipt: read, tokenize, forward, sparsify, encode, write.

Reading and tokenizing the next unit, and encoding and writing the last one, run beside the forward pass in threads of their own:
the device is what must never wait.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from textsmooth.pipeline.commit.receipts import find_receipt, publish, shard_path
from textsmooth.pipeline.plan import machine
from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.rows import bad_text, row_columns, typed_rows
from textsmooth.pipeline.units.bad_rows import bad_row, rescue, taken
from textsmooth.pipeline.units.blame import RowsError, blaming_rows
from textsmooth.pipeline.units.shard_columns import kept_columns, labels, logits_column, span_columns, unit_schema, window_columns
from textsmooth.pipeline.units.watchdog import Background, Steps, Watch
from textsmooth.schemas.errors import CorpusError, TeacherError
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import BadRow, Receipt, UnitFailure
from textsmooth.stages.corpus.reader import Rows, read, rows_sha256
from textsmooth.stages.models.device import device_name
from textsmooth.stages.models.load import teacher_digest
from textsmooth.stages.models.task_teacher import TaskTeacher, planned
from textsmooth.stages.models.teacher import Teacher, chunks
from textsmooth.stages.soft_ids.codec import TokenBlock, encode
from textsmooth.stages.soft_ids.shard import shard_bytes
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.soft_ids.topk import ChunkSoftIds, Sparsifier, gather_soft_ids
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.tokens.answer_spans import find_spans
from textsmooth.stages.tokens.masked_context import passes
from textsmooth.stages.tokens.padding import PaddedRows
from textsmooth.stages.tokens.tokenize import TokenRows, load_tokenizer, tokenize, tokenizer_digest

READ_AHEAD = 2  # units made ready before their forward pass, and units being written after it


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A unit made ready for the forward pass."""

    rows: Rows
    where: NDArray[np.int64]  # [R] their positions in the unit
    tokens: TokenRows
    task_tokens: TokenRows  # by the task teacher's own tokenizer, where it has another
    wanted: NDArray[np.bool_]  # [N]
    seconds: float
    skipped: tuple[BadRow, ...] = ()  # rows of the unit that are left out
    told: bool = True  # its forward passes are told to on_batch


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A unit after the forward pass."""

    chunks: list[ChunkSoftIds]
    positions: NDArray[np.int64]
    padded: int
    seconds: float
    passed: int = 0  # real tokens of the forward passes, where a row has several
    task_logits: NDArray[np.float32] | None = None  # of the task teacher, as TaskTeacher.logits


class UnitWorker:
    """Holds a teacher and runs units of one plan: one after the other with `run`, or several at once with `do` in several threads.

    on_batch is told of every forward pass: real tokens, padded tokens, rows of text (each once, though it may run in several).
    Raises CorpusError if the rows are not the planned ones, TeacherError if the teacher is not, StorageError, or MachineError. A unit that
    fails for what is in its rows is tried again; then the rows at fault are looked for, and it is a UnitFailure, or they are left out
    (skip_bad_rows, of plan.runtime).
    """

    def __init__(
        self,
        plan: Plan,
        sources: Sources,
        out: Folder,
        on_batch: Callable[[int, int, int], None] = lambda tokens, padded, rows: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.plan, self.sources, self.out, self.on_batch, self.stopped = plan, sources, out, on_batch, stopped
        self.skip_bad_rows = bool(plan.runtime.get("skip_bad_rows"))
        self.turn: AbstractContextManager[Any] = threading.Lock()  # of the forward pass
        self._tokenizing = threading.Lock()  # tokenizers keep their settings in themselves
        self.steps: Steps | None = None  # is told of each step of a unit
        config = plan.config
        machine.check(sources.device, config.dtype)
        self.tokenizer, dtype = load_tokenizer(sources.teacher), getattr(torch, config.dtype)
        self.teacher = Teacher(
            sources.teacher,
            dtype=dtype,
            device=sources.device,
            vocab_size=plan.teacher.vocab_size,
            pad_id=self.tokenizer.pad_token_id or 0,
        )
        if (teacher_digest(sources.teacher), tokenizer_digest(self.tokenizer)) != (plan.teacher.digest, plan.teacher.tokenizer_digest):
            raise TeacherError(f"the teacher in {sources.teacher} is not the planned one: it changed meanwhile; give another --out")
        self.task_teacher: TaskTeacher | None = None
        if plan.task_teacher is not None and sources.task_teacher is not None:
            self.task_teacher = planned(plan.task_teacher, sources.task_teacher, dtype=dtype, device=sources.device)
        self.sparsify: Callable[[torch.Tensor, torch.Tensor], ChunkSoftIds] = Sparsifier(
            topk=config.topk, mass=config.mass, temperatures=config.extra_temperatures
        )
        self.device = device_name(sources.device)

    def run(self, units: Iterable[Unit]) -> Iterator[Receipt | UnitFailure]:
        """Run units in order; yields what became of each as soon as it is on storage. Interrupted, it leaves only whole units.

        A unit that another driver has done meanwhile is not run, its receipt is passed on; none is once the dataset is finished, or
        `stopped` says so. A step of a unit that takes longer than plan.runtime's unit_timeout_s ends the run.
        """
        waiting = deque(units)
        ready: deque[tuple[Unit, Future[Ready]]] = deque()
        writing: deque[tuple[Unit, Future[Receipt]]] = deque()

        def outcome(unit: Unit, future: Future[Receipt]) -> Receipt | UnitFailure:
            try:
                return watch.result(future)
            except RowsError:
                return rescue(self, unit)

        with (
            Watch(self.plan.runtime.get("unit_timeout_s")) as watch,
            Background("prepare", watch) as reader,
            Background("write", watch) as writer,
        ):
            self.steps = watch
            try:
                while (waiting or ready) and self._goes_on():
                    while waiting and len(ready) < READ_AHEAD:
                        ready.append((waiting[0], reader.submit(self._prepare, waiting.popleft())))
                    unit, future = ready.popleft()
                    done = find_receipt(self.out, unit)
                    if done is not None:
                        future.cancel()
                        yield done
                        continue
                    try:
                        prepared = watch.result(future)
                        scored = self._forward(unit, prepared)
                    except RowsError:
                        yield rescue(self, unit)
                        continue
                    writing.append((unit, writer.submit(self._finish, unit, prepared, scored)))
                    while writing and (writing[0][1].done() or len(writing) > READ_AHEAD):
                        yield outcome(*writing.popleft())
                while writing:
                    yield outcome(*writing.popleft())
            finally:
                self.steps = None
                for _, future in ready:
                    future.cancel()

    def do(self, unit: Unit) -> Receipt | UnitFailure | None:
        """Run one unit, start to end; its receipt if another driver has done it. None once the dataset is finished, or `stopped` says so.

        Several threads may call it at once: one of them is in the forward pass, others read, tokenize or write.
        """
        if not self._goes_on():
            return None
        done = find_receipt(self.out, unit)
        if done is not None:
            return done
        try:
            return self.whole(unit)
        except RowsError:
            return rescue(self, unit)

    def _goes_on(self) -> bool:
        return not self.stopped() and self.out.size(MANIFEST) is None

    def whole(self, unit: Unit, left_out: Mapping[int, str] | None = None, *, told: bool = True) -> Receipt:
        """One unit, start to receipt, without the rows to be left out (position -> why). RowsError if it fails for its rows."""
        ready = replace(self._prepare(unit, left_out), told=told)
        return self._finish(unit, ready, self._forward(unit, ready))

    def fails(self, unit: Unit, rows: Rows, where: NDArray[np.int64]) -> str | None:
        """What these rows of a unit fail with; None if they get through. Nothing is kept."""
        try:
            with self._step(unit, "finding the rows at fault"), blaming_rows(unit.name):
                ready = self._ready(unit, taken(rows, where), where)
                self.encode(unit, ready, self._forward(unit, replace(ready, told=False)))
        except RowsError as error:
            return str(error)
        return None

    def _step(self, unit: Unit, what: str) -> AbstractContextManager[None]:
        return nullcontext() if self.steps is None else self.steps.step(unit.name, what)

    def read(self, unit: Unit) -> Rows:
        """The rows of a unit. CorpusError if they are not the planned ones."""
        file = self.sources.files[unit.file]
        rows = read(file, row_columns(self.plan.corpus), unit.start, unit.stop, unit.offset)
        if rows_sha256(rows) != unit.rows_sha256:
            raise CorpusError(
                f"rows {unit.start}..{unit.stop} of {file} changed since the run was planned; restore the file, or give another --out"
            )
        return rows

    def _prepare(self, unit: Unit, left_out: Mapping[int, str] | None = None) -> Ready:
        """A unit's rows tokenized, without those to be left out (position -> why). RowsError for text that is none."""
        start = time.perf_counter()
        with self._step(unit, "reading and tokenizing it"):
            rows = self.read(unit)
            with blaming_rows(unit.name):
                bad = {**dict(bad_text(rows, self.plan.corpus)), **(left_out or {})}
                if bad and not self.skip_bad_rows:
                    index, why = next(iter(bad.items()))
                    raise CorpusError(f"row {unit.start + index} of {unit.file}: {why}")
                where = np.setdiff1d(np.arange(unit.rows), np.array([*bad], np.int64))
                ready = self._ready(unit, taken(rows, where) if bad else rows, where)
        skipped = tuple(bad_row(unit, rows, index, why) for index, why in sorted(bad.items()))
        return replace(ready, skipped=skipped, seconds=time.perf_counter() - start)

    def _ready(self, unit: Unit, rows: Rows, where: NDArray[np.int64]) -> Ready:
        return replace(self.ready(typed_rows(rows, self.plan.corpus, self.sources.files[unit.file])), where=where)

    def ready(self, rows: Rows) -> Ready:
        """Rows tokenized for the forward pass."""
        start = time.perf_counter()
        identity, config = self.plan.corpus, self.plan.config
        first = rows[identity.text_columns[0]]
        second = rows[identity.text_columns[1]] if len(identity.text_columns) == 2 else None
        own, second_teacher = self.task_teacher, self.plan.task_teacher
        with self._tokenizing:
            tokens = tokenize(
                self.tokenizer,
                first,
                second,
                max_length=config.max_length,
                vocab_size=self.plan.teacher.vocab_size,
                stride=config.stride if config.long == "window" else None,
                char_spans=identity.label_kind == "span",
            )
            task_tokens = tokens
            if own is not None and second_teacher is not None and second_teacher.tokenizer_digest != self.plan.teacher.tokenizer_digest:
                task_tokens = tokenize(own.tokenizer, first, second, max_length=second_teacher.max_length, vocab_size=own.ids)
        return Ready(
            rows=rows,
            where=np.arange(len(first)),
            tokens=tokens,
            task_tokens=task_tokens,
            wanted=~tokens.special if config.specials == "plain" else np.ones_like(tokens.special),
            seconds=time.perf_counter() - start,
        )

    def _forward(self, unit: Unit, ready: Ready) -> Scored:
        with self._step(unit, "the forward pass"), blaming_rows(unit.name):
            return self.score(ready)

    def score(self, ready: Ready) -> Scored:
        """Rows through the teacher, and through the task teacher if there is one: one thread after the other."""
        with self.turn:
            return self._with_task_logits(ready, self._score(ready))

    def _score(self, ready: Ready) -> Scored:
        start = time.perf_counter()
        config, tokens, device = self.plan.config, ready.tokens, self.teacher.device
        padded = passed = 0
        counts = np.empty(0, np.bool_)  # of the pass that runs

        def source() -> Iterator[PaddedRows]:
            nonlocal counts
            for run in passes(tokens, ready.wanted, count=config.passes, mask_id=self.tokenizer.mask_token_id):
                counts = run.counts
                if run.idle and ready.told:
                    self.on_batch(0, 0, run.idle)
                yield from self.teacher.batches(run.tokens, run.wanted, max_batch_tokens=config.max_batch_tokens, only=run.rows)

        def done(batch: PaddedRows) -> None:
            nonlocal padded, passed
            real = int(batch.attention_mask.sum())
            padded, passed = padded + batch.input_ids.numel(), passed + real
            if ready.told:
                self.on_batch(real, batch.input_ids.numel(), int(counts[batch.rows].sum()))

        original = torch.from_numpy(tokens.input_ids.astype(np.int64)).to(device)

        def soft_ids(logits: torch.Tensor, where: NDArray[np.int64]) -> ChunkSoftIds:
            return self.sparsify(logits[: len(where)], original[torch.from_numpy(where).to(device)])

        found = list(chunks(self.teacher, source(), chunk_tokens=config.chunk_tokens, done=done, use=soft_ids))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return Scored(
            chunks=[soft for soft, _ in found],
            positions=np.concatenate([np.empty(0, np.int64), *(where for _, where in found)]),
            padded=padded,
            passed=passed if config.passes > 1 else 0,
            seconds=time.perf_counter() - start,
        )

    def _unknown(self, tokens: TokenRows) -> int:
        unknown = self.tokenizer.unk_token_id
        return 0 if unknown is None else int(((tokens.input_ids == unknown) & ~tokens.special).sum())

    def _with_task_logits(self, ready: Ready, scored: Scored) -> Scored:
        if self.task_teacher is None:
            return scored
        start = time.perf_counter()
        logits = self.task_teacher.logits(ready.task_tokens, max_batch_tokens=self.plan.config.max_batch_tokens)
        return replace(scored, task_logits=logits, seconds=scored.seconds + time.perf_counter() - start)

    def encode(self, unit: Unit, ready: Ready, scored: Scored) -> tuple[pa.Buffer, UnitStats]:
        """The bytes of a unit's shard. TeacherError if the teacher gave NaN."""
        plan, tokens = self.plan, ready.tokens
        soft = gather_soft_ids(
            scored.chunks,
            scored.positions,
            tokens=len(tokens.input_ids),
            vocab_size=plan.teacher.vocab_size,
            temperatures=len(plan.config.extra_temperatures),
        )
        if np.isnan(soft.logprobs).any():
            advice = "check its weights" if plan.config.dtype == "float32" else "try --dtype float32, or check its weights"
            raise TeacherError(f"the teacher gave NaN for rows of {unit.name} in {plan.config.dtype}; {advice}")
        label = labels(ready.rows, plan)
        block = TokenBlock(
            row=unit.row + ready.where[tokens.source],
            row_offsets=tokens.row_offsets,
            input_ids=tokens.input_ids,
            token_type_ids=tokens.token_type_ids,
            soft=soft,
            label=None if label is None else label[tokens.source],
        )
        windows = plan.config.long == "window"
        kept = kept_columns(ready.rows, tokens, plan)
        lost = 0
        if windows:
            kept |= window_columns(tokens)
        if plan.corpus.label_kind == "span":
            spans = find_spans(tokens, ready.rows[plan.corpus.label_column or ""], len(ready.where))
            kept |= span_columns(ready.rows, tokens, spans, plan)
            lost = int(spans.lost.sum())
        if scored.task_logits is not None:
            kept |= logits_column(scored.task_logits, tokens, span=plan.corpus.label_kind == "span")
        data = shard_bytes(encode(block, unit_schema(plan, unit, token_types=tokens.token_type_ids is not None), kept))
        return data, UnitStats.of(
            soft,
            topk=plan.config.topk,
            rows=unit.rows,
            padded=scored.padded,
            passed=scored.passed,
            truncated_rows=tokens.truncated,
            windows=len(tokens) if windows else 0,
            lost_answers=lost,
            unknown_tokens=self._unknown(tokens),
            task_truncated_rows=0 if ready.task_tokens is tokens else ready.task_tokens.truncated,
            unlabelled_rows=0 if label is None else int((np.isnan(label) if label.dtype.kind == "f" else label < 0).sum()),
        )

    def _finish(self, unit: Unit, ready: Ready, scored: Scored) -> Receipt:
        """Write a unit's shard, then its receipt."""
        with self._step(unit, "writing it"):
            return self._written(unit, ready, scored)

    def _written(self, unit: Unit, ready: Ready, scored: Scored) -> Receipt:
        start = time.perf_counter()
        with blaming_rows(unit.name):
            data, stats = self.encode(unit, ready, scored)
        sha256 = hashlib.sha256(data).hexdigest()
        encoded = time.perf_counter()
        shard = shard_path(unit, sha256)
        self.out.put(shard, memoryview(data))
        receipt = Receipt(
            unit=unit.id,
            split=unit.split,
            number=unit.number,
            shard=shard,
            sha256=sha256,
            bytes=data.size,
            rows=unit.rows,
            windows=len(ready.tokens) if self.plan.config.long == "window" else None,
            tokens=stats.tokens,
            entries=stats.entries,
            stats=stats.to_json(),
            versions=self.plan.versions,
            device=self.device,
            timings={
                "prepare_s": round(ready.seconds, 4),
                "score_s": round(scored.seconds, 4),
                "encode_s": round(encoded - start, 4),
                "write_s": round(time.perf_counter() - encoded, 4),
            },
            skipped=ready.skipped,
        )
        return publish(self.out, unit, receipt)
