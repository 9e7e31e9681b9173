"""Sums of a unit are those of numpy on the dense table, and add up over units."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.soft_ids.statistics import BINS, UnitStats, captured_by_temperature, captured_warning

TOPK = 6


def dense(seed: int, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([N, K] probabilities with 0 behind each token's last entry, [N] entries, [N] p(original))."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, TOPK + 1, tokens)
    probs = -np.sort(-rng.dirichlet(np.ones(TOPK + 3), tokens), axis=1)[:, :TOPK]
    return probs * (np.arange(TOPK)[None, :] < sizes[:, None]), sizes, rng.random(tokens)


def soft_ids(probs: np.ndarray, sizes: np.ndarray, original: np.ndarray) -> SoftIds:
    tokens = len(sizes)
    kept = np.arange(TOPK)[None, :] < sizes[:, None]
    return SoftIds(
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        ids=np.zeros(int(sizes.sum()), np.uint16),
        logprobs=np.log(probs[kept]),
        log_tail=np.zeros(tokens),
        original_logprob=np.where(sizes > 0, np.log(original), 0.0),
        log_partition=np.zeros((tokens, 0), np.float32),
    )


@given(st.integers(0, 10_000), st.integers(0, 60))
def test_sums_are_those_of_the_dense_table(seed: int, tokens: int) -> None:
    probs, sizes, original = dense(seed, tokens)
    stats = UnitStats.of(soft_ids(probs, sizes, original), topk=TOPK, rows=3, padded=tokens * 2, truncated_rows=1)
    smooth = sizes > 0
    assert (stats.rows, stats.tokens, stats.smoothed, stats.entries) == (3, tokens, smooth.sum(), sizes.sum())
    np.testing.assert_allclose(stats.mass_by_rank, probs.sum(0), atol=1e-12)
    assert stats.original == pytest.approx(original[smooth].sum())
    assert sum(stats.original_bins) == smooth.sum()
    for b in range(BINS):
        assert stats.original_bins[b] == pytest.approx(((original[smooth] >= b / BINS) & (original[smooth] < (b + 1) / BINS)).sum(), abs=1)
    captured = stats.captured()
    assert set(captured) == {1, 2, 4, TOPK}
    for k, mass in captured.items():
        assert mass == pytest.approx(probs[smooth, :k].sum() / max(smooth.sum(), 1))


@given(st.integers(0, 10_000), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_units_add_up_to_the_whole(seed: int, sizes: list[int]) -> None:
    tables = [dense(seed + i, n) for i, n in enumerate(sizes)]
    parts = [UnitStats.of(soft_ids(*t), topk=TOPK, rows=1, padded=50) for t in tables]
    whole = UnitStats.of(
        soft_ids(*(np.concatenate(x) for x in zip(*tables, strict=True))), topk=TOPK, rows=len(sizes), padded=50 * len(sizes)
    )
    total = sum(parts, UnitStats())
    assert (total.mass_by_temperature, total.reached_mass) == ({}, None)
    for name, value in whole.to_json().items():
        if name in ("mass_by_temperature", "reached_mass"):
            continue
        np.testing.assert_allclose(getattr(total, name), value, err_msg=name)


def test_a_certain_token_falls_into_the_last_bin() -> None:
    stats = UnitStats.of(soft_ids(np.eye(1, TOPK), np.array([1]), np.array([1.0])), topk=TOPK)
    assert stats.original_bins[-1] == 1
    assert stats.original_quantile(0.5) == pytest.approx(0.995)


def test_quantiles_are_right_to_a_bin() -> None:
    rng = np.random.default_rng(0)
    original = rng.beta(2, 1, 5000)
    probs = np.zeros((5000, TOPK))
    probs[:, 0] = 0.5
    stats = UnitStats.of(soft_ids(probs, np.ones(5000, np.int64), original), topk=TOPK)
    for q in (0.05, 0.25, 0.5, 0.95):
        assert abs(stats.original_quantile(q) - np.quantile(original, q)) <= 1.5 / BINS


def test_the_summary_is_json_also_of_nothing() -> None:
    for stats in (UnitStats(), UnitStats.of(soft_ids(*dense(0, 0)), topk=TOPK), UnitStats.of(soft_ids(*dense(0, 9)), topk=TOPK, padded=12)):
        summary = json.loads(json.dumps(stats.summary(), allow_nan=False))
        assert set(summary["p_original"]) == {"mean", "q05", "q50"}
    assert summary["padding"] == pytest.approx(0.25)


def test_stats_survive_a_receipt() -> None:
    stats = UnitStats.of(soft_ids(*dense(1, 20)), topk=TOPK, rows=2)
    assert UnitStats(**json.loads(json.dumps(stats.to_json()))) == stats


def test_padding_is_that_of_all_passes_over_a_row() -> None:
    once = UnitStats(tokens=30, padded=40)
    thrice = UnitStats(tokens=30, padded=120, passed=90)
    assert once.summary()["padding"] == thrice.summary()["padding"] == pytest.approx(0.25)
    assert (thrice + thrice).summary()["padding"] == pytest.approx(0.25)


def test_a_receipt_from_before_there_were_passes_is_read() -> None:
    older = {k: v for k, v in UnitStats(tokens=3, padded=4).to_json().items() if k != "passed"}
    assert UnitStats(**older) == UnitStats(tokens=3, padded=4)


def at_temperatures(seed: int, tokens: int, temperatures: tuple[float, ...]) -> tuple[SoftIds, np.ndarray]:
    """(soft ids with log-partitions, [S, N, K] probabilities at the temperatures), of a dense table of 40 words."""
    table = -np.sort(-np.random.default_rng(seed).dirichlet(np.full(40, 0.3), tokens), axis=1) + 1e-12
    powers = np.stack([table ** (1 / t) for t in temperatures])  # [S, N, V]
    soft = SoftIds(
        offsets=np.arange(tokens + 1) * TOPK,
        ids=np.zeros(tokens * TOPK, np.uint16),
        logprobs=np.log(table[:, :TOPK]).ravel(),
        log_tail=np.log(table[:, TOPK:].sum(1)),
        original_logprob=np.zeros(tokens),
        log_partition=np.log(powers.sum(-1)).T.astype(np.float32),
    )
    return soft, (powers / powers.sum(-1, keepdims=True))[:, :, :TOPK]


def test_the_mass_at_every_temperature_is_that_of_the_dense_table() -> None:
    temperatures = (0.5, 2.0)
    soft, probs = at_temperatures(7, 50, temperatures)
    stats = UnitStats.of(soft, topk=TOPK, temperatures=temperatures, mass=0.7)
    captured = captured_by_temperature(json.loads(json.dumps(stats.summary())))
    assert list(captured) == [0.5, 1.0, 2.0] and captured[0.5][TOPK] > captured[1.0][TOPK] > captured[2.0][TOPK]
    for temperature, table in zip(temperatures, probs, strict=True):
        assert captured[temperature] == pytest.approx({k: table[:, :k].sum(-1).mean() for k in (1, 2, 4, TOPK)}, rel=1e-5)
    assert stats.summary()["reached_mass"] == pytest.approx((np.exp(soft.log_tail) <= 0.3).mean())
    assert 0 < stats.summary()["reached_mass"] < 1


def test_a_total_has_a_temperature_only_if_all_its_tokens_have() -> None:
    soft, _ = at_temperatures(1, 20, (2.0,))
    known, plain = UnitStats.of(soft, topk=TOPK, temperatures=(2.0,), mass=0.9), UnitStats(tokens=3)
    doubled, once = (captured_by_temperature(stats.summary())[2.0] for stats in (known + known, known))
    assert doubled == pytest.approx(once)
    for total in (UnitStats() + known, known + plain, plain + known):
        assert captured_by_temperature(total.summary()) == captured_by_temperature(known.summary())
        assert total.reached_mass == known.reached_mass
    unknown = UnitStats.of(soft, topk=TOPK)
    for total in (known + unknown, unknown + known, known + unknown + known):
        assert list(captured_by_temperature(total.summary())) == [1.0] and "reached_mass" not in total.summary()


def test_a_low_mass_is_warned_of_with_what_a_student_reads_instead() -> None:
    assert captured_warning({1.0: 0.8, 2.0: 0.95}, 16) is None
    warning = captured_warning({1.0: 0.91, 2.0: 0.163, 4.0: 0.02}, 16)
    assert warning is not None and "mean embedding (--tail mean)" in warning
    assert "the top 16 hold on average 16.3% of the probability at temperature 2, 2.0% of the probability at temperature 4." in warning
    assert "original token" in str(captured_warning({2.0: 0.5}, 4, tail="original"))
