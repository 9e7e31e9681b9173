"""The bags against a dense float64 reference, for every way to cut and every tail."""

import numpy as np
import pytest
import torch

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.smoothing import TAILS, Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.codec import TokenBlock
from textsmooth.stages.collate import SmoothedCollator


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
    with pytest.raises(UsageError, match=r"temperature 3 is not stored in this dataset, it has 0\.5, 1, 2; .*--temperatures 3"):
        SmoothedCollator(pad_id=0, smoothing=Smoothing(temperature=3.0), temperatures=kit.TEMPERATURES)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"lam": 1.5}, "lam must be between 0 and 1, not 1.5"),
        ({"temperature": 0.0}, "temperature must be a finite number of at least 0.001"),
        ({"topk": 0}, "topk must be a whole number of at least 1"),
        ({"mass": 1.1}, "mass must be above 0 and at most 1"),
        ({"tail": "drop"}, "tail 'drop' is not one of renormalize, original, mean"),
    ],
)
def test_impossible_smoothing_is_refused(bad, said):
    with pytest.raises(UsageError, match=said):
        Smoothing(**bad)
