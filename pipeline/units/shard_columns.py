"""Columns of a shard besides the soft ids: labels, kept columns, and those of windows, answers and task teachers; and its schema."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.errors import CorpusError, UsageError, first_line
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.shard import ANSWERS, PLACE, ShardMeta
from textsmooth.schemas.task_kinds import LabelColumn, task_kind
from textsmooth.schemas.tasks import ID_COLUMN
from textsmooth.stages.corpus.column_types import arrow_type
from textsmooth.stages.corpus.reader import Rows
from textsmooth.stages.soft_ids.codec import per_row
from textsmooth.stages.soft_ids.shard import shard_schema
from textsmooth.stages.tokens.answer_spans import find_spans, window_contexts
from textsmooth.stages.tokens.tokenize import TokenRows

MISSING_SCORE = -1  # in place of a score in the test sets of GLUE


def extra_columns(rows: Rows, tokens: TokenRows, task_logits: NDArray[np.float32] | None, plan: Plan) -> tuple[dict[str, pa.Array], int]:
    """All columns of W windows but those of soft ids and labels; and how many rows have an answer that no window holds.

    task_logits: of the task teacher, [W, C], or [N, 2] of the tokens where labels are answers. CorpusError for a value that cannot be kept.
    """
    columns = {name: _per_window(name, _kept_array(rows[name], name, kind), tokens) for name, kind in _kept(plan)}
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
    answers = rows[plan.corpus.label_column]
    spans = find_spans(tokens, answers, len(answers))
    contexts = window_contexts(tokens, rows[plan.corpus.text_columns[-1]])
    places = pa.FixedSizeListArray.from_arrays(pa.array(contexts.char_spans.reshape(-1)), type=PLACE)
    ids = [None if value is None else str(value) for value in rows[ID_COLUMN]]
    columns = {
        "example_id": _per_window("example_id", pa.array(ids, pa.string()), tokens),
        "offsets": per_row(tokens.row_offsets, places),
        "context": _one_array("context", pa.array(contexts.texts, pa.string())),
        "context_start": pa.array(contexts.start),
        "answers": _per_window("answers", pa.array(answers, ANSWERS), tokens),
        "start_positions": pa.array(spans.start),
        "end_positions": pa.array(spans.end),
    }
    return columns, int(spans.lost.sum())


def _per_window(name: str, column: pa.Array | pa.ChunkedArray, tokens: TokenRows) -> pa.Array:
    """The value of its row for each of W windows. UsageError if that is too much for a shard."""
    try:
        return _one_array(name, _one_array(name, column).take(pa.array(tokens.source)))
    except pa.ArrowInvalid:  # take: more than 2 GiB
        raise _too_large(name) from None


def _one_array(name: str, column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as pyarrow made it of Python values. UsageError if it had to be split."""
    if isinstance(column, pa.ChunkedArray):
        raise _too_large(name)
    return column


def _too_large(name: str) -> UsageError:
    return UsageError(f"column {name} has more than 2 GiB of text in one shard; lower --rows-per-shard, or keep fewer columns")


def _kept(plan: Plan) -> list[tuple[str, str]]:
    return list(zip(plan.corpus.keep_columns, plan.corpus.keep_types, strict=True))


def _kept_array(values: list[Any], name: str, kind: str) -> pa.Array:
    try:
        return pa.array(values, arrow_type(kind))
    except (pa.ArrowException, OverflowError) as error:
        raise CorpusError(f"column {name!r} cannot be kept as {kind}: {first_line(error)}") from None


def unit_schema(plan: Plan, unit: Unit, *, token_types: bool) -> pa.Schema:
    """The schema of the shard of a unit."""
    meta = ShardMeta.promised(plan.config, plan.teacher.to_json(), label_kind=plan.corpus.label_kind, split=unit.split, unit=unit.id)
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
