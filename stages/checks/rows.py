"""Check the rows of a record batch against the format: list lengths, labels, answer spans, order of rows.

Shards may come from untrusted sources and their offsets may point anywhere: every list is checked before it is read.
Legend: R rows, N tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from textsmooth.schemas.errors import first_line
from textsmooth.schemas.manifest import Manifest
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.checks.findings import Finding, Findings, FirstPlaces
from textsmooth.stages.soft_ids.codec import TokenBlock, decode, find_codec, values

PER_TOKEN = ("input_ids", "token_type_ids", "offsets", "teacher_logits")  # lists with a value per token, beside those of the codec
MAY_BE_NULL = ("example_id",)
MINUS_INFINITY = np.uint16(0xFC00)  # bits of a float16


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """Limits that every row of a dataset keeps."""

    vocab_size: int
    topk: int
    max_length: int
    classes: int | None  # labels are below this; None: no limit
    template: tuple[int, ...] | None  # ids of the special tokens of a row, in order, which are left plain; None: not known

    @classmethod
    def of(cls, manifest: Manifest, template: tuple[int, ...] | None = None) -> Self:
        corpus = manifest.corpus
        return cls(
            vocab_size=int(manifest.teacher["vocab_size"]),
            topk=int(manifest.config["topk"]),
            max_length=int(manifest.config["max_length"]),
            classes=len(corpus["label_names"]) if corpus["label_names"] and corpus["label_kind"] == "class" else None,
            template=template,
        )


def lists_are_valid(batch: pa.RecordBatch, findings: Findings, first: int, columns: tuple[str, ...], row_offset: int = 0) -> bool:
    """Whether every list of a record batch lies within its values, and no column has nulls that may have none. Adds findings if not.

    first: index of its first row in the shard, to name rows whose column `row` cannot be read. columns: those without nulls.
    row_offset: added to column `row`.
    """
    rows = f"rows {first:,} to {first + batch.num_rows - 1:,} of the shard"
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if not _add_broken_list(batch, findings, row_offset):
            findings.file(f"is damaged in {rows}: {first_line(error)}")
        return False
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in columns and name not in MAY_BE_NULL and any(part.null_count for part in _parts(column)):
            findings.file(f"has null in column {name}, {rows}")
            return False
    return True


def _add_broken_list(batch: pa.RecordBatch, findings: Findings, row_offset: int) -> bool:
    """Add a finding about the first list that points outside its values; False if there is none."""
    try:
        batch.validate()
    except pa.ArrowInvalid:  # not even its offsets can be read
        return False
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if (broken := _broken_list(column)) is not None:
            row, token = broken
            number = batch.column("row")[row].as_py()
            finding = Finding(
                path=findings.path,
                what=f"column {name} has lists that overlap or point outside",
                row=None if number is None else number + row_offset,
                token=token,
            )
            findings.add(f"broken {name}", finding, 1)
            return True
    return False


def _broken_list(array: pa.Array) -> tuple[int, int | None] | None:
    """Row, and index in the row, of the first list that ends before it begins or beyond its values; None if there is none."""
    if not pa.types.is_list(array.type):
        return None
    offsets, elements = values(array.offsets), array.values
    bad = (np.diff(offsets) < 0) | (offsets[1:] > len(elements)) | (offsets[:-1] < 0)
    if bad.any():
        return int(bad.argmax()), None
    inner = _broken_list(elements)
    if inner is None:
        return None
    row = int(np.searchsorted(offsets, inner[0], side="right")) - 1
    return min(max(row, 0), len(array) - 1), inner[0] - int(offsets[row])


def _parts(array: pa.Array) -> Iterator[pa.Array]:
    """An array and the arrays nested in it, at any depth."""
    yield array
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        yield from _parts(array.values)
    elif pa.types.is_struct(array.type):
        for inner in array.flatten():
            yield from _parts(inner)


def decode_checked(batch: pa.RecordBatch, places: FirstPlaces, codec: str) -> TokenBlock | None:
    """Decode a record batch with valid lists. Adds a finding and returns None if its lists do not all have one value for each token."""
    layout = find_codec(codec)
    lists = {name: np.diff(_starts(batch.column(name))) for name in (*PER_TOKEN, *layout.per_token) if _is_list(batch, name)}
    lengths = lists["input_ids"]
    for name, sizes in lists.items():
        if (sizes != lengths).any():
            places.rows("lengths", sizes != lengths, lambda r: f"has {sizes[r]:,} values in {name} for {lengths[r]:,} tokens")  # noqa: B023
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
    """What flatten() returns, faster."""
    offsets = array.offsets
    first, stop = offsets[0].as_py(), offsets[-1].as_py()
    return array.values.slice(first, stop - first)


def _starts(array: pa.Array) -> NDArray[np.int32]:
    """The offsets of a list array, from 0."""
    offsets: NDArray[np.int32] = values(array.offsets)
    shifted: NDArray[np.int32] = offsets - offsets[0]
    return shifted


def first_places(batch: pa.RecordBatch, findings: Findings, row_offset: int = 0) -> FirstPlaces:
    """The rows of a record batch with valid lists. row_offset: added to their numbers."""
    window = values(batch.column("window")) if "window" in batch.schema.names else None
    row = values(batch.column("row")) + row_offset
    return FirstPlaces(findings=findings, row=row, row_offsets=_starts(batch.column("input_ids")), window=window)


def check_rows(batch: pa.RecordBatch, block: TokenBlock, places: FirstPlaces, rules: RowRules) -> None:
    """Check tokens, special tokens, labels, answer spans and task teacher logits of the rows."""
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
        add = places.tokens if block.spans is not None else places.rows
        add("logits", odd, lambda i: "has teacher_logits that are no numbers")


def not_logprob(bits: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which float16 numbers are not log-probabilities: above 0, or NaN."""
    return (bits - np.uint16(1) < np.uint16(0x7FFF)) | (bits > MINUS_INFINITY)


def check_numbers(soft: SoftIds, places: FirstPlaces, rules: RowRules) -> None:
    """Check that ids and numbers of soft ids are in range, token by token: what a reader relies on. check_soft checks what they say."""
    counts = np.diff(soft.offsets)
    places.tokens("count", counts > rules.topk, lambda n: f"has {counts[n]} entries, at most {rules.topk} are promised")
    if len(soft.ids) and int(soft.ids.max()) >= rules.vocab_size:
        at = np.repeat(np.arange(len(counts)), counts)[soft.ids >= rules.vocab_size]
        outside = np.isin(np.arange(len(counts)), at)
        places.tokens("soft id", outside, lambda n: f"has token id {soft.ids.max():,} in a vocabulary of {rules.vocab_size:,}")
    if not_logprob(np.ascontiguousarray(soft.logprobs).view(np.uint16)).any():
        places.findings.file("has soft_logprobs that are not numbers of at most 0")
    for name in ("log_tail", "original_logprob"):
        odd = not_logprob(np.ascontiguousarray(getattr(soft, name)).view(np.uint16))
        places.tokens(name, odd, lambda _: f"has {name} that is not a number of at most 0")  # noqa: B023
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(soft.log_partition).all(axis=1))
    places.tokens("log_partition", ~finite, lambda _: "has log_partition that is not a number")


def _check_template(block: TokenBlock, places: FirstPlaces, template: tuple[int, ...]) -> None:
    """The tokens without entries are exactly the special tokens that the tokenizer adds to every row."""
    plain = np.diff(block.soft.offsets) == 0
    before = np.concatenate([[0], np.cumsum(plain)])
    counts = np.diff(before[block.row_offsets])
    wrong = counts != len(template)
    places.rows("plain", wrong, lambda r: f"has {counts[r]:,} tokens without entries, its {len(template)} special ones are promised")
    if template and not wrong.any():
        where = np.flatnonzero(plain)
        expected = np.tile(np.array(template), len(counts))
        ids = block.input_ids[where]
        places.tokens("special", ids != expected, lambda m: f"is left plain: token id {ids[m]}, not the special {expected[m]}", where)


def _check_labels(labels: NDArray[Any], places: FirstPlaces, classes: int | None) -> None:
    if labels.dtype.kind == "f":
        places.rows("label", np.isinf(labels), lambda r: f"has label {labels[r]}")
        return
    allowed = "-1 or more" if classes is None else f"-1 to {classes - 1}"
    wrong = labels < -1 if classes is None else (labels < -1) | (labels >= classes)
    places.rows("label", wrong, lambda r: f"has label {labels[r]}, {allowed} is promised")


def _check_spans(batch: pa.RecordBatch, block: TokenBlock, places: FirstPlaces, lengths: NDArray[Any]) -> None:
    """Check that answers lie within their context and their window."""
    assert block.spans is not None
    starts, ends = block.spans.T
    outside = (starts < 0) | (ends < starts) | (ends >= np.maximum(lengths, 1))
    places.rows("span", outside, lambda r: f"has an answer from token {starts[r]} to {ends[r]} of {lengths[r]}")
    characters = pc.utf8_length(batch.column("context")).to_numpy()
    text = batch.column("offsets").flatten().flatten().to_numpy().reshape(-1, 2)
    limit = np.repeat(characters, lengths)
    none: NDArray[np.bool_] = np.logical_and.reduce(text == -1, axis=1)
    wrong = ~none & ((text[:, 0] < 0) | (text[:, 1] < text[:, 0]) | (text[:, 1] > limit))
    places.tokens("offsets", wrong, lambda n: f"stands for characters {text[n, 0]} to {text[n, 1]} of a context of {limit[n]:,}")
    answered = (ends > 0) & ~outside
    at = np.concatenate([places.row_offsets[:-1][answered] + starts[answered], places.row_offsets[:-1][answered] + ends[answered]])
    astray = np.zeros(len(text), np.bool_)
    astray[at] = none[at]
    places.tokens("answer", astray, lambda n: "begins or ends an answer, and is not of the context")
    origin = batch.column("context_start").to_numpy()
    places.rows("context start", origin < 0, lambda r: f"has a context that begins at character {origin[r]}")
    answers = batch.column("answers")
    texts, begins = answers.field("text"), answers.field("answer_start")
    sizes, others = np.diff(_starts(texts)), np.diff(_starts(begins))
    places.rows("answers", sizes != others, lambda r: f"has {sizes[r]} answers and {others[r]} starts")
    if (sizes == others).all():
        rows = np.repeat(np.arange(len(sizes)), sizes)
        contexts, expected = batch.column("context"), texts.flatten()
        start = begins.flatten().to_numpy().astype(np.int64)
        low = start - origin[rows]
        high = low + pc.utf8_length(expected).to_numpy()
        bad = start < 0
        for i in np.flatnonzero((low >= 0) & (high <= characters[rows])):  # the window's context has all of the answer
            bad[i] |= contexts[rows[i]].as_py()[low[i] : high[i]] != expected[i].as_py()
        wrong_rows = np.zeros(len(sizes), np.bool_)
        wrong_rows[rows[bad]] = True
        places.rows("answers inside", wrong_rows, lambda r: "has an answer that does not stand at its place in the context")


def check_order(row: NDArray[np.int64], window: NDArray[np.int32] | None, promised: NDArray[np.int64] | None, findings: Findings) -> None:
    """Check that the rows of a shard are those of the plan, in order, once each, with all their windows.

    promised: numbers of the rows in the plan, [R]; None: not known.
    """
    nothing = np.zeros(len(row) + 1, np.int32)
    places = FirstPlaces(findings=findings, row=row, row_offsets=nothing, window=window)
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
    present = row[~again]
    if len(present) == len(promised) and (present == promised).all():
        return
    extra, missing = np.setdiff1d(present, promised), np.setdiff1d(promised, present)
    if len(extra):
        finding = Finding(path=findings.path, what="is not a row that the plan has for this shard", row=int(extra[0]))
        findings.add("extra", finding, len(extra))
    if len(missing):
        findings.add("missing", Finding(path=findings.path, what="is missing", row=int(missing[0])), len(missing))
