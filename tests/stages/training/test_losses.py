"""Losses and gradients against dense float64 references; sums that do not depend on how a batch was split."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from helpers_families import FAMILIES, PAD, VOCAB, make
from torch.nn import functional as F

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.task_kinds import CLASS, task_kind
from textsmooth.stages.dataset.collate import Batch, MaskedTargets
from textsmooth.stages.training import student_forward as forwards
from textsmooth.stages.training.losses import objective_for, soft_cross_entropy
from textsmooth.stages.training.student_forward import autocast, forward, masked_logits


def random_targets(places: torch.Tensor, vocab: int, *, seed: int = 0, whole: bool = False, masses: float | None = None) -> MaskedTargets:
    """Sparse distributions of 1 to 7 entries, or of all of the vocabulary; the tail is what is left of 1. masses: of the entries."""
    rng = np.random.default_rng(seed)
    ids, probs, counts = [], [], []
    for _ in places:
        k = vocab if whole else int(rng.integers(1, 8))
        ids.append(rng.permutation(vocab)[:k])
        share = 1.0 if whole else rng.uniform(0.3, 0.99) if masses is None else masses
        probs.append(rng.dirichlet(np.ones(k)) * share)
        counts.append(k)
    mass = np.array([p.sum() for p in probs])
    return MaskedTargets(
        places=places,
        original=torch.from_numpy(rng.integers(0, vocab, len(places))),
        ids=torch.from_numpy(np.concatenate(ids)),
        probs=torch.from_numpy(np.concatenate(probs)).float(),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        tail=torch.from_numpy(np.maximum(1 - mass, 0)).float() * (not whole),
    )


def bucketed(logits: torch.Tensor, targets: MaskedTargets, temperature: float) -> torch.Tensor:
    """The definition, place by place, in float64: [M]."""
    q = (logits.double() / temperature).softmax(1)
    losses = []
    for m in range(len(targets.places)):
        part = slice(int(targets.offsets[m]), int(targets.offsets[m + 1]))
        ids, p = targets.ids[part], targets.probs[part].double()
        loss = -(p * q[m, ids].log()).sum()
        if targets.tail[m] > 0:
            outside = torch.ones(q.shape[1], dtype=torch.bool)
            outside[ids] = False
            loss = loss - targets.tail[m].double() * q[m, outside].sum().log()
        losses.append(loss)
    return torch.stack(losses)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("whole", [False, True])
def test_sparse_cross_entropy_and_its_gradient_are_the_dense_ones(temperature: float, whole: bool) -> None:
    torch.manual_seed(1)
    logits = torch.randn(9, 50) * 4
    targets = random_targets(torch.arange(9), 50, whole=whole)
    here, there = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss, reference = soft_cross_entropy(here, targets, temperature), bucketed(there, targets, temperature)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), reference, rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(here.grad.double(), there.grad, rtol=1e-5, atol=1e-6)
    if whole:  # then it is the full cross-entropy, KL but for the teacher's entropy
        dense = torch.zeros(9, 50, dtype=torch.float64)
        dense[torch.arange(9).repeat_interleave(50), targets.ids] = targets.probs.double()
        full = F.cross_entropy(logits.double() / temperature, dense, reduction="none")
        torch.testing.assert_close(loss.double(), full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", [0.0, 30.0, 80.0, 200.0])
@pytest.mark.parametrize("mass", [1.0, 1 - 1e-7, 0.5])
def test_the_gradient_is_finite_and_right_when_the_student_puts_all_mass_on_the_entries(height: float, mass: float) -> None:
    """1 - sum q would be 0 in float32, and its logarithm's gradient infinite."""
    targets = dataclasses.replace(random_targets(torch.arange(4), 50, masses=mass), tail=torch.full((4,), np.float32(1 - mass)))
    logits = torch.zeros(4, 50)
    logits[torch.arange(4).repeat_interleave(targets.offsets.diff()), targets.ids] = height
    here, there = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss, reference = soft_cross_entropy(here, targets, 1.0), bucketed(there, targets, 1.0)
    torch.testing.assert_close(loss.double(), reference, rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    reference.sum().backward()
    assert here.grad.isfinite().all()
    torch.testing.assert_close(here.grad.double(), there.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_entries_without_probability_add_nothing_even_where_the_student_gives_them_none(whole: bool) -> None:
    """0 log 0 = 0, in the loss and in its gradient."""
    torch.manual_seed(2)
    targets = random_targets(torch.arange(6), 20, whole=whole)
    nothing = torch.zeros(len(targets.ids), dtype=torch.bool)
    nothing[targets.offsets[1:] - 1] = targets.offsets.diff() > 1  # the last entry of each place
    probs = torch.where(nothing, 0.0, targets.probs)
    targets = dataclasses.replace(targets, probs=probs)
    logits = torch.randn(6, 20)
    logits[torch.arange(6).repeat_interleave(targets.offsets.diff())[nothing], targets.ids[nothing]] = -torch.inf
    here = logits.clone().requires_grad_()
    loss = soft_cross_entropy(here, targets, 1.0)
    q = logits.double().softmax(1)
    for m in range(6):
        part = slice(int(targets.offsets[m]), int(targets.offsets[m + 1]))
        pairs = [(p, q[m, i]) for i, p in zip(targets.ids[part], probs[part].double(), strict=True) if p > 0]
        expected = -sum(p * other.log() for p, other in pairs)
        if targets.tail[m] > 0:
            outside = torch.ones(20, dtype=torch.bool)
            outside[targets.ids[part]] = False
            expected = expected - targets.tail[m].double() * q[m, outside].sum().log()
        assert float(loss[m].detach()) == pytest.approx(float(expected), rel=1e-5)
    loss.sum().backward()
    assert here.grad is not None and here.grad.isfinite().all()


class Given(torch.nn.Module):
    """A student that says what it is told to: logits are its parameter."""

    base_model_prefix = "none"

    def __init__(self, **logits: torch.Tensor) -> None:
        super().__init__()
        from transformers import BertConfig

        self.config = BertConfig()
        self.given = torch.nn.ParameterDict(logits)
        self.rows = slice(None)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        from transformers.utils import ModelOutput

        return ModelOutput({name: value[self.rows] for name, value in self.given.items()})


def rows_batch(lengths: list[int], **values: object) -> Batch:
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    given = {"labels": None, "soft": None, "token_type_ids": None, **values}
    return Batch(rows=np.arange(len(lengths)) + 100, input_ids=mask * 7, attention_mask=mask, **given)


def part(batch: Batch, rows: slice) -> Batch:
    named = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    kept = ("rows", "input_ids", "attention_mask", "labels", "spans", "teacher_logits", "weight")
    return dataclasses.replace(batch, **{k: v[rows] for k, v in named.items() if k in kept and v is not None})


LENGTHS = [5, 3, 8, 4]


def example(kind: str) -> tuple[Given, Batch]:
    torch.manual_seed(2)
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0])
    if kind == "span":
        student = Given(start_logits=torch.randn(4, 8), end_logits=torch.randn(4, 8))
        spans = torch.tensor([[1, 4], [0, 0], [7, 7], [2, 3]])
        return student, rows_batch(LENGTHS, spans=spans, teacher_logits=torch.randn(4, 8, 2), weight=weight)
    if kind == "value":
        values = torch.tensor([0.5, 4.0, 1.0, 2.5])
        return Given(logits=torch.randn(4, 1)), rows_batch(LENGTHS, labels=values, teacher_logits=torch.randn(4, 1), weight=weight)
    return Given(logits=torch.randn(4, 3)), rows_batch(
        LENGTHS, labels=torch.tensor([2, 0, 1, 1]), teacher_logits=torch.randn(4, 3), weight=weight
    )


def reference(kind: str, student: Given, batch: Batch, row: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(task loss, distillation loss) of one row, from the formulas, in float64."""
    assert batch.teacher_logits is not None
    teacher = batch.teacher_logits[row].double()
    if kind == "value":
        assert batch.labels is not None
        said = student.given["logits"][row, 0].double()
        return (said - batch.labels[row].double()) ** 2, (said - teacher[0]) ** 2
    if kind == "class":
        assert batch.labels is not None
        pairs = [(student.given["logits"][row].double(), teacher, batch.labels[row])]
    else:
        assert batch.spans is not None
        n = LENGTHS[row]
        names = ("start_logits", "end_logits")
        pairs = [(student.given[name][row, :n].double(), teacher[:n, i], batch.spans[row, i]) for i, name in enumerate(names)]
    task = [-said.log_softmax(0)[label] for said, _, label in pairs]
    p, q = ([(z[i] / temperature).softmax(0) for z in pairs] for i in (1, 0))
    kd = [temperature**2 * (a * (a / b).log()).sum() for a, b in zip(p, q, strict=True)]
    return torch.stack(task).mean(), torch.stack(kd).mean()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["class", "value", "span"])
def test_losses_are_the_formulas_and_add_up_over_parts(kind: str, temperature: float) -> None:
    student, batch = example(kind)
    for objective, shares in (("task", (1.0, 0.0)), ("kd", (0.0, 1.0)), ("task+kd", (0.3, 0.7))):
        made = objective_for(objective, task_kind(kind), kd_weight=0.7, kd_temperature=temperature)
        expected = sum(
            sum(s * x for s, x in zip(shares, reference(kind, student, batch, row, temperature), strict=True)) for row in (0, 1, 3)
        )
        loss = made.loss(student, batch, None)
        assert loss.dtype == torch.float32 and loss.shape == ()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        assert made.units(batch) == 3
        whole = torch.autograd.grad(loss / made.units(batch), list(student.given.values()))
        parts = [torch.zeros_like(g) for g in whole]
        for rows in (slice(0, 2), slice(2, 4)):
            student.rows = rows
            share = made.loss(student, part(batch, rows), None) / made.units(batch)
            parts = [a + b for a, b in zip(parts, torch.autograd.grad(share, list(student.given.values())), strict=True)]
        student.rows = slice(None)
        for a, b in zip(whole, parts, strict=True):
            assert a.isfinite().all()
            torch.testing.assert_close(a, b)
        assert sum(made.units(part(batch, rows)) for rows in (slice(0, 2), slice(2, 4))) == 3


@pytest.mark.parametrize(("kind", "none"), [("class", -1), ("value", float("nan"))])
def test_a_row_without_label_still_has_its_teacher(kind: str, none: float) -> None:
    student, batch = example(kind)
    assert batch.labels is not None
    batch = dataclasses.replace(
        batch, labels=torch.where(torch.tensor([True, False, False, False]), none, batch.labels).to(batch.labels.dtype), weight=None
    )
    counts = {name: objective_for(name, task_kind(kind)).units(batch) for name in ("task", "kd", "task+kd")}
    assert counts == {"task": 3, "kd": 4, "task+kd": 4}
    task = objective_for("task", task_kind(kind)).loss(student, batch, None)
    torch.testing.assert_close(
        task, objective_for("task", task_kind(kind)).loss(student, dataclasses.replace(batch, weight=torch.tensor([0.0, 1, 1, 1])), None)
    )
    (gradient,) = torch.autograd.grad(task, list(student.given.values()))
    assert gradient.isfinite().all() and (gradient[0] == 0).all()


@pytest.mark.parametrize(
    ("kind", "labels", "said"), [("mlmm", "class", "is not one of task, kd"), ("task", None, "the dataset has none; try mlm")]
)
def test_impossible_objectives_are_refused(kind: str, labels: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        objective_for(kind, task_kind(labels))


# ---- masked LMs ----

NAMED = ["bert", "roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2", "modernbert", "camembert", "xlm-roberta"]
assert set(NAMED) <= set(FAMILIES)


def masked_batch(vocab: int = VOCAB, **changes: object) -> Batch:
    torch.manual_seed(4)
    mask = (torch.arange(8)[None] < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.where(mask == 1, torch.randint(5, VOCAB, (4, 8)), PAD)
    places = torch.tensor([1, 3, 9, 17, 22, 26])
    masked = random_targets(places, vocab)
    return Batch(
        rows=np.arange(4), input_ids=ids, attention_mask=mask, token_type_ids=None, labels=None, soft=None, masked=masked, **changes
    )


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> object:
    from transformers import AutoModelForMaskedLM

    make("bert", folder := tmp_path_factory.mktemp("bert"))
    return AutoModelForMaskedLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("family", NAMED)
def test_the_head_runs_on_the_masked_places_alone(family: str, tmp_path: object) -> None:
    """Logits and gradients of every weight are those of the whole model."""
    from transformers import AutoModelForMaskedLM

    make(family, tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    batch = masked_batch()
    projected = []
    model.get_output_embeddings().register_forward_hook(lambda module, given, logits: projected.append(logits.numel() // logits.shape[-1]))
    grads = []
    for logits_of in (lambda: masked_logits(model, batch), lambda: forward(model, batch, None).flatten(0, 1)[batch.masked.places]):
        model.zero_grad()
        logits = logits_of()
        soft_cross_entropy(logits[:, :VOCAB], batch.masked, 2.0).sum().backward()
        grads.append((logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    assert projected[-2:] == [6, 32]
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=1e-4, atol=1e-5)
    assert grads[0][1].keys() == grads[1][1].keys()
    size = max(float(g.abs().max()) for g in grads[1][1].values())
    for name, gradient in grads[0][1].items():
        torch.testing.assert_close(gradient, grads[1][1][name], rtol=1e-3, atol=1e-5 * size, msg=lambda m, name=name: f"{name}: {m}")


def test_a_head_that_looks_at_neighbours_gets_the_whole_row(student: torch.nn.Module) -> None:
    other = copy.deepcopy(student).train()
    other.cls.register_forward_pre_hook(lambda module, given: (given[0] + given[0].mean(1, keepdim=True),))
    batch = masked_batch()
    other.eval()
    torch.testing.assert_close(
        masked_logits(other, batch), other(batch.input_ids, batch.attention_mask).logits.flatten(0, 1)[batch.masked.places]
    )
    assert not forwards._pointwise_heads[other] and other.cls._forward_pre_hooks


def test_looking_at_the_head_leaves_the_student_in_its_mode(student: torch.nn.Module) -> None:
    other = copy.deepcopy(student).train()
    masked_logits(other, masked_batch())
    assert other.training and forwards._pointwise_heads[other] and not other.bert._forward_hooks


@pytest.mark.parametrize(("share", "temperature"), [(1.0, 1.0), (0.0, 1.0), (0.6, 2.0)])
def test_the_masked_loss_mixes_soft_ids_and_the_masked_token(student: object, share: float, temperature: float) -> None:
    batch = masked_batch(weight=torch.tensor([1.0, 1.0, 0.0, 1.0]))
    made = objective_for("mlm", kd_weight=share, kd_temperature=temperature)
    logits = forward(student, batch, None).flatten(0, 1)[batch.masked.places].double()
    hard = F.cross_entropy(logits, batch.masked.original, reduction="none")
    losses = share * temperature**2 * bucketed(logits, batch.masked, temperature) + (1 - share) * hard
    counted = torch.tensor([0, 1, 2, 5])  # places 17 and 22 are in row 2, of weight 0
    loss = made.loss(student, batch, None)
    torch.testing.assert_close(loss.double(), losses[counted].sum(), rtol=1e-4, atol=1e-4)
    assert made.units(batch) == 4 and made.units(dataclasses.replace(batch, weight=None)) == 6


def test_ids_beyond_the_teachers_are_left_out(student: object) -> None:
    batch = masked_batch(vocab=60)
    logits = masked_logits(student, batch)[:, :60].double()
    loss = objective_for("mlm", kd_weight=1.0, vocab_size=60).loss(student, dataclasses.replace(batch, weight=None), None)
    torch.testing.assert_close(loss.double(), bucketed(logits, batch.masked, 1.0).sum(), rtol=1e-5, atol=1e-4)


def test_a_batch_with_nothing_masked_has_no_loss_and_no_units(student: torch.nn.Module) -> None:
    ints, floats = torch.zeros(0, dtype=torch.long), torch.zeros(0)
    nothing = MaskedTargets(places=ints, original=ints, ids=ints, probs=floats, offsets=torch.zeros(1, dtype=torch.long), tail=floats)
    batch = dataclasses.replace(masked_batch(), masked=nothing)
    made = objective_for("mlm", kd_weight=0.5)
    loss = made.loss(student, batch, None)
    assert loss.item() == 0 and made.units(batch) == 0
    loss.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in student.parameters())


@pytest.mark.parametrize("kind", ["mlm", "class"])
def test_losses_are_float32_under_autocast(student: object, kind: str) -> None:
    batch = masked_batch(teacher_logits=torch.randn(4, 3))
    with autocast(torch.device("cpu"), "bfloat16"):
        if kind == "mlm":
            loss = objective_for("mlm", kd_weight=0.5, kd_temperature=2.0).loss(student, batch, None)
            assert masked_logits(student, batch).dtype == torch.bfloat16
        else:
            given, batch = example("class")
            loss = objective_for("task+kd", CLASS).loss(given, batch, None)
    assert loss.dtype == torch.float32 and loss.isfinite()
