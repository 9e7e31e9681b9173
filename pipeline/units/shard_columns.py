"""Columns of a shard besides the soft ids: labels, kept columns, and those of windows, answers and task teachers; and its schema."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.errors import CorpusError, first_line
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.shard import ANSWERS, PLACE, ShardMeta
from textsmooth.schemas.task_kinds import LabelColumn, task_kind
from textsmooth.schemas.tasks import ID_COLUMN
from textsmooth.stages.corpus.column_types import arrow_type
from textsmooth.stages.corpus.reader import Rows
from textsmooth.stages.soft_ids.codec import per_row
from textsmooth.stages.soft_ids.shard import shard_schema
from textsmooth.stages.tokens.answer_spans import find_spans
from textsmooth.stages.tokens.tokenize import TokenRows

MISSING_SCORE = -1  # in place of a score in the test sets of GLUE


def extra_columns(rows: Rows, tokens: TokenRows, task_logits: NDArray[np.float32] | None, plan: Plan) -> tuple[dict[str, pa.Array], int]:
    """All columns of W windows but those of soft ids and labels; and how many rows have an answer that no window holds.

    task_logits: of the task teacher, [W, C], or [N, 2] of the tokens where labels are answers. CorpusError for a value that cannot be kept.
    """
    source = pa.array(tokens.source)
    columns = {name: _kept_array(rows[name], name, kind).take(source) for name, kind in _kept(plan)}
    lost_answers = 0
    has_answers = task_kind(plan.corpus.label_kind).has_answers
    if plan.config.windows:
        columns["window"] = pa.array(tokens.window, pa.int32())
    if has_answers:
        answers, lost_answers = _answer_columns(rows, tokens, plan)
        columns |= answers
    if task_logits is not None:
        logits = np.ascontiguousarray(task_logits)
        single = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1])
        columns["teacher_logits"] = per_row(tokens.row_offsets, single) if has_answers else single
    return columns, lost_answers


def _answer_columns(rows: Rows, tokens: TokenRows, plan: Plan) -> tuple[dict[str, pa.Array], int]:
    """What training on answers and scoring them needs, of every window; and how many rows have an answer that no window holds."""
    assert tokens.char_spans is not None and plan.corpus.label_column is not None
    answers, contexts = rows[plan.corpus.label_column], rows[plan.corpus.text_columns[-1]]
    spans = find_spans(tokens, answers, len(answers))
    source = pa.array(tokens.source)
    places = pa.FixedSizeListArray.from_arrays(pa.array(tokens.char_spans.reshape(-1)), type=PLACE)
    ids = [None if value is None else str(value) for value in rows[ID_COLUMN]]
    columns = {
        "example_id": pa.array(ids, pa.string()).take(source),
        "offsets": per_row(tokens.row_offsets, places),
        "context": pa.array(contexts, pa.string()).take(source),
        "answers": pa.array([{name: list(answer[name]) for name in ("text", "answer_start")} for answer in answers], ANSWERS).take(source),
        "start_positions": pa.array(spans.start),
        "end_positions": pa.array(spans.end),
    }
    return columns, int(spans.lost.sum())


def _kept(plan: Plan) -> list[tuple[str, str]]:
    return list(zip(plan.corpus.keep_columns, plan.corpus.keep_types, strict=True))


def _kept_array(values: list[Any], name: str, kind: str) -> pa.Array:
    try:
        return pa.array(values, arrow_type(kind))
    except (pa.ArrowException, OverflowError) as error:
        raise CorpusError(f"column {name!r} cannot be kept as {kind}: {first_line(error)}") from None


def unit_schema(plan: Plan, unit: Unit, *, token_types: bool) -> pa.Schema:
    """The schema of the shard of a unit."""
    meta = ShardMeta.promised(plan.config, plan.teacher.to_json(), split=unit.split, unit=unit.id)
    keep = tuple(pa.field(name, arrow_type(kind)) for name, kind in _kept(plan))
    return shard_schema(
        meta,
        token_types=token_types,
        label_kind=plan.corpus.label_kind,
        windows=plan.config.windows,
        logits=plan.task_teacher.width if plan.task_teacher else None,
        keep=keep,
    )


def labels(rows: Rows, plan: Plan) -> NDArray[Any] | None:
    """The label column: int64 with -1 for no label, or float64 with NaN for no label; None if the shard has no such column."""
    column, kind = plan.corpus.label_column, task_kind(plan.corpus.label_kind)
    if column is None or not isinstance(kind, LabelColumn):
        return None
    return kind.to_array(rows[column], plan.corpus.label_names, missing=MISSING_SCORE if plan.corpus.task else None)
