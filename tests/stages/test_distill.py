"""Updates: which inputs, how many, at which rate, and the stop when the loss is no number."""

import numpy as np
import pytest
import torch

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.collate import SmoothedCollator
from textsmooth.stages.distill import Distiller, TrainingError, forward, task_objective
from textsmooth.stages.smooth import SoftEmbedding


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


def _distiller(kit, student, inputs="both", steps=10, objective=None, **changes):
    soft = SoftEmbedding(student.get_input_embeddings(), vocab_size=kit.VOCAB)
    settings = {"lr": 1e-3, "weight_decay": 0.01, "warmup": 0.2, **changes}
    return Distiller(student, objective or task_objective("class"), soft=soft, inputs=inputs, steps=steps, **settings)


@pytest.mark.parametrize(("inputs", "forms"), [("plain", ["plain"]), ("smoothed", ["smoothed"]), ("both", ["plain", "smoothed"])])
def test_one_update_for_each_form_of_input(kit, student, batch, inputs, forms):
    seen = []
    embed = student.get_input_embeddings()
    embed.register_forward_hook(lambda *_: seen.append("plain"))
    distiller = _distiller(kit, student, inputs)
    before = embed.weight.detach().clone()
    next(distiller.updates(batch))  # at rate 0: warming up
    torch.testing.assert_close(embed.weight, before, atol=0, rtol=0)
    updates = list(distiller.updates(batch))
    assert [update.form for update in updates] == forms
    assert not torch.equal(embed.weight, before)
    assert ("plain" in seen) == ("plain" in forms)


def test_updates_stop_at_the_last_step(kit, student, batch):
    distiller = _distiller(kit, student, steps=3)
    assert [u.form for _ in range(5) for u in distiller.updates(batch)] == ["plain", "smoothed", "plain"]
    assert distiller.done == 3


def test_the_rate_rises_then_falls_to_zero(kit, student, batch):
    distiller = _distiller(kit, student, "plain", steps=10)
    rates = [u.lr for _ in range(10) for u in distiller.updates(batch)]
    np.testing.assert_allclose(rates, 1e-3 * np.array([0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]))


def test_training_lowers_the_loss(kit, student, batch):
    distiller = _distiller(kit, student, "smoothed", steps=40, lr=1e-2)
    losses = [u.loss for _ in range(40) for u in distiller.updates(batch)]
    assert losses[-1] < 0.3 * losses[0]


def test_biases_and_norms_do_not_decay(kit, student):
    decayed, others = _distiller(kit, student).optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in student.named_parameters()}
    assert all("bias" in names[id(p)] or "LayerNorm" in names[id(p)] for p in others["params"])
    assert all("bias" not in names[id(p)] and "LayerNorm" not in names[id(p)] for p in decayed["params"])


def test_an_infinite_loss_stops_and_names_the_rows(kit, student, batch):
    distiller = _distiller(kit, student, objective=lambda logits, batch: logits.sum() * float("nan"))
    before = student.classifier.weight.detach().clone()
    with pytest.raises(TrainingError, match=r"the loss became nan in update 1 on plain input \(rows 0, 1, 2, .* and 2 more\)"):
        list(distiller.updates(batch))
    torch.testing.assert_close(student.classifier.weight, before, atol=0, rtol=0)


def test_an_infinite_gradient_stops(kit, student, batch):
    def objective(logits, batch):
        return torch.where(logits > 1e9, torch.sqrt(logits - logits.detach()), logits * 0).sum()  # sqrt'(0) is infinite, times 0

    with pytest.raises(TrainingError, match="the gradient norm became nan"):
        list(_distiller(kit, student, objective=objective).updates(batch))


def test_task_objectives(kit, batch):
    logits = torch.randn(10, 2, requires_grad=True)
    expected = -logits.log_softmax(1)[torch.arange(10), batch.labels].mean()
    torch.testing.assert_close(task_objective("class")(logits, batch), expected)
    values = SmoothedCollator(pad_id=0)(kit.random_rows(1, 10, label_kind="value").block)
    torch.testing.assert_close(task_objective("value")(logits[:, :1], values), ((logits[:, 0] - values.labels) ** 2).mean())


def test_bfloat16_keeps_float32_weights(kit, student, batch):
    student.eval()
    with torch.no_grad():
        reference = task_objective("class")(forward(student, batch, None), batch)
    update = next(_distiller(kit, student, dtype="bfloat16").updates(batch))  # the student has no dropout
    assert update.loss == pytest.approx(float(reference), abs=0.05)
    assert update.loss != float(reference)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
