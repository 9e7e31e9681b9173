"""The columns of a shard beside the soft ids: of windows, span tasks and task teachers."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.plan import Plan
from textsmooth.schemas.shard import ANSWERS, PLACE
from textsmooth.schemas.tasks import ID_COLUMN
from textsmooth.stages.codec import per_row
from textsmooth.stages.readers import Rows
from textsmooth.stages.spans import Spans
from textsmooth.stages.tokenize import TokenRows


def window_columns(tokens: TokenRows) -> dict[str, pa.Array]:
    """Which window of its row each row of a shard is."""
    return {"window": pa.array(tokens.window, pa.int32())}


def span_columns(rows: Rows, tokens: TokenRows, spans: Spans, plan: Plan) -> dict[str, pa.Array]:
    """What training on answers, and scoring them, needs: of every window."""
    assert tokens.places is not None and plan.corpus.label_column is not None
    source = pa.array(tokens.source)
    places = pa.FixedSizeListArray.from_arrays(pa.array(tokens.places.reshape(-1)), type=PLACE)

    def of_rows(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(source)

    return {
        "example_id": of_rows([None if v is None else str(v) for v in rows[ID_COLUMN]], pa.string()),
        "offsets": per_row(tokens.row_offsets, places),
        "context": of_rows(rows[plan.corpus.text_columns[-1]], pa.string()),
        "answers": of_rows([{k: list(v[k]) for k in ("text", "answer_start")} for v in rows[plan.corpus.label_column]], ANSWERS),
        "start_positions": pa.array(spans.start),
        "end_positions": pa.array(spans.end),
    }


def logits_column(logits: NDArray[np.float32], tokens: TokenRows, *, span: bool) -> dict[str, pa.Array]:
    """The task teacher's logits: [W, C], or [N, 2] of the tokens for a span model."""
    single = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(logits).reshape(-1)), logits.shape[1])
    return {"teacher_logits": per_row(tokens.row_offsets, single) if span else single}
