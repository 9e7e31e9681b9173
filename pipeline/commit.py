"""The end of a run: is every unit there, then what is left over goes, and the manifest makes the folder a dataset."""

import contextlib
import datetime
import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from textsmooth.pipeline.card import card
from textsmooth.pipeline.unit import receipt_name, whole_receipt
from textsmooth.schemas.errors import DatasetError, StorageError
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
from textsmooth.stages.folder import Folder, is_temp, read_manifest
from textsmooth.stages.statistics import UnitStats
from textsmooth.stages.storage import pretty_json
from textsmooth.stages.tokenize import makes_token_types, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def finished_units(out: Folder, plan: Plan) -> dict[str, Receipt]:
    """Receipts by unit id, of the units whose shards are there."""
    files = out.files()
    units = {name: unit for unit in plan.units if (name := receipt_name(unit)) in files}
    found = (whole_receipt(data, units[name], files.get) for name, data in out.read_all(units).items())
    return {receipt.unit: receipt for receipt in found if receipt is not None}


def _leftovers(out: Folder, plan: Plan, shards: set[str]) -> list[str]:
    """Temporary files, and shards that are not of the dataset: of runs that were killed, and of drivers that came second."""

    def left(name: str) -> bool:
        room, _, file = name.rpartition("/")
        ours = room in ("", TOKENIZER_FOLDER, *plan.splits)
        return ours and (is_temp(name) or (room in plan.splits and file.endswith(".arrow") and name not in shards))

    return [name for name in out.files() if left(name)]


def tidy(out: Folder, plan: Plan) -> Manifest:
    """Remove whatever a finished dataset does not list, the receipts one by one among it; its manifest.

    Raises DatasetError if a shard that the manifest lists is missing or has another size.
    """
    manifest = read_manifest(out)
    if manifest.plan != plan.digest:
        raise DatasetError(f"{out} has the manifest of another run than its {PLAN}; start again with --overwrite, or another --out")
    out.remove(_leftovers(out, plan, {s.path for s in manifest.shards}))
    with contextlib.suppress(StorageError):  # another driver may be at it
        out.remove((RECEIPTS_FOLDER,))
    files = out.files()
    for shard in manifest.shards:
        if files.get(shard.path) != shard.bytes:
            raise DatasetError(f"{out.at(shard.path)} is missing or cut short; make the dataset again with --overwrite, or fetch the file")
    return manifest


def _put_tokenizer(out: Folder, tokenizer: "PreTrainedTokenizerFast") -> dict[str, bytes]:
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
        found = {f"{TOKENIZER_FOLDER}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in files}
    for name, data in found.items():
        out.put(name, data)
    return found


def commit(out: Folder, plan: Plan, tokenizer: "PreTrainedTokenizerFast") -> Manifest:
    """Publish the manifest of a run whose every unit has a receipt. The first manifest wins, also one that is there already.

    Raises DatasetError, naming the first, if a unit has none.
    """
    receipts = finished_units(out, plan)
    if out.size(MANIFEST) is not None:  # looked for after the receipts: until there is one they only grow
        return tidy(out, plan)
    missing: list[Unit] = [unit for unit in plan.units if unit.id not in receipts]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(plan.units)} units have no shard, the first is {missing[0].name}; run the same command again"
        )
    ordered = [receipts[unit.id] for unit in plan.units]
    out.remove(_leftovers(out, plan, {r.shard for r in ordered}))
    shards = tuple(
        ShardEntry(
            path=r.shard, split=r.split, rows=r.rows, tokens=r.tokens, entries=r.entries, bytes=r.bytes, sha256=r.sha256, windows=r.windows
        )
        for r in ordered
    )
    total = sum((UnitStats(**r.stats) for r in ordered), UnitStats())
    size = sum(s.bytes for s in shards)
    statistics = {**total.summary(), "bytes": size, "bytes_per_token": size / max(total.tokens, 1)}
    digest = Manifest.dataset_digest(plan.digest, shards)
    files = {
        RECEIPTS: "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in ordered).encode(),
        CARD: card(plan, shards, statistics, digest).encode(),
    }
    for name, data in files.items():
        out.put(name, data)
    files |= {PLAN: out.read(PLAN), **_put_tokenizer(out, tokenizer)}
    manifest = Manifest(
        dataset=digest,
        plan=plan.digest,
        corpus=plan.corpus.to_json(),
        teacher=plan.teacher.to_json(),
        config=plan.config.to_json(),
        token_types=makes_token_types(tokenizer),
        special_ids=special_ids(tokenizer),
        shards=shards,
        files=tuple(FileEntry(path=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in sorted(files.items())),
        statistics=statistics,
        versions=plan.versions,
        task_teacher=None if plan.task_teacher is None else asdict(plan.task_teacher),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    out.put_exclusive(MANIFEST, pretty_json(manifest.to_json()))
    return tidy(out, plan)
