"""SoftEmbedding: one-hot soft ids are the plain path; the gradient is that of the dense product."""

import dataclasses

import numpy as np
import pytest
import torch

from textsmooth.schemas.errors import TeacherError
from textsmooth.schemas.smoothing import TAILS, Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.dataset.collate import SmoothedCollator, SoftBag
from textsmooth.stages.training.soft_embedding import SoftEmbedding, smooth_inputs, soft_embedding
from textsmooth.stages.training.student_forward import forward


def _one_hot(block):
    """The same rows, every word certain of itself."""
    word = (block.input_ids >= 5).astype(np.int64)
    soft = SoftIds(
        offsets=np.concatenate([[0], np.cumsum(word)]),
        ids=block.input_ids[word == 1],
        logprobs=np.zeros(word.sum(), np.float16),
        log_tail=np.full(len(word), -np.inf),
        original_logprob=np.zeros(len(word)),
        log_partition=np.zeros((len(word), 0), np.float32),
    )
    return dataclasses.replace(block, soft=soft)


NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "distilbert": {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "initializer_range": 0.2},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}


def _student(kit, family):
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_config(kit.config(family, **NO_DROPOUT[family])).eval()


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_one_hot_soft_ids_are_the_plain_path(kit, family, tail):
    student = _student(kit, family)
    block = _one_hot(kit.random_rows(11, 6).block)
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing(tail=tail))(block)
    soft = SoftEmbedding(student.get_input_embeddings(), vocab_size=kit.VOCAB)
    with torch.no_grad():
        torch.testing.assert_close(soft(batch.soft), student.get_input_embeddings()(batch.input_ids), atol=1e-7, rtol=0)
        plain, smoothed = forward(student, batch, None), forward(student, batch, soft)
    assert plain.std() > 1e-3  # the students tell rows apart
    torch.testing.assert_close(smoothed, plain, atol=1e-6, rtol=1e-5)


def test_plain_tokens_and_pads_are_looked_up_bit_for_bit(kit):
    block = kit.random_rows(12, 6).block
    nothing = SoftIds(
        offsets=np.zeros(len(block.input_ids) + 1, np.int64), ids=block.soft.ids[:0], logprobs=block.soft.logprobs[:0],
        log_tail=block.soft.log_tail, original_logprob=block.soft.original_logprob, log_partition=block.soft.log_partition,
    )  # fmt: skip
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing())(dataclasses.replace(block, soft=nothing))
    embedding = torch.nn.Embedding(kit.VOCAB, 8, padding_idx=kit.PAD)
    torch.nn.init.normal_(embedding.weight)
    torch.testing.assert_close(soft_embedding(batch.soft, embedding.weight, kit.PAD), embedding(batch.input_ids), atol=0, rtol=0)


@pytest.mark.parametrize("padding_idx", [None, 0, 9])
@pytest.mark.parametrize("tail", TAILS)
def test_values_and_gradient_equal_the_dense_product(kit, tail, padding_idx):
    """padding_idx 9 is a word that soft ids do name: it is looked up, and gets no gradient, as in torch.nn.Embedding."""
    block = kit.random_rows(13, 10).block
    assert 9 in block.soft.ids
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing(lam=0.4, tail=tail, topk=5))(block)
    bag = dataclasses.replace(
        batch.soft,
        weights=batch.soft.weights.double(),
        mean_weight=None if batch.soft.mean_weight is None else batch.soft.mean_weight.double(),
    )
    counts = torch.diff(bag.offsets).long()
    s = torch.zeros(len(counts), kit.VOCAB, dtype=torch.float64)
    s.index_put_((torch.repeat_interleave(torch.arange(len(counts)), counts), bag.ids.long()), bag.weights, accumulate=True)
    if bag.mean_weight is not None:
        s += bag.mean_weight[:, None] / kit.VOCAB
    torch.manual_seed(0)
    table = torch.randn(kit.VOCAB, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(*bag.shape, 8, dtype=torch.float64)
    expected = (s @ table).view(*bag.shape, 8)
    (expected_grad,) = torch.autograd.grad((expected * direction).sum(), table)
    found = soft_embedding(bag, table, padding_idx)
    (grad,) = torch.autograd.grad((found * direction).sum(), table)
    if padding_idx is not None:
        expected_grad[padding_idx] = 0
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(grad, expected_grad, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("padding_idx", [None, 9])
def test_rows_that_only_pad_the_table_are_no_part_of_the_mean(kit, padding_idx):
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing(tail="mean", topk=2))(kit.random_rows(13, 10).block)
    torch.manual_seed(0)
    table = torch.randn(kit.VOCAB, 8, requires_grad=True)
    padded = torch.cat([table.detach(), torch.full((24, 8), 7.0)]).requires_grad_()
    plain = soft_embedding(batch.soft, table, padding_idx)
    found = SoftEmbedding(torch.nn.Embedding.from_pretrained(padded, freeze=False, padding_idx=padding_idx), vocab_size=kit.VOCAB)
    torch.testing.assert_close(found(batch.soft), plain)
    direction = torch.randn_like(plain)
    (expected,) = torch.autograd.grad((plain * direction).sum(), table)
    (grad,) = torch.autograd.grad((found(batch.soft) * direction).sum(), found.embedding.weight)
    torch.testing.assert_close(grad[: kit.VOCAB], expected)
    assert (grad[kit.VOCAB :] == 0).all()


def test_weights_take_the_dtype_of_the_table(kit):
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing(tail="mean"))(kit.random_rows(14, 4).block)
    table = torch.randn(kit.VOCAB, 8)
    low = soft_embedding(batch.soft, table.bfloat16(), kit.PAD)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), soft_embedding(batch.soft, table, kit.PAD), atol=0.05, rtol=0.05)


def test_embeddings_that_do_more_than_look_up_are_refused():
    class Scaled(torch.nn.Embedding):
        pass

    with pytest.raises(TeacherError, match=r"Scaled, smoothed input needs a plain torch\.nn\.Embedding"):
        SoftEmbedding(Scaled(10, 4), vocab_size=10)
    with pytest.raises(TeacherError, match="embeds 10 ids, the soft ids go up to 11"):
        SoftEmbedding(torch.nn.Embedding(10, 4), vocab_size=11)


def test_a_bag_moves_between_devices(kit):
    bag = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing(tail="mean"))(kit.random_rows(15, 4).block).soft
    moved = bag.to(torch.device("meta"))
    assert isinstance(moved, SoftBag)
    assert {t.device.type for t in (moved.ids, moved.weights, moved.offsets, moved.mean_weight)} == {"meta"}


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_a_model_with_the_hook_trains_on_soft_ids_and_is_evaluated_on_plain_ones(kit, family):
    student = _student(kit, family)
    block = kit.random_rows(16, 6).block
    batch = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing())(block)
    soft = SoftEmbedding(student.get_input_embeddings(), vocab_size=kit.VOCAB)
    plain, smoothed = forward(student, batch, None), forward(student, batch, soft)
    inputs = batch.to_dict()
    if family != "bert":
        del inputs["token_type_ids"]
    handle = smooth_inputs(student, vocab_size=kit.VOCAB)
    torch.testing.assert_close(student(**inputs).logits, plain, atol=0, rtol=0)  # eval mode
    student.train()
    result = student(**inputs)
    torch.testing.assert_close(result.logits, smoothed)
    assert (smoothed - plain).abs().max() > 1e-3
    result.loss.backward()
    assert student.get_input_embeddings().weight.grad.abs().sum() > 0
    without = {name: value for name, value in inputs.items() if not name.startswith("soft_")}
    torch.testing.assert_close(student(**without).logits, plain)
    handle.remove()  # transformers drops arguments that it does not know
    torch.testing.assert_close(student(**inputs).logits, plain)


def test_a_model_whose_embeddings_do_more_than_look_up_gets_no_hook(kit):
    with pytest.raises(TeacherError, match="embeds 60 ids, the soft ids go up to 61"):
        smooth_inputs(_student(kit, "bert"), vocab_size=kit.VOCAB + 1)
