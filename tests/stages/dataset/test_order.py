"""The order of an epoch: a permutation that depends on nothing but its inputs; global batches that lose no row, and keep to a budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.dataset import order as order_module
from textsmooth.stages.dataset.order import GlobalBatches, SampleOrder, fit


def _order(shard_rows, seed=0, epoch=0, dataset="d", window_rows=7, shuffle=True):
    return SampleOrder(shard_rows=tuple(shard_rows), dataset=dataset, seed=seed, epoch=epoch, window_rows=window_rows, shuffle=shuffle)


def _rows(order):
    """Of the whole epoch."""
    return np.concatenate([order.window(number) for number in range(order.windows)])


def _batches(order, *, size=None, tokens=None, lengths=None, usable=None):
    lengths = np.ones(len(order), np.int64) if lengths is None else lengths
    return GlobalBatches(order=order, batch_size=size or 1, batch_tokens=tokens, usable=usable, lengths_of=lambda rows: lengths[rows])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 99), st.integers(0, 9), st.integers(1, 64))
def test_every_row_comes_exactly_once(shard_rows, seed, epoch, window):
    order = _order(shard_rows, seed, epoch, window_rows=window)
    assert sorted(_rows(order)) == list(range(sum(shard_rows)))


def test_order_depends_on_dataset_seed_and_epoch():
    base = _rows(_order([50, 60]))
    np.testing.assert_array_equal(base, _rows(_order([50, 60])))
    for other in (_order([50, 60], seed=1), _order([50, 60], epoch=1), _order([50, 60], dataset="e")):
        assert not np.array_equal(base, _rows(other))
    np.testing.assert_array_equal(_rows(_order([50, 60], shuffle=False)), np.arange(110))


GOLDEN = [10, 13, 12, 8, 11, 9, 14, 5, 3, 0, 1, 4, 15, 2, 7, 6]
GOLDEN_LENGTHS = np.array([3, 9, 4, 4, 7, 1, 5, 5, 2, 8, 6, 6, 3, 2, 9, 30])
GOLDEN_BUCKETS = [[7], [1], [2], [14], [9], [3, 6], [5, 8, 0], [11], [13, 12], [10], [15], [4]]


def test_order_is_the_same_for_ever():
    """Another order for the same inputs needs another ORDER_VERSION: whoever resumes relies on it."""
    order = _order([5, 3, 8], seed=3, epoch=2, dataset="golden")
    assert order_module.ORDER_VERSION == 1
    assert _rows(order).tolist() == GOLDEN
    order = _order([5, 3, 8], seed=3, epoch=2, dataset="golden", window_rows=16)
    found = [batch.rows.tolist() for batch in _batches(order, tokens=12, lengths=GOLDEN_LENGTHS).after(0, 0)]
    assert found == GOLDEN_BUCKETS


def test_windows_are_bounded():
    """A window holds a stretch of the sequence of permuted shards: few shards are open at a time."""
    order = _order([100] * 10, window_rows=100)
    for number in range(10):
        assert len(set(order.window(number) // 100)) == 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 40))
def test_the_shards_of_a_window_are_known_before_it_is_shuffled(shard_rows, window):
    order = _order(shard_rows, window_rows=window)
    ends = np.cumsum(shard_rows)
    for number in range(order.windows):
        touched = set(np.searchsorted(ends, order.window(number), side="right"))
        assert {int(s) for s in np.searchsorted(ends, order.window_shards(number), side="right")} == touched
    assert not len(order.window_shards(order.windows))


_SIZES = st.one_of(st.tuples(st.integers(1, 20), st.none()), st.tuples(st.none(), st.integers(1, 90)))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), _SIZES, st.integers(1, 50), st.booleans(), st.data())
def test_global_batches_are_an_epoch_however_it_is_taken_up(shard_rows, how, window, shuffle, data):
    rows = sum(shard_rows)
    lengths = np.array(data.draw(st.lists(st.integers(1, 30), min_size=rows, max_size=rows)))
    order = _order(shard_rows, window_rows=window, shuffle=shuffle)
    batches = _batches(order, size=how[0], tokens=how[1], lengths=lengths)
    whole = list(batches.after(0, 0))
    assert sorted(np.concatenate([b.rows for b in whole])) == list(range(rows))
    assert [b.step for b in whole] == list(range(len(whole))) and [len(b.rows) for b in whole] == batches.sizes().tolist()
    assert whole[0].begin == 0 and whole[-1].end == rows and [b.end for b in whole[:-1]] == [b.begin for b in whole[1:]]
    for at in {0, len(whole) - 1, data.draw(st.integers(0, len(whole) - 1))}:
        rest = list(batches.after(whole[at].step, whole[at].begin))
        assert [b.rows.tolist() for b in rest] == [b.rows.tolist() for b in whole[at:]]
        assert [b.step for b in rest] == [b.step for b in whole[at:]]
    assert not list(batches.after(len(whole), rows))
    if how[1]:
        for batch in whole:
            assert len(batch.rows) == 1 or len(batch.rows) * lengths[batch.rows].max() <= how[1]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 120))
def test_a_batch_ends_only_where_the_next_row_would_not_fit(lengths, budget):
    rising = np.sort(np.array(lengths))
    ends = fit(rising, budget)
    assert ends[-1] == len(lengths)
    for start, end in zip([0, *ends], ends, strict=False):
        assert end - start == 1 or (end - start) * rising[end - 1] <= budget
        assert end == len(lengths) or (end - start + 1) * rising[end] > budget


def test_rows_that_are_not_used_are_not_numbered():
    usable = np.array([3, 4, 8, 20, 21, 22])
    found = [b.rows for b in _batches(_order([3, 3]), size=4, usable=usable).after(0, 0)]
    assert [len(rows) for rows in found] == [4, 2] and sorted(np.concatenate(found)) == usable.tolist()


def test_buckets_keep_the_shuffle_and_save_padding():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3, 0.6, 8000), 3, 200).astype(np.int64)

    def epoch(number, **how):
        order = _order([1500, 4000, 2500], epoch=number, window_rows=65_536)
        return [b.rows for b in _batches(order, lengths=lengths, **how).after(0, 0)]

    def padded(batches):
        return sum(len(rows) * lengths[rows].max() for rows in batches) / lengths.sum()

    bucketed, other, plain = epoch(0, tokens=2048), epoch(1, tokens=2048), epoch(0, size=80)
    assert padded(bucketed) < 1.1 < 2 < padded(plain)
    longest = np.array([lengths[rows].max() for rows in bucketed])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3  # no order of length over the epoch
    # who is with whom differs from epoch to epoch: of the pairs in a batch few are together again
    where = np.empty(8000, np.int64)
    for number, rows in enumerate(other):
        where[rows] = number
    together = np.mean([np.mean(where[rows[1:]] == where[rows[:-1]]) for rows in bucketed if len(rows) > 1])
    assert together < 0.3


def test_only_the_window_at_hand_is_measured():
    asked = []

    def lengths_of(rows):
        asked.append(sorted(rows.tolist()))
        return np.full(len(rows), 4)

    order = _order([20], window_rows=5, shuffle=False)
    batches = GlobalBatches(order=order, batch_size=1, batch_tokens=8, usable=None, lengths_of=lengths_of)
    entered = []
    assert next(batches.after(8, 14, entered.append)).rows.tolist() == [14]
    assert asked == [[10, 11, 12, 13, 14]] and entered == [2]


@pytest.mark.parametrize(("how", "step", "samples"), [({"size": 4}, 2, 7), ({"size": 4}, 1, 8), ({"tokens": 8}, 1, 3)])
def test_a_place_between_batches_is_refused(how, step, samples):
    lengths = np.full(20, 4)
    with pytest.raises(UsageError, match="no global batch begins after"):
        list(_batches(_order([20], shuffle=False, window_rows=20), lengths=lengths, **how).after(step, samples))
