"""Make a dataset of some shards of another: choose the shards, and derive manifest, receipts and card."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from textsmooth.pipeline.commit.commit import jsonl
from textsmooth.pipeline.share.deliver import DatasetFiles
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import CARD, QUARANTINE, RECEIPTS, FileEntry, Manifest, ShardEntry, of_splits
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.storage.atomic import parse_json, pretty_json
from textsmooth.stages.storage.transfer import Reader


def shard_numbers(text: str) -> set[int]:
    """Parse shard numbers like `0-9`, `3` or `0-3,7`. UsageError for other text."""
    numbers: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,7})(?:-(\d{1,7}))?\s*", part, flags=re.ASCII)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise UsageError(f"--shards {text}: expected numbers from 0 or ranges, like 0-9 or 0-3,7")
        numbers.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return numbers


def chosen(manifest: Manifest, splits: Sequence[str], shards: str | None) -> tuple[ShardEntry, ...]:
    """The shards with these numbers in these splits (all splits if empty), in the order of the manifest.

    UsageError for an unknown split, and for a number that no chosen split has.
    """
    names = [name for name in manifest.splits if not splits or name in splits]
    for name in splits:
        manifest.split(name)
    if shards is None:
        return tuple(shard for shard in manifest.shards if shard.split in names)
    numbers = shard_numbers(shards)
    have = {name: len(manifest.split(name)) for name in names}
    if max(numbers) >= max(have.values()):
        counts = ", ".join(f"{name} has {count:,} (0-{count - 1})" for name, count in have.items())
        raise UsageError(f"--shards {shards}: there is no shard {max(numbers):,}; {counts}")
    return tuple(shard for name in names for number, shard in enumerate(manifest.split(name)) if number in numbers)


def either(manifest: Manifest, some: tuple[ShardEntry, ...], others: tuple[ShardEntry, ...]) -> tuple[ShardEntry, ...]:
    """The union of two sets of shards, in the order of the manifest."""
    kept = {*some, *others}
    return tuple(shard for shard in manifest.shards if shard in kept)


def part(whole: DatasetFiles, shards: tuple[ShardEntry, ...]) -> DatasetFiles:
    """The dataset with only these shards. Receipts, quarantined rows and card are reduced to them, and statistics counted again.

    UsageError if rows of a merged dataset would lose their number.
    """
    manifest, kept = whole.manifest, {shard.path for shard in shards}
    if kept == {shard.path for shard in manifest.shards}:
        return whole
    made: dict[str, bytes] = {}
    changes: dict[str, Any] = {"statistics": {**manifest.statistics, **_size(shards)}}
    files = {entry.path: entry for entry in manifest.files}
    if RECEIPTS in files:
        lines = [parse_json(line, RECEIPTS) for line in whole.reader.bytes(files[RECEIPTS]).splitlines()]
        receipts = {receipt["shard"]: receipt for receipt in lines if Receipt.from_json(receipt).shard in kept}
        if set(receipts) == kept:
            ordered = [receipts[shard.path] for shard in shards]
            made[RECEIPTS] = jsonl(ordered)
            skipped = [
                {**row, "row": row["row"] + shard.row_offset}
                for receipt, shard in zip(ordered, shards, strict=True)
                for row in receipt.get("skipped", ())
            ]
            if QUARANTINE in files and skipped:
                made[QUARANTINE] = jsonl(skipped)
            elif QUARANTINE in files:
                del files[QUARANTINE]
            total = sum((UnitStats.from_json(receipt["stats"]) for receipt in ordered), start=UnitStats())
            left_out = {"skipped_rows": len(skipped)} if skipped else {}
            changes["statistics"] = {**total.summary(), **left_out, **_size(shards)}
    smaller = replace(
        manifest,
        dataset=Manifest.dataset_digest(manifest.plan, shards),
        shards=shards,
        sources=_sources(manifest, shards),
        partial_of=manifest.partial_of or manifest.dataset,
        **changes,
    )
    if CARD in files:
        from textsmooth.pipeline.commit.card import card

        made[CARD] = card(smaller).encode()
    for name, data in made.items():
        files[name] = FileEntry(path=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    smaller = replace(smaller, files=tuple(files[name] for name in sorted(files)))
    reader = Reader(source=whole.reader.source, made=made)
    return DatasetFiles(reader=reader, manifest=smaller, data=pretty_json(smaller.to_json()))


def _size(shards: tuple[ShardEntry, ...]) -> dict[str, Any]:
    size, tokens = sum(shard.bytes for shard in shards), sum(shard.tokens for shard in shards)
    return {"bytes": size, "bytes_per_token": size / max(tokens, 1)}


def _sources(manifest: Manifest, shards: tuple[ShardEntry, ...]) -> tuple[dict[str, Any], ...]:
    """The sources of a merged dataset, reduced to the splits; these must be whole, because row numbers run through the sources."""
    splits = tuple(dict.fromkeys(shard.split for shard in shards))
    cut = [name for name in splits if sum(shard.split == name for shard in shards) != len(manifest.split(name))]
    if manifest.sources and cut:
        raise UsageError(
            f"this dataset was merged from {len(manifest.sources)} others: pull whole splits of it (--split) instead of --shards"
        )
    return of_splits(manifest.sources, splits)
