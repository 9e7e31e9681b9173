"""Masked context: each token's soft ids come from the one pass that masks it; equal to masking one residue class at a time, densely."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_families import MASK, PAD, VOCAB, assert_parity, make, random_rows, soft_ids
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from textsmooth.stages.models.teacher import Teacher
from textsmooth.stages.tokens.masked_context import passes
from textsmooth.stages.tokens.tokenize import TokenRows


@pytest.fixture(scope="module", params=["bert", "roberta", "fnet"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param, folder)
    return folder


def masked_reference(folder: Path, rows: TokenRows, count: int) -> NDArray[np.float64]:
    """[N, V] log-probabilities: of a row, the tokens whose number is j mod count masked, for each j, each time alone; NaN for specials."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = np.full((len(rows.input_ids), VOCAB), np.nan)
    for low, high in zip(rows.row_offsets[:-1], rows.row_offsets[1:], strict=True):
        maskable = [n for n in range(low, high) if not rows.special[n]]
        for start in range(count):
            masked = maskable[start::count]
            ids = rows.input_ids.astype(np.int64)
            ids[masked] = MASK
            given = {"input_ids": torch.from_numpy(ids[low:high])[None]}
            if rows.token_type_ids is not None:
                given["token_type_ids"] = torch.from_numpy(rows.token_type_ids[low:high].astype(np.int64))[None]
            with torch.no_grad():
                logits = model(**given).logits[0].double().numpy()
            logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            found[masked] = logprobs[[n - low for n in masked]]
    return found


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_soft_ids_are_those_of_masking_one_residue_class_at_a_time(count: int, folder: Path) -> None:
    rows = random_rows()
    wanted = ~rows.special
    teacher = Teacher(folder, vocab_size=VOCAB, pad_id=PAD)
    assert_parity(soft_ids(teacher, rows, wanted, count=count), masked_reference(folder, rows, count), rows, wanted)


def test_pairs_keep_their_token_types(tmp_path: Path) -> None:
    make("bert", tmp_path)
    rows = random_rows(types=True)
    wanted = ~rows.special
    teacher = Teacher(tmp_path, vocab_size=VOCAB, pad_id=PAD)
    assert_parity(soft_ids(teacher, rows, wanted, count=3), masked_reference(tmp_path, rows, 3), rows, wanted)


def tokens_of(lengths: list[int], special: list[bool], windows: list[int]) -> TokenRows:
    total = sum(lengths)
    return TokenRows(
        row_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        input_ids=(np.arange(total) + 10).astype(np.uint16),
        token_type_ids=None,
        special=np.array(special[:total], np.bool_),
        truncated=0,
        source=np.arange(len(lengths)),
        window=np.array(windows[: len(lengths)], np.int32),
    )


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.lists(st.booleans(), min_size=72, max_size=72),
    st.lists(st.integers(0, 1), min_size=8, max_size=8),
    st.integers(1, 12),
)
def test_every_token_is_masked_in_one_pass_and_every_row_counted_once(
    lengths: list[int], special: list[bool], windows: list[int], count: int
) -> None:
    tokens = tokens_of(lengths, special, windows)
    runs = list(passes(tokens, ~tokens.special, count=count, mask_id=MASK))
    np.testing.assert_array_equal(sum(run.wanted.astype(int) for run in runs), ~tokens.special)
    row_of = np.repeat(np.arange(len(tokens)), lengths)
    counted = np.zeros(len(tokens), int)
    for run in runs:
        counted[run.rows] += run.counts[run.rows]
        if count > 1:
            np.testing.assert_array_equal(run.tokens.input_ids == MASK, run.wanted)
            assert set(run.rows) == set(row_of[run.wanted])  # rows with nothing masked are not run
        np.testing.assert_array_equal(run.tokens.input_ids[~run.wanted], tokens.input_ids[~run.wanted])
    texts = np.array(windows[: len(lengths)]) == 0
    assert (counted <= texts).all()
    assert counted.sum() + sum(run.idle for run in runs) == texts.sum()


def test_the_work_is_spread_over_the_passes() -> None:
    """A progress bar that stood at 100 % after the first of many passes would say nothing."""
    tokens = tokens_of([9] * 8, [False] * 72, [0] * 8)
    assert [int(run.counts.sum()) for run in passes(tokens, ~tokens.special, count=4, mask_id=MASK)] == [2, 2, 2, 2]


@pytest.mark.parametrize("count", [1, 2])
def test_rows_without_tokens_are_run_in_no_pass(count: int) -> None:
    tokens = tokens_of([0, 3, 0], [False] * 3, [0, 0, 0])
    runs = list(passes(tokens, ~tokens.special, count=count, mask_id=MASK))
    assert [run.rows.tolist() for run in runs] == [[1]] * count
    assert [run.idle for run in runs] == [2, 0][:count]
