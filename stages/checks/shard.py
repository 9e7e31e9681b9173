"""Check the files of a dataset against its manifest: sizes, sha256, and the contents of shards."""

import contextlib
import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import DatasetError, first_line
from textsmooth.schemas.manifest import FileEntry, Manifest, ShardEntry
from textsmooth.schemas.shard import METADATA_KEY, ROWS_PER_RECORD_BATCH, ShardMeta, columns_of
from textsmooth.stages.checks.findings import Finding, Findings
from textsmooth.stages.checks.rows import RowRules, check_order, check_rows, decode_checked, first_places, lists_are_valid
from textsmooth.stages.checks.soft_ids import Sums, check_soft, rounding_of
from textsmooth.stages.corpus.column_types import arrow_type
from textsmooth.stages.soft_ids.codec import find_codec
from textsmooth.stages.soft_ids.shard import open_ipc, promised_schema, schema_difference

EPSILON = 1e-4  # relative error of float32 sums over a shard
CHECK_BYTES = 2 << 20  # of rows that are checked together

__all__ = ["Finding", "Looked", "Promised", "check_file", "check_shard", "expected_schema", "missing", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Findings about a shard, and how much was checked. Counts are 0 if the shard could not be read to its end."""

    findings: tuple[Finding, ...] = ()
    bytes: int = 0  # compared with the sha256
    whole: bool = False  # every row was checked; with inside=False, every byte
    rows: int = 0
    tokens: int = 0
    entries: int = 0


@dataclass(frozen=True, kw_only=True)
class Promised:
    """What plan and receipts say about a shard. None: not known, and not compared."""

    unit: str | None = None  # id
    rows: NDArray[np.int64] | None = None  # numbers in its column `row`, each once
    stats: dict[str, Any] | None = None  # UnitStats.to_json()
    template: tuple[int, ...] | None = None  # ids of the special tokens that the tokenizer adds to a row


@contextlib.contextmanager
def opened(path: Path) -> Iterator["mmap.mmap | bytes"]:
    """A file, memory-mapped."""
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # empty
            yield b""
            return
        yield data  # not closed here: Arrow may still refer to it


def missing(path: str) -> Finding:
    """The finding about a file that the manifest lists and the folder does not have."""
    return Finding(path=path, what="is missing", altered=True)


def unreadable(path: str, error: OSError) -> Finding:
    """The finding for a file that the storage refuses to read."""
    match error:
        case IsADirectoryError():
            remedy = "remove that folder, then verify again: the file is then reported as missing"
        case NotADirectoryError():
            remedy = f"remove the file at {path.rpartition('/')[0]}, which should be a folder, then verify again"
        case PermissionError():
            remedy = "check its permissions"
        case _:
            remedy = "check the storage, then verify again"
    return Finding(path=path, what=f"cannot be read: {error.strerror or error}", remedy=remedy)


def check_file(data: "mmap.mmap | bytes", entry: FileEntry | ShardEntry) -> list[Finding]:
    """Compare size and sha256 of a file with the manifest: no finding, or one."""
    if len(data) != entry.bytes:
        return [Finding(path=entry.path, what=f"has {len(data):,} bytes, the manifest says {entry.bytes:,}", altered=True)]
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        return [Finding(path=entry.path, what="was altered, its sha256 is not the manifest's", altered=True)]
    return []


def check_shard(
    path: "Path | bytes", entry: ShardEntry, manifest: Manifest, promised: Promised | None = None, *, inside: bool = True
) -> Looked:
    """Check a shard: size, sha256, and its contents. Safe for files with any content; raises only OSError.

    path: the file, or its bytes. promised: by plan and receipts. inside: check the contents too.
    """
    if not isinstance(path, bytes):
        with opened(path) as data:
            return _check_bytes(data, entry, manifest, promised or Promised(), inside=inside)
    return _check_bytes(path, entry, manifest, promised or Promised(), inside=inside)


def _check_bytes(data: "mmap.mmap | bytes", entry: ShardEntry, manifest: Manifest, promised: Promised, *, inside: bool) -> Looked:
    wrong, findings = check_file(data, entry), Findings(path=entry.path)
    if not inside:
        return Looked(findings=tuple(wrong), bytes=len(data) if len(data) == entry.bytes else 0, whole=True)
    sums = _check_inside(data, entry, manifest, promised, findings)
    return Looked(
        findings=(*wrong, *findings.findings),
        bytes=len(data) if len(data) == entry.bytes else 0,
        whole=sums is not None,
        **({} if sums is None else {"rows": sums.rows, "tokens": sums.tokens, "entries": sums.entries}),
    )


def _check_inside(data: "mmap.mmap | bytes", entry: ShardEntry, manifest: Manifest, promised: Promised, findings: Findings) -> Sums | None:
    """Check the contents of the Arrow file, whatever its sha256. Returns its sums, None if not all of it can be read."""
    try:
        file = open_ipc(pa.py_buffer(data))
        if not _check_schema(file.schema, manifest, entry, promised, findings):
            return None
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
    except (pa.ArrowException, OSError, ValueError) as error:
        findings.file(f"cannot be read: {first_line(error)}")
        return None
    sizes = [batch.num_rows for batch in batches]
    if any(size != ROWS_PER_RECORD_BATCH for size in sizes[:-1]) or not all(0 < size <= ROWS_PER_RECORD_BATCH for size in sizes[-1:]):
        findings.file(f"has record batches of {', '.join(map(str, sizes[:9]))} rows, {ROWS_PER_RECORD_BATCH} and a rest are promised")
        return None
    return _check_batches(batches, entry, manifest, promised, findings)


def expected_schema(manifest: Manifest, split: str, unit: str) -> pa.Schema:
    """The schema of a shard with its kept columns, by the manifest. Raises KeyError, TypeError or ValueError if that is incomplete."""
    keep = zip(manifest.corpus["keep_columns"], manifest.corpus["keep_types"], strict=True)
    return promised_schema(manifest, split, unit, tuple(pa.field(name, arrow_type(kind)) for name, kind in keep))


def _check_schema(schema: pa.Schema, manifest: Manifest, entry: ShardEntry, promised: Promised, findings: Findings) -> bool:
    """Whether a shard's columns are those of the manifest. Adds findings, also where only the metadata differs."""
    try:
        meta = ShardMeta.of(schema, "its schema")
    except DatasetError as error:
        findings.file(f"is not to be trusted: {error}")
        return False
    expected = expected_schema(manifest, entry.split, promised.unit or meta.unit)
    difference = schema_difference(schema, expected)
    if difference is not None:
        findings.file(difference)
        return False
    wanted_meta = ShardMeta.of(expected, "its schema")
    for name, value in vars(wanted_meta).items():
        if getattr(meta, name) != value:
            findings.file(f"says {name} {getattr(meta, name)!r} in its metadata, the manifest {value!r}")
    if set(schema.metadata) != {METADATA_KEY} or any(field.metadata for field in schema):
        findings.file("has metadata that is not textsmooth's")
    return True


def _check_batches(
    batches: list[pa.RecordBatch], entry: ShardEntry, manifest: Manifest, promised: Promised, findings: Findings
) -> Sums | None:
    config = GenerationConfig.from_json(manifest.config)
    rules = RowRules.of(manifest, template=promised.template if config.specials == "plain" else ())
    codec = find_codec(config.codec)
    sums, first, unlabelled = Sums(rounding=rounding_of(config.codec)), 0, 0
    rows: list[NDArray[np.int64]] = []
    windows: list[NDArray[np.int32]] = []
    good = []
    for batch in batches:
        if lists_are_valid(batch, findings, first, columns_of(config.codec), entry.row_offset):
            good.append(batch)
        first += batch.num_rows
    complete = len(good) == len(batches)
    for batch in _joined(good):
        places = first_places(batch, findings, entry.row_offset)
        try:
            block = decode_checked(batch, places, config.codec)
        except pa.ArrowInvalid as error:
            findings.file(f"cannot be decoded in rows {places.row[0]:,} to {places.row[-1]:,}: {first_line(error)}")
            block = None
        if block is None:
            complete = False
            continue
        sums.variation += codec.variation(batch, block.soft)
        check_rows(batch, block, places, rules)
        check_soft(block.soft, block.input_ids, places, config=config, vocab_size=rules.vocab_size, sums=sums)
        rows.append(places.row)
        if block.window is not None:
            windows.append(block.window)
        if block.label is not None:
            unlabelled += int((np.isnan(block.label) if block.label.dtype.kind == "f" else block.label < 0).sum())
    if first != entry.samples:
        findings.file(f"has {first:,} rows, the manifest says {entry.samples:,}")
    if not complete:
        return None
    if sums.variation > codec.most_variation * sums.smoothed * (1 + EPSILON):
        mean = sums.variation / max(sums.smoothed, 1)
        findings.file(f"has log-probabilities rounded to a mean total variation of up to {mean:.2g}, codec {config.codec} promises less")
    sums.rows = first
    for name in ("tokens", "entries"):
        if getattr(sums, name) != getattr(entry, name):
            findings.file(f"has {getattr(sums, name):,} {name}, the manifest says {getattr(entry, name):,}")
    row = np.concatenate([np.zeros(0, np.int64), *rows])
    window = np.concatenate([np.zeros(0, np.int32), *windows]) if config.long == "window" else None
    check_order(row, window, None if promised.rows is None else promised.rows + entry.row_offset, findings)
    if promised.stats is not None:
        _check_stats(sums, unlabelled, promised.stats, config, findings)
    return sums


def _joined(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join small record batches into larger ones: checking one has a fixed cost."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= CHECK_BYTES:
            yield _join(waiting)
            waiting, size = [], 0
    if waiting:
        yield _join(waiting)


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _check_stats(sums: Sums, unlabelled: int, stats: dict[str, Any], config: GenerationConfig, findings: Findings) -> None:
    """Compare the counts of the shard's receipt with the shard, as far as the shard determines them."""
    counted = {"tokens": sums.tokens, "entries": sums.entries, "smoothed": sums.smoothed}
    counted |= {"windows": sums.rows} if config.long == "window" else {}
    counted |= {"unlabelled_rows": unlabelled} if config.long != "window" else {}
    for name, value in counted.items():
        if stats.get(name) != value:
            findings.file(f"has {name} {value:,}, its receipt says {stats.get(name)!r}")
    if sums.skipped:
        return
    expected = np.asarray(stats["mass_by_rank"], np.float64)
    mass = np.zeros(max(len(expected), len(sums.mass_by_rank)))
    mass[: len(sums.mass_by_rank)] = sums.mass_by_rank
    expected = np.concatenate([expected, np.zeros(len(mass) - len(expected))])
    off = ~(np.abs(mass - expected) <= sums.smoothed * sums.rounding.slack.max() + EPSILON * expected)
    if off.any():
        rank = int(off.argmax())
        findings.file(f"has mass {mass[rank]:.4f} at rank {rank + 1}, its receipt says {expected[rank]:.4f}")
    if not abs(sums.original[0] - stats["original"]) <= sums.original[1] + EPSILON * (1 + sums.original[0]):
        findings.file(f"has p(original) of {sums.original[0]:.4f} in all, its receipt says {stats['original']:.4f}")
    bins = np.cumsum(stats["original_bins"])
    if len(bins) != sums.below.shape[1] or (bins < sums.below[0]).any() or (bins > sums.below[1]).any():
        findings.file("has a histogram of p(original) that is not its receipt's")
