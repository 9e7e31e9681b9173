"""Order: a permutation that depends on nothing but its inputs. Access: the rows that were written. Damage: one clear line."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.stages.stream import SampleOrder, SmoothedDataset, concatenate


def _order(shard_rows, seed=0, epoch=0, dataset="d", window_rows=7):
    return SampleOrder(shard_rows=tuple(shard_rows), dataset=dataset, seed=seed, epoch=epoch, window_rows=window_rows)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 99), st.integers(0, 9), st.integers(1, 64))
def test_every_row_comes_exactly_once(shard_rows, seed, epoch, window):
    order = _order(shard_rows, seed, epoch, window_rows=window)
    assert sorted(order.take(0, len(order))) == list(range(sum(shard_rows)))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_any_stretch_is_that_of_the_whole(shard_rows, data):
    order = _order(shard_rows)
    start = data.draw(st.integers(0, len(order)))
    stop = data.draw(st.integers(start, len(order) + 3))
    np.testing.assert_array_equal(order.take(start, stop), order.take(0, len(order))[start:stop])


def test_order_depends_on_dataset_seed_and_epoch():
    base = _order([50, 60]).take(0, 110)
    np.testing.assert_array_equal(base, _order([50, 60]).take(0, 110))
    for other in (_order([50, 60], seed=1), _order([50, 60], epoch=1), _order([50, 60], dataset="e")):
        assert not np.array_equal(base, other.take(0, 110))


def test_order_is_the_same_for_ever():
    assert _order([5, 3, 8], seed=3, epoch=2, dataset="golden").take(0, 16).tolist() == GOLDEN


GOLDEN = [10, 13, 12, 8, 11, 9, 14, 5, 3, 0, 1, 4, 15, 2, 7, 6]


def test_windows_are_bounded():
    """A window holds a stretch of the sequence of permuted shards: few shards are open at a time."""
    order = _order([100] * 10, window_rows=100)
    for number in range(10):
        assert len(set(order.window(number) // 100)) == 1


def test_rows_come_back_as_written(kit, smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    written = concatenate([kit.random_rows(1, 270).block, kit.random_rows(2, 30, first_row=270).block])
    assert len(dataset) == 300
    indices = np.array([299, 0, 255, 256, 269, 270, 0])
    block = dataset.batch(indices)
    np.testing.assert_array_equal(block.row, indices)
    np.testing.assert_array_equal(block.label, written.label[indices])
    for place, index in enumerate(indices):
        here = slice(*block.row_offsets[place : place + 2])
        there = slice(*written.row_offsets[index : index + 2])
        np.testing.assert_array_equal(block.input_ids[here], written.input_ids[there])
        np.testing.assert_array_equal(block.token_type_ids[here], written.token_type_ids[there])
        np.testing.assert_array_equal(block.soft.log_partition[here], written.soft.log_partition[there])
        np.testing.assert_allclose(block.soft.original_logprob[here], written.soft.original_logprob[there], rtol=1e-3, atol=1e-3)
        entries = slice(block.soft.offsets[here.start], block.soft.offsets[here.stop])
        expected = slice(written.soft.offsets[there.start], written.soft.offsets[there.stop])
        np.testing.assert_array_equal(block.soft.ids[entries], written.soft.ids[expected])
        np.testing.assert_array_equal(block.soft.logprobs[entries], written.soft.logprobs[expected].astype(np.float16))
        np.testing.assert_array_equal(
            np.diff(block.soft.offsets[here.start : here.stop + 1]), np.diff(written.soft.offsets[there.start : there.stop + 1])
        )


def test_lengths_and_labels_are_those_of_all_rows(smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    block = dataset.batch(np.arange(300))
    np.testing.assert_array_equal(dataset.lengths, np.diff(block.row_offsets))
    np.testing.assert_array_equal(dataset.labels, block.label)
    assert dataset.temperatures == (0.5, 2.0)


def test_closed_shards_and_forgotten_blocks_are_read_again(smoothed, monkeypatch):
    monkeypatch.setattr("textsmooth.stages.stream.CACHED_TOKENS", 1)
    monkeypatch.setattr("textsmooth.stages.stream.OPEN_SHARDS", 1)
    dataset = SmoothedDataset(smoothed, "train")
    rows = np.array([0, 299, 260, 1])
    np.testing.assert_array_equal(dataset.batch(rows).input_ids, SmoothedDataset(smoothed, "train").batch(rows).input_ids)
    assert len(dataset._blocks) == len(dataset._readers) == 1
    assert len(dataset.lengths) == 300


def test_order_over_the_first_rows(smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    order = dataset.order(seed=0, epoch=0, rows=275)
    assert order.shard_rows == (270, 5)
    assert sorted(order.take(0, 999)) == list(range(275))


@pytest.mark.parametrize("index", [-1, 300])
def test_rows_outside_are_refused(smoothed, index):
    with pytest.raises(IndexError, match="outside a split of 300 rows"):
        SmoothedDataset(smoothed, "train").batch(np.array([index]))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "shard train/00001.arrow is missing .* make it again"),
        (_cut, r"shard train/00001.arrow has [\d,]+ bytes, the manifest says [\d,]+; fetch the dataset again"),
        (_flip, "shard train/00001.arrow was altered: its sha256"),
    ],
)
def test_a_damaged_shard_is_named(smoothed, tmp_path, damage, said):
    folder = shutil.copytree(smoothed, tmp_path / "copy")
    damage(folder / "train/00001.arrow")
    with pytest.raises(DatasetError, match=said):
        SmoothedDataset(folder, "train").batch(np.arange(300))


def test_without_verify_shards_are_not_hashed(smoothed, monkeypatch):
    monkeypatch.setattr("textsmooth.stages.stream.file_sha256", lambda path: pytest.fail("hashed"))
    assert len(SmoothedDataset(smoothed, "train", verify=False).batch(np.arange(300))) == 300


def test_an_unknown_split_names_those_there_are(smoothed):
    with pytest.raises(UsageError, match="no split 'dev' in this dataset; it has train, validation"):
        SmoothedDataset(smoothed, "dev")


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        SmoothedDataset(tmp_path, "train")
