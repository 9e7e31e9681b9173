"""A finished dataset as the source of shards: open it, check it, take a shard from it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from textsmooth.pipeline.commit.receipts import publish, shard_path
from textsmooth.pipeline.plan.differences import differences
from textsmooth.pipeline.plan.resolve import Draft
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import AGAIN, PLAN, RECEIPTS, Manifest, ShardEntry
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage import atomic as storage
from textsmooth.stages.storage.folder import Folder, read_json
from textsmooth.stages.storage.local import LocalFolder

MAY_DIFFER = frozenset(  # what decides no shard's bytes, or is in the rows of each unit
    (
        *("corpus.name", "corpus.files", "corpus.license", "corpus.revision", "corpus.limit"),
        *(f"{group}.{name}" for group in ("teacher", "task_teacher") for name in ("name", "license", "revision")),
    )
)


@dataclass(frozen=True, kw_only=True)
class Previous:
    """An earlier dataset, of which nothing is ever written."""

    folder: Folder
    manifest: Manifest
    plan: Plan

    @cached_property
    def shards(self) -> dict[str, ShardEntry]:
        """By unit id."""
        return {unit.id: shard for unit, shard in zip(self.plan.units, self.manifest.shards, strict=True)}

    @property
    def settings(self) -> Plan:
        """What a run that takes shards over leaves open is as it was here; but of a corpus on the Hub it reads what is there now."""
        return replace(self.plan, corpus=replace(self.plan.corpus, revision=None))

    def receipts(self, wanted: Iterable[str]) -> Iterator[Receipt]:
        """Those of units by id. DatasetError if they are not what the manifest says."""
        ids = set(wanted)
        data = checked(self.folder, self.manifest, RECEIPTS)
        for unit, line in zip(self.plan.units, data.splitlines(), strict=False):
            if unit.id in ids:
                receipt = Receipt.from_json(json.loads(line))
                if receipt.unit != unit.id:
                    raise DatasetError(f"{self.folder.at(RECEIPTS)} does not follow its {PLAN}; {AGAIN}")
                yield receipt


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was taken over."""

    receipts: dict[str, Receipt]  # by unit id
    told: tuple[str, ...] = ()  # what could not be, one line each


def open_previous(folder: Folder) -> Previous:
    """A finished dataset with its plan and its receipts. UsageError or DatasetError if it is none."""
    manifest = read_manifest(folder)
    if manifest.partial_of is not None:
        whole = manifest.partial_of[:12]
        raise DatasetError(f"{folder} has only some shards of dataset {whole}: textsmooth pull SOURCE {folder} adds the others to it")
    try:
        plan = Plan.from_json(read_json(folder, PLAN))
    except FileNotFoundError:
        raise DatasetError(f"{folder} has no {PLAN}, which says what its shards were made of; {AGAIN}") from None
    except DatasetError as error:
        raise DatasetError(f"{folder}: {error}; {AGAIN}") from None
    if plan.digest != manifest.plan or len(plan.units) != len(manifest.shards):
        raise DatasetError(f"{folder} has the manifest of another run than its {PLAN}; {AGAIN}")
    entry = next((file for file in manifest.files if file.path == RECEIPTS), None)
    if entry is None or folder.size(RECEIPTS) != entry.bytes:
        raise DatasetError(f"{folder.at(RECEIPTS)} is missing or damaged; {AGAIN}")
    return Previous(folder=folder, manifest=manifest, plan=plan)


def checked(folder: Folder, manifest: Manifest, name: str) -> bytes:
    """A file of a dataset that is no shard. DatasetError if it is not what the manifest lists."""
    entry = next((file for file in manifest.files if file.path == name), None)
    try:
        data = folder.read(name)
    except FileNotFoundError:
        data = b""
    if entry is None or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DatasetError(f"{folder.at(name)} is missing or damaged; {AGAIN}")
    return data


def check(previous: Previous, asked: Draft) -> None:
    """UsageError, naming what differs, if no shard of the earlier dataset can be one of what is asked for."""
    found = differences(asked, previous.plan, finished=False, but=MAY_DIFFER)
    if found:
        raise UsageError(
            f"--from-previous {previous.folder} was made otherwise ({'; '.join(found[:4])}{' …' if len(found) > 4 else ''}), its shards "
            "would be other bytes; ask for the same, or leave --from-previous away and run everything"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}…"


def take(previous: Previous, out: Folder, unit: Unit, receipt: Receipt) -> Receipt | str:
    """One shard put in place, then its receipt, exclusively; or what is wrong with the shard."""
    old, shard = previous.folder, previous.shards[unit.id]
    name = shard_path(unit, shard.sha256)
    where = old.at(shard.path)
    linked = None
    if isinstance(old, LocalFolder) and isinstance(out, LocalFolder):
        linked = storage.link(Path(where), Path(out.at(name)), sha256=shard.sha256)
    if linked is None:
        try:
            data = old.read(shard.path)
        except OSError as error:
            return f"{where} cannot be read ({error.strerror or 'missing'})"
        linked = hashlib.sha256(data).hexdigest() == shard.sha256
        if linked:
            out.put(name, data)
    if not linked:
        return f"{where} is damaged, its sha256 is not that of the manifest"
    mine = replace(
        receipt,
        number=unit.number,
        shard=name,
        skipped=tuple(replace(row, file=unit.file, file_row=unit.start + row.row - unit.row) for row in receipt.skipped),
        taken_from=previous.manifest.dataset,
    )
    return publish(out, unit, mine)


def predecessor_entry(plan: Plan, receipts: Iterable[Receipt]) -> dict[str, Any] | None:
    """What the manifest says of the predecessor: what the plan does, and what was taken over and run in the end."""
    if plan.predecessor is None:
        return None
    counts = {"taken_over": Counter(units=0, rows=0), "run": Counter(units=0, rows=0)}
    for receipt in receipts:
        taken = receipt.taken_from == plan.predecessor["dataset"]
        counts["taken_over" if taken else "run"].update(units=1, rows=receipt.rows)
    return {**plan.predecessor, **{name: dict(count) for name, count in counts.items()}}
