"""Access: the rows that were written, in this process or another. Damage: one clear line that says how to mend it."""

import pickle
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from textsmooth.pipeline.cli import app as cli
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.row_gather import concatenate, gather
from textsmooth.stages.soft_ids.codec import decode


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
    monkeypatch.setattr("textsmooth.stages.dataset.dataset.OPEN_BLOCKS", 1)
    monkeypatch.setattr("textsmooth.stages.dataset.dataset.OPEN_SHARDS", 1)
    dataset = SmoothedDataset(smoothed, "train")
    rows = np.array([0, 299, 260, 1])
    np.testing.assert_array_equal(dataset.batch(rows).input_ids, SmoothedDataset(smoothed, "train").batch(rows).input_ids)
    assert len(dataset._blocks) == len(dataset._readers) == 1
    assert len(dataset.lengths) == 300


def test_order_over_some_rows(smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    order = dataset.order(seed=0, epoch=0, rows=np.arange(300) < 275)
    assert order.shard_rows == (270, 5)
    assert sorted(order.window(0)) == list(range(275))


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
        (lambda path: path.unlink(), "shard train/00001.arrow in .* is missing; fetch"),
        (_cut, r"shard train/00001.arrow in .* has [\d,]+ bytes, the manifest says [\d,]+; fetch"),
        (_flip, "shard train/00001.arrow in .* was altered, its sha256 is not the manifest's; fetch"),
    ],
)
def test_a_damaged_shard_is_named(smoothed, tmp_path, damage, said):
    folder = shutil.copytree(smoothed, tmp_path / "copy")
    damage(folder / "train/00001.arrow")
    with pytest.raises(DatasetError, match=said):
        SmoothedDataset(folder, "train").batch(np.arange(300))


def test_without_verify_shards_are_not_hashed(smoothed, monkeypatch):
    monkeypatch.setattr("textsmooth.stages.dataset.dataset.file_sha256", lambda path: pytest.fail("hashed"))
    assert len(SmoothedDataset(smoothed, "train", verify=False).batch(np.arange(300))) == 300


def test_an_unknown_split_names_those_there_are(smoothed):
    with pytest.raises(UsageError, match="no split 'dev' in this dataset; it has train, validation"):
        SmoothedDataset(smoothed, "dev")


def test_lists_that_point_anywhere_are_refused(kit, tmp_path, monkeypatch):
    """Their digests fit: the dataset is a stranger's. Read as they are, they end the process."""
    real = kit.shard_bytes

    def forged(batch):
        data, offsets = bytes(memoryview(real(batch))), batch.column("input_ids").offsets.to_numpy()
        assert data.count(offsets.tobytes()) >= 1
        return pa.py_buffer(data.replace(offsets.tobytes(), np.append(offsets[:-1], offsets[-1] + 100_000).astype(np.int32).tobytes()))

    monkeypatch.setattr(kit, "shard_bytes", forged)
    dataset = SmoothedDataset(kit.write_dataset(tmp_path / "d", {"train": [kit.random_rows(1, 20).block]}), "train")
    with pytest.raises(DatasetError, match=r"shard train/00000\.arrow in .* is damaged in rows"):
        dataset.batch(np.arange(20))


def test_ids_outside_the_vocabulary_are_refused(kit, tmp_path):
    block = kit.random_rows(1, 20).block
    block.soft.ids[7] = kit.VOCAB
    dataset = SmoothedDataset(kit.write_dataset(tmp_path / "d", {"train": [block]}), "train")
    with pytest.raises(DatasetError, match="has token id 60 in a vocabulary of 60"):
        dataset.batch(np.arange(20))


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        SmoothedDataset(tmp_path, "train")


def test_what_the_line_says_regenerates_just_the_damaged_shard(gen, reviews, teacher, tmp_path):
    made = ["--corpus", reviews, "--text-column", "text", "--topk", 4, "--rows-per-shard", 9]
    folder = tmp_path / "dataset"
    assert gen(*made, "--out", folder).code == 0
    before = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.arrow")}
    damaged = sorted(folder.rglob("*.arrow"))[2]
    _flip(damaged)
    with pytest.raises(DatasetError) as told:
        dataset = SmoothedDataset(folder, "train")
        dataset.batch(np.arange(len(dataset)))
    said = str(told.value)
    assert "\n" not in said and damaged.name in said
    command = shlex.split(said.partition(" or run ")[2].partition(": ")[0])
    assert command == ["textsmooth", "verify", str(folder), "--repair"]
    whole = [str(path) for path in folder.rglob("*.arrow") if path != damaged]
    times = {path: Path(path).stat().st_mtime_ns for path in whole}
    assert cli.run(cli.textsmooth, "textsmooth", [*command[1:], "--corpus", str(reviews), "--teacher", str(teacher)]) == 0
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.arrow")} == before
    assert {path: Path(path).stat().st_mtime_ns for path in whole} == times
    assert len(SmoothedDataset(folder, "train").lengths) == 40


def test_one_row_is_a_block_that_stands_alone(smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    indices = [299, 3, 269]
    together = dataset.batch(np.array(indices))
    for rows in (dataset.__getitems__(indices), [dataset[i] for i in indices]):
        assert all(len(row) == 1 and row.row_offsets[0] == row.soft.offsets[0] == 0 for row in rows)
        back = concatenate(rows)
        np.testing.assert_array_equal(back.row, indices)
        np.testing.assert_array_equal(back.soft.offsets, together.soft.offsets)
        np.testing.assert_array_equal(back.soft.ids, together.soft.ids)
        np.testing.assert_array_equal(back.soft.log_partition, together.soft.log_partition)
    with pytest.raises(IndexError):
        dataset[300]


def test_a_map_style_dataset_for_loader_workers(smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    dataset.batch(np.array([0]))  # something is open that does not travel
    loader = DataLoader(dataset, batch_size=100, collate_fn=SmoothedCollator(pad_id=0), num_workers=1)
    found = [batch.rows.tolist() for batch in loader]
    assert found == [list(range(start, start + 100)) for start in (0, 100, 200)]


def test_a_pickled_dataset_remembers_what_was_checked(smoothed, monkeypatch):
    dataset = SmoothedDataset(smoothed, "train")
    expected = dataset.batch(np.arange(300))
    monkeypatch.setattr("textsmooth.stages.dataset.dataset.file_sha256", lambda path: pytest.fail("hashed again"))
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 (our own)
    np.testing.assert_array_equal(copy.batch(np.arange(300)).soft.logprobs, expected.soft.logprobs)


def test_lengths_of_some_rows(smoothed):
    dataset, other = SmoothedDataset(smoothed, "train"), SmoothedDataset(smoothed, "train")
    indices = np.array([299, 0, 255, 256, 270, 0])
    found = dataset.lengths_of(indices)
    assert "lengths" not in dataset.__dict__
    np.testing.assert_array_equal(found, other.lengths[indices])
    np.testing.assert_array_equal(other.lengths_of(indices), found)
    assert len(dataset.lengths_of(indices[:0])) == 0
    with pytest.raises(IndexError):
        dataset.lengths_of(np.array([300]))


@pytest.mark.parametrize("per_token", [False, True])
def test_windows_spans_and_logits_come_along(kit, per_token):
    """teacher_logits are per row, or, beside spans, per token."""
    plain = kit.random_rows(1, 5).block
    spans = np.arange(10, dtype=np.int32).reshape(5, 2) if per_token else None
    logits = np.arange(2 * (len(plain.input_ids) if per_token else 5), dtype=np.float32).reshape(-1, 2)
    block = replace(plain, window=np.arange(5, dtype=np.int32), spans=spans, teacher_logits=logits, label=None)
    found = gather([block] * 3, [4, 0, 4])
    np.testing.assert_array_equal(found.window, [4, 0, 4])
    assert found.label is None
    if per_token:
        np.testing.assert_array_equal(found.spans, spans[[4, 0, 4]])
    parts = [slice(*block.row_offsets[r : r + 2]) if per_token else slice(r, r + 1) for r in (4, 0, 4)]
    np.testing.assert_array_equal(found.teacher_logits, np.concatenate([logits[part] for part in parts]))
    both = concatenate([gather([block], [4]), gather([block] * 2, [0, 4])])
    for name in ("window", "teacher_logits", "row_offsets", "input_ids", *(["spans"] if per_token else [])):
        np.testing.assert_array_equal(getattr(both, name), getattr(found, name))


def test_empty_rows_and_plain_tokens_keep_their_place(kit):
    block = kit.random_rows(4, 6).block
    assert (np.diff(block.soft.offsets) == 0).any()
    found = gather([block] * 6, list(range(6)))
    for name in ("offsets", "ids", "logprobs", "log_tail", "original_logprob", "log_partition"):
        np.testing.assert_array_equal(getattr(found.soft, name), getattr(block.soft, name))


def test_offsets_can_be_views(smoothed):
    """Nothing is copied where offsets stay as they are stored: a block at hand costs next to nothing, however long its rows."""
    file = pa.ipc.open_file(pa.memory_map(str(smoothed / "train/00000.arrow")))
    before = pa.total_allocated_bytes()
    block = decode(file.get_batch(0), np.int32)
    assert block.row_offsets.dtype == block.soft.offsets.dtype == np.int32 and not block.soft.offsets.flags.owndata
    assert pa.total_allocated_bytes() == before
    np.testing.assert_array_equal(block.soft.offsets, decode(file.get_batch(0)).soft.offsets)
