"""Compare the plan in a folder with a request."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from textsmooth.pipeline.plan.cut import make_plan
from textsmooth.pipeline.plan.resolve import Request
from textsmooth.schemas.errors import ConflictError
from textsmooth.schemas.plan import Plan

FROM_ROWS = frozenset(("corpus.label_kind", "corpus.label_names", "corpus.keep_types", "task_teacher.order"))  # not known yet


def plan_differences(request: Request, plan: Plan, *, finished: bool, ignore: frozenset[str] = frozenset()) -> list[str]:
    """The settings in which a plan and a request differ, each as `name: there …, … asked for`. Rows are not compared.

    finished: other library versions and another device are no difference. ignore: settings that may differ, like `corpus.name`.
    """
    ignored = FROM_ROWS | {"corpus.about"} | ignore
    requested = {"corpus": request.identity.to_json(), "teacher": request.teacher.to_json(), "config": request.config.to_json()}
    if request.task_teacher is not None:
        requested["task_teacher"] = asdict(request.task_teacher)
    if not finished:
        requested["versions"] = request.versions
    planned = plan.header_json()
    if ("task_teacher" in requested) != ("task_teacher" in planned):
        old, new = (group["task_teacher"]["name"] if "task_teacher" in group else "none" for group in (planned, requested))
        return [f"task teacher: {old} there, {new} asked for"]
    lines = []
    for group, values in requested.items():
        for name in {**values, **planned[group]}:
            new, old = values.get(name), planned[group].get(name)
            if f"{group}.{name}" not in ignored and _plain(new) != _plain(old):
                label = name if group in ("corpus", "config") else f"{group.replace('_', ' ')} {name}"
                lines.append(f"{label}: {_short(old)} there, {_short(new)} asked for")
    return lines


def few(lines: list[str]) -> str:
    """The first differences, on one line."""
    return f"{'; '.join(lines[:4])}{' …' if len(lines) > 4 else ''}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = json.dumps(_plain(value), ensure_ascii=False).strip('"')
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text if len(text) <= 60 else text[:57] + "…"


def same_source(request: Request, plan: Plan) -> bool:
    """Whether the corpus files still have the sizes and times that the plan recorded."""
    return plan.source == {file.name: file.stat() for file in request.corpus.files}


def same_rows(request: Request, plan: Plan, progress: Callable[[int], None] = lambda rows: None) -> Plan:
    """Read the corpus again: the plan, with the current file offsets of its units. ConflictError if the rows differ."""
    now = make_plan(request, progress, skip_bad_rows=True)  # bad rows were accepted, or refused, when it was planned
    if [u.id for u in now.units] == [u.id for u in plan.units]:
        return replace(plan, units=now.units)
    changed = next((a.name for a, b in zip(now.units, plan.units, strict=False) if a.id != b.id), "the number of rows")
    raise ConflictError(
        f"the corpus {plan.corpus.name} changed since this folder was planned (first at {changed}; {plan.rows:,} rows then, "
        f"{now.rows:,} now); give another --out, or start again with --overwrite"
    )
