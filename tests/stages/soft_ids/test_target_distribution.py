"""Cuts of soft ids, draws from them, and the counter-based numbers that draws are made with."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from textsmooth.schemas.smoothing import TAILS, Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.soft_ids.counter_rng import uniform
from textsmooth.stages.soft_ids.target_distribution import draw, keep_entries, target_distribution

GOLDEN = [0.07930913679348084, 0.4705365602888165, 0.39853469713645795]


def soft_of(*tokens: list[float], dtype: type = np.float32) -> SoftIds:
    """Soft ids with these probabilities, token by token; ids count up from 10."""
    counts = [len(probs) for probs in tokens]
    flat = np.log(np.array([p for probs in tokens for p in probs]))
    with np.errstate(divide="ignore"):
        tail = np.log([1 - sum(probs) if probs else 0.0 for probs in tokens])
    return SoftIds(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        ids=np.concatenate([np.arange(10, 10 + count) for count in counts]).astype(np.uint16),
        logprobs=flat.astype(dtype),
        log_tail=tail,
        original_logprob=np.zeros(len(tokens)),
        log_partition=np.zeros((len(tokens), 0), np.float32),
    )


def test_numbers_are_a_function_of_their_counters_alone():
    rows, draws = np.arange(50), np.arange(4)
    table = uniform("draw/0/0", rows[:, None], draws)
    assert table.shape == (50, 4)
    assert table[13, 2] == uniform("draw/0/0", 13, 2) == uniform("draw/0/0", np.array([13], np.int32), np.uint8(2))[0]
    assert uniform("draw/0/0", 2, 13) != table[13, 2]
    assert len(np.unique(np.concatenate([table, uniform("draw/0/1", rows[:, None], draws)]))) == 400
    # forever: a dataset and a seed must give the same training run in every version
    assert [float(x) for x in uniform("lam/0/0", np.arange(3), 0)] == pytest.approx(GOLDEN, abs=1e-15)


def test_numbers_are_uniform_and_neighbours_are_independent():
    table = uniform("x", np.arange(2000)[:, None], np.arange(10))
    assert 0 <= table.min() < table.max() < 1
    assert kstest(table.ravel(), "uniform").pvalue > 1e-3
    for one, other in ((table[1:], table[:-1]), (table[:, 1:], table[:, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("tail", TAILS)
def test_a_cut_is_a_prefix_whose_mass_and_tail_sum_to_1(tail, dtype):
    soft = soft_of([0.5, 0.2, 0.1], [], [0.9], [0.4, 0.3, 0.2, 0.05], dtype=dtype)
    found = target_distribution(soft, Smoothing(mass=0.65, tail=tail))
    assert found.counts.tolist() == [2, 0, 1, 2]
    assert found.ids.tolist() == [10, 11, 10, 10, 11]
    sums = [found.probs[:2].sum(), found.probs[2], found.probs[3:].sum()]
    np.testing.assert_allclose(sums, [1, 1, 1] if tail == "renormalize" else [0.7, 0.9, 0.7], atol=1e-3)
    np.testing.assert_allclose(sums + found.tail[[0, 2, 3]], 1, atol=1e-6)
    assert found.tail[1] == 0
    assert target_distribution(soft, Smoothing(topk=1, mass=0.65, tail=tail)).ids.tolist() == [10, 10, 10]


def test_nothing_to_cut():
    for soft in (soft_of([], []), soft_of([])):
        found = target_distribution(soft, Smoothing(temperature=0.5, tail="renormalize"))
        assert not found.counts.any() and not len(found.ids) and not found.tail.any()
        assert draw(found, np.zeros((len(soft), 4))) is found


def test_the_stored_arrays_are_never_written_to():
    soft = soft_of([0.5, 0.2], [0.6, 0.3])
    for array in vars(soft).values():
        array.flags.writeable = False
    for tail in TAILS:
        for mass in (0.55, 1.0):
            draw(target_distribution(soft, Smoothing(tail=tail, mass=mass)), np.full((2, 3), 0.5))


def test_a_very_cold_temperature_leaves_the_first_entry():
    found = target_distribution(soft_of([0.3, 0.2], [0.001, 0.0001]), Smoothing(temperature=0.001, tail="renormalize"))
    np.testing.assert_array_equal(found.probs, [1, 0, 1, 0])


def test_draws_are_the_inverse_of_the_distribution():
    entries = target_distribution(soft_of([0.5, 0.25, 0.125], [], [0.75]), Smoothing(tail="mean"))
    u = np.array([[0.0, 0.49, 0.51, 0.74, 0.76, 0.874, 0.876, 0.999]])
    found = draw(entries, np.repeat(u, 3, axis=0))
    assert found.ids.tolist() == [10, 10, 11, 11, 12, 12, *[10] * 4]
    assert found.counts.tolist() == [6, 0, 4]
    np.testing.assert_allclose(found.tail, [2 / 8, 0, 4 / 8])
    assert (found.probs == 1 / 8).all()


def test_without_a_tail_every_draw_is_an_entry():
    entries = target_distribution(soft_of([0.5, 0.2, 0.1], [0.3, 0.3]), Smoothing(tail="renormalize"))
    found = draw(entries, np.full((2, 5), np.nextafter(1, 0)))
    assert found.ids.tolist() == [12] * 5 + [11] * 5
    assert not found.tail.any()


_PROBS = st.lists(st.integers(1, 1000), max_size=9).map(lambda parts: [part / (sum(parts) + 100) for part in parts])


@given(st.lists(_PROBS, min_size=1, max_size=6), st.integers(1, 5), st.sampled_from(TAILS), st.data())
def test_a_draw_is_the_entry_whose_stretch_a_number_falls_in(tokens, draws, tail, data):
    """Also where it is an end of a stretch, to the bit."""
    entries = target_distribution(soft_of(*tokens), Smoothing(tail=tail))
    begins = np.concatenate([[0], np.cumsum(entries.counts)])
    ends = [np.cumsum(entries.probs[a:b], dtype=np.float64) for a, b in itertools.pairwise(begins)]
    numbers = [st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, *end.tolist()])) for end in ends]
    uniforms = np.array([[data.draw(some) for _ in range(draws)] for some in numbers])
    found = draw(entries, uniforms)
    drawn = []
    for token, end in enumerate(ends):
        place = np.searchsorted(end, uniforms[token], side="right") if len(end) else np.zeros(0, int)
        place = np.minimum(place, len(end) - 1) if entries.tail[token] == 0 else place[place < len(end)]
        drawn.append(entries.ids[begins[token] + place].tolist())
    assert found.ids.tolist() == [number for ids in drawn for number in ids]
    assert found.counts.tolist() == [len(ids) for ids in drawn]


def test_entries_of_other_tokens_are_taken_out():
    soft = soft_of([0.5, 0.2], [], [0.9], [0.4, 0.3])
    found = keep_entries(soft, np.array([True, True, False, True]))
    assert found.offsets.tolist() == [0, 2, 2, 2, 4]
    assert found.ids.tolist() == [10, 11, 10, 11]
    assert found.log_tail[2] == -np.inf and found.log_tail[3] == soft.log_tail[3]
