"""Temperatures that are not stored: the bound holds for any distribution, and a bound that is too loose is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.soft_ids.target_distribution import target_distribution
from textsmooth.stages.soft_ids.temperature import MOST_ERROR, interpolate, interpolation_error, temperature_note


def stored_as(logprobs, kept, temperatures):
    """[N, V] float64 -> soft ids as a shard has them, rounded to float16. kept: [N] entries."""
    order = np.argsort(-logprobs, axis=1, kind="stable")
    keep = np.arange(logprobs.shape[1]) < kept[:, None]
    ranked = np.take_along_axis(logprobs, order, 1)
    with np.errstate(divide="ignore"):
        tail = np.log((np.exp(ranked) * ~keep).sum(1))
    tail[tail < -87] = -np.inf
    return SoftIds(
        offsets=np.concatenate([[0], np.cumsum(kept)]),
        ids=order[keep].astype(np.uint16),
        logprobs=ranked[keep].astype(np.float16),
        log_tail=tail.astype(np.float16),
        original_logprob=np.zeros(len(kept)),
        log_partition=np.stack([np.zeros(len(kept)), *(whole(logprobs, t) for t in temperatures)], 1)[:, 1:].astype(np.float32),
    )


def whole(logprobs, temperature):
    peak = logprobs.max(1) / temperature
    return peak + np.log(np.exp(logprobs / temperature - peak[:, None]).sum(1))


def tail_share(logprobs, kept, temperature):
    """The definition: what the others than the `kept` most probable are of the whole at a temperature, [N]."""
    ranked = -np.sort(-logprobs, axis=1)
    p = np.exp(ranked / temperature - whole(logprobs, temperature)[:, None])
    return (p * (np.arange(p.shape[1]) >= kept[:, None])).sum(1)


def random_logprobs(rng, shape, scale, peak):
    logits = rng.normal(0, scale, shape)
    logits[:, 0] += peak
    return logits - whole(logits, 1.0)[:, None]


TEMPERATURE = st.floats(0.05, 20, allow_nan=False)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.integers(1, 300),
    scale=st.sampled_from([0.01, 0.5, 2.0, 6.0, 30.0]),
    peak=st.sampled_from([0.0, 5.0, 15.0, 60.0]),
    stored=st.lists(TEMPERATURE.filter(lambda t: abs(t - 1) > 1e-3), max_size=3, unique=True),
    temperature=TEMPERATURE,
    data=st.data(),
)
def test_the_true_share_of_the_tail_is_always_within_the_bound(seed, vocab, scale, peak, stored, temperature, data):
    rng = np.random.default_rng(seed)
    logprobs = random_logprobs(rng, (8, vocab), scale, peak)
    kept = np.array(data.draw(st.lists(st.integers(1, min(vocab, 20)), min_size=8, max_size=8)))
    soft = stored_as(logprobs, kept, stored)
    partition, bound = interpolate(soft, temperature, tuple(stored), vocab)
    assert np.isfinite(partition).all() and (bound >= 0).all() and (bound <= 0.5).all()
    probs = np.exp(soft.logprobs.astype(float) / temperature - np.repeat(partition, kept))
    off = np.abs(1 - np.add.reduceat(probs, soft.offsets[:-1]) - tail_share(logprobs, kept, temperature))
    assert (off <= bound + 1e-4).all()


def test_between_stored_temperatures_the_bound_is_tight_and_the_error_far_below():
    logprobs = random_logprobs(np.random.default_rng(1), (50, 2000), 3.0, 8.0)
    kept = np.full(50, 16)
    found = {}
    for stored in ((), (2.0,), (2.0, 4.0)):
        soft = stored_as(logprobs, kept, stored)
        partition, bound = interpolate(soft, 3.0, stored, 2000)
        share = 1 - np.exp(soft.logprobs.reshape(50, 16).astype(float) / 3.0 - partition[:, None]).sum(1)
        found[stored] = bound.mean(), np.abs(share - tail_share(logprobs, kept, 3.0)).mean()
    assert found[2.0, 4.0][0] < 0.01
    assert found[2.0, 4.0][0] < found[(2.0,)][0] / 2 < found[()][0] / 4
    assert all(error < bound for bound, error in found.values())


def test_known_temperatures_come_back_as_they_were():
    logprobs = random_logprobs(np.random.default_rng(2), (20, 500), 2.0, 3.0)
    soft = stored_as(logprobs, np.full(20, 8), (2.0,))
    for temperature in (1.0, 2.0):
        partition, bound = interpolate(soft, temperature, (2.0,), 500)
        np.testing.assert_allclose(partition, whole(logprobs, temperature), atol=4e-3)  # float16 of the entries
        assert bound.max() < 4e-3


def test_plain_tokens_are_certain():
    soft = stored_as(random_logprobs(np.random.default_rng(3), (2, 30), 2.0, 3.0), np.array([0, 4]), ())
    partition, bound = interpolate(soft, 2.0, (), 30)
    assert partition[0] == bound[0] == 0 < bound[1]
    assert all(not len(part) for part in interpolate(stored_as(np.zeros((0, 30)), np.zeros(0, int), ()), 2.0, (), 30))


def test_a_cut_at_an_interpolated_temperature_sums_to_1_with_its_tail():
    logprobs = random_logprobs(np.random.default_rng(4), (20, 500), 2.0, 3.0)
    soft = stored_as(logprobs, np.full(20, 8), (2.0,))
    found = target_distribution(soft, Smoothing(temperature=3.0, tail="mean"), (2.0,), 500)
    np.testing.assert_allclose(found.probs.reshape(20, 8).sum(1) + found.tail, 1, atol=1e-6)
    off = np.abs(found.tail - tail_share(logprobs, np.full(20, 8), 3.0))
    assert (off <= interpolate(soft, 3.0, (2.0,), 500)[1] + 1e-4).all()
    with pytest.raises(UsageError, match="temperature 3 is not stored in this dataset, it has 1, 2"):
        target_distribution(soft, Smoothing(temperature=3.0, tail="mean"), (2.0,))


def test_a_trainer_can_tell_how_far_off_it_may_be(smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    mean, most = interpolation_error(dataset.sample_soft_ids(), 1.5, dataset.temperatures, dataset.vocab_size)
    assert 0 < mean < most < MOST_ERROR
    facts = (dataset.temperatures, dataset.vocab_size, dataset.sample_soft_ids)
    note = temperature_note(Smoothing(temperature=1.5, tail="mean"), *facts)
    off = f"probabilities off by at most {mean:.2g} on average (worst {most:.2g})"
    collate = SmoothedCollator.for_dataset(dataset, smoothing=Smoothing(temperature=1.5, tail="mean"))
    assert collate.note == note == f"temperature 1.5 is not stored (it has 0.5, 1, 2): interpolated, {off}"
    for exact in ({"temperature": 2.0}, {"temperature": 1.0}, {"temperature": 1.5, "tail": "renormalize"}):
        assert temperature_note(Smoothing(**{"tail": "mean", **exact}), *facts) is None


def test_a_bound_that_is_too_loose_is_refused(smoothed, monkeypatch):
    dataset = SmoothedDataset(smoothed, "train")
    block = dataset.batch(np.arange(100))
    soft = dataclasses.replace(block.soft, log_partition=block.soft.log_partition[:, :0])
    monkeypatch.setattr(dataset, "batch", lambda rows: dataclasses.replace(block, soft=soft))
    monkeypatch.setattr(SmoothedDataset, "temperatures", ())
    with pytest.raises(
        UsageError,
        match=r"temperature 4 is not stored .* it has 1, and what is known leaves probabilities uncertain by 0\.\d+ .*--temperatures 4",
    ):
        SmoothedCollator.for_dataset(dataset, smoothing=Smoothing(temperature=4.0, tail="mean"))
