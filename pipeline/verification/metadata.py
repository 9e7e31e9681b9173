"""Whether what lies beside the shards agrees: manifest, plan, receipts, card, tokenizer, and which files are there at all."""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np

from textsmooth.pipeline.commit.card import card
from textsmooth.pipeline.commit.commit import jsonl
from textsmooth.pipeline.commit.receipts import RECEIPT, shard_path
from textsmooth.pipeline.inspect.token_text import wrong_vocabulary
from textsmooth.pipeline.plan.versions import code_digest
from textsmooth.schemas.canonical import canonical_json, digest
from textsmooth.schemas.errors import DatasetError, first_line
from textsmooth.schemas.manifest import (
    AGAIN,
    CARD,
    MANIFEST,
    PLAN,
    QUARANTINE,
    RECEIPTS,
    RUN,
    TOKENIZER_FOLDER,
    Manifest,
    ShardEntry,
    of_splits,
)
from textsmooth.schemas.plan import Plan, Unit, unit_ids
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.checks.shard import Finding, Promised, check_file, missing, unreadable
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.storage.folder import Folder, is_temp
from textsmooth.stages.tokens.tokenize import tokenizer_digest, vocab_digest

SENSELESS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # what values of other types, or sizes, lead to
BESIDE = re.compile(r"\.gitattributes|\.gitignore|\.cache/.+|\.git/.+")  # what the Hub's tools leave in a folder


@dataclass(kw_only=True)
class Records:
    """What was read of the files beside the shards, and what is wrong with them."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # worth a look, no damage
    files: int = 0  # that were read
    unread: int = 0  # that are missing, or cannot be read
    bytes: int = 0
    plan: Plan | None = None
    units: dict[str, Unit] = field(default_factory=dict)  # path of a shard -> its unit
    receipts: dict[str, Receipt] = field(default_factory=dict)  # path of a shard -> its receipt
    template: tuple[int, ...] | None = None  # as Promised

    def tell(self, path: str, what: str, remedy: str = "") -> None:
        self.findings.append(Finding(path=path, what=what, remedy=remedy))

    def promised(self, entry: ShardEntry) -> Promised:
        """What plan and receipts say of a shard, as far as they could be read."""
        unit, receipt = self.units.get(entry.path), self.receipts.get(entry.path)
        rows = None
        if unit is not None and receipt is not None and unit.rows == entry.rows and len(receipt.skipped) == entry.skipped:
            rows = np.setdiff1d(np.arange(unit.row, unit.row + unit.rows), np.array([row.row for row in receipt.skipped], np.int64))
        stats = receipt.stats if receipt is not None else None
        return Promised(unit=None if unit is None else unit.id, rows=rows, stats=stats, template=self.template)


def canonical(data: bytes, value: Any) -> bool:
    """Whether textsmooth writes a manifest with this value as exactly these bytes."""
    return data == pretty_json({name: tuple(inner) if name in ("files", "sources") else inner for name, inner in value.items()})


def read_checked(data: bytes) -> tuple[Manifest | None, list[Finding]]:
    """The manifest in these bytes, and what is wrong with them; a finding says what to do where there is no manifest."""
    try:
        value = json.loads(data)
        manifest = Manifest.from_json(value, MANIFEST)
        whole = canonical(data, value)
    except (ValueError, RecursionError) as error:
        return None, [Finding(path=MANIFEST, what=f"is not JSON: {' '.join(str(error).split())}; {AGAIN}")]
    except DatasetError as error:
        return None, [Finding(path=MANIFEST, what=str(error).removeprefix(f"{MANIFEST} "))]
    odd = "was altered: it says the same, in other bytes than textsmooth writes"
    return manifest, [] if whole else [Finding(path=MANIFEST, what=odd, remedy="fetch that file again")]


def check_records(folder: Folder, manifest: Manifest, sizes: dict[str, int]) -> Records:
    """Read and compare every file but the shards. sizes: of the files that are in the folder."""
    found = Records()
    data: dict[str, bytes] = {}
    there, unread = _read(folder, [entry.path for entry in manifest.files])
    for entry in manifest.files:
        if entry.path not in there:
            found.unread += 1
            why = unread.get(entry.path)
            found.findings.append(unreadable(entry.path, why) if why else missing(entry.path))
            continue
        found.files, found.bytes = found.files + 1, found.bytes + len(there[entry.path])
        wrong = check_file(there[entry.path], entry)
        found.findings += wrong
        if not wrong:
            data[entry.path] = there[entry.path]
    listed = {entry.path for entry in manifest.files}
    for name in (PLAN, RECEIPTS, CARD, f"{TOKENIZER_FOLDER}/tokenizer.json"):
        if name not in listed:
            found.tell(MANIFEST, f"does not list {name}")
    checks: dict[str, Callable[[bytes], None]] = {
        PLAN: lambda text: _check_plan(found, manifest, text),
        RECEIPTS: lambda text: _check_receipts(found, manifest, text, data.get(QUARANTINE), listed),
        CARD: lambda text: _check_card(found, manifest, text.decode(errors="replace")),
        f"{TOKENIZER_FOLDER}/tokenizer.json": lambda text: _check_tokenizer(found, manifest, text),
    }
    for name, check in checks.items():
        try:
            if name in data:
                check(data[name])
        except SENSELESS as error:
            found.tell(name, f"makes no sense: {first_line(error)}")
    _check_unlisted(found, manifest, sizes)
    if RUN in sizes:
        _check_run(found, folder)
    return found


def _read(folder: Folder, names: list[str]) -> tuple[dict[str, bytes], dict[str, OSError]]:
    """The bytes of the files that are there, and why others cannot be read: a folder stands there, or nobody may."""
    try:
        return folder.read_all(names), {}
    except OSError:
        there, why = dict[str, bytes](), dict[str, OSError]()
        for name in names:
            try:
                there |= folder.read_all([name])
            except OSError as error:
                why[name] = error
        return there, why


def _check_run(found: Records, folder: Folder) -> None:
    """Compare run.json with the digest inside it; the manifest does not list this file."""
    there, unread = _read(folder, [RUN])
    if RUN not in there:
        if RUN in unread:
            found.findings.append(unreadable(RUN, unread[RUN]))
        return
    found.files, found.bytes = found.files + 1, found.bytes + len(there[RUN])
    try:
        value = json.loads(there[RUN])
        whole = pretty_json(value) == there[RUN] and value.pop("digest") == digest(value)
    except (*SENSELESS, RecursionError):
        whole = False
    if not whole:
        found.tell(RUN, "was altered since the run wrote it", "it is only a record of the run: remove it")


def _plain(value: Any) -> Any:
    return json.loads(canonical_json(value))


def _check_plan(found: Records, manifest: Manifest, data: bytes) -> None:
    try:
        plan = Plan.from_json(json.loads(data))
    except (ValueError, RecursionError, DatasetError) as error:
        found.tell(PLAN, f"cannot be read: {error}")
        return
    if plan.digest != manifest.plan:
        found.tell(PLAN, f"has digest {plan.digest[:12]}, the manifest is of plan {manifest.plan[:12]}")
        return
    found.plan = plan
    sources = plan.sources if manifest.partial_of is None else of_splits(plan.sources, manifest.splits)
    header = {**plan.header_json(), "sources": sources, "task_teacher": plan.header_json().get("task_teacher")}
    for name in ("corpus", "teacher", "config", "versions", "task_teacher", "sources"):
        if _plain(header[name]) != _plain(getattr(manifest, name)):
            found.tell(PLAN, f"has another {name} than the manifest")
    for what in _wrong_units(plan):
        found.tell(PLAN, what)
    if manifest.partial_of is None and len(plan.units) != len(manifest.shards):
        found.tell(MANIFEST, f"lists {len(manifest.shards):,} shards, the plan has {len(plan.units):,} units")
    elif manifest.partial_of is None:
        found.units = {shard.path: unit for unit, shard in zip(plan.units, manifest.shards, strict=True)}
    made_here = plan.versions.get("code") == code_digest() and not plan.sources  # the id of a unit is a matter of the code
    if made_here:
        id_of = unit_ids(teacher=plan.teacher, corpus=plan.corpus, config=plan.config, task_teacher=plan.task_teacher)
        other = next((unit for unit in plan.units if unit.id != id_of(unit.split, unit.row, unit.rows_sha256)), None)
        if other is not None:
            found.tell(PLAN, f"has unit {other.name} with an id that is not that of its rows and settings")


def _wrong_units(plan: Plan) -> Iterator[str]:
    """Units that leave rows out, or hold them twice."""
    for split, units in groupby(plan.units, key=lambda unit: unit.split):
        rows, ends = 0, dict[str, int]()
        for number, unit in enumerate(units):
            if unit.number != number or unit.rows < 1:
                yield f"has unit {unit.name} of {unit.rows:,} rows where {split}/{number:05d} is due"
                return
            if not plan.sources and (unit.row, unit.start) != (rows, ends.get(unit.file, 0)):
                yield f"has unit {unit.name} begin at row {unit.row:,} of the split, {unit.start:,} of {unit.file}; {rows:,} is due"
                return
            rows, ends[unit.file] = rows + unit.rows, unit.stop


def _check_receipts(found: Records, manifest: Manifest, data: bytes, quarantine: bytes | None, listed: set[str]) -> None:
    try:
        receipts = [Receipt.from_json(json.loads(line)) for line in data.splitlines()]
        total = sum((UnitStats(**receipt.stats) for receipt in receipts), UnitStats())
        summary = total.summary()
    except (ValueError, TypeError, RecursionError, ArithmeticError, DatasetError) as error:
        found.tell(RECEIPTS, f"cannot be read: {error}")
        return
    shards = {shard.path: shard for shard in manifest.shards}
    if found.plan is not None:
        known = {receipt.unit for receipt in receipts}
        units = found.plan.units if manifest.partial_of is None else [unit for unit in found.plan.units if unit.id in known]
        offsets = {unit.id: offset for unit, offset in zip(found.plan.units, found.plan.row_offsets(), strict=True)}
        for unit, receipt in zip(units, receipts, strict=False):
            if (receipt.unit, receipt.rows, receipt.shard) != (unit.id, unit.rows, shard_path(unit, receipt.sha256)):
                found.tell(RECEIPTS, f"has a receipt of {receipt.shard} ({receipt.rows:,} rows) where unit {unit.name} is due")
                return
            found.units[receipt.shard] = unit
            shard = shards.get(receipt.shard)
            if shard is not None and shard.row_offset != offsets[unit.id]:
                found.tell(MANIFEST, f"says that {shard.row_offset:,} rows come before {shard.path}, the plan {offsets[unit.id]:,}")
        if len(units) != len(receipts):
            found.tell(RECEIPTS, f"has {len(receipts):,} receipts, the plan has {len(units):,} units")
            return
    found.receipts = {receipt.shard: receipt for receipt in receipts}
    for shard in manifest.shards:
        its = found.receipts.get(shard.path)
        if its is None:
            found.tell(RECEIPTS, f"has no receipt of {shard.path}")
            continue
        for name in ("split", "rows", "tokens", "entries", "bytes", "sha256", "windows"):
            if getattr(its, name) != getattr(shard, name):
                found.tell(RECEIPTS, f"has {name} {getattr(its, name)} for {shard.path}, the manifest {getattr(shard, name)}")
        if len(its.skipped) != shard.skipped:
            found.tell(RECEIPTS, f"has {len(its.skipped)} rows left out of {shard.path}, the manifest {shard.skipped}")
    for path in found.receipts.keys() - shards.keys():
        found.tell(MANIFEST, f"does not list {path}, which has a receipt")
    left_out = {"skipped_rows": n} if (n := sum(shard.skipped for shard in manifest.shards)) else {}
    size = sum(shard.bytes for shard in manifest.shards)
    summary = {**summary, **left_out, "bytes": size, "bytes_per_token": size / max(total.tokens, 1)}
    for name, value in summary.items():
        if name in manifest.statistics and not _same(value, manifest.statistics[name]):
            found.tell(MANIFEST, f"has {name} in its statistics that its receipts do not add up to")
    offsets = {shard.path: shard.row_offset for shard in manifest.shards}
    rows = [asdict(replace(row, row=row.row + offsets.get(r.shard, 0))) for r in receipts for row in r.skipped]
    if (QUARANTINE in listed) != bool(rows):
        found.tell(MANIFEST, f"{'lists no' if rows else 'lists'} {QUARANTINE}, and receipts have {len(rows):,} rows left out")
    elif quarantine is not None and quarantine != jsonl(rows):
        found.tell(QUARANTINE, "has other rows than the receipts say were left out")


def _same(one: Any, other: Any) -> bool:
    """Equal, numbers to the last few bits: they were added up in another order, perhaps."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(value, other.get(name)) for name, value in one.items() if name in other) and bool(one) == bool(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)


def _check_card(found: Records, manifest: Manifest, text: str) -> None:
    """The card is made from the manifest alone. One that another version made says at least which dataset it is of."""
    if text == card(manifest):
        return
    if manifest.dataset in text and manifest.teacher["digest"] in text and all(f"{split}/" in text for split in manifest.splits):
        found.notes.append(f"{CARD} is the one that the manifest lists, but not what this version of textsmooth would write")
    else:
        found.tell(CARD, "is not made from this manifest: dataset, teacher or splits are others")


def _check_tokenizer(found: Records, manifest: Manifest, data: bytes) -> None:
    from tokenizers import Tokenizer

    name = f"{TOKENIZER_FOLDER}/tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # tokenizers raises nothing narrower
        found.tell(name, f"cannot be read: {' '.join(str(error).split())}")
        return
    wrong = wrong_vocabulary(tokenizer, manifest.teacher["vocab_size"])
    if wrong:
        found.tell(name, wrong)
    if vocab_digest(tokenizer) != manifest.teacher["vocab_digest"]:
        found.tell(name, "maps other tokens to ids than the manifest's vocabulary")
    known = SimpleNamespace(  # of a tokenizer, what its digest is taken over
        backend_tokenizer=tokenizer,
        model_input_names=["token_type_ids"] if manifest.token_types else [],
        **{f"{kind}_token_id": number for kind, number in manifest.special_ids.items()},
    )
    if manifest.versions.get("code") == code_digest() and tokenizer_digest(known) != manifest.teacher["tokenizer_digest"]:
        found.tell(name, "is not the manifest's tokenizer: its digest is another")  # how it is taken is a matter of the code
    tokenizer.no_truncation()
    empty = tokenizer.encode("", "" if len(manifest.corpus["text_columns"]) == 2 else None)
    found.template = tuple(number for number, special in zip(empty.ids, empty.special_tokens_mask, strict=True) if special)


def _check_unlisted(found: Records, manifest: Manifest, sizes: dict[str, int]) -> None:
    """Shards that nobody lists would be read by `datasets`; of other files it is only told that they are there."""
    listed = {MANIFEST, *(file.path for file in manifest.files), *(shard.path for shard in manifest.shards)}
    others = [name for name in sizes if name not in listed]
    strays = [name for name in others if name.endswith(".arrow") and name.partition("/")[0] in manifest.splits and not is_temp(name)]
    for name in strays:
        found.tell(name, "is not in the manifest, and `datasets` would read it", "remove it")
    left = [name for name in others if is_temp(name) or RECEIPT.fullmatch(name)]
    if left:
        found.notes.append(f"{_few(left)}: left by a run; the textsmooth-gen command that made the dataset removes it")
    known = {*strays, *left, RUN}
    foreign = [name for name in others if name not in known and not BESIDE.fullmatch(name)]
    if foreign:
        found.notes.append(f"{_few(foreign)}: not of the dataset")


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3:,} more files' if len(names) > 3 else ''}"
