"""A corpus that grew: shards of an earlier dataset whose rows are the same are taken over, and what became of the others is told."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsmooth.pipeline.commit.receipts import publish, shard_path
from textsmooth.pipeline.plan.differences import differences
from textsmooth.pipeline.plan.rows import row_columns
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import ConflictError, DatasetError, UsageError
from textsmooth.schemas.manifest import AGAIN, PLAN, RECEIPTS, Manifest, ShardEntry
from textsmooth.schemas.plan import Plan, Receipt, Unit
from textsmooth.stages.corpus import reader as readers
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.storage import atomic as storage
from textsmooth.stages.storage.folder import Folder, read_json
from textsmooth.stages.storage.local import LocalFolder, overlap

if TYPE_CHECKING:
    from textsmooth.pipeline.plan.inputs import Sources
    from textsmooth.pipeline.plan.resolve import Draft

KINDS = ("unchanged", "grown", "edited", "moved", "new", "removed")  # what can become of a unit; docs/growing.md says what each is
AT_ONCE = 8  # shards taken over at the same time
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
class Gone:
    """An earlier dataset that was there when the run began, and is no more."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was taken over."""

    receipts: dict[str, Receipt]  # by unit id
    told: tuple[str, ...] = ()  # what could not be, one line each


def find_previous(options: GenerateOptions, out: Folder, before: Plan | None, *, finished: bool) -> Previous | Gone | None:
    """The dataset that --from-previous names; None if none is named, or `out` is finished. before: the plan that is in `out` already.

    UsageError or DatasetError, naming the option, if it is no finished dataset, or not apart from `out`; ConflictError if the run in
    `out` began with another.
    """
    if options.from_previous is None:
        return None
    folder = open_folder(options.from_previous)
    if overlap(folder, out):
        raise UsageError(f"--from-previous {folder} and --out {out} are not apart: a finished dataset is never written; give another --out")
    if finished:
        return None
    if before is not None and before.predecessor is None:
        raise ConflictError(f"{out} was begun without --from-previous; leave it away, or start again with --overwrite")
    try:
        found = open_previous(folder)
    except (UsageError, DatasetError) as error:
        if before is None:
            raise type(error)(f"--from-previous: {error}") from None
        return Gone(why=str(error))
    if before is not None and before.predecessor is not None and before.predecessor["dataset"] != found.manifest.dataset:
        there, here = before.predecessor["dataset"][:12], found.manifest.dataset[:12]
        raise ConflictError(
            f"{out} was begun from dataset {there}, and {folder} is {here}; name that one, leave --from-previous away to run what is "
            "left, or start again with --overwrite"
        )
    return found


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


def check(previous: Previous, asked: "Draft") -> None:
    """UsageError, naming what differs, if no shard of the earlier dataset can be one of what is asked for."""
    found = differences(asked, previous.plan, finished=False, but=MAY_DIFFER)
    if found:
        raise UsageError(
            f"--from-previous {previous.folder} was made otherwise ({'; '.join(found[:4])}{' …' if len(found) > 4 else ''}), its shards "
            "would be other bytes; ask for the same, or leave --from-previous away and run everything"
        )


def compared(previous: Previous, plan: Plan, sources: "Sources") -> Plan:
    """The plan, with what became of the earlier dataset's units since: its `predecessor`. Rows are read where a file grew."""
    names = row_columns(plan.corpus)

    def begins_with(unit: Unit, was: Unit) -> bool:
        rows = readers.read(sources.files[unit.file], names, unit.start, unit.start + was.rows, unit.offset)
        return readers.rows_sha256(rows) == was.rows_sha256

    splits: dict[str, dict[str, Counter[str]]] = {
        split: {kind: Counter(units=0, rows=0, rows_before=0) for kind in KINDS}
        for split in dict.fromkeys((*plan.splits, *previous.plan.splits))
    }
    for kind, now, was in changes(previous.plan, plan, begins_with):
        here = now or was
        assert here is not None
        splits[here.split][kind].update(units=1, rows=now.rows if now else 0, rows_before=was.rows if was else 0)
    differs = _labels(previous.plan, plan)
    return replace(
        plan,
        predecessor={
            "dataset": previous.manifest.dataset,
            "corpus": previous.plan.corpus.name,
            "splits": {split: {kind: dict(counts) for kind, counts in kinds.items()} for split, kinds in splits.items()},
            **({"differs": differs} if differs else {}),
        },
    )


def changes(
    old: Plan, new: Plan, begins_with: Callable[[Unit, Unit], bool] = lambda unit, was: False
) -> Iterator[tuple[str, Unit | None, Unit | None]]:
    """What became of every unit: one of KINDS, the unit now, and the unit it was. Each unit of either plan comes once.

    begins_with: whether the first rows of a unit are all rows of an earlier, shorter one.
    """
    left = {_key(unit): unit for unit in old.units}
    others = []
    for unit in new.units:
        was = left.pop(_key(unit), None)
        if was is None:
            others.append(unit)
        else:
            yield "unchanged", unit, was

    elsewhere: defaultdict[tuple[str, str], list[Unit]] = defaultdict(list)
    for unit in reversed(left.values()):
        elsewhere[unit.split, unit.rows_sha256].append(unit)
    unmoved = []
    for unit in others:
        same = elsewhere.get((unit.split, unit.rows_sha256))
        if same:
            was = same.pop()
            del left[_key(was)]
            yield "moved", unit, was
        else:
            unmoved.append(unit)

    files, files_before = ({(split, file) for split, names in plan.corpus.files.items() for file in names} for plan in (new, old))
    in_file = {(unit.split, unit.file, unit.start): unit for unit in left.values()}
    in_split = {(unit.split, unit.row): unit for unit in left.values() if (unit.split, unit.file) not in files}  # it has another name now
    for unit in unmoved:
        was = in_file.get((unit.split, unit.file, unit.start))
        if was is None and (unit.split, unit.file) not in files_before:
            was = in_split.get((unit.split, unit.row))
        if was is None:
            yield "new", unit, None
            continue
        del left[_key(was)]
        yield "grown" if was.rows < unit.rows and begins_with(unit, was) else "edited", unit, was
    for was in left.values():
        yield "removed", None, was


def _key(unit: Unit) -> tuple[str, int, str]:
    """What makes two units of equal settings the same: unit_id without them."""
    return unit.split, unit.row, unit.rows_sha256


def _labels(old: Plan, new: Plan) -> list[str]:
    """What was read from all rows, and is other now: with it every unit's id, and the label or kept column of every shard."""

    def read(plan: Plan) -> dict[str, Any]:
        order = {} if plan.task_teacher is None else {"task_teacher_order": plan.task_teacher.order}
        return {**plan.corpus.columns_json(), **order}

    then, now = read(old), read(new)
    return [f"{name}: {_short(then.get(name))} then, {_short(now.get(name))} now" for name in now if then.get(name) != now.get(name)]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}…"


def reusable(previous: Previous | Gone | None, units: Sequence[Unit], *, skip_bad_rows: bool) -> list[Unit]:
    """The units whose shards are there with the right size: their bytes are looked at when they are taken over."""
    if not isinstance(previous, Previous):
        return []
    files = previous.folder.files()

    def there(unit: Unit) -> bool:
        shard = previous.shards.get(unit.id)
        if shard is None or (shard.skipped and not skip_bad_rows):  # this run wants to be told of bad rows
            return False
        return shard.bytes == files.get(shard.path) or shard.bytes == previous.folder.size(shard.path)  # a link has a size of its own

    return [unit for unit in units if there(unit)]


def take_over(
    previous: Previous | Gone,
    out: Folder,
    units: Sequence[Unit],
    *,
    skip_bad_rows: bool = False,
    progress: Callable[[int], None] = lambda shards: None,
) -> Taken:
    """Link or copy the shards of units that the earlier dataset has, each verified, and leave their receipts; the others are still to run.

    progress is told the shards looked at so far. Raises StorageError; interrupted, it leaves only whole units.
    """
    if isinstance(previous, Gone):
        return Taken(
            receipts={}, told=(f"--from-previous is no longer there, or not whole: what it had left to give is run; {previous.why}",)
        )
    planned = {unit.id: unit for unit in units if unit.id in previous.shards}
    available = {unit.id for unit in reusable(previous, list(planned.values()), skip_bad_rows=skip_bad_rows)}
    wanted = {id: unit for id, unit in planned.items() if skip_bad_rows or not previous.shards[id].skipped}
    told = [f"{previous.folder.at(previous.shards[id].path)} is missing or cut short" for id in wanted if id not in available]
    found: dict[str, Receipt] = {}

    def take_one(receipt: Receipt) -> Receipt | str:
        return take(previous, out, wanted[receipt.unit], receipt)

    receipts = _named(previous.receipts(available)) if available else iter(())
    with ThreadPoolExecutor(AT_ONCE, "take") as threads:
        while group := list(islice(receipts, 4 * AT_ONCE)):
            for result in threads.map(take_one, group):
                if isinstance(result, Receipt):
                    found[result.unit] = result
                else:
                    told.append(result)
            progress(len(found) + len(told))
    return Taken(receipts=found, told=tuple(_few(told)))


def _named(receipts: Iterator[Receipt]) -> Iterator[Receipt]:
    """The same; what is wrong with them names the option."""
    try:
        yield from receipts
    except DatasetError as error:
        raise DatasetError(f"--from-previous: {error}, or leave --from-previous away") from None


def _few(told: list[str]) -> list[str]:
    shown = [f"{what}: its unit is run" for what in told[:3]]
    return [*shown, f"and {len(told) - 3:,} more shards like these"] if len(told) > 3 else shown


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
