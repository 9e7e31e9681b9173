"""Store a dataset in another way: `textsmooth convert`. Another codec, fewer entries or temperatures; never more than there is.

Shards are converted one by one, a few at the same time, each as soon as it is read. A unit keeps its id, so that plain -> compact -> plain
gives back the same shards. Plan and manifest get `converted`: the digest of the dataset it was made of, its settings, and what was dropped.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from textsmooth.pipeline.commit.commit import TokenizerFiles, commit, finished_units, tidy
from textsmooth.pipeline.commit.finished import Previous, open_previous, read_checked
from textsmooth.pipeline.commit.receipts import publish, shard_path
from textsmooth.pipeline.commit.run_folder import plan_in, publish_plan
from textsmooth.pipeline.formatting import counted, size
from textsmooth.pipeline.plan.versions import library_versions
from textsmooth.pipeline.share.parquet import bytes_of, units_to_write, write_card, write_parquet
from textsmooth.schemas.codecs import canonical_codec, parse_codec
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import ConflictError, UsageError
from textsmooth.schemas.manifest import MANIFEST, PLAN, TOKENIZER_FOLDER
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt
from textsmooth.schemas.shard import ShardMeta
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.dataset.row_gather import concatenate
from textsmooth.stages.soft_ids.codec import Codec, decode, find_codec
from textsmooth.stages.soft_ids.shard import shard_bytes
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.storage.folder import Folder, read_json
from textsmooth.stages.storage.local import overlap

AT_ONCE = 4  # shards converted at the same time, at most
FORMATS = ("dataset", "parquet")


@dataclass(frozen=True, kw_only=True)
class ConvertedTo:
    """The result of a conversion."""

    out: str  # path or URI of the folder
    dataset: str | None  # digest; None for Parquet
    bytes: int
    bytes_before: int
    tokens: int
    shards: int
    done: int  # shards converted now
    dropped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "dropped": list(self.dropped)}

    def summary(self) -> str:
        """The output of the command."""
        digest = "" if self.dataset is None else f"  (dataset {self.dataset[:12]})"
        first = f"Nothing to do: {self.out} is complete" if not self.done else f"{counted(self.done, 'shard')} converted to {self.out}"
        per_token = f"{self.bytes / max(self.tokens, 1):.1f} bytes per token, {self.bytes_before / max(self.tokens, 1):.1f} before"
        lines = [f"{first}{digest}", f"  {counted(self.shards, 'shard')}, {size(self.bytes)}, {per_token}"]
        return "\n".join([*lines, *(f"  dropped: {what}" for what in self.dropped)])


def convert(
    dataset: str | Path,
    out: str | Path,
    *,
    codec: str | None = None,
    topk: int | None = None,
    mass: float | None = None,
    temperatures: tuple[float, ...] | None = None,
    format: str = "dataset",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertedTo:
    """Convert a finished dataset into another folder: `textsmooth convert`.

    dataset: path, URI or name on the Hub. codec, topk, mass, temperatures: as for `textsmooth gen`, by default those of the dataset.
    format: `dataset`, or `parquet` for readers of Parquet. progress: called with shards done and shards in all.
    The same call continues after an interruption. Raises UsageError for settings that the dataset has not enough for, ConflictError if
    `out` holds something else, DatasetError if the dataset is damaged.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    source, folder = open_previous(open_folder(dataset, reading=True)), open_folder(out)
    if overlap(source.folder, folder):
        raise UsageError(f"{source.folder} and {folder} overlap: a finished dataset must not change; give another OUT")
    given = {"codec": canonical_codec(codec), "topk": topk, "mass": mass, "temperatures": temperatures}
    config = replace(source.plan.config, **{name: value for name, value in given.items() if value is not None})
    dropped = tuple(_dropped(source.plan.config, config))
    shards = _Shards(source)
    if format == "parquet":
        if codec is not None:
            raise UsageError(f"--codec {codec} does not go with --format parquet, which has nested lists")
        todo = units_to_write(source, folder, overwrite=overwrite)
        plain = replace(config, codec="plain")
        _run_units(source, todo, lambda unit, _: write_parquet(folder, unit, shards.converted(unit, plain)[0]), progress)
        write_card(source, folder)
        return _result(source, folder, None, bytes_of(source, folder), len(todo), dropped)
    if config == source.plan.config:
        raise UsageError(f"{source.folder} has these settings already: give another --codec, --topk, --mass, --temperatures or --format")
    if parse_codec(source.plan.config.codec)[1] is not None:
        raise UsageError(
            f"codec {source.plan.config.codec} has rounded already, and errors would add up: convert the dataset it was made of"
        )
    find_codec(config.codec)
    plan = _plan(source, config, dropped)
    before = plan_in(folder, overwrite=overwrite)
    if before is None and not publish_plan(folder, plan, overwrite=overwrite):
        before = Plan.from_json(read_json(folder, PLAN))  # another process published its plan first
    if before is not None and before.digest != plan.digest:
        raise ConflictError(
            f"{folder} contains another dataset, of {before.corpus.name}; give another OUT, or start again with --overwrite"
        )
    left: list[Unit] = []
    if folder.size(MANIFEST) is not None:
        manifest = tidy(folder, plan)
    else:
        done = finished_units(folder, plan)
        left = [unit for unit in plan.units if unit.id not in done]
        _run_units(source, left, partial(_convert_unit, shards, folder, plan), progress)
        manifest = commit(folder, plan, _tokenizer(source))
    return _result(source, folder, manifest.dataset, manifest.statistics["bytes"], len(left), dropped)


def _result(source: Previous, out: Folder, dataset: str | None, size: int, done: int, dropped: tuple[str, ...]) -> ConvertedTo:
    statistics = source.manifest.statistics
    before, tokens, shards = statistics["bytes"], statistics["tokens"], len(source.manifest.shards)
    return ConvertedTo(
        out=str(out), dataset=dataset, bytes=size, bytes_before=before, tokens=tokens, shards=shards, done=done, dropped=dropped
    )


def _run_units(
    source: Previous, units: list[Unit], work: Callable[[Unit, Receipt], object], progress: Callable[[int, int], None] | None
) -> None:
    """Call work with each unit and its receipt in the source, several at once."""
    by_id, done = {unit.id: unit for unit in units}, len(source.plan.units) - len(units)
    receipts = source.receipts(by_id) if by_id else iter(())
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1), "convert") as threads:
        for number, _ in enumerate(threads.map(lambda receipt: work(by_id[receipt.unit], receipt), receipts), done + 1):
            if progress is not None:
                progress(number, len(source.plan.units))


def _dropped(old: GenerationConfig, new: GenerationConfig) -> list[str]:
    """What the new settings leave out, one line each. UsageError for what the old ones do not have."""
    have = "the dataset has no more: generate it again for that"
    if new.topk > old.topk:
        raise UsageError(f"--topk {new.topk} is above the stored {old.topk}; {have}")
    if new.mass > old.mass:
        raise UsageError(f"--mass {new.mass:g} is above the stored {old.mass:g}; {have}")
    missing = sorted(set(new.extra_temperatures) - set(old.extra_temperatures))
    if missing:
        raise UsageError(f"--temperatures {missing[0]:g}: its log-partition is not stored; {have}")
    wanted = parse_codec(new.codec)[1]
    dropped = []
    if new.topk < old.topk:
        dropped.append(f"entries past the first {new.topk} of {old.topk}")
    if new.mass < old.mass:
        dropped.append(f"entries past a mass of {new.mass:g}")
    dropped += [f"log_partition at temperature {t:g}" for t in old.extra_temperatures if t not in new.extra_temperatures]
    if wanted is not None:
        dropped.append(f"precision: a mean total variation of at most {wanted:g}")
    return dropped


def _plan(source: Previous, config: GenerationConfig, dropped: tuple[str, ...]) -> Plan:
    converted = {"dataset": source.manifest.dataset, "config": source.plan.config.to_json(), "dropped": list(dropped)}
    versions = {**source.plan.versions, **library_versions(("pyarrow", "numpy", *parse_codec(config.codec)[0].libraries))}
    return replace(source.plan, config=config, versions=versions, runtime={}, source={}, predecessor=None, converted=converted)


def _convert_unit(shards: "_Shards", out: Folder, plan: Plan, unit: Unit, receipt: Receipt) -> Receipt:
    batch, soft = shards.converted(unit, plan.config)
    data = shard_bytes(batch)
    sha256 = hashlib.sha256(data).hexdigest()
    name = shard_path(unit, sha256)
    out.put(name, memoryview(data))
    stats = replace(UnitStats.from_json(receipt.stats), entries=len(soft.ids))
    config = plan.config
    counted = UnitStats.of(soft, topk=config.topk, mass=config.mass, temperatures=config.extra_temperatures)
    if stats.entries != receipt.entries:
        stats = replace(stats, mass_by_rank=counted.mass_by_rank, reached_mass=counted.reached_mass)
    stats = replace(stats, mass_by_temperature=counted.mass_by_temperature)
    new = replace(receipt, shard=name, sha256=sha256, bytes=data.size, entries=stats.entries, stats=stats.to_json(), taken_from=None)
    return publish(out, unit, replace(new, timings={}, versions=plan.versions))


class _Shards:
    """The shards of a dataset, converted one by one by several threads."""

    def __init__(self, source: Previous) -> None:
        self._splits = {split: SmoothedDataset(source.folder.where, split) for split in source.manifest.splits}
        self._opening = Lock()

    def converted(self, unit: Unit, config: GenerationConfig) -> tuple[pa.RecordBatch, SoftIds]:
        """The rows of a shard with the columns of other settings, and their soft ids. DatasetError if the shard is damaged."""
        with self._opening:
            old, batches, schema = self._splits[unit.split].stored(unit.number)
        meta = replace(old, codec=config.codec, topk=config.topk, mass=config.mass, temperatures=config.extra_temperatures)
        codec, before = find_codec(meta.codec), parse_codec(old.codec)[0].columns
        schema = _schema(schema, codec.fields(meta), before, meta)
        if not batches:
            return pa.RecordBatch.from_pylist([], schema=schema), _no_soft_ids(meta)
        block = concatenate([decode(batch) for batch in batches])
        block = replace(block, soft=smaller(block.soft, config, old.temperatures, find_codec(old.codec)))
        whole = pa.Table.from_batches(batches).drop_columns([name for name in batches[0].schema.names if name in before]).combine_chunks()
        columns = {name: whole[name].chunk(0) for name in whole.column_names} | codec.encode(block)
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema), block.soft


def _schema(schema: pa.Schema, fields: list[pa.Field], before: tuple[str, ...], meta: ShardMeta) -> pa.Schema:
    """The schema with other columns of soft ids in the place of those before."""
    names = schema.names
    first = next(index for index, name in enumerate(names) if name in before)
    rest = [field for field in schema if field.name not in before]
    return pa.schema([*rest[:first], *fields, *rest[first:]], metadata=meta.to_arrow())


def smaller(soft: SoftIds, config: GenerationConfig, temperatures: tuple[float, ...], codec: Codec) -> SoftIds:
    """Soft ids with fewer entries and temperatures; the mass of what is dropped goes to the tail. temperatures, codec: as they are stored.

    The errors of many rounded entries add up in that sum, so the tail is kept within 1 minus the entries that stay, which are off by their
    own rounding only.
    """
    kept_columns = [temperatures.index(t) for t in config.extra_temperatures]
    partition = np.ascontiguousarray(soft.log_partition[:, kept_columns])
    counts = np.diff(soft.offsets)
    token = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(soft.ids)) - soft.offsets[token]
    p = np.exp(soft.logprobs.astype(np.float64))
    before = np.cumsum(p) - p
    before -= before[np.minimum(soft.offsets[token], max(len(p) - 1, 0))] if len(p) else 0
    keep = (rank < config.topk) & ((before < config.mass) | (config.mass >= 1))
    if keep.all():
        return replace(soft, log_partition=partition)
    dropped, stays = (np.bincount(token[some], p[some], len(counts)) for some in (~keep, keep))
    off = np.bincount(token[keep], (p * np.expm1(codec.log_error(-soft.logprobs.astype(np.float64))))[keep], len(counts))
    tail = np.clip(np.exp(soft.log_tail.astype(np.float64)) + dropped, 1 - stays - off, np.maximum(1 - stays + off, 0.0))
    with np.errstate(divide="ignore"):
        log_tail = np.where(dropped > 0, np.log(tail), soft.log_tail)
    return SoftIds(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(token[keep], minlength=len(counts)))]),
        ids=soft.ids[keep],
        logprobs=soft.logprobs[keep],
        log_tail=np.minimum(log_tail, 0.0),
        original_logprob=soft.original_logprob,
        log_partition=partition,
    )


def _no_soft_ids(meta: ShardMeta) -> SoftIds:
    none = np.zeros(0, np.float16)
    partition = np.zeros((0, len(meta.temperatures)), np.float32)
    ids = np.zeros(0, np.uint16)
    return SoftIds(offsets=np.zeros(1, np.int64), ids=ids, logprobs=none, log_tail=none, original_logprob=none, log_partition=partition)


def _tokenizer(source: Previous) -> TokenizerFiles:
    """The files of the tokenizer, unchanged."""
    names = [file.path for file in source.manifest.files if file.path.startswith(f"{TOKENIZER_FOLDER}/")]
    files = {name: read_checked(source.folder, source.manifest, name) for name in names}
    return TokenizerFiles(files=files, token_types=source.manifest.token_types, special_ids=source.manifest.special_ids)
