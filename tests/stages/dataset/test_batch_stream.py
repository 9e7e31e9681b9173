"""The stream of batches: each row exactly once, the same global batches for any ranks and workers, resumed as if never stopped."""

import copy
import json
import shutil
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset

ROWS = [37, 300, 5, 61, 20]  # of the shards: neither equal, nor full record batches


@pytest.fixture(scope="module")
def uneven(kit, tmp_path_factory):
    """A dataset of shards of uneven size; not to be changed."""
    first = np.cumsum([0, *ROWS])
    blocks = [kit.random_rows(n, rows, first_row=int(first[n]), longest=30).block for n, rows in enumerate(ROWS)]
    return kit.write_dataset(tmp_path_factory.mktemp("uneven") / "dataset", {"train": blocks})


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Several windows, and several buckets in each, in a dataset of a few hundred rows."""
    monkeypatch.setattr("textsmooth.stages.dataset.dataset.WINDOW_ROWS", 100)
    monkeypatch.setattr("textsmooth.stages.dataset.order.BUCKET_ROWS", 40)


COLLATE = SmoothedCollator(pad_id=0)
BATCHINGS = [{"batch_size": 32}, {"batch_size": 30}, {"batch_tokens": 150}]
CUTS = pytest.mark.parametrize("how", BATCHINGS, ids=["32 rows", "30 rows", "tokens"])


def _stream(folder, **how):
    return SmoothedDataset(folder, "train").stream(COLLATE, seed=7, **how)


def _rows(batches):
    """Step and rows of each batch; rows that only fill up are left out."""
    return [(b.step, b.rows[b.weight.numpy() > 0].tolist() if b.weight is not None else b.rows.tolist()) for b in batches]


def _loader(stream, workers):
    return DataLoader(stream, batch_size=None, num_workers=workers) if workers else stream


def _steps(streams, workers=0):
    """The sets of rows that all streams together have in each step, in order; each stream's steps rise."""
    found = {}
    for stream in streams:
        before = -1
        for step, rows in _rows(_loader(stream, workers)):
            assert step >= before
            before = step
            found.setdefault(step, []).extend(rows)
    assert sorted(found) == list(range(len(found)))
    assert all(len(set(rows)) == len(rows) for rows in found.values())
    return [set(found[step]) for step in sorted(found)]


@CUTS
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_the_same_global_batches_for_any_ranks_and_parts(uneven, how, world_size):
    expected = _steps([_stream(uneven, **how)])
    assert sorted(row for rows in expected for row in rows) == list(range(sum(ROWS)))
    for parts in (1, 2):
        for pad in (False, True):
            streams = [_stream(uneven, **how, rank=rank, world_size=world_size, parts=parts, pad=pad) for rank in range(world_size)]
            assert [stream.steps for stream in streams] == [len(expected)] * world_size
            assert _steps(streams) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_batches_in_the_same_order_for_any_loader_workers(uneven, workers):
    for how in BATCHINGS:
        for share in ({}, {"rank": 1, "world_size": 3, "parts": 2}, {"rank": 4, "world_size": 5, "parts": 9}):
            stream = _stream(uneven, **how, **share)
            expected = list(stream)
            stream.set_epoch(0)
            found = list(_loader(stream, workers))
            assert len(found) == len(expected) == len(stream)
            for a, b in zip(found, expected, strict=True):
                assert (a.step, a.samples, a.rows.tolist()) == (b.step, b.samples, b.rows.tolist())
                assert torch.equal(a.input_ids, b.input_ids)
            stream.set_epoch(0)


def test_workers_that_are_spawned_or_stay_hear_of_the_next_epoch(uneven, monkeypatch):
    monkeypatch.undo()  # a process that is spawned knows nothing of it
    stream = _stream(uneven, batch_size=60)
    expected = [_rows(stream), _rows(stream)]
    assert expected[0] != expected[1] and stream.epoch == 2
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True, multiprocessing_context="spawn")
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        assert _rows(loader) == expected[epoch]


def test_parts_of_a_step_follow_each_other(uneven):
    for batch_size in (32, 1):  # one row: the second part of the step has none, and is left out
        steps = [(b.step, len(b)) for b in _stream(uneven, batch_size=batch_size, parts=2)]
        assert steps[: 4 if batch_size == 32 else 2] == ([(0, 16), (0, 16), (1, 16), (1, 16)] if batch_size == 32 else [(0, 1), (1, 1)])


@CUTS
def test_padded_shares_are_equal_and_fillers_weigh_nothing(uneven, how):
    world, parts = 5, 3
    streams = [_stream(uneven, **how, rank=rank, world_size=world, parts=parts, pad=True) for rank in range(world)]
    steps, batches = streams[0].steps, len(streams[0])
    shares = [list(stream) for stream in streams]
    assert {len(found) for found in shares} == {steps * parts} == {batches}
    for together in zip(*shares, strict=True):
        assert len({len(batch) for batch in together}) == 1 and len(together[0]) >= 1
        assert len({(batch.step, batch.samples) for batch in together}) == 1
    weights = [batch.weight for found in shares for batch in found]
    assert all(w is None or (w.dtype == torch.float32 and set(w.tolist()) <= {0.0, 1.0} and 0 in w) for w in weights)
    assert sum(len(b) if b.weight is None else int(b.weight.sum()) for found in shares for b in found) == sum(ROWS)


@CUTS
def test_resumed_at_every_step_twice_in_a_row_with_other_ranks(uneven, how):
    whole = _steps([_stream(uneven, **how)])
    for stop in range(0, len(whole), 1 if "batch_size" in how else 9):
        state, seen = _stream(uneven, **how).state_dict(), []
        for until, world in ((stop, 1), (stop + 2, 3), (len(whole), 2)):
            state = json.loads(json.dumps(state))
            streams = [_stream(uneven, **how, rank=rank, world_size=world) for rank in range(world)]
            found: dict[int, set[int]] = {}
            for stream in streams:
                stream.load_state_dict(state)
                for batch in stream if len(seen) < until else ():
                    found.setdefault(batch.step, set()).update(batch.rows.tolist())
                    reached = stream.state_after(batch)
                    if batch.step == min(until, len(whole)) - 1:
                        if batch.samples < stream.samples:
                            assert stream.state_dict() == reached
                        break
            assert list(found) == list(range(len(seen), min(until, len(whole))))
            seen += found.values()
            state = reached if found else state
        assert seen == whole
        assert state == {**state, "epoch": 1, "step": 0, "samples": 0}


def test_resumed_with_other_loader_workers(uneven):
    whole = _rows(_stream(uneven, batch_tokens=150))
    state = _stream(uneven, batch_tokens=150).state_dict()
    seen = []
    for workers, batches in ((2, 11), (0, 14), (1, 10_000)):
        stream = _stream(uneven, batch_tokens=150)
        stream.load_state_dict(state)
        for batch, _ in zip(_loader(stream, workers), range(batches), strict=False):
            seen += _rows([batch])
            state = stream.state_after(batch)
    assert seen == whole and state["epoch"] == 1


def test_a_finished_epoch_is_the_beginning_of_the_next(uneven):
    stream = _stream(uneven, batch_size=100)
    first = list(stream)
    after = stream.state_after(first[-1])
    assert after == stream.state_dict() == {**after, "epoch": 1, "step": 0, "samples": 0}
    second = _rows(stream)
    other = _stream(uneven, batch_size=100, epoch=1)
    assert _rows(first) != second == _rows(other)
    other.load_state_dict(after)
    other.set_epoch(1)
    assert _rows(other) == second


def test_set_epoch_keeps_a_loaded_place_only_in_its_own_epoch(uneven):
    stream = _stream(uneven, batch_size=100)
    whole = _rows(stream)
    stream.set_epoch(0)
    state = stream.state_after(next(iter(stream)))
    for epoch, expected in ((0, whole[1:]), (1, _rows(_stream(uneven, batch_size=100, epoch=1)))):
        stream.load_state_dict(state)
        stream.set_epoch(epoch)
        assert _rows(stream) == expected


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 asks a newer torch for it
@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_data_loader(uneven, workers):
    loaders = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def loader(**how):
        return loaders.StatefulDataLoader(_stream(uneven, **how), batch_size=None, num_workers=workers)

    for how in ({"batch_tokens": 150}, {"batch_size": 40}, {"batch_size": 40, "world_size": 2, "parts": 2, "rank": 1}):
        whole = _rows(loader(**how))
        steps = (1, 6) if workers or "batch_tokens" in how else range(len(whole) - 1)
        for stop in steps:
            first, seen = loader(**how), []
            batches = iter(first)
            seen += _rows(next(batches) for _ in range(stop))
            state = first.state_dict()
            del batches
            then = loader(**how)
            then.load_state_dict(state)
            batches = iter(then)
            seen += _rows(next(batches) for _ in range(2))
            state = then.state_dict()
            del batches
            last = loader(**how)
            last.load_state_dict(copy.deepcopy(state))
            assert seen + _rows(last) == whole
        ended = loader(**how)
        batches = iter(ended)
        seen = _rows(next(batches) for _ in whole)
        state = ended.state_dict()
        del batches
        resumed = loader(**how)
        resumed.load_state_dict(state)
        assert (seen, _rows(resumed)) == (whole, [])  # nothing is left of this epoch; the next one follows
        if workers:
            resumed.dataset.set_epoch(1)  # as docs/training.md asks for
        assert _rows(resumed) == _rows(loader(**how, epoch=1))


def test_a_state_of_something_else_is_refused(uneven, smoothed):
    stream = _stream(uneven)
    state = stream.state_dict()
    other = SmoothedDataset(smoothed, "train").stream(COLLATE, seed=7)
    with pytest.raises(
        UsageError, match=r"^this state is of dataset '.*', and the stream has '.*': resume with the same, or start afresh$"
    ):
        other.load_state_dict(state)
    mask = np.arange(sum(ROWS)) > 3
    for how in ({"batch_size": 16}, {"batch_tokens": 150}, {"shuffle": False}, {"rows": mask}):
        with pytest.raises(UsageError, match=r"this state is of batching .* resume with the same"):
            _stream(uneven, **how).load_state_dict(state)
    with pytest.raises(UsageError, match="this state is of seed 7, and the stream has 8"):
        SmoothedDataset(uneven, "train").stream(COLLATE, seed=8).load_state_dict(state)
    with pytest.raises(UsageError, match="this state is of version 0"):
        stream.load_state_dict({**state, "version": 0})
    with pytest.raises(UsageError, match="not the state of a stream"):
        stream.load_state_dict({"epoch": 0})
    with pytest.raises(UsageError, match="loader worker 1 of 2 alone"):
        share = {"rank": 0, "world_size": 1, "parts": 1, "pad": False}
        stream.load_state_dict({**state, "share": share, "worker": {"id": 1, "of": 2, "item": 0, "done": 0}})
    for step, samples in ((0, 5), (1, 0), (2, 32), (15, 423), (14, 422)):
        with pytest.raises(UsageError, match="no global batch begins"):
            stream.load_state_dict({**state, "step": step, "samples": samples})
    by_tokens = _stream(uneven, batch_tokens=150)
    by_tokens.load_state_dict({**by_tokens.state_dict(), "step": 1, "samples": 1})
    with pytest.raises(UsageError, match="no global batch begins"):
        list(by_tokens)


@pytest.mark.parametrize("pad", [False, True])
def test_resumed_between_the_parts_of_a_global_batch(uneven, pad):
    how = {"batch_size": 40, "rank": 1, "world_size": 2, "parts": 3, "pad": pad}
    whole = _rows(_stream(uneven, **how))
    for made in range(1, len(whole) + 1):
        batches = iter(first := _stream(uneven, **how))
        seen = [next(batches) for _ in range(made)]
        state = json.loads(json.dumps(first.state_dict()))
        for workers in (0, 2) if made == 4 else (0,):
            resumed = _stream(uneven, **how)
            resumed.load_state_dict(state)
            assert resumed.state_dict() == state
            assert _rows(seen) + _rows(_loader(resumed, workers)) == whole
        if made % 3:
            with pytest.raises(UsageError, match="this state is of share"):
                _stream(uneven, **{**how, "parts": 2}).load_state_dict(state)
        else:
            _stream(uneven, **{**how, "parts": 2}).load_state_dict(state)


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2) | st.just({})


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_state_is_refused_with_one_line(uneven, data):
    stream = _stream(uneven, batch_size=40, parts=2)
    next(iter(stream))
    state = stream.state_dict()
    name = data.draw(st.sampled_from([*state, "worker"]))
    value = data.draw(JUNK)
    if name == "worker":
        value = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "of", "item", "done"), JUNK)) | JUNK)
    try:
        stream.load_state_dict({**state, name: value})
    except UsageError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
    else:
        assert value in (state.get(name), None) or name in ("epoch", "parts_made")  # those that another state could have
        assert sum(len(batch) for batch in stream) < sum(ROWS)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"batch_size": None}, "neither batch_size nor batch_tokens"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, not 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"parts": 0}, "in 0 parts"),
        ({"rows": np.zeros(sum(ROWS), bool)}, "no row of split 'train'"),
        ({"rows": np.ones(3, bool)}, "one bool is needed for each of the 423 rows"),
    ],
)
def test_what_cannot_be_is_refused(uneven, how, said):
    with pytest.raises(UsageError, match=said):
        _stream(uneven, **how)


@CUTS
def test_only_the_rows_of_a_mask(uneven, how):
    mask = np.zeros(sum(ROWS), bool)
    mask[[0, 36, 336, 422]] = True
    mask[50:300:3] = True
    stream = _stream(uneven, **how, rows=mask)
    found = _steps([stream])
    assert sorted(row for rows in found for row in rows) == np.flatnonzero(mask).tolist() and stream.samples == mask.sum()
    everything = _rows(_stream(uneven, **how, rows=np.ones(sum(ROWS), bool)))
    assert everything == _rows(_stream(uneven, **how))


def test_without_shuffling_rows_come_as_they_lie(uneven):
    rows = [row for _, rows in _rows(_stream(uneven, batch_size=50, shuffle=False)) for row in rows]
    assert rows == list(range(sum(ROWS)))


def test_the_collator_hears_of_the_epoch(uneven):
    epochs = []

    class Told:
        def set_epoch(self, epoch):
            epochs.append(epoch)

        def __call__(self, block):
            return COLLATE(block)

    stream = SmoothedDataset(uneven, "train").stream(Told(), batch_size=400, epoch=3)
    list(stream), list(stream)
    assert epochs == [3, 4]


def test_a_resume_touches_the_shards_of_one_window_only(uneven, monkeypatch):
    whole = _stream(uneven, batch_tokens=150)
    batch = next(b for b in whole if b.samples > 200)
    stream = _stream(uneven, batch_tokens=150)
    stream.load_state_dict(whole.state_after(batch))
    touched = set()
    monkeypatch.setattr("textsmooth.stages.dataset.dataset.Prefetch.begin", lambda self, shards: None)
    touch = SmoothedDataset.touch
    monkeypatch.setattr(SmoothedDataset, "touch", lambda self, index: touched.add(index) or touch(self, index))
    next(iter(stream))
    order = stream.dataset.order(seed=7, epoch=0)
    assert touched == set(stream.dataset.shards_of(order.window(batch.samples // 100)).tolist()) != set(range(len(ROWS)))


def test_a_damaged_shard_is_told_when_its_rows_are_needed(uneven, tmp_path, monkeypatch):
    folder = shutil.copytree(uneven, tmp_path / "copy")
    order = SmoothedDataset(folder, "train").order(seed=7, epoch=0)
    last = int(SmoothedDataset(folder, "train").shards_of(order.window(4))[-1])
    path = folder / f"train/{last:05}.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    rows = np.concatenate([order.window(number) for number in range(order.windows)])
    before = SmoothedDataset(folder, "train").shards_of(rows).tolist().index(last)
    stream, seen = _stream(folder, batch_size=1), 0
    with pytest.raises(DatasetError, match=f"shard train/{last:05}.arrow .* was altered"):
        for _ in stream:
            seen += 1
    assert seen == before > 0


def test_the_next_shards_are_fetched_meanwhile_and_given_up_with_the_iterator(uneven, bucket, s3):
    from textsmooth.stages.dataset.open import open_folder

    folder = open_folder(f"{bucket}/dataset")
    for path in uneven.rglob("*"):
        if path.is_file():
            folder.put(path.relative_to(uneven).as_posix(), path.read_bytes())
    s3.clear()
    dataset = SmoothedDataset(f"{bucket}/dataset", "train")

    def coming(epoch):
        order = dataset.order(seed=7, epoch=epoch)
        return [set(dataset.shards_of(order.window(number)).tolist()) for number in (0, 1)]

    epoch = next(e for e in range(99) if coming(e)[1] - coming(e)[0] and len(coming(e)[0] | coming(e)[1]) < len(ROWS))
    now, then = coming(epoch)

    def fetched():
        return {int(line.split(".arrow")[0][-5:]) for line in s3.log() if line.startswith("GET") and ".arrow" in line}

    stream = dataset.stream(COLLATE, seed=7, epoch=epoch, batch_tokens=150)
    batches = iter(stream)
    next(batches)
    until = time.monotonic() + 10
    while fetched() != now | then and time.monotonic() < until:
        time.sleep(0.01)
    assert fetched() == now | then  # those of the next window too, and no others
    batches.close()
    assert not dataset._prefetches
    assert _rows(_stream(f"{bucket}/dataset", batch_tokens=150)) == _rows(_stream(uneven, batch_tokens=150))
    assert sum(1 for line in s3.log() if line.startswith("GET") and ".arrow" in line) == len(ROWS)  # each once, in all


def test_batches_keep_what_collating_made(uneven):
    stream = _stream(uneven, batch_size=64)
    batch = next(iter(stream))
    assert (batch.step, batch.samples, batch.weight) == (0, 64, None)
    assert batch.tokens == int(stream.dataset.lengths[batch.rows].sum())
