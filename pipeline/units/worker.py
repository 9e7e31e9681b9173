"""Run one unit from rows to receipt: read, tokenize, forward pass, top-k, encode, write.

Reading and tokenizing the next units, and encoding and writing the last ones, run in two threads beside the forward pass: the device must
never wait.
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
from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.machine import check_dtype
from textsmooth.pipeline.plan.rows import bad_text, row_columns, typed_rows
from textsmooth.pipeline.units.bad_rows import bad_row, rescue, select_rows
from textsmooth.pipeline.units.blame import RowsError, blaming_rows
from textsmooth.pipeline.units.shard_columns import extra_columns, labels, unit_schema
from textsmooth.pipeline.units.watchdog import Background, Steps, Watch
from textsmooth.schemas.errors import CorpusError, TeacherError
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import BadRow, Receipt, UnitFailure
from textsmooth.schemas.task_kinds import task_kind
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
from textsmooth.stages.tokens.load import load_tokenizer
from textsmooth.stages.tokens.masked_context import passes
from textsmooth.stages.tokens.padding import PaddedRows
from textsmooth.stages.tokens.tokenize import TokenRows, tokenize, tokenizer_digest

READ_AHEAD = 2  # units prepared before their forward pass, and units being written after it


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Tokenized rows of a unit. R rows, W windows, N tokens."""

    rows: Rows
    positions: NDArray[np.int64]  # [R] of the rows, in the unit
    tokens: TokenRows
    task_tokens: TokenRows  # by the tokenizer of the task teacher, where it has its own; else `tokens`
    wanted: NDArray[np.bool_]  # [N] tokens that get soft ids
    seconds: float
    skipped: tuple[BadRow, ...] = ()  # rows of the unit that are left out
    report: bool = True  # call on_batch for the forward passes


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Soft ids of a unit, as the forward pass gives them."""

    chunks: list[ChunkSoftIds]
    positions: NDArray[np.int64]  # of the tokens in `chunks`, in the unit
    padded: int  # tokens of the forward passes, padding included
    passed: int  # tokens of the forward passes without padding, where a row has several passes; else 0
    task_logits: NDArray[np.float32] | None  # as TaskTeacher.logits
    seconds: float


class UnitWorker:
    """Hold a teacher and run units of one plan: one after the other with `run`, or several at once with `do` in several threads.

    on_batch is called after every forward pass: real tokens, padded tokens, rows of text (a row counts once, in one of its passes).
    A unit that fails because of its rows is tried again. Then the rows at fault are searched for; the unit becomes a UnitFailure, or those
    rows are left out (skip_bad_rows in plan.runtime).
    Raises CorpusError if the rows are not the planned ones, TeacherError if the teacher is not, StorageError, or MachineError.
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
        self.turn: AbstractContextManager[Any] = threading.Lock()  # around the forward pass
        self._tokenizing = threading.Lock()  # a tokenizer keeps its settings in itself
        self.steps: Steps | None = None  # is called for each step of a unit
        config = plan.config
        check_dtype(sources.device, config.dtype)
        self.tokenizer, dtype = load_tokenizer(sources.teacher), getattr(torch, config.dtype)
        self.teacher = Teacher(
            sources.teacher,
            dtype=dtype,
            device=sources.device,
            vocab_size=plan.teacher.vocab_size,
            pad_id=self.tokenizer.pad_token_id or 0,
        )
        if (teacher_digest(sources.teacher), tokenizer_digest(self.tokenizer)) != (plan.teacher.digest, plan.teacher.tokenizer_digest):
            raise TeacherError(f"the teacher in {sources.teacher} is not the planned one: it changed since; give another --out")
        self.task_teacher: TaskTeacher | None = None
        if plan.task_teacher is not None and sources.task_teacher is not None:
            self.task_teacher = planned(plan.task_teacher, sources.task_teacher, dtype=dtype, device=sources.device)
        self.sparsify: Callable[[torch.Tensor, torch.Tensor], ChunkSoftIds] = Sparsifier(
            topk=config.topk, mass=config.mass, temperatures=config.extra_temperatures
        )
        self.device = device_name(sources.device)

    def run(self, units: Iterable[Unit]) -> Iterator[Receipt | UnitFailure]:
        """Run units in order; yield the outcome of each as soon as it is on storage. When interrupted, only whole units remain.

        The receipt of a unit that another driver has finished is passed on. Nothing more is run once the dataset is finished or `stopped`
        is true. A step of a unit that takes longer than plan.runtime's unit_timeout_s ends the run.
        """
        waiting = deque(units)
        prepared: deque[tuple[Unit, Future[Prepared]]] = deque()
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
                while (waiting or prepared) and self._continues():
                    while waiting and len(prepared) < READ_AHEAD:
                        prepared.append((waiting[0], reader.submit(self.prepare, waiting.popleft())))
                    unit, future = prepared.popleft()
                    receipt = find_receipt(self.out, unit)
                    if receipt is not None:
                        future.cancel()
                        yield receipt
                        continue
                    try:
                        ready = watch.result(future)
                        scored = self.forward(unit, ready)
                    except RowsError:
                        yield rescue(self, unit)
                        continue
                    writing.append((unit, writer.submit(self.finish, unit, ready, scored)))
                    while writing and (writing[0][1].done() or len(writing) > READ_AHEAD):
                        yield outcome(*writing.popleft())
                while writing:
                    yield outcome(*writing.popleft())
            finally:
                self.steps = None
                for _, future in prepared:
                    future.cancel()

    def do(self, unit: Unit) -> Receipt | UnitFailure | None:
        """Run one unit, or return the receipt of another driver. None once the dataset is finished or `stopped` is true.

        Several threads may call it at once: one of them is in the forward pass, others read, tokenize or write.
        """
        if not self._continues():
            return None
        try:
            return find_receipt(self.out, unit) or self.whole(unit)
        except RowsError:
            return rescue(self, unit)

    def _continues(self) -> bool:
        return not self.stopped() and self.out.size(MANIFEST) is None

    def _step(self, unit: Unit, what: str) -> AbstractContextManager[None]:
        return nullcontext() if self.steps is None else self.steps.step(unit.name, what)

    def whole(self, unit: Unit, left_out: Mapping[int, str] | None = None, *, report: bool = True) -> Receipt:
        """Run one unit without the rows of left_out (position -> reason). RowsError if it fails because of its rows."""
        ready = replace(self.prepare(unit, left_out), report=report)
        return self.finish(unit, ready, self.forward(unit, ready))

    def error_of(self, unit: Unit, rows: Rows, positions: NDArray[np.int64]) -> str | None:
        """The error that these rows of a unit cause, None if they work. Nothing is written."""
        try:
            with self._step(unit, "finding the rows at fault"), blaming_rows(unit.name):
                typed = typed_rows(select_rows(rows, positions), self.plan.corpus, self.sources.files[unit.file])
                ready = replace(self.tokenize(typed), positions=positions, report=False)
                self.encode(unit, ready, self.forward(unit, ready))
        except RowsError as error:
            return str(error)
        return None

    def read(self, unit: Unit) -> Rows:
        """The rows of a unit. CorpusError if they are not the planned ones."""
        file = self.sources.files[unit.file]
        rows = read(file, row_columns(self.plan.corpus), unit.start, unit.stop, unit.offset)
        if rows_sha256(rows) != unit.rows_sha256:
            raise CorpusError(
                f"rows {unit.start}..{unit.stop} of {file} changed since the run was planned; restore the file, or give another --out"
            )
        return rows

    def prepare(self, unit: Unit, left_out: Mapping[int, str] | None = None) -> Prepared:
        """Read and tokenize a unit without the rows of left_out (position -> reason). RowsError for a value that is not text."""
        start = time.perf_counter()
        corpus = self.plan.corpus
        with self._step(unit, "reading and tokenizing it"):
            rows = self.read(unit)
            with blaming_rows(unit.name):
                bad = {**dict(bad_text(rows, corpus)), **(left_out or {})}
                if bad and not self.skip_bad_rows:
                    index, reason = next(iter(bad.items()))
                    raise CorpusError(f"row {unit.start + index} of {unit.file}: {reason}")
                positions = np.setdiff1d(np.arange(unit.rows), np.array([*bad], np.int64))
                good = select_rows(rows, positions) if bad else rows
                ready = self.tokenize(typed_rows(good, corpus, self.sources.files[unit.file]))
        skipped = tuple(bad_row(unit, rows, index, reason) for index, reason in sorted(bad.items()))
        return replace(ready, positions=positions, skipped=skipped, seconds=time.perf_counter() - start)

    def tokenize(self, rows: Rows) -> Prepared:
        """Rows with typed columns, tokenized for the forward pass."""
        start = time.perf_counter()
        config, teacher = self.plan.config, self.plan.teacher
        texts = [rows[column] for column in self.plan.corpus.text_columns]
        first, second = texts[0], texts[1] if len(texts) == 2 else None
        with self._tokenizing:
            tokens = tokenize(
                self.tokenizer,
                first,
                second,
                max_length=config.max_length,
                vocab_size=teacher.vocab_size,
                stride=config.stride if config.windows else None,
                char_spans=task_kind(self.plan.corpus.label_kind).has_answers,
            )
            task_tokens, planned_task = tokens, self.plan.task_teacher
            if self.task_teacher is not None and planned_task is not None and planned_task.tokenizer_digest != teacher.tokenizer_digest:
                task_tokens = tokenize(
                    self.task_teacher.tokenizer, first, second, max_length=planned_task.max_length, vocab_size=self.task_teacher.ids
                )
        return Prepared(
            rows=rows,
            positions=np.arange(len(first)),
            tokens=tokens,
            task_tokens=task_tokens,
            wanted=~tokens.special if config.specials == "plain" else np.ones_like(tokens.special),
            seconds=time.perf_counter() - start,
        )

    def forward(self, unit: Unit, ready: Prepared) -> Scored:
        """`score`, one thread after the other. RowsError or MachineError for its errors."""
        with self._step(unit, "the forward pass"), blaming_rows(unit.name), self.turn:
            return self.score(ready)

    def score(self, ready: Prepared) -> Scored:
        """Run rows through the teacher, and through the task teacher if there is one."""
        start = time.perf_counter()
        config, tokens, device = self.plan.config, ready.tokens, self.teacher.device
        padded = passed = 0
        counts = np.empty(0, np.bool_)  # rows that the current pass counts as done

        def batches() -> Iterator[PaddedRows]:
            nonlocal counts
            for run in passes(tokens, ready.wanted, count=config.passes, mask_id=self.tokenizer.mask_token_id):
                counts = run.counts
                if run.idle and ready.report:
                    self.on_batch(0, 0, run.idle)
                yield from self.teacher.batches(run.tokens, run.wanted, max_batch_tokens=config.max_batch_tokens, only=run.rows)

        def done(batch: PaddedRows) -> None:
            nonlocal padded, passed
            real = int(batch.attention_mask.sum())
            padded, passed = padded + batch.input_ids.numel(), passed + real
            if ready.report:
                self.on_batch(real, batch.input_ids.numel(), int(counts[batch.rows].sum()))

        original = torch.from_numpy(tokens.input_ids.astype(np.int64)).to(device)

        def soft_ids(logits: torch.Tensor, positions: NDArray[np.int64]) -> ChunkSoftIds:
            return self.sparsify(logits[: len(positions)], original[torch.from_numpy(positions).to(device)])

        soft = list(chunks(self.teacher, batches(), chunk_tokens=config.chunk_tokens, done=done, use=soft_ids))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        logits = None
        if self.task_teacher is not None:
            logits = self.task_teacher.logits(ready.task_tokens, max_batch_tokens=config.max_batch_tokens)
        return Scored(
            chunks=[chunk for chunk, _ in soft],
            positions=np.concatenate([np.empty(0, np.int64), *(positions for _, positions in soft)]),
            padded=padded,
            passed=passed if config.passes > 1 else 0,
            task_logits=logits,
            seconds=time.perf_counter() - start,
        )

    def encode(self, unit: Unit, ready: Prepared, scored: Scored) -> tuple[pa.Buffer, UnitStats]:
        """The bytes of a unit's shard, and its statistics. TeacherError if the teacher gave NaN."""
        plan, tokens = self.plan, ready.tokens
        soft = gather_soft_ids(
            scored.chunks,
            scored.positions,
            tokens=len(tokens.input_ids),
            vocab_size=plan.teacher.vocab_size,
            temperatures=len(plan.config.extra_temperatures),
        )
        if np.isnan(soft.log_tail).any():  # one NaN among a token's logits makes all of them NaN
            advice = "check its weights" if plan.config.dtype == "float32" else "try --dtype float32, or check its weights"
            raise TeacherError(f"the teacher gave NaN for rows of {unit.name} in {plan.config.dtype}; {advice}")
        label = labels(ready.rows, plan)
        block = TokenBlock(
            row=unit.row + ready.positions[tokens.source],
            row_offsets=tokens.row_offsets,
            input_ids=tokens.input_ids,
            token_type_ids=tokens.token_type_ids,
            soft=soft,
            label=None if label is None else label[tokens.source],
        )
        columns, lost_answers = extra_columns(ready.rows, tokens, scored.task_logits, plan)
        data = shard_bytes(encode(block, unit_schema(plan, unit, token_types=tokens.token_type_ids is not None), columns))
        unknown = self.tokenizer.unk_token_id
        return data, UnitStats.of(
            soft,
            topk=plan.config.topk,
            mass=plan.config.mass,
            temperatures=plan.config.extra_temperatures,
            mass_by_rank=sum((chunk.mass_by_rank.cpu().numpy() for chunk in scored.chunks), np.zeros(plan.config.topk)),
            rows=unit.rows,
            padded=scored.padded,
            passed=scored.passed,
            truncated_rows=tokens.truncated,
            windows=len(tokens) if plan.config.windows else 0,
            lost_answers=lost_answers,
            unknown_tokens=0 if unknown is None else int(((tokens.input_ids == unknown) & ~tokens.special).sum()),
            task_truncated_rows=0 if ready.task_tokens is tokens else ready.task_tokens.truncated,
            unlabelled_rows=0 if label is None else int((np.isnan(label) if label.dtype.kind == "f" else label < 0).sum()),
        )

    def finish(self, unit: Unit, ready: Prepared, scored: Scored) -> Receipt:
        """Write a unit's shard, then its receipt."""
        with self._step(unit, "writing it"):
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
                windows=len(ready.tokens) if self.plan.config.windows else None,
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
