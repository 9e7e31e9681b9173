"""Some shards of a dataset as a dataset of its own: which ones, and what its manifest, receipts and card then are."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from textsmooth.pipeline.commit.commit import jsonl
from textsmooth.pipeline.share.deliver import Parcel
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import CARD, QUARANTINE, RECEIPTS, FileEntry, Manifest, ShardEntry, of_splits
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.storage.transfer import Reader


def shard_numbers(text: str) -> set[int]:
    """The numbers that `0-9`, `3` or `0-3,7` stands for. UsageError if it is none of these."""
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,7})(?:-(\d{1,7}))?\s*", part, flags=re.ASCII)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise UsageError(f"--shards {text}: give numbers from 0 and ranges of them, like 0-9 or 0-3,7")
        found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return found


def chosen(manifest: Manifest, splits: Sequence[str], shards: str | None) -> tuple[ShardEntry, ...]:
    """The shards of these splits (none: all) whose place in their split is among the numbers, in the manifest's order.

    UsageError for a split that is not there, and for a number that no chosen split has.
    """
    names = [name for name in manifest.splits if not splits or name in splits]
    for name in splits:
        manifest.split(name)
    if shards is None:
        return tuple(shard for shard in manifest.shards if shard.split in names)
    numbers = shard_numbers(shards)
    have = {name: len(manifest.split(name)) for name in names}
    if max(numbers) >= max(have.values()):
        told = ", ".join(f"{name} has {count:,} (0-{count - 1})" for name, count in have.items())
        raise UsageError(f"--shards {shards}: there is no shard {max(numbers):,}; {told}")
    return tuple(shard for name in names for number, shard in enumerate(manifest.split(name)) if number in numbers)


def either(manifest: Manifest, some: tuple[ShardEntry, ...], others: tuple[ShardEntry, ...]) -> tuple[ShardEntry, ...]:
    """The shards that are among these or those, in the manifest's order."""
    kept = {*some, *others}
    return tuple(shard for shard in manifest.shards if shard in kept)


def part(whole: Parcel, shards: tuple[ShardEntry, ...]) -> Parcel:
    """The dataset that has these shards of another. Its files are the same but for receipts, quarantined rows and card, which are cut
    down to it; its statistics are counted from its receipts. UsageError where rows of a merged dataset would lose their number.
    """
    manifest, kept = whole.manifest, {shard.path for shard in shards}
    if kept == {shard.path for shard in manifest.shards}:
        return whole
    made: dict[str, bytes] = {}
    changes: dict[str, Any] = {"statistics": {**manifest.statistics, **_size(shards)}}
    files = {entry.path: entry for entry in manifest.files}
    if RECEIPTS in files:
        lines = [json.loads(line) for line in whole.reader.bytes(files[RECEIPTS]).splitlines()]
        receipts = {receipt["shard"]: receipt for receipt in lines if receipt["shard"] in kept}
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
            total = sum((UnitStats(**receipt["stats"]) for receipt in ordered), start=UnitStats())
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
    return Parcel(reader=reader, manifest=smaller, data=pretty_json(smaller.to_json()))


def _size(shards: tuple[ShardEntry, ...]) -> dict[str, Any]:
    size, tokens = sum(shard.bytes for shard in shards), sum(shard.tokens for shard in shards)
    return {"bytes": size, "bytes_per_token": size / max(tokens, 1)}


def _sources(manifest: Manifest, shards: tuple[ShardEntry, ...]) -> tuple[dict[str, Any], ...]:
    """Of a merged dataset: with the splits that are left, which have to be whole, because rows are numbered through the sources."""
    splits = tuple(dict.fromkeys(shard.split for shard in shards))
    cut = [name for name in splits if sum(shard.split == name for shard in shards) != len(manifest.split(name))]
    if manifest.sources and cut:
        raise UsageError(f"this dataset is merged of {len(manifest.sources)}: whole splits of it can be had (--split), not some shards")
    return of_splits(manifest.sources, splits)
