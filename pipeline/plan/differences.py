"""Compare a plan with what is asked for."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from textsmooth.pipeline.plan.cut import cut
from textsmooth.pipeline.plan.resolve import Draft
from textsmooth.schemas.errors import ConflictError
from textsmooth.schemas.plan import Plan


def differences(asked: Draft, plan: Plan, *, finished: bool, but: frozenset[str] = frozenset()) -> list[str]:
    """What the plan in a folder has otherwise than what is asked for, each as `name: there …, asked …`. Rows are not compared.

    A finished dataset may have been made with other library versions, on another device. but: what may differ, like `corpus.name`.
    """
    read = {"corpus.label_kind", "corpus.label_names", "corpus.keep_types", "task_teacher.order"}  # from the rows
    open_fields = {*read, "corpus.about", *but}
    mine = {"corpus": asked.identity.to_json(), "teacher": asked.teacher.to_json(), "config": asked.config.to_json()}
    if asked.task_teacher is not None:
        mine["task_teacher"] = asdict(asked.task_teacher)
    if not finished:
        mine["versions"] = asked.versions
    theirs = plan.header_json()
    if ("task_teacher" in mine) != ("task_teacher" in theirs):
        there, here = (group["task_teacher"]["name"] if "task_teacher" in group else "none" for group in (theirs, mine))
        return [f"task teacher: {there} there, {here} asked for"]
    found = []
    for group, values in mine.items():
        for name in {**values, **theirs[group]}:
            value, there = values.get(name), theirs[group].get(name)
            if f"{group}.{name}" not in open_fields and _plain(value) != _plain(there):
                called = name if group in ("corpus", "config") else f"{group.replace('_', ' ')} {name}"
                found.append(f"{called}: {_short(there)} there, {_short(value)} asked for")
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = json.dumps(_plain(value), ensure_ascii=False).strip('"')
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text if len(text) <= 60 else text[:57] + "…"


def same_source(asked: Draft, plan: Plan) -> bool:
    """Whether the corpus files still have the sizes and times that the plan recorded."""
    return plan.source == {file.name: file.stat() for file in asked.corpus.files}


def same_rows(asked: Draft, plan: Plan, progress: Callable[[int], None] = lambda rows: None) -> Plan:
    """Read the corpus again: the plan, with its units where they stand in the files now. ConflictError if the rows are others."""
    now = cut(asked, progress, skip_bad_rows=True)  # it was planned with the rows that it has
    if [u.id for u in now.units] == [u.id for u in plan.units]:
        return replace(plan, units=now.units)
    changed = next((a.name for a, b in zip(now.units, plan.units, strict=False) if a.id != b.id), "the number of rows")
    raise ConflictError(
        f"the corpus {plan.corpus.name} changed since this folder was planned (first at {changed}; {plan.rows:,} rows then, "
        f"{now.rows:,} now); give another --out, or start again with --overwrite"
    )
