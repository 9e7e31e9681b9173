"""Reuse shards of a finished dataset: open it, compare its settings, take a shard from it."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from textsmooth.pipeline.commit.receipts import publish, shard_path
from textsmooth.pipeline.plan.differences import few, plan_differences
from textsmooth.pipeline.plan.resolve import Request
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import AGAIN, PLAN, RECEIPTS, Manifest, ShardEntry
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage.atomic import link, parse_json
from textsmooth.stages.storage.folder import Folder, read_json
from textsmooth.stages.storage.local import LocalFolder

MAY_DIFFER = frozenset(  # decides no bytes of a shard, or is in the rows of each unit
    (
        *("corpus.name", "corpus.files", "corpus.license", "corpus.revision", "corpus.limit"),
        *(f"{group}.{name}" for group in ("teacher", "task_teacher") for name in ("name", "license", "revision")),
    )
)


@dataclass(frozen=True, kw_only=True)
class Previous:
    """An earlier dataset. Nothing is ever written to it."""

    folder: Folder
    manifest: Manifest
    plan: Plan

    @cached_property
    def shards(self) -> dict[str, ShardEntry]:
        """By unit id."""
        return {unit.id: shard for unit, shard in zip(self.plan.units, self.manifest.shards, strict=True)}

    @property
    def settings(self) -> Plan:
        """The plan from which a run that reuses shards takes what its options leave open; the revision of the corpus is the newest."""
        return replace(self.plan, corpus=replace(self.plan.corpus, revision=None))

    def receipts(self, wanted: Iterable[str]) -> Iterator[Receipt]:
        """The receipts of units, by id. DatasetError if they are not what the manifest says."""
        ids = set(wanted)
        data = read_checked(self.folder, self.manifest, RECEIPTS)
        for unit, line in zip(self.plan.units, data.splitlines(), strict=False):
            if unit.id in ids:
                receipt = Receipt.from_json(parse_json(line, self.folder.at(RECEIPTS)))
                if receipt.unit != unit.id:
                    raise DatasetError(f"{self.folder.at(RECEIPTS)} does not follow its {PLAN}; {AGAIN}")
                yield receipt


@dataclass(frozen=True, kw_only=True)
class TakenOver:
    """Shards of an earlier dataset that were taken over."""

    receipts: dict[str, Receipt]  # by unit id
    problems: tuple[str, ...] = ()  # shards that could not be, one line each


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


def read_checked(folder: Folder, manifest: Manifest, name: str) -> bytes:
    """A file of a dataset that is no shard. DatasetError if it is not what the manifest lists."""
    entry = next((file for file in manifest.files if file.path == name), None)
    try:
        data = folder.read(name)
    except FileNotFoundError:
        data = b""
    if entry is None or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DatasetError(f"{folder.at(name)} is missing or damaged; {AGAIN}")
    return data


def check_settings(previous: Previous, request: Request) -> None:
    """UsageError, naming the differences, if no shard of the earlier dataset can be one of the new dataset."""
    different = plan_differences(request, previous.plan, finished=False, ignore=MAY_DIFFER)
    if different:
        raise UsageError(
            f"--from-previous {previous.folder} was made with other settings ({few(different)}), its shards would be other bytes; use the "
            "same settings, or omit --from-previous to run everything"
        )


def take_shard(previous: Previous, out: Folder, unit: Unit, receipt: Receipt) -> Receipt | str:
    """Link or copy one shard, then publish its receipt; or return what is wrong with the shard."""
    source, shard = previous.folder, previous.shards[unit.id]
    name = shard_path(unit, shard.sha256)
    path = source.at(shard.path)
    placed = None
    if isinstance(source, LocalFolder) and isinstance(out, LocalFolder):
        placed = link(Path(path), Path(out.at(name)), sha256=shard.sha256)
    if placed is None:
        try:
            data = source.read(shard.path)
        except OSError as error:
            return f"{path} cannot be read ({error.strerror or 'missing'})"
        placed = hashlib.sha256(data).hexdigest() == shard.sha256
        if placed:
            out.put(name, data)
    if not placed:
        return f"{path} is damaged, its sha256 is not that of the manifest"
    own = replace(
        receipt,
        number=unit.number,
        shard=name,
        skipped=tuple(replace(row, file=unit.file, file_row=unit.start + row.row - unit.row) for row in receipt.skipped),
        taken_from=previous.manifest.dataset,
    )
    return publish(out, unit, own)


def predecessor_entry(plan: Plan, receipts: Iterable[Receipt]) -> dict[str, Any] | None:
    """`predecessor` of the manifest: that of the plan, and how much was taken over and run."""
    if plan.predecessor is None:
        return None
    counts = {"taken_over": Counter(units=0, rows=0), "run": Counter(units=0, rows=0)}
    for receipt in receipts:
        taken = receipt.taken_from == plan.predecessor["dataset"]
        counts["taken_over" if taken else "run"].update(units=1, rows=receipt.rows)
    return {**plan.predecessor, **{name: dict(count) for name, count in counts.items()}}
