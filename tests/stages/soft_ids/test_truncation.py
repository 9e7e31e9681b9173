"""Every figure is that of a dense float64 computation over the whole vocabulary."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from textsmooth.stages.soft_ids.topk import Sparsifier
from textsmooth.stages.soft_ids.truncation import Loss, Truncation, TruncationLoss

VOCAB = 700
CUTS = (*(Truncation(topk=k) for k in (1, 4, 32, 128, VOCAB)), *(Truncation(topk=32, mass=m) for m in (0.5, 0.9, 0.999)))


def logits(seed: int, tokens: int, scale: float) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (tokens, VOCAB)).astype(np.float32))


def measured(
    table: torch.Tensor, truncations: tuple[Truncation, ...] = CUTS, chunk: int = 64, temperatures: tuple[float, ...] = ()
) -> TruncationLoss:
    truncation_loss = TruncationLoss(truncations, temperatures)
    original = torch.arange(len(table)) % table.shape[1]
    for start in range(0, len(table), chunk):
        truncation_loss.add(table[start : start + chunk], original[start : start + chunk])
    return truncation_loss


def figures(loss: Loss) -> dict[str, float]:
    return {name: value for name, value in vars(loss).items() if name not in ("truncation", "captured_by_temperature")}


def dense(table: torch.Tensor, cut: Truncation) -> Loss:
    """The same, from p, q and q' written out over the vocabulary."""
    p = np.exp(log_softmax(table.double().numpy(), -1))
    q, spread = np.zeros_like(p), np.empty_like(p)
    entries = np.empty(len(p))
    for n, row in enumerate(p):
        order = np.argsort(-row, kind="stable")
        reached = np.concatenate([[0.0], np.cumsum(row[order])])[:-1] >= (cut.mass if cut.mass < 1 else np.inf)
        kept = order[: cut.topk][~reached[: cut.topk]]
        q[n, kept] = row[kept] / row[kept].sum()
        rest = np.delete(np.arange(VOCAB), kept)
        spread[n, kept], spread[n, rest] = row[kept], row[rest].sum() / max(len(rest), 1)
        entries[n] = len(kept)
    tv = np.abs(p - q).sum(-1) / 2
    return Loss(
        truncation=cut,
        entries=entries.mean(),
        captured=np.where(q > 0, p, 0).sum(-1).mean(),
        tv=tv.mean(),
        tv_95=np.quantile(tv, 0.95),
        kl_q_p=rel_entr(q, p).sum(-1).mean(),
        kl_p_spread=rel_entr(p, spread).sum(-1).mean(),
    )


def test_the_mass_at_a_temperature_is_that_of_the_entries_kept_at_temperature_1() -> None:
    table, temperatures = logits(3, 37, 3.0), (0.5, 2.0, 8.0)
    by_probability = -np.sort(-table.double().numpy(), -1)
    at_1 = np.exp(log_softmax(by_probability, -1))
    for loss in measured(table, chunk=16, temperatures=temperatures).losses():
        before = np.cumsum(at_1, -1) - at_1
        kept = (np.arange(VOCAB) < loss.truncation.topk) & (before < (loss.truncation.mass if loss.truncation.mass < 1 else 2.0))
        dense_masses = {t: (np.exp(log_softmax(by_probability / t, -1)) * kept).sum(-1).mean() for t in temperatures}
        assert loss.captured_by_temperature == pytest.approx(dense_masses)


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.0, 0.5, 3.0, 30.0]))
def test_every_figure_is_the_dense_one(seed: int, tokens: int, scale: float) -> None:
    table = logits(seed, tokens, scale)
    if scale == 0:  # all equal: which entries are kept is open, what is lost is not
        table += 5
    for found, cut in zip(measured(table, chunk=16).losses(), CUTS, strict=True):
        expected = dense(table, cut)
        assert figures(found) == pytest.approx(figures(expected), rel=1e-9, abs=1e-12)


def test_p_original_is_the_dense_one() -> None:
    table = logits(3, 150, 4.0)
    p = np.exp(log_softmax(table.double().numpy(), -1))
    np.testing.assert_allclose(measured(table).p_original, p[np.arange(150), np.arange(150)], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_kept_is_what_the_sparsifier_keeps(dtype: torch.dtype) -> None:
    table = logits(4, 60, 3.0).to(dtype)
    truncations = (Truncation(topk=16), Truncation(topk=16, mass=0.9))
    for cut, loss in zip(truncations, measured(table, truncations).losses(), strict=True):
        soft = Sparsifier(topk=cut.topk, mass=cut.mass)(table, torch.arange(60))
        assert loss.entries == pytest.approx(float(soft.keep.double().mean()))
        assert loss.tv == pytest.approx(float(soft.log_tail.double().exp().mean()), rel=1e-5)


def test_more_entries_lose_less() -> None:
    table = logits(5, 80, 3.0)
    by_k = measured(table, tuple(Truncation(topk=k) for k in (1, 2, 4, 8, 64, VOCAB))).losses()
    by_mass = measured(table, tuple(Truncation(topk=256, mass=m) for m in (0.1, 0.5, 0.9, 0.99, 1.0))).losses()
    for losses in (by_k, by_mass):
        for less, more in itertools.pairwise(losses):
            assert more.captured > less.captured
            for name in ("tv", "tv_95", "kl_q_p", "kl_p_spread"):
                assert getattr(more, name) < getattr(less, name), name
    for loss in (*by_k, *by_mass):
        assert loss.captured + loss.tv == pytest.approx(1, abs=1e-12)
        assert loss.kl_q_p >= -math.log1p(-loss.tv) - 1e-12  # Jensen
    assert (by_k[-1].captured, by_k[-1].tv, by_k[-1].kl_q_p, by_k[-1].kl_p_spread) == (1, 0, 0, 0)


def test_chunks_add_up() -> None:
    table = logits(6, 100, 2.0)
    whole, parts = measured(table, chunk=100), measured(table, chunk=7)
    assert len(whole) == len(parts) == 100
    np.testing.assert_allclose(whole.p_original, parts.p_original, rtol=1e-12)
    for a, b in zip(whole.losses(), parts.losses(), strict=True):
        assert figures(a) == pytest.approx(figures(b), rel=1e-12, abs=1e-15)


def test_impossible_tokens_count_for_nothing() -> None:
    """A padded vocabulary masked with -inf, and a token that is certain."""
    table = torch.full((3, VOCAB), -math.inf)
    table[:, :10] = logits(7, 3, 1.0)[:, :10]
    table[2] = -1e6
    table[2, 2] = 0.0
    p = np.exp(log_softmax(table.double().numpy(), -1))
    top4, top32 = measured(table, (Truncation(topk=4), Truncation(topk=32))).losses()
    assert top4.captured == pytest.approx(np.sort(p, -1)[:, -4:].sum(-1).mean())
    assert (top32.tv, top32.kl_p_spread) == (0, 0)


def test_nothing_seen_is_nan_and_more_entries_than_the_vocabulary_an_error() -> None:
    empty = TruncationLoss((Truncation(topk=4),))
    assert len(empty) == 0
    assert all(math.isnan(value) for value in figures(empty.losses()[0]).values())
    with pytest.raises(ValueError, match="topk 701 is more than the 700"):
        measured(logits(8, 2, 1.0), (Truncation(topk=VOCAB + 1),))
