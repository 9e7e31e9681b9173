"""Whether a record batch of a shard is what the format says: lists that fit each other, labels and spans in range, rows in order.

What a stranger wrote may point anywhere, so nothing is followed before it was looked at.
Legend: R rows, N tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from textsmooth.schemas.errors import first_line
from textsmooth.stages.checks.findings import Finding, Places, Tally
from textsmooth.stages.soft_ids.codec import TokenBlock, decode, find_codec

PER_TOKEN = ("input_ids", "token_type_ids", "offsets", "teacher_logits")  # lists of them, beside those of the codec
MAY_BE_NULL = ("example_id",)


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """What is promised of every row."""

    vocab_size: int
    max_length: int
    classes: int | None  # labels are below it; None: any number of classes
    template: tuple[int, ...] | None  # ids of the special tokens of a row, which are left plain; None: not known


def whole(batch: pa.RecordBatch, tally: Tally, first: int, columns: tuple[str, ...], row_offset: int = 0) -> bool:
    """Whether every list of a record batch lies within its values, and what has to be there is; else `tally` is told where not.

    first: number of its first row in the shard, to name rows whose own column cannot be read. columns: those that hold no null.
    row_offset: added to column `row`.
    """
    rows = f"rows {first:,} to {first + batch.num_rows - 1:,} of the shard"
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if not _tell_broken(batch, tally, row_offset):
            tally.file(f"is damaged in {rows}: {first_line(error)}")
        return False
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in columns and name not in MAY_BE_NULL and any(part.null_count for part in _parts(column)):
            tally.file(f"has null in column {name}, {rows}")
            return False
    return True


def _tell_broken(batch: pa.RecordBatch, tally: Tally, row_offset: int) -> bool:
    """Tell of the first list that points anywhere, if that is what is wrong."""
    try:
        batch.validate()
    except pa.ArrowInvalid:  # not even its offsets can be looked at
        return False
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        broken = _broken(column)
        if broken is not None:
            row, token = broken
            number = batch.column("row")[row].as_py()
            found = Finding(
                path=tally.path,
                what=f"column {name} has lists that overlap or point outside",
                row=None if number is None else number + row_offset,
                token=token,
            )
            tally.add(f"broken {name}", found, 1)
            return True
    return False


def _broken(array: pa.Array) -> tuple[int, int | None] | None:
    """Row, and place in it, of the first list that ends before it begins or beyond its values; None if there is none."""
    if not pa.types.is_list(array.type):
        return None
    offsets, values = array.offsets.to_numpy(), array.values
    bad = (np.diff(offsets) < 0) | (offsets[1:] > len(values)) | (offsets[:-1] < 0)
    if bad.any():
        return int(bad.argmax()), None
    inner = _broken(values)
    if inner is None:
        return None
    row = int(np.searchsorted(offsets, inner[0], side="right")) - 1
    return min(max(row, 0), len(array) - 1), inner[0] - int(offsets[row])


def _parts(array: pa.Array) -> Iterator[pa.Array]:
    """An array, and what lies in it at any depth."""
    yield array
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        yield from _parts(array.values)
    elif pa.types.is_struct(array.type):
        for inner in array.flatten():
            yield from _parts(inner)


def fitting(batch: pa.RecordBatch, places: Places, codec: str) -> TokenBlock | None:
    """The rows of a whole record batch, if its lists have one value for each token; else None, and `places` is told."""
    layout = find_codec(codec)
    lists = {name: np.diff(_starts(batch.column(name))) for name in (*PER_TOKEN, *layout.per_token) if _is_list(batch, name)}
    lengths = lists["input_ids"]
    other = next((name for name, found in lists.items() if (found != lengths).any()), None)
    if other is not None:
        found = lists[other]
        places.rows("lengths", found != lengths, lambda r: f"has {found[r]:,} values in {other} for {lengths[r]:,} tokens")
        return None
    counts = {name: np.diff(_starts(_inside(batch.column(name)))) for name in layout.per_entry}
    for (name, count), (other, other_count) in pairwise(counts.items()):
        if (count != other_count).any():
            places.tokens("entries", count != other_count, lambda n: f"has {count[n]} {name} and {other_count[n]} {other}")  # noqa: B023
            return None
    return decode(batch, np.int32, codec)


def _is_list(batch: pa.RecordBatch, name: str) -> bool:
    return name in batch.schema.names and pa.types.is_list(batch.column(name).type)


def _inside(array: pa.ListArray) -> pa.Array:
    """As flatten(), which takes longer."""
    offsets = array.offsets
    first, stop = offsets[0].as_py(), offsets[-1].as_py()
    return array.values.slice(first, stop - first)


def _starts(array: pa.Array) -> NDArray[np.int32]:
    offsets: NDArray[np.int32] = array.offsets.to_numpy()
    found: NDArray[np.int32] = offsets - offsets[0]
    return found


def places_of(batch: pa.RecordBatch, tally: Tally, row_offset: int = 0) -> Places:
    """Where the rows of a whole record batch are. row_offset: added to their numbers."""
    window = batch.column("window").to_numpy() if "window" in batch.schema.names else None
    row = batch.column("row").to_numpy() + row_offset
    return Places(tally=tally, row=row, row_offsets=_starts(batch.column("input_ids")), window=window)


def check_rows(batch: pa.RecordBatch, block: TokenBlock, places: Places, rules: RowRules) -> None:
    """Tokens, special tokens, labels, spans and logits of the rows."""
    lengths = np.diff(block.row_offsets)
    ids = block.input_ids
    places.rows("length", lengths > rules.max_length, lambda r: f"has {lengths[r]:,} tokens, {rules.max_length:,} at most are promised")
    if len(ids) and int(ids.max()) >= rules.vocab_size:
        outside: NDArray[np.bool_] = ids >= rules.vocab_size
        places.tokens("token id", outside, lambda n: f"is token id {ids[n]:,} in a vocabulary of {rules.vocab_size:,}")
    if rules.template is not None:
        _check_template(block, places, rules.template)
    if block.label is not None:
        _check_labels(block.label, places, rules.classes)
    if block.spans is not None:
        _check_spans(batch, block, places, lengths)
    if block.teacher_logits is not None:
        odd: NDArray[np.bool_] = ~np.logical_and.reduce(np.isfinite(block.teacher_logits), axis=1)
        tell = places.tokens if block.spans is not None else places.rows
        tell("logits", odd, lambda i: "has teacher_logits that are no numbers")


def _check_template(block: TokenBlock, places: Places, template: tuple[int, ...]) -> None:
    """The tokens without entries are the special ones that the tokenizer puts into every row, and no others."""
    plain = np.diff(block.soft.offsets) == 0
    before = np.concatenate([[0], np.cumsum(plain)])
    counts = np.diff(before[block.row_offsets])
    wrong = counts != len(template)
    places.rows("plain", wrong, lambda r: f"has {counts[r]:,} tokens without entries, its {len(template)} special ones are promised")
    if template and not wrong.any():
        where = np.flatnonzero(plain)
        expected = np.tile(np.array(template), len(counts))
        found = block.input_ids[where]
        places.tokens("special", found != expected, lambda m: f"is left plain: token id {found[m]}, not the special {expected[m]}", where)


def _check_labels(labels: NDArray[Any], places: Places, classes: int | None) -> None:
    if labels.dtype.kind == "f":
        places.rows("label", np.isinf(labels), lambda r: f"has label {labels[r]}")
        return
    top = "" if classes is None else f" to {classes - 1}"
    wrong = labels < -1 if classes is None else (labels < -1) | (labels >= classes)
    places.rows("label", wrong, lambda r: f"has label {labels[r]}, -1{top or ' or more'} is promised")


def _check_spans(batch: pa.RecordBatch, block: TokenBlock, places: Places, lengths: NDArray[Any]) -> None:
    """Answers within their context, and within their window."""
    assert block.spans is not None
    starts, ends = block.spans.T
    outside = (starts < 0) | (ends < starts) | (ends >= np.maximum(lengths, 1))
    places.rows("span", outside, lambda r: f"has an answer from token {starts[r]} to {ends[r]} of {lengths[r]}")
    characters = pc.utf8_length(batch.column("context")).to_numpy()
    text = batch.column("offsets").flatten().flatten().to_numpy().reshape(-1, 2)
    most = np.repeat(characters, lengths)
    none: NDArray[np.bool_] = np.logical_and.reduce(text == -1, axis=1)
    wrong = ~none & ((text[:, 0] < 0) | (text[:, 1] < text[:, 0]) | (text[:, 1] > most))
    places.tokens("offsets", wrong, lambda n: f"stands for characters {text[n, 0]} to {text[n, 1]} of a context of {most[n]:,}")
    answered = (ends > 0) & ~outside
    at = np.concatenate([places.row_offsets[:-1][answered] + starts[answered], places.row_offsets[:-1][answered] + ends[answered]])
    astray = np.zeros(len(text), np.bool_)
    astray[at] = none[at]
    places.tokens("answer", astray, lambda n: "begins or ends an answer, and is not of the context")
    answers = batch.column("answers")
    texts, begins = answers.field("text"), answers.field("answer_start")
    sizes, others = np.diff(_starts(texts)), np.diff(_starts(begins))
    places.rows("answers", sizes != others, lambda r: f"has {sizes[r]} answers and {others[r]} starts")
    if (sizes == others).all():
        start = begins.flatten().to_numpy().astype(np.int64)
        stop = start + pc.utf8_length(texts.flatten()).to_numpy()
        bad = (start < 0) | (stop > np.repeat(characters, sizes))
        rows = np.repeat(np.arange(len(sizes)), sizes)
        bad_rows = np.zeros(len(sizes), np.bool_)
        bad_rows[rows[bad]] = True
        places.rows("answers inside", bad_rows, lambda r: f"has an answer outside its context of {characters[r]:,} characters")


def check_order(row: NDArray[np.int64], window: NDArray[np.int32] | None, promised: NDArray[np.int64] | None, tally: Tally) -> None:
    """The rows of a shard come in order, once each, with all their windows; and they are those that the plan has.

    promised: numbers of the rows of the corpus, [R]; None: any, in order.
    """
    nothing = np.zeros(len(row) + 1, np.int32)
    places = Places(tally=tally, row=row, row_offsets=nothing, window=window)
    again = np.concatenate([[False], row[1:] == row[:-1]]) if len(row) else np.zeros(0, np.bool_)
    falls = np.concatenate([[False], row[1:] < row[:-1]]) if len(row) else again
    places.rows("falls", falls, lambda r: f"comes after row {row[r - 1]:,}")
    if window is None:
        places.rows("again", again, lambda r: "is there twice")
    else:
        expected = np.where(again, np.concatenate([[0], window[:-1] + 1]), 0) if len(row) else window
        places.rows("windows", window != expected, lambda r: f"is where window {expected[r]} is due")
    if promised is None or falls.any():
        return
    there = row[~again]
    if len(there) == len(promised) and (there == promised).all():
        return
    extra, missing = np.setdiff1d(there, promised), np.setdiff1d(promised, there)
    if len(extra):
        found = Finding(path=tally.path, what="is not a row that the plan has for this shard", row=int(extra[0]))
        tally.add("extra", found, len(extra))
    if len(missing):
        tally.add("missing", Finding(path=tally.path, what="is missing", row=int(missing[0])), len(missing))
