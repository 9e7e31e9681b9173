"""The end of a run: is every unit there, then what is left over goes, and the manifest makes the folder a dataset."""

import datetime
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from textsmooth.pipeline.card import card
from textsmooth.pipeline.unit import find_receipt
from textsmooth.schemas.canonical import file_sha256
from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.manifest import (
    CARD,
    MANIFEST,
    PLAN,
    RECEIPTS,
    RECEIPTS_FOLDER,
    TOKENIZER_FOLDER,
    FileEntry,
    Manifest,
    ShardEntry,
)
from textsmooth.schemas.plan import Plan, Receipt, Unit
from textsmooth.stages.statistics import UnitStats
from textsmooth.stages.storage import TEMP_PREFIX, pretty_json, put, put_exclusive, read_manifest, remove
from textsmooth.stages.tokenize import makes_token_types, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def finished_units(out: Path, plan: Plan) -> dict[str, Receipt]:
    """Receipts by unit id, of the units whose shards are there."""
    found = ((unit, find_receipt(out, unit)) for unit in plan.units)
    return {unit.id: receipt for unit, receipt in found if receipt is not None}


def _leftovers(out: Path, plan: Plan, shards: set[str]) -> Iterator[Path]:
    """Temporary files, and shards that are not of the dataset: of runs that were killed, and of drivers that came second."""
    named = {out / shard for shard in shards}
    for folder in (out, out / TOKENIZER_FOLDER, *(out / split for split in plan.splits)):
        if folder.is_dir():
            yield from (p for p in folder.iterdir() if p.name.startswith(TEMP_PREFIX))
    for split in plan.splits:
        yield from (p for p in (out / split).glob("*.arrow") if p not in named)


def tidy(out: Path, plan: Plan) -> Manifest:
    """Remove whatever a finished dataset does not list, the receipts one by one among it; its manifest.

    Raises DatasetError if a shard that the manifest lists is missing or has another size.
    """
    manifest = read_manifest(out)
    if manifest.plan != plan.digest:
        raise DatasetError(f"{out} has the manifest of another run than its {PLAN}; start again with --overwrite, or another --out")
    for path in list(_leftovers(out, plan, {s.path for s in manifest.shards})):
        remove(path)
    shutil.rmtree(out / RECEIPTS_FOLDER, ignore_errors=True)
    for shard in manifest.shards:
        path = out / shard.path
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise DatasetError(f"{path} is missing or cut short; make the dataset again with --overwrite, or fetch the file")
    return manifest


def _put_tokenizer(out: Path, tokenizer: "PreTrainedTokenizerFast") -> list[Path]:
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
        placed = [out / TOKENIZER_FOLDER / p.relative_to(folder) for p in files]
        for source, target in zip(files, placed, strict=True):
            put(target, source.read_bytes())
    return placed


def commit(out: Path, plan: Plan, tokenizer: "PreTrainedTokenizerFast") -> Manifest:
    """Publish the manifest of a run whose every unit has a receipt. The first manifest wins, also one that is there already.

    Raises DatasetError, naming the first, if a unit has none.
    """
    receipts = finished_units(out, plan)
    if (out / MANIFEST).is_file():  # looked for after the receipts: until there is one they only grow
        return tidy(out, plan)
    missing: list[Unit] = [unit for unit in plan.units if unit.id not in receipts]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(plan.units)} units have no shard, the first is {missing[0].name}; run the same command again"
        )
    ordered = [receipts[unit.id] for unit in plan.units]
    for path in list(_leftovers(out, plan, {r.shard for r in ordered})):
        remove(path)
    shards = tuple(
        ShardEntry(
            path=r.shard, split=r.split, rows=r.rows, tokens=r.tokens, entries=r.entries, bytes=r.bytes, sha256=r.sha256, windows=r.windows
        )
        for r in ordered
    )
    total = sum((UnitStats(**r.stats) for r in ordered), UnitStats())
    size = sum(s.bytes for s in shards)
    statistics = {**total.summary(), "bytes": size, "bytes_per_token": size / max(total.tokens, 1)}
    put(out / RECEIPTS, "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in ordered).encode())
    files = [out / PLAN, out / RECEIPTS, *_put_tokenizer(out, tokenizer)]
    digest = Manifest.dataset_digest(plan.digest, shards)
    put(out / CARD, card(plan, shards, statistics, digest).encode())
    manifest = Manifest(
        dataset=digest,
        plan=plan.digest,
        corpus=plan.corpus.to_json(),
        teacher=plan.teacher.to_json(),
        config=plan.config.to_json(),
        token_types=makes_token_types(tokenizer),
        special_ids=special_ids(tokenizer),
        shards=shards,
        files=tuple(
            FileEntry(path=p.relative_to(out).as_posix(), bytes=p.stat().st_size, sha256=file_sha256(p)) for p in [*files, out / CARD]
        ),
        statistics=statistics,
        versions=plan.versions,
        task_teacher=None if plan.task_teacher is None else asdict(plan.task_teacher),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    put_exclusive(out / MANIFEST, pretty_json(manifest.to_json()))
    return tidy(out, plan)
