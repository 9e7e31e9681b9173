"""Incremental generation: reuse shards of an earlier dataset whose rows are unchanged, and report what became of the others."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from textsmooth.pipeline.commit.finished import Previous, TakenOver, open_previous, take_shard
from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.rows import row_columns
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import ConflictError, DatasetError, UsageError
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.corpus.reader import read, rows_sha256
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import overlap

KINDS = ("unchanged", "grown", "edited", "moved", "new", "removed")  # of changes to a unit; docs/growing.md explains each
AT_ONCE = 8  # shards taken over at the same time


@dataclass(frozen=True, kw_only=True)
class Gone:
    """An earlier dataset that was available when the run began, and no longer is."""

    why: str


def find_previous(options: GenerateOptions, out: Folder, existing: Plan | None, *, finished: bool) -> Previous | Gone | None:
    """The dataset that --from-previous names; None if none is named, or `out` is finished. existing: the plan in `out`.

    UsageError or DatasetError, naming the option, if it is no finished dataset or overlaps with `out`; ConflictError if the run in
    `out` began with another dataset.
    """
    if options.from_previous is None:
        return None
    folder = open_folder(options.from_previous)
    if overlap(folder, out):
        raise UsageError(f"--from-previous {folder} and --out {out} overlap: a finished dataset is never written; give another --out")
    if finished:
        return None
    if existing is not None and existing.predecessor is None:
        raise ConflictError(f"{out} was begun without --from-previous; omit it, or start again with --overwrite")
    try:
        previous = open_previous(folder)
    except (UsageError, DatasetError) as error:
        if existing is None:
            raise type(error)(f"--from-previous: {error}") from None
        return Gone(why=str(error))
    if existing is not None and existing.predecessor is not None and existing.predecessor["dataset"] != previous.manifest.dataset:
        begun_from, named = existing.predecessor["dataset"][:12], previous.manifest.dataset[:12]
        raise ConflictError(
            f"{out} was begun from dataset {begun_from}, and {folder} is {named}; name that one, omit --from-previous to run what is left"
            ", or start again with --overwrite"
        )
    return previous


def with_changes(plan: Plan, previous: Previous, sources: Sources) -> Plan:
    """The plan with its `predecessor`: what became of the units of the earlier dataset. Rows are read where a file grew."""
    names = row_columns(plan.corpus)

    def begins_with(unit: Unit, was: Unit) -> bool:
        rows = read(sources.files[unit.file], names, unit.start, unit.start + was.rows, unit.offset)
        return rows_sha256(rows) == was.rows_sha256

    splits: dict[str, dict[str, Counter[str]]] = {
        split: {kind: Counter(units=0, rows=0, rows_before=0) for kind in KINDS}
        for split in dict.fromkeys((*plan.splits, *previous.plan.splits))
    }
    for kind, now, was in changes(previous.plan, plan, begins_with):
        unit = now or was
        assert unit is not None
        splits[unit.split][kind].update(units=1, rows=now.rows if now else 0, rows_before=was.rows if was else 0)
    differs = _changed_columns(previous.plan, plan)
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
    """The change of every unit: one of KINDS, the new unit, and the old one. Each unit of either plan comes once.

    begins_with: tells whether the first rows of a unit are all rows of an earlier, shorter one.
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
    in_split = {
        (unit.split, unit.row): unit for unit in left.values() if (unit.split, unit.file) not in files
    }  # the file has another name now
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
    """What identifies a unit among units of equal settings."""
    return unit.split, unit.row, unit.rows_sha256


def _changed_columns(old: Plan, new: Plan) -> list[str]:
    """Facts read from all rows that have changed, and with them the id of every unit and the label or kept column of every shard."""

    def facts(plan: Plan) -> dict[str, Any]:
        order = {} if plan.task_teacher is None else {"task_teacher_order": plan.task_teacher.order}
        return {**plan.corpus.columns_json(), **order}

    then, now = facts(old), facts(new)
    return [f"{name}: {_short(then.get(name))} then, {_short(now.get(name))} now" for name in now if then.get(name) != now.get(name)]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}…"


def reusable(previous: Previous | Gone | None, units: Sequence[Unit], *, skip_bad_rows: bool) -> list[Unit]:
    """The units whose shards exist with the right size. Their bytes are checked when they are taken over."""
    if not isinstance(previous, Previous):
        return []
    files = previous.folder.files()

    def available(unit: Unit) -> bool:
        shard = previous.shards.get(unit.id)
        if shard is None or (shard.skipped and not skip_bad_rows):  # this run must report bad rows
            return False
        return shard.bytes == files.get(shard.path) or shard.bytes == previous.folder.size(shard.path)  # a link has a size of its own

    return [unit for unit in units if available(unit)]


def take_over(
    previous: Previous | Gone,
    out: Folder,
    units: Sequence[Unit],
    *,
    skip_bad_rows: bool = False,
    progress: Callable[[int], None] = lambda shards: None,
) -> TakenOver:
    """Link or copy the shards that the earlier dataset has, each verified, and publish their receipts. The other units must still run.

    progress is called with the number of shards checked so far. Raises StorageError; interrupted, it leaves only whole units.
    """
    if isinstance(previous, Gone):
        problem = f"--from-previous is no longer available or not complete: its other units are run; {previous.why}"
        return TakenOver(receipts={}, problems=(problem,))
    planned = {unit.id: unit for unit in units if unit.id in previous.shards}
    available = {unit.id for unit in reusable(previous, list(planned.values()), skip_bad_rows=skip_bad_rows)}
    wanted = {id: unit for id, unit in planned.items() if skip_bad_rows or not previous.shards[id].skipped}
    problems = [f"{previous.folder.at(previous.shards[id].path)} is missing or cut short" for id in wanted if id not in available]
    receipts_by_unit: dict[str, Receipt] = {}

    def take_one(receipt: Receipt) -> Receipt | str:
        return take_shard(previous, out, wanted[receipt.unit], receipt)

    receipts = _named(previous.receipts(available)) if available else iter(())
    with ThreadPoolExecutor(AT_ONCE, "take") as threads:
        while group := list(islice(receipts, 4 * AT_ONCE)):
            for result in threads.map(take_one, group):
                if isinstance(result, Receipt):
                    receipts_by_unit[result.unit] = result
                else:
                    problems.append(result)
            progress(len(receipts_by_unit) + len(problems))
    return TakenOver(receipts=receipts_by_unit, problems=tuple(_few(problems)))


def _named(receipts: Iterator[Receipt]) -> Iterator[Receipt]:
    """The same receipts; an error names the option."""
    try:
        yield from receipts
    except DatasetError as error:
        raise DatasetError(f"--from-previous: {error}, or omit --from-previous") from None


def _few(problems: list[str]) -> list[str]:
    shown = [f"{what}: its unit is run" for what in problems[:3]]
    return [*shown, f"and {len(problems) - 3:,} more shards like these"] if len(problems) > 3 else shown
