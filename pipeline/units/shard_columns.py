"""The columns of a shard beside the soft ids: labels, kept columns, those of windows, span tasks and task teachers; and its schema."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.errors import CorpusError, first_line
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.shard import ANSWERS, PLACE, ShardMeta
from textsmooth.schemas.tasks import ID_COLUMN
from textsmooth.stages.corpus.column_types import arrow_type
from textsmooth.stages.corpus.reader import Rows
from textsmooth.stages.soft_ids.codec import per_row
from textsmooth.stages.soft_ids.shard import shard_schema
from textsmooth.stages.tokens.answer_spans import Spans
from textsmooth.stages.tokens.tokenize import TokenRows


def window_columns(tokens: TokenRows) -> dict[str, pa.Array]:
    """Which window of its row each row of a shard is."""
    return {"window": pa.array(tokens.window, pa.int32())}


def span_columns(rows: Rows, tokens: TokenRows, spans: Spans, plan: Plan) -> dict[str, pa.Array]:
    """What training on answers, and scoring them, needs: of every window."""
    assert tokens.char_spans is not None and plan.corpus.label_column is not None
    source = pa.array(tokens.source)
    char_spans = pa.FixedSizeListArray.from_arrays(pa.array(tokens.char_spans.reshape(-1)), type=PLACE)

    def of_rows(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(source)

    return {
        "example_id": of_rows([None if v is None else str(v) for v in rows[ID_COLUMN]], pa.string()),
        "offsets": per_row(tokens.row_offsets, char_spans),
        "context": of_rows(rows[plan.corpus.text_columns[-1]], pa.string()),
        "answers": of_rows([{k: list(v[k]) for k in ("text", "answer_start")} for v in rows[plan.corpus.label_column]], ANSWERS),
        "start_positions": pa.array(spans.start),
        "end_positions": pa.array(spans.end),
    }


def logits_column(logits: NDArray[np.float32], tokens: TokenRows, *, span: bool) -> dict[str, pa.Array]:
    """The task teacher's logits: [W, C], or [N, 2] of the tokens for a span model."""
    single = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(logits).reshape(-1)), logits.shape[1])
    return {"teacher_logits": per_row(tokens.row_offsets, single) if span else single}


def _kept(plan: Plan) -> list[tuple[str, str]]:
    return list(zip(plan.corpus.keep_columns, plan.corpus.keep_types, strict=True))


def kept_columns(rows: Rows, tokens: TokenRows, plan: Plan) -> dict[str, pa.Array]:
    """The columns that are carried through, of every window. CorpusError for a value that cannot be kept."""
    source = pa.array(tokens.source)
    return {name: _kept_array(rows[name], name, kind).take(source) for name, kind in _kept(plan)}


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
        windows=plan.config.long == "window",
        logits=plan.task_teacher.width if plan.task_teacher else None,
        keep=keep,
    )


def labels(rows: Rows, plan: Plan) -> NDArray[Any] | None:
    """The label column: int64 with -1 for none, or float64 with NaN for none."""
    column, kind, names = plan.corpus.label_column, plan.corpus.label_kind, plan.corpus.label_names
    if column is None or kind in (None, "span"):
        return None
    if kind == "value":
        none = -1 if plan.corpus.task else None  # GLUE's test sets have -1 where a score would be
        return np.array([np.nan if v is None or v == none else v for v in rows[column]], np.float64)
    index = {name: i for i, name in enumerate(names or ())}
    return np.array([-1 if v is None else index[v] if isinstance(v, str) else v for v in rows[column]], np.int64)
