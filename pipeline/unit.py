"""One unit from start to receipt: read, tokenize, forward, sparsify, encode, write.

Reading and tokenizing the next unit, and encoding and writing the last one, run beside the forward pass in threads of their own:
the device is what must never wait.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from textsmooth.pipeline.plan import row_columns
from textsmooth.pipeline.request import Sources
from textsmooth.schemas.errors import CorpusError, DatasetError, TeacherError, first_line
from textsmooth.schemas.manifest import MANIFEST, RECEIPTS_FOLDER
from textsmooth.schemas.plan import Plan, Receipt, Unit
from textsmooth.schemas.shard import ShardMeta, shard_schema
from textsmooth.stages import corpus as corpora
from textsmooth.stages.codec import TokenBlock, encode
from textsmooth.stages.device import device_name
from textsmooth.stages.shard import shard_bytes
from textsmooth.stages.sparsify import ChunkSoftIds, Sparsifier, gather_soft_ids
from textsmooth.stages.statistics import UnitStats
from textsmooth.stages.storage import pretty_json, put, put_exclusive, read_json, remove
from textsmooth.stages.teacher import Batch, Teacher, batches, chunks, teacher_digest
from textsmooth.stages.tokenize import TokenRows, load_tokenizer, tokenize, tokenizer_digest

READ_AHEAD = 2  # units made ready before their forward pass, and units being written after it


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A unit made ready for the forward pass."""

    rows: corpora.Rows
    tokens: TokenRows
    wanted: NDArray[np.bool_]  # [N]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A unit after the forward pass."""

    chunks: list[ChunkSoftIds]
    positions: NDArray[np.int64]
    padded: int
    seconds: float


def receipt_path(out: Path, unit: Unit) -> Path:
    """Where a unit's receipt stands while the run is not finished."""
    return out / RECEIPTS_FOLDER / f"{unit.split}-{unit.number:05d}-{unit.id[:12]}.json"


def find_receipt(out: Path, unit: Unit) -> Receipt | None:
    """The receipt of a unit whose shard is there with the right size; None if the unit is still to be done."""
    try:
        receipt = Receipt.from_json(read_json(receipt_path(out, unit)))
        fits = (receipt.unit, receipt.rows, receipt.shard) == (unit.id, unit.rows, shard_path(unit, receipt.sha256))
        return receipt if fits and (out / receipt.shard).stat().st_size == receipt.bytes else None
    except (FileNotFoundError, TypeError, DatasetError):
        return None


def shard_path(unit: Unit, sha256: str) -> str:
    """Where the shard of a unit lies in the dataset: its name carries its content."""
    return f"{unit.split}/{unit.number:05d}-{sha256[:12]}.arrow"


class UnitWorker:
    """Holds a teacher and runs units of one plan, one after the other.

    on_batch is told of every forward pass: real tokens, padded tokens, rows.
    Raises CorpusError if the rows are not the planned ones, TeacherError if the teacher is not.
    """

    def __init__(
        self, plan: Plan, sources: Sources, out: Path, on_batch: Callable[[int, int, int], None] = lambda tokens, padded, rows: None
    ) -> None:
        self.plan, self.sources, self.out, self.on_batch = plan, sources, out, on_batch
        config = plan.config
        self.tokenizer = load_tokenizer(sources.teacher)
        self.teacher = Teacher(sources.teacher, dtype=getattr(torch, config.dtype), device=sources.device)
        if (teacher_digest(sources.teacher), tokenizer_digest(self.tokenizer)) != (plan.teacher.digest, plan.teacher.tokenizer_digest):
            raise TeacherError(f"the teacher in {sources.teacher} is not the planned one: it changed meanwhile; give another --out")
        if self.teacher.vocab_size != plan.teacher.vocab_size:
            raise TeacherError(
                f"the teacher's logits are {self.teacher.vocab_size} wide, its config.json says {plan.teacher.vocab_size}: a damaged folder"
            )
        self.sparsify = Sparsifier(topk=config.topk, mass=config.mass, temperatures=config.extra_temperatures)
        self.device = device_name(sources.device)

    def run(self, units: Iterable[Unit]) -> Iterator[Receipt]:
        """Run units in order; yields the receipt of each as soon as it is on storage. Interrupted, it leaves only whole units.

        A unit that another driver has done meanwhile is not run, its receipt is passed on; none is once the dataset is finished.
        """
        waiting = deque(units)
        ready: deque[tuple[Unit, Future[Ready]]] = deque()
        writing: deque[Future[Receipt]] = deque()
        with ThreadPoolExecutor(1, "prepare") as reader, ThreadPoolExecutor(1, "write") as writer:
            try:
                while (waiting or ready) and not (self.out / MANIFEST).is_file():
                    while waiting and len(ready) < READ_AHEAD:
                        ready.append((waiting[0], reader.submit(self._prepare, waiting.popleft())))
                    unit, future = ready.popleft()
                    done = find_receipt(self.out, unit)
                    if done is not None:
                        future.cancel()
                        yield done
                        continue
                    prepared = future.result()
                    scored = self._score(prepared)
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
        identity, config = self.plan.corpus, self.plan.config
        file = self.sources.files[unit.file]
        rows = corpora.read(file, row_columns(identity), unit.start, unit.stop, unit.offset)
        if corpora.rows_sha256(rows) != unit.rows_sha256:
            raise CorpusError(
                f"rows {unit.start}..{unit.stop} of {file.path} changed since the run was planned; restore the file, or give another --out"
            )
        texts = [rows[column] for column in identity.text_columns]
        tokens = tokenize(
            self.tokenizer,
            texts[0],
            texts[1] if len(texts) == 2 else None,
            max_length=config.max_length,
            vocab_size=self.plan.teacher.vocab_size,
        )
        wanted = ~tokens.special if config.specials == "plain" else np.ones_like(tokens.special)
        return Ready(rows=rows, tokens=tokens, wanted=wanted, seconds=time.perf_counter() - start)

    def _score(self, ready: Ready) -> Scored:
        start = time.perf_counter()
        config = self.plan.config
        padded = 0

        def done(batch: Batch) -> None:
            nonlocal padded
            padded += batch.input_ids.numel()
            self.on_batch(int(batch.attention_mask.sum()), batch.input_ids.numel(), len(batch.rows))

        pad = self.tokenizer.pad_token_id or 0
        source = batches(ready.tokens, ready.wanted, max_batch_tokens=config.max_batch_tokens, pad_id=pad)
        original = torch.from_numpy(ready.tokens.input_ids.astype(np.int64)).to(self.teacher.device)
        found: list[ChunkSoftIds] = []
        positions: list[NDArray[np.int64]] = []
        for logits, where in chunks(self.teacher, source, chunk_tokens=config.chunk_tokens, done=done):
            found.append(self.sparsify(logits[: len(where)], original[torch.from_numpy(where).to(self.teacher.device)]))
            positions.append(where)
        if self.teacher.device.type == "cuda":
            torch.cuda.synchronize(self.teacher.device)
        return Scored(
            chunks=found,
            positions=np.concatenate(positions) if positions else np.empty(0, np.int64),
            padded=padded,
            seconds=time.perf_counter() - start,
        )

    def _finish(self, unit: Unit, ready: Ready, scored: Scored) -> Receipt:
        start = time.perf_counter()
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
            row=np.arange(unit.row, unit.row + unit.rows),
            row_offsets=tokens.row_offsets,
            input_ids=tokens.input_ids,
            token_type_ids=tokens.token_type_ids,
            soft=soft,
            label=label,
        )
        kept = {name: _kept_array(ready.rows[name], name, kind) for name, kind in _kept(plan)}
        data = shard_bytes(encode(block, unit_schema(plan, unit, token_types=tokens.token_type_ids is not None), kept))
        sha256 = hashlib.sha256(data).hexdigest()
        stats = UnitStats.of(
            soft,
            topk=plan.config.topk,
            rows=unit.rows,
            padded=scored.padded,
            truncated_rows=tokens.truncated,
            unlabelled_rows=0 if label is None else int((np.isnan(label) if label.dtype.kind == "f" else label < 0).sum()),
        )
        encoded = time.perf_counter()
        shard = shard_path(unit, sha256)
        put(self.out / shard, memoryview(data))
        receipt = Receipt(
            unit=unit.id,
            split=unit.split,
            number=unit.number,
            shard=shard,
            sha256=sha256,
            bytes=data.size,
            rows=unit.rows,
            tokens=len(tokens.input_ids),
            entries=len(soft.ids),
            stats=stats.to_json(),
            versions=plan.versions,
            device=self.device,
            timings={
                "prepare_s": round(ready.seconds, 4),
                "score_s": round(scored.seconds, 4),
                "encode_s": round(encoded - start, 4),
                "write_s": round(time.perf_counter() - encoded, 4),
            },
        )
        path = receipt_path(self.out, unit)
        while not put_exclusive(path, pretty_json(receipt.to_json())):
            first = find_receipt(self.out, unit)  # another driver was faster: the first receipt counts
            if first is not None:
                return first
            remove(path)  # void: it names a shard that is not there
        return receipt


def _kept(plan: Plan) -> list[tuple[str, str]]:
    return list(zip(plan.corpus.keep_columns, plan.corpus.keep_types, strict=True))


def _kept_array(values: list[Any], name: str, kind: str) -> pa.Array:
    try:
        return pa.array(values, _arrow(kind))
    except pa.ArrowException as error:
        raise CorpusError(f"column {name!r} cannot be kept as {kind}: {first_line(error)}") from None


def _arrow(kind: str) -> pa.DataType:
    return {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}[kind]


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
    keep = tuple(pa.field(name, _arrow(kind)) for name, kind in _kept(plan))
    return shard_schema(meta, token_types=token_types, label_kind=plan.corpus.label_kind, keep=keep)


def labels(rows: corpora.Rows, plan: Plan) -> NDArray[Any] | None:
    """The label column: int64 with -1 for none, or float64 with NaN for none."""
    column, kind, names = plan.corpus.label_column, plan.corpus.label_kind, plan.corpus.label_names
    if column is None or kind is None:
        return None
    values = rows[column]
    if kind == "value":
        return np.array([np.nan if v is None else v for v in values], np.float64)
    if values and any(isinstance(v, str) for v in values):
        assert names is not None
        index = {name: i for i, name in enumerate(names)}
        return np.array([-1 if v is None else index[v] for v in values], np.int64)
    return np.array([-1 if v is None else v for v in values], np.int64)
