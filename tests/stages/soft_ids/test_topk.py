"""Soft ids equal a dense float64 reference: log-softmax, top-k, tail and partition functions of the same rounded logits."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from textsmooth.stages.soft_ids.topk import BLOCK, GROUP, ChunkSoftIds, Sparsifier, gather_soft_ids, topk_exact

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
UNDERFLOW = -80.0  # exp of less is lost in float32


def log_softmax(logits: Tensor) -> NDArray[np.float64]:
    dense = logits.double().numpy()
    return dense - np.logaddexp.reduce(dense, axis=1, keepdims=True)


def random_logits(seed: int, rows: int, vocab: int, dtype: torch.dtype = torch.float32, scale: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=generator) * scale).to(dtype)


def assert_soft_ids(
    found: ChunkSoftIds, logits: Tensor, original: Tensor, *, topk: int, mass: float = 1.0, tolerance: float = 2e-5
) -> None:
    """Against the reference. Among equal logits at the cut-off any may be taken; a mass reached to 1e-6 leaves one entry open."""
    logprobs = log_softmax(logits)
    best = np.sort(logprobs, axis=1)[:, ::-1]
    ids, values, keep = found.ids.numpy(), found.logprobs.double().numpy(), found.keep.numpy()
    assert ids.shape == values.shape == (len(logits), topk)
    slack = tolerance + 1e-6 * np.abs(best[:, :topk])
    assert (np.abs(values - best[:, :topk]) <= slack).all()
    assert (np.abs(np.take_along_axis(logprobs, ids, 1) - values) <= slack).all()
    for n in range(len(logits)):
        assert len(set(ids[n])) == topk
        kept = [(-logits[n, i].item(), i) for i in ids[n]]
        assert kept == sorted(kept)  # most probable first, ties by id
        reached = np.concatenate([[0.0], np.cumsum(np.exp(best[n, :topk]))])
        wanted = {topk} if mass >= 1 else {min(topk, int((reached[1:] < mass + e).sum()) + 1) for e in (-1e-6, 0, 1e-6)}
        assert keep[n] in wanted
        tail = np.logaddexp.reduce(best[n, keep[n] :]) if keep[n] < len(best[n]) else -np.inf
        if tail > UNDERFLOW:
            assert abs(found.log_tail[n].item() - tail) <= tolerance + 1e-6 * abs(tail)
        else:
            assert found.log_tail[n].item() <= UNDERFLOW
    inside = np.arange(topk) < keep[:, None]
    assert found.mass_by_rank.numpy() == pytest.approx((np.exp(values) * inside).sum(0), rel=1e-5, abs=1e-12)
    exact = np.take_along_axis(logprobs, original.numpy()[:, None], 1)[:, 0]
    assert (np.abs(found.original_logprob.double().numpy() - exact) <= tolerance + 1e-6 * np.abs(exact)).all()


CASES = [(v, k) for v, k in product((7, 100, 1000, 30522), (1, 8, 32)) if k <= v] + [(7, 7), (100, 100), (1000, 1000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("vocab", "topk"), CASES)
@pytest.mark.parametrize("mass", [1.0, 0.9, 0.5])
def test_soft_ids_are_those_of_the_dense_reference(vocab: int, topk: int, mass: float, dtype: torch.dtype) -> None:
    rows = 5 if vocab > 1000 else GROUP + 1
    logits = random_logits(vocab + topk, rows, vocab, dtype)
    original = torch.arange(rows) * 13 % vocab
    found = Sparsifier(topk=topk, mass=mass)(logits, original)
    assert_soft_ids(found, logits, original, topk=topk, mass=mass)
    assert found.log_partition.shape == (rows, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [7, 1000, 30522])
@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
def test_partition_functions_are_those_of_the_dense_reference(vocab: int, scale: float, dtype: torch.dtype) -> None:
    logits = random_logits(vocab, 6, vocab, dtype, scale)
    found = Sparsifier(topk=3, temperatures=TEMPERATURES)(logits, torch.zeros(6, dtype=torch.int64))
    exact = np.stack([np.logaddexp.reduce(log_softmax(logits) / t, axis=1) for t in TEMPERATURES], 1)
    assert np.abs(found.log_partition.double().numpy() - exact).max() <= 2e-5
    assert np.abs(found.log_partition[:, 1].numpy()).max() <= 1e-6  # at T = 1 it is 0


@pytest.mark.parametrize("rows", [1, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP, 3 * GROUP + 5])
def test_a_row_is_the_same_wherever_it_stands_in_a_chunk(rows: int) -> None:
    logits = random_logits(1, rows, 300)
    original = torch.arange(rows) % 300
    sparsify = Sparsifier(topk=4, mass=0.9, temperatures=(0.5, 2.0))
    whole = sparsify(logits, original)
    assert_soft_ids(whole, logits, original, topk=4, mass=0.9)
    for n in {0, rows // 2, rows - 1}:
        alone = sparsify(logits[n : n + 1], original[n : n + 1])
        for name in ("ids", "keep", "logprobs", "log_tail", "original_logprob", "log_partition"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(whole, name)[n], rtol=0, atol=1e-6)


def test_a_work_buffer_of_another_chunk_leaves_no_trace() -> None:
    sparsify = Sparsifier(topk=4, temperatures=(2.0,))
    for rows, vocab, dtype in ((40, 300, torch.float32), (3, 300, torch.bfloat16), (70, 90, torch.float32), (40, 300, torch.float16)):
        logits, original = random_logits(rows, rows, vocab, dtype), torch.zeros(rows, dtype=torch.int64)
        found, fresh = sparsify(logits, original), Sparsifier(topk=4, temperatures=(2.0,))(logits, original)
        for name in ("ids", "logprobs", "log_tail", "log_partition"):
            assert torch.equal(getattr(found, name), getattr(fresh, name))
        assert_soft_ids(found, logits, original, topk=4)


def test_the_logits_are_left_as_they_were() -> None:
    logits = random_logits(0, 40, 500)
    before = logits.clone()
    Sparsifier(topk=5, mass=0.5, temperatures=(2.0,))(logits, torch.zeros(40, dtype=torch.int64))
    assert torch.equal(logits, before)


@given(st.data())
def test_soft_ids_of_any_shape_with_ties(data: st.DataObject) -> None:
    vocab = data.draw(st.one_of(st.integers(1, 40), st.integers(BLOCK * 4 - 3, BLOCK * 20)))
    topk = data.draw(st.integers(1, min(vocab, 12)))
    rows = data.draw(st.integers(1, GROUP + 3))
    steps = data.draw(st.sampled_from([1, 3, 1000]))  # few distinct values: many ties
    mass = data.draw(st.sampled_from([1.0, 0.99, 0.5, 0.01]))
    logits = (random_logits(data.draw(st.integers(0, 99)), rows, vocab) * steps).round() / steps
    original = torch.arange(rows) * 7 % vocab
    assert_soft_ids(Sparsifier(topk=topk, mass=mass)(logits, original), logits, original, topk=topk, mass=mass)


@given(st.integers(1, 700), st.integers(1, 30), st.integers(0, 1000))
def test_topk_finds_the_values_that_torch_finds(vocab: int, k: int, seed: int) -> None:
    logits = (random_logits(seed, 4, vocab) * 2).round()
    k = min(k, vocab)
    values, ids = topk_exact(logits, k)
    assert torch.equal(values, logits.topk(k, dim=-1).values)
    assert torch.equal(logits.gather(1, ids), values)


def test_equal_logits_come_by_id() -> None:
    found = Sparsifier(topk=5)(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    assert found.ids.tolist() == [[0, 1, 2, 3, 4]] * 2


EXTREMES = {
    "one huge peak": lambda x: x.index_fill(1, torch.tensor([3]), 1e4),
    "one huge pit": lambda x: x.index_fill(1, torch.tensor([3]), -1e4),
    "far up": lambda x: x + 1e4,
    "far down": lambda x: x - 1e4,
    "flat": lambda x: x * 0,
    "both ends": lambda x: torch.where(x > 0, 1e4, -1e4),
    "a peak of 20": lambda x: (x / 10).index_fill(1, torch.tensor([3]), 20.0),
    "a peak of 60": lambda x: (x / 10).index_fill(1, torch.tensor([3]), 60.0),
}


@pytest.mark.parametrize("topk", [1, 8])
@pytest.mark.parametrize("mass", [1.0, 0.5])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_logits_cancel_nothing(name: str, mass: float, topk: int) -> None:
    logits = EXTREMES[name](random_logits(2, GROUP + 2, 1000))
    original = torch.arange(GROUP + 2)
    assert_soft_ids(Sparsifier(topk=topk, mass=mass)(logits, original), logits, original, topk=topk, mass=mass)


def test_the_tail_behind_a_sure_token_keeps_its_digits() -> None:
    """1 - sum(p) would be 0 in float32; the sum of the rest is not."""
    logits = torch.zeros(1, 1000)
    logits[0, 3] = 40.0
    found = Sparsifier(topk=1)(logits, torch.tensor([3]))
    assert found.log_tail.item() == pytest.approx(np.log(999) - 40.0, abs=1e-5)


def test_impossible_tokens_are_impossible() -> None:
    logits = random_logits(3, 4, 600)
    logits[:, 100:] = -torch.inf
    found = Sparsifier(topk=8, temperatures=(2.0,))(logits, torch.tensor([0, 50, 99, 200]))
    assert_all = log_softmax(logits)
    assert (found.ids < 100).all()
    np.testing.assert_allclose(found.logprobs.numpy(), -np.sort(-assert_all, axis=1)[:, :8], atol=1e-5)
    assert found.original_logprob[3].item() == -torch.inf
    assert torch.isfinite(found.log_partition).all()


def test_more_entries_than_the_vocabulary_are_an_error() -> None:
    with pytest.raises(ValueError, match="topk 8 is more than the 7 entries"):
        Sparsifier(topk=8)(torch.zeros(1, 7), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("where", [0, 63, 64, 299, 300, 319])
def test_nan_is_not_hidden(where: int) -> None:
    logits = random_logits(4, 3, 320)
    logits[1, where] = torch.nan
    found = Sparsifier(topk=2)(logits, torch.zeros(3, dtype=torch.int64))
    assert torch.isnan(found.logprobs[1]).any()
    assert not torch.isnan(found.logprobs[[0, 2]]).any()


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 17), st.sampled_from([1.0, 0.7]))
def test_gathered_soft_ids_stand_in_reading_order(seed: int, tokens: int, chunk: int, mass: float) -> None:
    rng = np.random.default_rng(seed)
    position = rng.permutation(tokens)[: rng.integers(1, tokens + 1)]
    logits, original = random_logits(seed, len(position), 90), torch.from_numpy(rng.integers(0, 90, len(position)))
    sparsify = Sparsifier(topk=5, mass=mass, temperatures=(2.0, 4.0))
    parts = [slice(i, i + chunk) for i in range(0, len(position), chunk)]
    soft = gather_soft_ids([sparsify(logits[p], original[p]) for p in parts], position, tokens=tokens, vocab_size=90, temperatures=2)
    whole = sparsify(logits, original)
    assert (soft.ids.dtype, len(soft), soft.log_partition.shape) == (np.uint16, tokens, (tokens, 2))
    there = {int(p): n for n, p in enumerate(position)}
    for token in range(tokens):
        part = slice(soft.offsets[token], soft.offsets[token + 1])
        if token not in there:
            assert len(soft.ids[part]) == 0
            assert (soft.log_tail[token], soft.original_logprob[token]) == (-np.inf, 0)
            assert not soft.log_partition[token].any()
            continue
        n = there[token]
        kept = int(whole.keep[n])
        assert soft.ids[part].tolist() == whole.ids[n, :kept].tolist()
        np.testing.assert_allclose(soft.logprobs[part], whole.logprobs[n, :kept], atol=1e-6)
        np.testing.assert_allclose(soft.log_tail[token], whole.log_tail[n], atol=1e-5)
        np.testing.assert_allclose(soft.original_logprob[token], whole.original_logprob[n], atol=1e-6)
        np.testing.assert_allclose(soft.log_partition[token], whole.log_partition[n], atol=1e-6)


def test_no_chunks_leave_every_token_plain() -> None:
    soft = gather_soft_ids([], np.empty(0, np.int64), tokens=4, vocab_size=70_000)
    assert (soft.ids.dtype, soft.offsets.tolist(), soft.log_tail.tolist()) == (np.uint32, [0] * 5, [-np.inf] * 4)
