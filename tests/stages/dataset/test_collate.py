"""The bags against a dense float64 reference, for every way to cut and every tail."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.smoothing import TAILS, Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.temperature import interpolate


def dense_s(dense, how, vocab):
    """The definition, token by token: s [N, V] float64 and what goes to the mean embedding [N]."""
    block, soft = dense.block, dense.block.soft
    s, mean = np.zeros((len(block.input_ids), vocab)), np.zeros(len(block.input_ids))
    for n, original in enumerate(block.input_ids):
        ids = soft.ids[soft.offsets[n] : soft.offsets[n + 1]]
        if not len(ids):
            s[n, original] = 1
            continue
        full = dense.logits[n] - np.log(np.exp(dense.logits[n]).sum())
        tempered = np.exp(full / how.temperature) / np.exp(full / how.temperature).sum()
        kept, reached = [], 0.0
        for v in ids[: how.topk]:
            kept.append(v)
            reached += np.exp(full[v])
            if reached >= how.mass:
                break
        p = np.zeros(vocab)
        p[kept] = tempered[kept]
        tail = 1 - p.sum()
        if how.tail == "renormalize":
            p /= p.sum()
        elif how.tail == "original":
            p[original] += tail
        else:
            mean[n] = how.lam * tail
        s[n] = how.lam * p
        s[n, original] += 1 - how.lam
    return s, mean


def bag_s(batch, vocab):
    """What a batch's bags say: s [B * L, V] and the mean's weight [B * L]."""
    bag = batch.soft
    counts = torch.diff(bag.offsets).long()
    s = torch.zeros(len(counts), vocab, dtype=torch.float64)
    where = torch.repeat_interleave(torch.arange(len(counts)), counts)
    s.index_put_((where, bag.ids.long()), bag.weights.double(), accumulate=True)
    mean = torch.zeros(len(counts)) if bag.mean_weight is None else bag.mean_weight
    return s.numpy(), mean.numpy()


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"lam": 0.3, "topk": 3},
        {"lam": 1.0, "mass": 0.7},
        {"topk": 4, "mass": 0.9},
        {"temperature": 2.0},
        {"temperature": 0.5, "topk": 1},
        {"temperature": 2.0, "mass": 0.8},
        {"lam": 0.0},
    ],
    ids=str,
)
def test_bags_equal_the_dense_reference(kit, how, tail):
    dense = kit.random_rows(7, 12)
    smoothing = Smoothing(**how, tail=tail)
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=smoothing, temperatures=kit.TEMPERATURES)(dense.block)
    s, mean = bag_s(batch, kit.VOCAB)
    mask = batch.attention_mask.flatten().bool().numpy()
    expected_s, expected_mean = dense_s(dense, smoothing, kit.VOCAB)
    np.testing.assert_allclose(s[mask], expected_s, atol=1e-5)
    np.testing.assert_allclose(mean[mask], expected_mean, atol=1e-5)
    np.testing.assert_allclose(s.sum(1) + mean, 1, atol=1e-5)
    assert (s[~mask] == np.eye(kit.VOCAB)[kit.PAD]).all()


def test_plain_tensors_are_padded(kit):
    block = kit.random_rows(8, 5).block
    batch = SmoothedCollator(pad_id=kit.PAD)(block)
    assert batch.soft is None
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.labels.dtype == torch.int64
    lengths = np.diff(block.row_offsets)
    assert batch.input_ids.shape == (5, lengths.max())
    assert batch.tokens == len(block.input_ids)
    for row, length in enumerate(lengths):
        here = slice(*block.row_offsets[row : row + 2])
        assert batch.input_ids[row].tolist() == block.input_ids[here].tolist() + [kit.PAD] * (lengths.max() - length)
        assert batch.token_type_ids[row, :length].tolist() == block.token_type_ids[here].tolist()
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (lengths.max() - length)
    np.testing.assert_array_equal(batch.rows, block.row)
    assert SmoothedCollator(pad_id=0)(kit.random_rows(8, 5, label_kind="value").block).labels.dtype == torch.float32
    assert SmoothedCollator(pad_id=0)(kit.random_rows(8, 5, label_kind=None).block).labels is None


def test_a_mass_that_rounding_pushed_over_one_still_gives_a_distribution():
    half = np.array([-0.0001, -7.0], np.float16)
    soft = SoftIds(
        offsets=np.array([0, 2]), ids=np.array([6, 7], np.uint16), logprobs=half, log_tail=np.array([-9.0]),
        original_logprob=half[:1], log_partition=np.zeros((1, 0), np.float32),
    )  # fmt: skip
    block = TokenBlock(
        row=np.array([0]), row_offsets=np.array([0, 1]), input_ids=np.array([6], np.uint16), token_type_ids=None, soft=soft, label=None
    )
    assert np.exp(half.astype(float)).sum() > 1
    for tail in TAILS:
        s, mean = bag_s(SmoothedCollator(pad_id=0, smoothing=Smoothing(lam=1, tail=tail))(block), 60)
        assert s.sum() + mean.sum() == pytest.approx(1, abs=1e-6)
        assert (s >= 0).all() and (mean >= 0).all()


def test_a_temperature_that_is_not_stored_names_those_that_are(kit):
    for tail in ("original", "mean"):
        with pytest.raises(UsageError, match=r"temperature 3 is not stored in this dataset, it has 0\.5, 1, 2; .*--temperatures 3"):
            SmoothedCollator(pad_id=0, smoothing=Smoothing(temperature=3.0, tail=tail), temperatures=kit.TEMPERATURES)


@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_entries_that_are_scaled_to_sum_1_need_no_partition(kit, temperature):
    dense = kit.random_rows(7, 12)
    how = Smoothing(temperature=temperature, tail="renormalize", topk=5)
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=how)(dense.block)
    s, _ = bag_s(batch, kit.VOCAB)
    np.testing.assert_allclose(s[batch.attention_mask.flatten().bool()], dense_s(dense, how, kit.VOCAB)[0], atol=1e-5)


def test_a_temperature_between_stored_ones_is_interpolated_where_the_vocabulary_is_known(kit, smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    dense = kit.random_rows(7, 12)
    how = Smoothing(temperature=1.5, tail="mean", lam=1)
    batch = SmoothedCollator.for_dataset(dataset, smoothing=how)(dense.block)
    s, mean = bag_s(batch, kit.VOCAB)
    mask = batch.attention_mask.flatten().bool().numpy()
    _, expected_mean = dense_s(dense, how, kit.VOCAB)
    np.testing.assert_allclose(s.sum(1) + mean, 1, atol=1e-5)
    _, bound = interpolate(dense.block.soft, 1.5, kit.TEMPERATURES, kit.VOCAB)
    assert (np.abs(mean[mask] - expected_mean) <= bound + 1e-6).all()
    assert 0 < bound.max() < 0.1


def test_what_span_tasks_and_task_teachers_add_is_carried_along(kit):
    block = kit.random_rows(9, 4).block
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(len(block.input_ids), 2)).astype(np.float32)
    spans = np.array([[1, 2], [0, 0], [1, 1], [2, 3]], np.int32)
    batch = SmoothedCollator(pad_id=kit.PAD)(dataclasses.replace(block, spans=spans, teacher_logits=tokens))
    assert batch.spans.dtype == torch.int64 and batch.spans.tolist() == spans.tolist()
    beyond = dataclasses.replace(block, spans=np.where(spans == 3, 40, spans))
    with pytest.raises(DatasetError, match=f"row {block.row[3]} has an answer beyond its last token"):
        SmoothedCollator(pad_id=kit.PAD)(beyond)
    assert batch.teacher_logits.shape == (*batch.input_ids.shape, 2)
    mask = batch.attention_mask.bool()
    np.testing.assert_array_equal(batch.teacher_logits[mask], tokens)
    assert (batch.teacher_logits[~mask] == 0).all()
    rows = rng.normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_array_equal(SmoothedCollator(pad_id=0)(dataclasses.replace(block, teacher_logits=rows)).teacher_logits, rows)


def same(one, other):
    one, other = one.to_dict(), other.to_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows_of(batch, vocab):
    """What each row of a batch is smoothed to, its own padding apart: by row number."""
    s, mean = (v.reshape(*batch.input_ids.shape, -1) for v in bag_s(batch, vocab))
    lengths = batch.attention_mask.sum(1).tolist()
    return {int(row): (s[i, : lengths[i]], mean[i, : lengths[i]]) for i, row in enumerate(batch.rows)}


@pytest.mark.parametrize("how", [{"lam": "uniform"}, {"lam": "beta:0.4"}, {"draws": 3}, {"smoothed_share": 0.5}], ids=str)
def test_what_is_random_belongs_to_the_row_and_not_to_its_batch(smoothed, kit, how):
    dataset = SmoothedDataset(smoothed, "train")
    collate = SmoothedCollator.for_dataset(dataset, smoothing=Smoothing(**how, tail="mean"), seed=3)
    collate.set_epoch(2)
    together = rows_of(collate(dataset.batch(np.arange(40))), kit.VOCAB)
    for some in (np.array([7]), np.arange(39, 4, -5), np.arange(20, 40)):
        for row, (s, mean) in rows_of(collate(dataset.batch(some)), kit.VOCAB).items():
            assert (s == together[row][0]).all() and (mean == together[row][1]).all()
    block = dataset.batch(np.arange(40))
    assert same(collate(block), collate([dataset[i] for i in range(40)]))
    assert same(collate(block), pickle.loads(pickle.dumps(collate))(block))  # noqa: S301
    now = collate(block)
    collate.set_epoch(3)
    assert not same(now, collate(block))
    collate.set_epoch(2)
    assert same(now, collate(block))
    other = SmoothedCollator.for_dataset(dataset, smoothing=Smoothing(**how, tail="mean"), seed=4)
    other.set_epoch(2)
    assert not same(now, other(block))


def test_each_window_of_a_row_has_its_own_randomness(kit):
    block = kit.random_rows(5, 1).block
    collate = SmoothedCollator(pad_id=0, smoothing=Smoothing(lam="uniform"))
    first, second = (collate(dataclasses.replace(block, window=np.array([w], np.int32))) for w in (0, 1))
    assert not same(first, second)
    assert same(first, collate(block))


@pytest.mark.parametrize(("lam", "shape"), [("uniform", 1.0), ("beta:0.4", 0.4), ("beta:3", 3.0)])
def test_lam_of_each_row_is_distributed_as_asked(kit, lam, shape):
    from scipy.stats import beta, kstest

    block = kit.random_rows(5, 2000).block
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing(lam=lam, tail="mean"))(block)
    bag = batch.soft
    # the second token of a row is a word: the weight of the token itself is 1 - lam
    words = torch.arange(len(block)) * bag.shape[1] + 1
    found = 1 - bag.weights[bag.offsets[words].long()].double().numpy()
    assert kstest(found, beta(shape, shape).cdf).pvalue > 1e-3
    third = 1 - bag.weights[bag.offsets[words + 1].long()].double().numpy()
    three = batch.attention_mask.sum(1).numpy() > 3
    np.testing.assert_array_equal(found[three], third[three])  # one lam for all of a row


def test_a_share_of_the_rows_is_smoothed_and_the_others_are_plain(kit):
    block = kit.random_rows(5, 1000).block
    how = Smoothing(smoothed_share=0.3, tail="renormalize")
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=how)(block)
    whole = SmoothedCollator(pad_id=kit.PAD, smoothing=dataclasses.replace(how, smoothed_share=1.0))(block)
    plain = SmoothedCollator(pad_id=kit.PAD, smoothing=dataclasses.replace(how, smoothed_share=0.0))(block)
    assert len(plain.soft.ids) == plain.input_ids.numel() and (plain.soft.weights == 1).all()
    counts, all_counts = (torch.diff(b.soft.offsets).view(b.soft.shape).sum(1) for b in (batch, whole))
    smoothed = counts > batch.input_ids.shape[1]
    assert torch.equal(counts[smoothed], all_counts[smoothed])
    assert abs(smoothed.double().mean() - 0.3) < 4 * (0.3 * 0.7 / 1000) ** 0.5


@pytest.mark.parametrize("tail", TAILS)
def test_the_mean_of_many_draws_is_the_soft_mix(kit, tail):
    block = kit.random_rows(5, 3).block
    how = Smoothing(lam=0.6, tail=tail, topk=3, temperature=2.0)
    expected, expected_mean = bag_s(SmoothedCollator(pad_id=0, smoothing=how, temperatures=kit.TEMPERATURES)(block), kit.VOCAB)
    draws, epochs = 8, 500
    collate = SmoothedCollator(pad_id=0, smoothing=dataclasses.replace(how, draws=draws), temperatures=kit.TEMPERATURES)
    total, total_mean = np.zeros_like(expected), np.zeros_like(expected_mean)
    for epoch in range(epochs):
        collate.set_epoch(epoch)
        batch = collate(block)
        s, mean = bag_s(batch, kit.VOCAB)
        np.testing.assert_allclose(s.sum(1) + mean, 1, atol=1e-5)
        assert torch.diff(batch.soft.offsets).max() <= 1 + draws
        total += s
        total_mean += mean
    # a share of lam drawn 4,000 times: five standard deviations, the largest at one half
    bound = 5 * 0.6 * 0.5 / (draws * epochs) ** 0.5
    assert np.abs(total / epochs - expected).max() < bound
    assert np.abs(total_mean / epochs - expected_mean).max() < bound
    assert tail == "renormalize" or (expected_mean.max() > 0.05) == (tail == "mean")


def test_a_batch_as_a_dictionary_has_what_a_model_is_called_with(kit):
    block = kit.random_rows(9, 4).block
    collate = SmoothedCollator(pad_id=0, smoothing=Smoothing(tail="mean"))
    found = collate.to_dict([block])
    soft = ["soft_ids", "soft_weights", "soft_offsets", "soft_mean"]
    assert list(found) == ["input_ids", "attention_mask", "token_type_ids", "labels", *soft]
    plain = SmoothedCollator(pad_id=0).to_dict(dataclasses.replace(block, label=None, spans=np.array([[1, 2]] * 4, np.int32)))
    assert list(plain) == ["input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions"]
    assert plain["end_positions"].tolist() == [2] * 4


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"lam": 1.5}, "lam must be between 0 and 1, not 1.5"),
        ({"lam": "1.5"}, "lam must be between 0 and 1, not 1.5"),
        ({"lam": "gauss"}, "lam must be a number between 0 and 1, `uniform` or `beta:A`, not 'gauss'"),
        ({"lam": "beta:0"}, "lam beta:A needs a finite A above 0, not 0"),
        ({"lam": "beta:x"}, "lam must be a number between 0 and 1, `uniform` or `beta:A`, not 'beta:x'"),
        ({"lam": float("nan")}, "lam must be between 0 and 1, not nan"),
        ({"draws": 0}, "draws must be a whole number of at least 1, not 0"),
        ({"smoothed_share": 1.2}, "smoothed-share must be between 0 and 1, not 1.2"),
        ({"temperature": 0.0}, "temperature must be a finite number of at least 0.001"),
        ({"topk": 0}, "topk must be a whole number of at least 1"),
        ({"mass": 1.1}, "mass must be a number above 0 and at most 1"),
        ({"tail": "drop"}, "tail 'drop' is not one of renormalize, original, mean"),
    ],
)
def test_impossible_smoothing_is_refused(bad, said):
    with pytest.raises(UsageError, match=said):
        Smoothing(**bad)


def test_lam_is_read_from_text_too():
    assert Smoothing(lam="0.25").lam == 0.25 and Smoothing(lam="0.25").lam_shape is None
    assert (Smoothing(lam="uniform").lam_shape, Smoothing(lam="beta:0.4").lam_shape) == (1.0, 0.4)
