"""Updates: which inputs, in how many parts, at which rate, and the stop when the loss is no number or memory is out."""

import dataclasses

import numpy as np
import pytest
import torch

from textsmooth.schemas.errors import MachineError
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.task_kinds import CLASS
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.training.losses import objective_for
from textsmooth.stages.training.lr_schedule import rate
from textsmooth.stages.training.soft_embedding import SoftEmbedding
from textsmooth.stages.training.step import PASSES, TrainingError, TrainStep, counted


@pytest.fixture
def student(kit):
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(
        kit.config("bert", num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )


@pytest.fixture
def batch(kit):
    return SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing())(kit.random_rows(1, 10).block)


class Loss:
    """An objective of one function of the logits."""

    def __init__(self, function):
        self.function = function

    def loss(self, student, batch, soft):
        return self.function(student(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits)

    def units(self, batch):
        return float(len(batch))


def _train_step(kit, student, reads="both", steps=10, objective=None, **changes):
    soft = SoftEmbedding(student.get_input_embeddings(), vocab_size=kit.VOCAB)
    settings = {"lr": 1e-3, "weight_decay": 0.01, "warmup": 0.2, **changes}
    objective = objective or objective_for("task", CLASS)
    return TrainStep(student, objective, soft=soft, reads=reads, steps=steps, **settings)


def _all(train_step, batch, times=1):
    return [train_step.update([batch], form) for _ in range(times) for form in train_step.passes]


@pytest.mark.parametrize(("reads", "forms"), [("plain", ["plain"]), ("smoothed", ["smoothed"]), ("both", ["plain", "smoothed"])])
def test_one_update_for_each_form_of_input(kit, student, batch, reads, forms):
    seen = []
    embed = student.get_input_embeddings()
    embed.register_forward_hook(lambda *_: seen.append("plain"))
    train_step = _train_step(kit, student, reads)
    before = embed.weight.detach().clone()
    train_step.update([batch], forms[0])  # at rate 0: warming up
    torch.testing.assert_close(embed.weight, before, atol=0, rtol=0)
    updates = _all(train_step, batch)
    assert [update.form for update in updates] == forms
    assert [update.number for update in updates] == list(range(2, 2 + len(forms)))
    assert (updates[0].rows, updates[0].tokens) == (10, batch.tokens)
    assert not torch.equal(embed.weight, before)
    assert ("plain" in seen) == ("plain" in forms)


def test_the_rate_rises_then_falls_or_stays():
    def rates(schedule, warmup=0.2):
        return [rate(update, 10, lr=1e-3, warmup=warmup, schedule=schedule) for update in range(10)]

    np.testing.assert_allclose(rates("linear"), 1e-3 * np.array([0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]))
    np.testing.assert_allclose(rates("constant"), 1e-3 * np.array([0, 0.5, *[1] * 8]))
    np.testing.assert_allclose(rates("cosine")[2:], 5e-4 * (1 + np.cos(np.pi * np.arange(8) / 8)))
    assert rates("linear", warmup=0.0)[0] == 1e-3


def test_training_lowers_the_loss(kit, student, batch):
    losses = [u.loss for u in _all(_train_step(kit, student, "smoothed", steps=40, lr=1e-2), batch, 40)]
    assert losses[-1] < 0.3 * losses[0]


def test_biases_and_norms_do_not_decay(kit, student):
    decayed, others = _train_step(kit, student).optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in student.named_parameters()}
    assert all("bias" in names[id(p)] or "LayerNorm" in names[id(p)] for p in others["params"])
    assert all("bias" not in names[id(p)] and "LayerNorm" not in names[id(p)] for p in decayed["params"])


def _gradients(kit, student, parts, **changes):
    """Of one update, before it is made."""
    train_step = _train_step(kit, student, "smoothed", **changes)
    found = {}
    train_step.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None})
    return found, train_step.update(parts, "smoothed")


def test_parts_make_no_difference(kit, student):
    """Parts of unequal size, padded ones too: the gradient is that of the whole batch."""
    rows = kit.random_rows(1, 10).block
    collate = SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing())
    from textsmooth.stages.dataset.row_gather import gather

    def part(*chosen, weight=None):
        made = collate(gather([rows] * len(chosen), list(chosen)))
        return made if weight is None else dataclasses.replace(made, weight=torch.tensor(weight))

    whole, first = _gradients(kit, student, [part(*range(10))], max_grad_norm=None)
    split = [part(0, 1, 2, 3), part(4, 5, 6, 7), part(8, 9, 0, 0, weight=[1.0, 1.0, 0.0, 0.0])]
    parts, second = _gradients(kit, student, split, max_grad_norm=None)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=1e-4)
    assert second.loss == pytest.approx(first.loss, abs=1e-6)
    assert (second.rows, second.tokens) == (first.rows, first.tokens) == (10, sum(counted(p)[1] for p in split))


def test_gradients_are_clipped_unless_told_otherwise(kit, student, batch):
    free, update = _gradients(kit, student, [batch], max_grad_norm=None)
    clipped, again = _gradients(kit, student, [batch], max_grad_norm=0.01)
    assert update.grad_norm == again.grad_norm > 0.01

    def norm(gradients):
        return float(torch.cat([g.flatten() for g in gradients.values()]).norm())

    assert norm(free) == pytest.approx(update.grad_norm, rel=1e-4) and norm(clipped) == pytest.approx(0.01, rel=1e-3)


def test_dropout_follows_from_seed_update_and_part_alone(kit, batch):
    from transformers import AutoModelForSequenceClassification

    def losses(seed, skip=0):
        torch.manual_seed(0)
        student = AutoModelForSequenceClassification.from_config(kit.config("bert", num_hidden_layers=1, hidden_dropout_prob=0.3))
        train_step = _train_step(kit, student, "plain", lr=1e-12, seed=seed)
        train_step.done = skip
        return [update.loss for update in _all(train_step, batch, 4 - skip)]

    first = losses(0)
    torch.rand(100)
    assert losses(0) == first and losses(0, skip=2) == pytest.approx(first[2:], abs=1e-6)
    assert len({*first, *losses(1)}) == 8


def test_an_infinite_loss_stops_and_names_batch_and_rows(kit, student, batch):
    train_step = _train_step(kit, student, objective=Loss(lambda logits: logits.sum() * float("nan")))
    before = student.classifier.weight.detach().clone()
    said = (
        r"the loss became nan in update 1 on plain input \(batch 0, rows 0, 1, 2, .* and 2 more\); this update changed nothing; lower --lr"
    )
    with pytest.raises(TrainingError, match=said):
        train_step.update([batch], "plain")
    torch.testing.assert_close(student.classifier.weight, before, atol=0, rtol=0)


def test_an_infinite_gradient_stops(kit, student, batch):
    def function(logits):
        return torch.where(logits > 1e9, torch.sqrt(logits - logits.detach()), logits * 0).sum()  # sqrt'(0) is infinite, times 0

    with pytest.raises(TrainingError, match="the gradient norm became nan"):
        _train_step(kit, student, objective=Loss(function)).update([batch], "plain")


def _cannot(error):
    def function(logits):
        raise error

    return Loss(function)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_out_of_memory_names_the_knobs(kit, student, batch, error):
    with pytest.raises(
        MachineError, match=r"out of memory in update 1, on 10 rows of \d+ tokens: raise --accumulate .*--batch-tokens.*bfloat16"
    ):
        _train_step(kit, student, objective=_cannot(error)).update([batch], "plain")


def test_other_errors_are_let_through(kit, student, batch):
    with pytest.raises(RuntimeError, match="a bug"):
        _train_step(kit, student, objective=_cannot(RuntimeError("a bug"))).update([batch], "plain")


def test_bfloat16_keeps_float32_weights(kit, student, batch):
    exact = _train_step(kit, student).update([batch], "plain").loss  # at rate 0; the student has no dropout
    update = _train_step(kit, student, dtype="bfloat16").update([batch], "plain")
    assert update.loss == pytest.approx(exact, abs=0.05)
    assert update.loss != exact
    assert {p.dtype for p in student.parameters()} == {torch.float32}


def test_every_kind_of_input_has_its_passes():
    from textsmooth.schemas.train import INPUTS

    assert set(PASSES) == {*INPUTS, "masked"}
