"""Check the files beside the shards against each other: manifest, plan, receipts, card, tokenizer, run.json, unlisted files."""

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
from textsmooth.stages.storage.atomic import parse_json, pretty_json
from textsmooth.stages.storage.folder import Folder, is_temp
from textsmooth.stages.tokens.tokenize import tokenizer_digest, vocab_digest

SENSELESS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # raised by values of wrong types or sizes
BESIDE = re.compile(r"\.gitattributes|\.gitignore|\.cache/.+|\.git/.+")  # files that the Hub's tools leave in a folder


@dataclass(kw_only=True)
class Records:
    """The contents of the files beside the shards, and their findings."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # remarks that are not damage
    files: int = 0  # read
    unread: int = 0  # missing or unreadable
    bytes: int = 0
    plan: Plan | None = None
    units: dict[str, Unit] = field(default_factory=dict)  # path of a shard -> its unit
    receipts: dict[str, Receipt] = field(default_factory=dict)  # path of a shard -> its receipt
    template: tuple[int, ...] | None = None  # see Promised

    def add(self, path: str, what: str, remedy: str = "") -> None:
        self.findings.append(Finding(path=path, what=what, remedy=remedy))

    def promised(self, entry: ShardEntry) -> Promised:
        """What plan and receipts promise about a shard, as far as they could be read."""
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
    """Parse and check a manifest. Without a manifest, the finding says what to do."""
    try:
        value = json.loads(data)
        manifest = Manifest.from_json(value, MANIFEST)
        whole = canonical(data, value)
    except (ValueError, RecursionError) as error:
        return None, [Finding(path=MANIFEST, what=f"is not JSON: {' '.join(str(error).split())}; {AGAIN}")]
    except DatasetError as error:
        return None, [Finding(path=MANIFEST, what=str(error).removeprefix(f"{MANIFEST} "))]
    odd = "was altered: same content, but not the bytes that textsmooth writes"
    return manifest, [] if whole else [Finding(path=MANIFEST, what=odd, remedy="download that file again")]


def check_records(folder: Folder, manifest: Manifest, sizes: dict[str, int]) -> Records:
    """Read and check every file except the shards. sizes: bytes of each file in the folder."""
    records = Records()
    data: dict[str, bytes] = {}
    contents, errors = _read(folder, [entry.path for entry in manifest.files])
    for entry in manifest.files:
        if entry.path not in contents:
            records.unread += 1
            error = errors.get(entry.path)
            records.findings.append(unreadable(entry.path, error) if error else missing(entry.path))
            continue
        records.files, records.bytes = records.files + 1, records.bytes + len(contents[entry.path])
        wrong = check_file(contents[entry.path], entry)
        records.findings += wrong
        if not wrong:
            data[entry.path] = contents[entry.path]
    listed = {entry.path for entry in manifest.files}
    for name in (PLAN, RECEIPTS, CARD, f"{TOKENIZER_FOLDER}/tokenizer.json"):
        if name not in listed:
            records.add(MANIFEST, f"does not list {name}")
    checks: dict[str, Callable[[bytes], None]] = {
        PLAN: lambda text: _check_plan(records, manifest, text),
        RECEIPTS: lambda text: _check_receipts(records, manifest, text, data.get(QUARANTINE), listed),
        CARD: lambda text: _check_card(records, manifest, text.decode(errors="replace")),
        f"{TOKENIZER_FOLDER}/tokenizer.json": lambda text: _check_tokenizer(records, manifest, text),
    }
    for name, check in checks.items():
        try:
            if name in data:
                check(data[name])
        except SENSELESS as error:
            records.add(name, f"has invalid values: {first_line(error)}")
    _check_unlisted(records, manifest, sizes)
    if RUN in sizes:
        _check_run(records, folder)
    return records


def _read(folder: Folder, names: list[str]) -> tuple[dict[str, bytes], dict[str, OSError]]:
    """The contents of the files that can be read, and the errors of those that cannot; missing files are in neither."""
    try:
        return folder.read_all(names), {}
    except OSError:
        contents, errors = dict[str, bytes](), dict[str, OSError]()
        for name in names:
            try:
                contents |= folder.read_all([name])
            except OSError as error:
                errors[name] = error
        return contents, errors


def _check_run(records: Records, folder: Folder) -> None:
    """Compare run.json with the digest inside it; the manifest does not list this file."""
    contents, errors = _read(folder, [RUN])
    if RUN not in contents:
        if RUN in errors:
            records.findings.append(unreadable(RUN, errors[RUN]))
        return
    records.files, records.bytes = records.files + 1, records.bytes + len(contents[RUN])
    try:
        value = json.loads(contents[RUN])
        whole = pretty_json(value) == contents[RUN] and value.pop("digest") == digest(value)
    except (*SENSELESS, RecursionError):
        whole = False
    if not whole:
        records.add(RUN, "was altered since the run wrote it", "it is only a record of the run: remove it")


def _plain(value: Any) -> Any:
    return json.loads(canonical_json(value))


def _check_plan(records: Records, manifest: Manifest, data: bytes) -> None:
    try:
        plan = Plan.from_json(json.loads(data))
    except (ValueError, RecursionError, DatasetError) as error:
        records.add(PLAN, f"cannot be read: {error}")
        return
    if plan.digest != manifest.plan:
        records.add(PLAN, f"has digest {plan.digest[:12]}, the manifest names plan {manifest.plan[:12]}")
        return
    records.plan = plan
    sources = plan.sources if manifest.partial_of is None else of_splits(plan.sources, manifest.splits)
    header = {**plan.header_json(), "sources": sources, "task_teacher": plan.header_json().get("task_teacher"), "converted": plan.converted}
    for name in ("corpus", "teacher", "config", "versions", "task_teacher", "sources", "converted"):
        if _plain(header[name]) != _plain(getattr(manifest, name)):
            records.add(PLAN, f"has a different {name} than the manifest")
    for what in _wrong_units(plan):
        records.add(PLAN, what)
    if manifest.partial_of is None and len(plan.units) != len(manifest.shards):
        records.add(MANIFEST, f"lists {len(manifest.shards):,} shards, the plan has {len(plan.units):,} units")
    elif manifest.partial_of is None:
        records.units = {shard.path: unit for unit, shard in zip(plan.units, manifest.shards, strict=True)}
    made_here = (
        plan.versions.get("code") == code_digest() and not plan.sources and plan.converted is None
    )  # unit ids depend on the code version
    if made_here:
        id_of = unit_ids(teacher=plan.teacher, corpus=plan.corpus, config=plan.config, task_teacher=plan.task_teacher)
        other = next((unit for unit in plan.units if unit.id != id_of(unit.split, unit.row, unit.rows_sha256)), None)
        if other is not None:
            records.add(PLAN, f"has unit {other.name} with an id that does not fit its rows and settings")


def _wrong_units(plan: Plan) -> Iterator[str]:
    """Describe the first unit that skips rows or repeats them."""
    for split, units in groupby(plan.units, key=lambda unit: unit.split):
        rows, ends = 0, dict[str, int]()
        for number, unit in enumerate(units):
            if unit.number != number or unit.rows < 1:
                yield f"has unit {unit.name} of {unit.rows:,} rows where {split}/{number:05d} is expected"
                return
            if not plan.sources and (unit.row, unit.start) != (rows, ends.get(unit.file, 0)):
                yield f"has unit {unit.name} begin at row {unit.row:,} of the split, {unit.start:,} of {unit.file}, not {rows:,}"
                return
            rows, ends[unit.file] = rows + unit.rows, unit.stop


def _check_receipts(records: Records, manifest: Manifest, data: bytes, quarantine: bytes | None, listed: set[str]) -> None:
    try:
        receipts = [Receipt.from_json(parse_json(line, RECEIPTS)) for line in data.splitlines()]
        total = sum((UnitStats.from_json(receipt.stats) for receipt in receipts), UnitStats())
        summary = total.summary()
    except (ValueError, TypeError, RecursionError, ArithmeticError, DatasetError) as error:
        records.add(RECEIPTS, f"cannot be read: {error}")
        return
    shards = {shard.path: shard for shard in manifest.shards}
    if records.plan is not None:
        known = {receipt.unit for receipt in receipts}
        units = records.plan.units if manifest.partial_of is None else [unit for unit in records.plan.units if unit.id in known]
        offsets = {unit.id: offset for unit, offset in zip(records.plan.units, records.plan.row_offsets(), strict=True)}
        for unit, receipt in zip(units, receipts, strict=False):
            if (receipt.unit, receipt.rows, receipt.shard) != (unit.id, unit.rows, shard_path(unit, receipt.sha256)):
                records.add(RECEIPTS, f"has a receipt of {receipt.shard} ({receipt.rows:,} rows) where unit {unit.name} is expected")
                return
            records.units[receipt.shard] = unit
            shard = shards.get(receipt.shard)
            if shard is not None and shard.row_offset != offsets[unit.id]:
                records.add(MANIFEST, f"gives {shard.path} row offset {shard.row_offset:,}, the plan {offsets[unit.id]:,}")
        if len(units) != len(receipts):
            records.add(RECEIPTS, f"has {len(receipts):,} receipts, the plan has {len(units):,} units")
            return
    records.receipts = {receipt.shard: receipt for receipt in receipts}
    for shard in manifest.shards:
        of_shard = records.receipts.get(shard.path)
        if of_shard is None:
            records.add(RECEIPTS, f"has no receipt of {shard.path}")
            continue
        for name in ("split", "rows", "tokens", "entries", "bytes", "sha256", "windows"):
            if getattr(of_shard, name) != getattr(shard, name):
                records.add(RECEIPTS, f"has {name} {getattr(of_shard, name)} for {shard.path}, the manifest {getattr(shard, name)}")
        if len(of_shard.skipped) != shard.skipped:
            records.add(RECEIPTS, f"has {len(of_shard.skipped)} skipped rows for {shard.path}, the manifest {shard.skipped}")
    for path in records.receipts.keys() - shards.keys():
        records.add(MANIFEST, f"does not list {path}, which has a receipt")
    left_out = {"skipped_rows": n} if (n := sum(shard.skipped for shard in manifest.shards)) else {}
    size = sum(shard.bytes for shard in manifest.shards)
    summary = {**summary, **left_out, "bytes": size, "bytes_per_token": size / max(total.tokens, 1)}
    for name, value in summary.items():
        if name in manifest.statistics and not _same(value, manifest.statistics[name]):
            records.add(MANIFEST, f"has {name} in its statistics that differs from the sum of the receipts")
    offsets = {shard.path: shard.row_offset for shard in manifest.shards}
    rows = [asdict(replace(row, row=row.row + offsets.get(r.shard, 0))) for r in receipts for row in r.skipped]
    if (QUARANTINE in listed) != bool(rows):
        records.add(MANIFEST, f"{'lists no' if rows else 'lists'} {QUARANTINE}, but the receipts have {len(rows):,} skipped rows")
    elif quarantine is not None and quarantine != jsonl(rows):
        records.add(QUARANTINE, "has other rows than the skipped rows of the receipts")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, floats up to rounding: they may be sums in another order."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(value, other.get(name)) for name, value in one.items() if name in other) and bool(one) == bool(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)


def _check_card(records: Records, manifest: Manifest, text: str) -> None:
    """Compare the card with the manifest. A card written by another version must at least name dataset, teacher and splits."""
    if text == card(manifest):
        return
    if manifest.dataset in text and manifest.teacher["digest"] in text and all(f"{split}/" in text for split in manifest.splits):
        records.notes.append(f"{CARD} is as listed, but this version of textsmooth would write it differently")
    else:
        records.add(CARD, "does not fit the manifest: dataset, teacher or splits differ")


def _check_tokenizer(records: Records, manifest: Manifest, data: bytes) -> None:
    from tokenizers import Tokenizer

    name = f"{TOKENIZER_FOLDER}/tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # tokenizers raises nothing narrower
        records.add(name, f"cannot be read: {' '.join(str(error).split())}")
        return
    wrong = wrong_vocabulary(tokenizer, manifest.teacher["vocab_size"])
    if wrong:
        records.add(name, wrong)
    if vocab_digest(tokenizer) != manifest.teacher["vocab_digest"]:
        records.add(name, "maps tokens to other ids than the vocabulary of the manifest")
    known = SimpleNamespace(  # the attributes that the digest covers
        backend_tokenizer=tokenizer,
        model_input_names=["token_type_ids"] if manifest.token_types else [],
        **{f"{kind}_token_id": number for kind, number in manifest.special_ids.items()},
    )
    if manifest.versions.get("code") == code_digest() and tokenizer_digest(known) != manifest.teacher["tokenizer_digest"]:
        records.add(name, "is not the tokenizer of the manifest: its digest differs")  # the digest depends on the code version
    tokenizer.no_truncation()
    empty = tokenizer.encode("", "" if len(manifest.corpus["text_columns"]) == 2 else None)
    records.template = tuple(number for number, special in zip(empty.ids, empty.special_tokens_mask, strict=True) if special)


def _check_unlisted(records: Records, manifest: Manifest, sizes: dict[str, int]) -> None:
    """Report unlisted shards, which `datasets` would read, as findings, and other unlisted files as notes."""
    listed = {MANIFEST, *(file.path for file in manifest.files), *(shard.path for shard in manifest.shards)}
    others = [name for name in sizes if name not in listed]
    strays = [name for name in others if name.endswith(".arrow") and name.partition("/")[0] in manifest.splits and not is_temp(name)]
    for name in strays:
        records.add(name, "is not in the manifest, but `datasets` would read it", "remove it")
    left = [name for name in others if is_temp(name) or RECEIPT.fullmatch(name)]
    if left:
        records.notes.append(f"{_few(left)}: left by an interrupted run; the textsmooth-gen command of the dataset removes it")
    known = {*strays, *left, RUN}
    foreign = [name for name in others if name not in known and not BESIDE.fullmatch(name)]
    if foreign:
        records.notes.append(f"{_few(foreign)}: not part of the dataset")


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3:,} more files' if len(names) > 3 else ''}"
