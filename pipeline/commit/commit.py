"""The end of a run: is every unit there, then what is left over goes, and the manifest makes the folder a dataset."""

import contextlib
import datetime
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsmooth.pipeline.commit.card import card
from textsmooth.pipeline.commit.finished import predecessor_entry
from textsmooth.pipeline.commit.receipts import receipt_name, remove_receipts, whole_receipt
from textsmooth.schemas.errors import DatasetError, StorageError
from textsmooth.schemas.manifest import (
    CARD,
    MANIFEST,
    PLAN,
    QUARANTINE,
    RECEIPTS,
    TOKENIZER_FOLDER,
    FileEntry,
    Manifest,
    ShardEntry,
)
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.storage.folder import Folder, is_temp
from textsmooth.stages.tokens.tokenize import makes_token_types, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


AT_ONCE = 1024  # receipts read together


def jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _receipts(out: Folder, plan: Plan) -> Iterator[Receipt]:
    """The receipts of the units whose shards are there, in the plan's order. Some are read at a time: there may be very many."""
    files = out.files()
    committed = ((name, unit) for unit in plan.units if (name := receipt_name(unit)) in files)
    while group := dict(islice(committed, AT_ONCE)):
        found = out.read_all(group)
        for name, unit in group.items():
            receipt = whole_receipt(found[name], unit, files.get) if name in found else None
            if receipt is not None:
                yield receipt


def _light(receipt: Receipt, plan: Plan) -> Receipt:
    """A receipt without its statistics and timings: most of what it weighs."""
    return replace(receipt, stats={}, timings={}, versions=plan.versions)


def finished_units(out: Folder, plan: Plan) -> dict[str, Receipt]:
    """Receipts by unit id, of the units whose shards are there; without their statistics and timings."""
    return {receipt.unit: _light(receipt, plan) for receipt in _receipts(out, plan)}


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
    if manifest.partial_of is not None:
        raise DatasetError(f"{out} has only some shards of this dataset: textsmooth pull fetches the rest, or give another --out")
    out.remove(_leftovers(out, plan, {s.path for s in manifest.shards}))
    with contextlib.suppress(StorageError):  # another driver may be at it
        remove_receipts(out)
    files = out.files()
    for shard in manifest.shards:
        if files.get(shard.path) != shard.bytes:
            raise DatasetError(f"{out.at(shard.path)} is missing or cut short; make the dataset again with --overwrite, or fetch the file")
    return manifest


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer as a dataset has it."""

    files: dict[str, bytes]  # path in the dataset -> content
    token_types: bool
    special_ids: dict[str, int | None]


def saved(tokenizer: "PreTrainedTokenizerFast") -> TokenizerFiles:
    from textsmooth.stages.tokens.load import save_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, Path(folder))
        files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
        found = {f"{TOKENIZER_FOLDER}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in files}
    return TokenizerFiles(files=found, token_types=makes_token_types(tokenizer), special_ids=special_ids(tokenizer))


def commit(
    out: Folder, plan: Plan, tokenizer: "PreTrainedTokenizerFast | TokenizerFiles", *, last: Callable[[], object] = lambda: None
) -> Manifest:
    """Publish the manifest of a run whose every unit has a receipt. The first manifest wins, also one that is there already.

    last: called right before the manifest is published.

    Raises DatasetError, naming the first, if a unit has none.
    """
    ordered: list[Receipt] = []
    lines, total = io.BytesIO(), UnitStats()
    for receipt in _receipts(out, plan):
        lines.write(jsonl([receipt.to_json()]))
        total += UnitStats.from_json(receipt.stats)
        ordered.append(_light(receipt, plan))
    if out.size(MANIFEST) is not None:  # looked for after the receipts: until there is one they only grow
        return tidy(out, plan)
    done = {receipt.unit for receipt in ordered}
    missing: list[Unit] = [unit for unit in plan.units if unit.id not in done]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(plan.units)} units have no shard, the first is {missing[0].name}; run the same command again"
        )
    out.remove(_leftovers(out, plan, {r.shard for r in ordered}))
    shards = tuple(
        ShardEntry(
            path=r.shard,
            split=r.split,
            rows=r.rows,
            tokens=r.tokens,
            entries=r.entries,
            bytes=r.bytes,
            sha256=r.sha256,
            windows=r.windows,
            skipped=len(r.skipped),
            row_offset=offset,
        )
        for r, offset in zip(ordered, plan.row_offsets(), strict=True)
    )
    size = sum(s.bytes for s in shards)
    skipped = [asdict(replace(row, row=row.row + shard.row_offset)) for r, shard in zip(ordered, shards, strict=True) for row in r.skipped]
    left_out = {"skipped_rows": len(skipped)} if skipped else {}
    statistics = {**total.summary(), **left_out, "bytes": size, "bytes_per_token": size / max(total.tokens, 1)}
    kept = tokenizer if isinstance(tokenizer, TokenizerFiles) else saved(tokenizer)
    manifest = Manifest(
        dataset=Manifest.dataset_digest(plan.digest, shards),
        plan=plan.digest,
        corpus=plan.corpus.to_json(),
        teacher=plan.teacher.to_json(),
        config=plan.config.to_json(),
        token_types=kept.token_types,
        special_ids=kept.special_ids,
        shards=shards,
        files=(),
        statistics=statistics,
        versions=plan.versions,
        task_teacher=None if plan.task_teacher is None else asdict(plan.task_teacher),
        predecessor=predecessor_entry(plan, ordered),
        sources=plan.sources,
        converted=plan.converted,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    files = {RECEIPTS: lines.getvalue(), CARD: card(manifest).encode(), **kept.files}
    if skipped:
        files[QUARANTINE] = jsonl(skipped)
    else:
        out.remove((QUARANTINE,))  # of a run before
    for name, data in files.items():
        out.put(name, data)
    files[PLAN] = out.read(PLAN)
    listed = (FileEntry(path=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in sorted(files.items()))
    manifest = replace(manifest, files=tuple(listed))
    last()
    out.put_exclusive(MANIFEST, pretty_json(manifest.to_json()))
    return tidy(out, plan)
