"""One unit from start to receipt: read, tokenize, forward, sparsify, encode, write.

Reading and tokenizing the next unit, and encoding and writing the last one, run beside the forward pass in threads of their own:
the device is what must never wait.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from textsmooth.pipeline.columns import logits_column, span_columns, window_columns
from textsmooth.pipeline.plan import row_columns, typed_rows
from textsmooth.pipeline.request import Sources
from textsmooth.schemas.errors import CorpusError, DatasetError, TeacherError, first_line
from textsmooth.schemas.manifest import MANIFEST, RECEIPTS_FOLDER
from textsmooth.schemas.plan import Plan, Receipt, Unit
from textsmooth.schemas.shard import ShardMeta, shard_schema
from textsmooth.stages import readers
from textsmooth.stages.codec import TokenBlock, encode
from textsmooth.stages.context import passes
from textsmooth.stages.device import device_name
from textsmooth.stages.folder import Folder
from textsmooth.stages.kinds import arrow_type
from textsmooth.stages.shard import shard_bytes
from textsmooth.stages.spans import find_spans
from textsmooth.stages.sparsify import ChunkSoftIds, Sparsifier, gather_soft_ids
from textsmooth.stages.statistics import UnitStats
from textsmooth.stages.storage import parse_json, pretty_json
from textsmooth.stages.task_teacher import TaskTeacher
from textsmooth.stages.teacher import Batch, Teacher, chunks, teacher_digest
from textsmooth.stages.tokenize import TokenRows, load_tokenizer, tokenize, tokenizer_digest

READ_AHEAD = 2  # units made ready before their forward pass, and units being written after it


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A unit made ready for the forward pass."""

    rows: readers.Rows
    tokens: TokenRows
    task_tokens: TokenRows  # by the task teacher's own tokenizer, where it has another
    wanted: NDArray[np.bool_]  # [N]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A unit after the forward pass."""

    chunks: list[ChunkSoftIds]
    positions: NDArray[np.int64]
    padded: int
    seconds: float
    passed: int = 0  # real tokens of the forward passes, where a row has several
    task_logits: NDArray[np.float32] | None = None  # of the task teacher, as TaskTeacher.logits


def receipt_name(unit: Unit) -> str:
    """Where a unit's receipt stands while the run is not finished."""
    return f"{RECEIPTS_FOLDER}/{unit.split}-{unit.number:05d}-{unit.id[:12]}.json"


def whole_receipt(data: bytes, unit: Unit, size: Callable[[str], int | None]) -> Receipt | None:
    """The receipt in these bytes, if it is the unit's and its shard is there; None if the unit is still to be done.

    size: of a file of the dataset, None if it is not there.
    """
    try:
        receipt = Receipt.from_json(parse_json(data, receipt_name(unit)))
    except (TypeError, DatasetError):
        return None
    fits = (receipt.unit, receipt.rows, receipt.shard) == (unit.id, unit.rows, shard_path(unit, receipt.sha256))
    return receipt if fits and size(receipt.shard) == receipt.bytes else None


def find_receipt(out: Folder, unit: Unit) -> Receipt | None:
    """The receipt of a unit whose shard is there with the right size; None if the unit is still to be done."""
    try:
        return whole_receipt(out.read(receipt_name(unit)), unit, out.size)
    except FileNotFoundError:
        return None


def shard_path(unit: Unit, sha256: str) -> str:
    """Where the shard of a unit lies in the dataset: its name carries its content."""
    return f"{unit.split}/{unit.number:05d}-{sha256[:12]}.arrow"


class UnitWorker:
    """Holds a teacher and runs units of one plan, one after the other.

    on_batch is told of every forward pass: real tokens, padded tokens, rows of text (each once, though it may run in several).
    Raises CorpusError if the rows are not the planned ones, TeacherError if the teacher is not.
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
        config = plan.config
        self.tokenizer = load_tokenizer(sources.teacher)
        self.teacher = Teacher(
            sources.teacher,
            dtype=getattr(torch, config.dtype),
            device=sources.device,
            vocab_size=plan.teacher.vocab_size,
            pad_id=self.tokenizer.pad_token_id or 0,
        )
        if (teacher_digest(sources.teacher), tokenizer_digest(self.tokenizer)) != (plan.teacher.digest, plan.teacher.tokenizer_digest):
            raise TeacherError(f"the teacher in {sources.teacher} is not the planned one: it changed meanwhile; give another --out")
        self.task_teacher = None if plan.task_teacher is None else _task_teacher(plan, sources)
        self.sparsify: Callable[[torch.Tensor, torch.Tensor], ChunkSoftIds] = Sparsifier(
            topk=config.topk, mass=config.mass, temperatures=config.extra_temperatures
        )
        self.device = device_name(sources.device)

    def run(self, units: Iterable[Unit]) -> Iterator[Receipt]:
        """Run units in order; yields the receipt of each as soon as it is on storage. Interrupted, it leaves only whole units.

        A unit that another driver has done meanwhile is not run, its receipt is passed on; none is once the dataset is finished, or
        `stopped` says so.
        """
        waiting = deque(units)
        ready: deque[tuple[Unit, Future[Ready]]] = deque()
        writing: deque[Future[Receipt]] = deque()
        with ThreadPoolExecutor(1, "prepare") as reader, ThreadPoolExecutor(1, "write") as writer:
            try:
                while (waiting or ready) and not self.stopped() and self.out.size(MANIFEST) is None:
                    while waiting and len(ready) < READ_AHEAD:
                        ready.append((waiting[0], reader.submit(self._prepare, waiting.popleft())))
                    unit, future = ready.popleft()
                    done = find_receipt(self.out, unit)
                    if done is not None:
                        future.cancel()
                        yield done
                        continue
                    prepared = future.result()
                    scored = self.score(prepared)
                    writing.append(writer.submit(self._finish, unit, prepared, scored))
                    while writing and (writing[0].done() or len(writing) > READ_AHEAD):
                        yield writing.popleft().result()
                while writing:
                    yield writing.popleft().result()
            finally:
                for _, future in ready:
                    future.cancel()

    def _prepare(self, unit: Unit) -> Ready:
        start = time.perf_counter()
        file = self.sources.files[unit.file]
        rows = readers.read(file, row_columns(self.plan.corpus), unit.start, unit.stop, unit.offset)
        if readers.rows_sha256(rows) != unit.rows_sha256:
            raise CorpusError(
                f"rows {unit.start}..{unit.stop} of {file} changed since the run was planned; restore the file, or give another --out"
            )
        return replace(self.ready(typed_rows(rows, self.plan.corpus, file)), seconds=time.perf_counter() - start)

    def ready(self, rows: readers.Rows) -> Ready:
        """Rows tokenized for the forward pass."""
        start = time.perf_counter()
        identity, config = self.plan.corpus, self.plan.config
        first = rows[identity.text_columns[0]]
        second = rows[identity.text_columns[1]] if len(identity.text_columns) == 2 else None
        tokens = tokenize(
            self.tokenizer,
            first,
            second,
            max_length=config.max_length,
            vocab_size=self.plan.teacher.vocab_size,
            stride=config.stride if config.long == "window" else None,
            places=identity.label_kind == "span",
        )
        own, planned = self.task_teacher, self.plan.task_teacher
        task_tokens = tokens
        if own is not None and planned is not None and planned.tokenizer_digest != self.plan.teacher.tokenizer_digest:
            task_tokens = tokenize(own.tokenizer, first, second, max_length=planned.max_length, vocab_size=own.ids)
        wanted = ~tokens.special if config.specials == "plain" else np.ones_like(tokens.special)
        return Ready(rows=rows, tokens=tokens, task_tokens=task_tokens, wanted=wanted, seconds=time.perf_counter() - start)

    def score(self, ready: Ready) -> Scored:
        """Rows through the teacher, and through the task teacher if there is one."""
        return self._with_task_logits(ready, self._score(ready))

    def _score(self, ready: Ready) -> Scored:
        start = time.perf_counter()
        config, tokens, device = self.plan.config, ready.tokens, self.teacher.device
        padded = passed = 0
        counts = np.empty(0, np.bool_)  # of the pass that runs

        def source() -> Iterator[Batch]:
            nonlocal counts
            for run in passes(tokens, ready.wanted, count=config.passes, mask_id=self.tokenizer.mask_token_id):
                counts = run.counts
                if run.idle:
                    self.on_batch(0, 0, run.idle)
                yield from self.teacher.batches(run.tokens, run.wanted, max_batch_tokens=config.max_batch_tokens, only=run.rows)

        def done(batch: Batch) -> None:
            nonlocal padded, passed
            real = int(batch.attention_mask.sum())
            padded, passed = padded + batch.input_ids.numel(), passed + real
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
            raise TeacherError(
                f"the teacher gave NaN for rows of {unit.name} in {plan.config.dtype}; try --dtype float32, or check its weights"
            )
        label = labels(ready.rows, plan)
        block = TokenBlock(
            row=unit.row + tokens.source,
            row_offsets=tokens.row_offsets,
            input_ids=tokens.input_ids,
            token_type_ids=tokens.token_type_ids,
            soft=soft,
            label=None if label is None else label[tokens.source],
        )
        windows = plan.config.long == "window"
        kept = {name: _kept_array(ready.rows[name], name, kind).take(pa.array(tokens.source)) for name, kind in _kept(plan)}
        lost = 0
        if windows:
            kept |= window_columns(tokens)
        if plan.corpus.label_kind == "span":
            spans = find_spans(tokens, ready.rows[plan.corpus.label_column or ""], unit.rows)
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
        start = time.perf_counter()
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
        )
        name = receipt_name(unit)
        while not self.out.put_exclusive(name, pretty_json(receipt.to_json())):
            first = find_receipt(self.out, unit)  # another driver was faster: the first receipt counts
            if first is not None:
                return first
            self.out.remove((name,))  # void: it names a shard that is not there
        return receipt


def _task_teacher(plan: Plan, sources: Sources) -> TaskTeacher:
    planned, folder = plan.task_teacher, sources.task_teacher
    assert planned is not None and folder is not None
    loaded = TaskTeacher(
        folder, kind=planned.kind, width=planned.width, order=planned.order, dtype=getattr(torch, plan.config.dtype), device=sources.device
    )
    if loaded.identity != (planned.digest, planned.tokenizer_digest):
        raise TeacherError(f"the task teacher in {folder} is not the planned one: it changed meanwhile; give another --out")
    return loaded


def _kept(plan: Plan) -> list[tuple[str, str]]:
    return list(zip(plan.corpus.keep_columns, plan.corpus.keep_types, strict=True))


def _kept_array(values: list[Any], name: str, kind: str) -> pa.Array:
    try:
        return pa.array(values, arrow_type(kind))
    except (pa.ArrowException, OverflowError) as error:
        raise CorpusError(f"column {name!r} cannot be kept as {kind}: {first_line(error)}") from None


def unit_schema(plan: Plan, unit: Unit, *, token_types: bool) -> pa.Schema:
    """The schema of the shard of a unit."""
    config, teacher = plan.config, plan.teacher
    meta = ShardMeta(
        codec=config.codec,
        topk=config.topk,
        mass=config.mass,
        temperatures=config.extra_temperatures,
        context=config.context,
        vocab_size=teacher.vocab_size,
        teacher=teacher.digest,
        tokenizer=teacher.tokenizer_digest,
        vocab=teacher.vocab_digest,
        split=unit.split,
        unit=unit.id,
    )
    keep = tuple(pa.field(name, arrow_type(kind)) for name, kind in _kept(plan))
    return shard_schema(
        meta,
        token_types=token_types,
        label_kind=plan.corpus.label_kind,
        windows=config.long == "window",
        logits=plan.task_teacher.width if plan.task_teacher else None,
        keep=keep,
    )


def labels(rows: readers.Rows, plan: Plan) -> NDArray[Any] | None:
    """The label column: int64 with -1 for none, or float64 with NaN for none."""
    column, kind, names = plan.corpus.label_column, plan.corpus.label_kind, plan.corpus.label_names
    if column is None or kind in (None, "span"):
        return None
    if kind == "value":
        none = -1 if plan.corpus.task else None  # GLUE's test sets have -1 where a score would be
        return np.array([np.nan if v is None or v == none else v for v in rows[column]], np.float64)
    index = {name: i for i, name in enumerate(names or ())}
    return np.array([-1 if v is None else index[v] if isinstance(v, str) else v for v in rows[column]], np.int64)
