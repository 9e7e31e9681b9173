"""A corpus that grew: shards of an earlier dataset whose rows are the same are taken over, and what became of the others is told."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from textsmooth.pipeline.commit.finished import Previous, Taken, _short, open_previous, take
from textsmooth.pipeline.plan.rows import row_columns
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import ConflictError, DatasetError, UsageError
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.corpus.reader import read, rows_sha256
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import overlap

if TYPE_CHECKING:
    from textsmooth.pipeline.plan.inputs import Sources

KINDS = ("unchanged", "grown", "edited", "moved", "new", "removed")  # what can become of a unit; docs/growing.md says what each is
AT_ONCE = 8  # shards taken over at the same time


@dataclass(frozen=True, kw_only=True)
class Gone:
    """An earlier dataset that was there when the run began, and is no more."""

    why: str


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


def compared(previous: Previous, plan: Plan, sources: "Sources") -> Plan:
    """The plan, with what became of the earlier dataset's units since: its `predecessor`. Rows are read where a file grew."""
    names = row_columns(plan.corpus)

    def begins_with(unit: Unit, was: Unit) -> bool:
        rows = read(sources.files[unit.file], names, unit.start, unit.start + was.rows, unit.offset)
        return rows_sha256(rows) == was.rows_sha256

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
