"""Metrics are the library's, answers those of all windows, masks those of generation; nothing depends on how rows are batched."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers_gen import Ran, sentence, write_parquet
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.task_kinds import CLASS, MASKED_TOKENS, SPAN, VALUE, task_kind
from textsmooth.schemas.tasks import TASKS
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.mlm_collate import MaskedCollator
from textsmooth.stages.training.evaluate import Evaluation, higher_is_better, labelled, main_metric, metrics, predict
from textsmooth.stages.training.squad_metrics import answer_of, exact_match, token_f1


def _logits(predicted, classes):
    return np.eye(classes, dtype=np.float32)[predicted] * 3


def test_two_classes():
    labels, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 1])
    found = metrics(_logits(predicted, 2), labels, CLASS)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["f1"] == pytest.approx(f1_score(labels, predicted))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
    log_probs = torch.from_numpy(_logits(predicted, 2)).log_softmax(1)
    assert found["loss"] == pytest.approx(float(-log_probs[torch.arange(5), torch.from_numpy(labels)].mean()), rel=1e-6)


RNG = np.random.default_rng(4)
PREDICTIONS = {
    "random": (RNG.integers(0, 3, 60), RNG.integers(0, 3, 60)),
    "perfect": (np.arange(60) % 3, np.arange(60) % 3),
    "constant": (np.arange(60) % 3, np.ones(60, np.int64)),
    "class 2 is in no label": (np.arange(60) % 2, RNG.integers(0, 3, 60)),
    "class 2 is nowhere": (np.arange(60) % 2, RNG.integers(0, 2, 60)),
    "perfect, class 2 is nowhere": (np.arange(60) % 2, np.arange(60) % 2),
    "perfect, class 0 is nowhere": (1 + np.arange(60) % 2, 1 + np.arange(60) % 2),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_scores_of_three_classes_are_those_of_scikit_learn_and_of_their_definitions(case):
    labels, predicted = PREDICTIONS[case]
    found = metrics(_logits(predicted, 3), labels, CLASS)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
    f1 = [2 * ((labels == c) & (predicted == c)).sum() / ((labels == c).sum() + (predicted == c).sum()) for c in {*labels, *predicted}]
    assert found["f1"] == pytest.approx(np.mean(f1))
    if "perfect" in case:
        assert found["accuracy"] == found["f1"] == found["matthews"] == 1.0


@pytest.mark.parametrize("predicted", [0, 1])
def test_one_class_only_scores_without_warnings(predicted):
    found = metrics(_logits(np.full(4, predicted), 2), np.ones(4, np.int64), CLASS)
    assert found["accuracy"] == predicted
    assert found["matthews"] == 0


def test_values():
    labels, predicted = np.array([0.1, 0.5, 0.4, 0.9]), np.array([0.2, 0.4, 0.5, 0.7], np.float32)
    found = metrics(predicted[:, None], labels, VALUE)
    assert found["pearson"] == pytest.approx(pearsonr(predicted, labels).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(predicted, labels).statistic)
    assert found["loss"] == pytest.approx(((predicted - labels) ** 2).mean())


def test_a_constant_prediction_has_no_correlation():
    found = metrics(np.ones((4, 1), np.float32), np.array([0.1, 0.5, 0.4, 0.9]), VALUE)
    assert found["pearson"] is None and found["spearman"] is None and found["loss"] is not None


def test_unlabelled_rows():
    assert labelled(np.array([0, -1, 2])).tolist() == [True, False, True]
    assert labelled(np.array([0.0, np.nan, -1.0])).tolist() == [True, False, True]


def test_predictions_are_in_row_order_whatever_the_batches(kit, smoothed):
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    student = AutoModelForSequenceClassification.from_config(kit.config("bert")).train()
    dataset = SmoothedDataset(smoothed, "validation")
    rows = np.array([5, 3, 59, 0, 17, 33])
    together = predict(student, dataset, rows, pad_id=kit.PAD)
    one_by_one = predict(student, dataset, rows, pad_id=kit.PAD, batch_size=1)
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)
    np.testing.assert_allclose(together[2:3], predict(student, dataset, np.array([59]), pad_id=kit.PAD), atol=1e-6)
    assert not student.training


NINE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")


@pytest.fixture(scope="module")
def valued(kit, tmp_path_factory):
    return kit.small_dataset(tmp_path_factory.mktemp("values") / "d", label_kind="value")


@pytest.mark.parametrize("name", NINE)
def test_every_task_of_glue_has_its_own_scores(kit, smoothed, valued, name):
    from transformers import AutoModelForSequenceClassification

    task = TASKS[f"glue/{name}"]
    dataset = SmoothedDataset(valued if task.label_kind == "value" else smoothed, "validation")
    dataset.manifest.corpus["task"] = task.name
    torch.manual_seed(0)
    student = AutoModelForSequenceClassification.from_config(kit.config("bert", num_labels=len(task.label_names or ("value",))))
    found = Evaluation(dataset, kind=task_kind(task.label_kind))(student)
    logits, labels = predict(student, dataset, np.arange(len(dataset)), pad_id=kit.PAD), dataset.labels
    said = logits.argmax(1)
    average = {"average": "macro"} if name == "mnli" else {}
    theirs = {
        "accuracy": lambda: accuracy_score(labels, said),
        "f1": lambda: f1_score(labels, said, **average),
        "matthews": lambda: matthews_corrcoef(labels, said),
        "pearson": lambda: pearsonr(logits[:, 0], labels).statistic,
        "spearman": lambda: spearmanr(logits[:, 0], labels).statistic,
    }
    for metric in task.metrics:
        assert found[metric] == pytest.approx(theirs[metric]())
    assert tuple(found)[: len(task.metrics)] == task.metrics and main_metric(task_kind(task.label_kind), task.name) == task.metrics[0]


def test_which_score_counts_and_which_way():
    assert [main_metric(kind) for kind in (CLASS, VALUE, SPAN, MASKED_TOKENS)] == ["accuracy", "pearson", "f1", "nll"]
    assert main_metric(MASKED_TOKENS, "glue/cola") == "nll" and main_metric(CLASS, "someone/reviews") == "accuracy"
    better = {name: higher_is_better(name) for name in ("accuracy", "f1", "matthews", "exact_match", "loss", "nll", "perplexity", "kl")}
    assert list(better.values()) == [True] * 4 + [False] * 4


def test_rows_without_label_are_not_scored(kit, tmp_path):
    import dataclasses

    block = kit.random_rows(1, 9).block
    some, none = np.array([0, -1, 1, 1, -1, 0, 0, 1, 0]), np.full(9, -1)
    folder = kit.write_dataset(tmp_path / "d", {f"s{i}": [dataclasses.replace(block, label=label)] for i, label in enumerate((some, none))})
    assert Evaluation(SmoothedDataset(folder, "s0"), kind=CLASS).rows.tolist() == [0, 2, 3, 5, 6, 7, 8]
    with pytest.raises(DatasetError, match="no row of split 's1' can be scored"):
        Evaluation(SmoothedDataset(folder, "s1"), kind=CLASS)
    bare = kit.write_dataset(tmp_path / "bare", {"train": [kit.random_rows(1, 9, label_kind=None).block]}, label_kind=None)
    with pytest.raises(DatasetError, match="split 'train' has no labels"):
        Evaluation(SmoothedDataset(bare, "train"), kind=CLASS)


# ---- answers ----


def _questions(count: int, *, without: bool) -> list[dict[str, Any]]:
    rng = random.Random(5)
    found = []
    for number in range(count):
        words = [*sentence(rng, 60).split(), "end"]
        first = rng.randrange(len(words))
        text, start = words[first], len(" ".join(words[:first])) + (first > 0)
        answers = {"text": [], "answer_start": []} if without and number % 5 == 0 else {"text": [text], "answer_start": [start]}
        found.append({"id": f"q{number}", "context": " ".join(words), "question": sentence(rng, 3), "answers": answers})
    return found


@pytest.fixture(params=["squad", "squad_v2"])
def squad(request: pytest.FixtureRequest, gen: Callable[..., Ran], tmp_path: Path) -> SmoothedDataset:
    """Answers in contexts of up to 60 words, in windows; more of them than a record batch holds."""
    folder = tmp_path / request.param
    folder.mkdir()
    write_parquet(folder / "train.parquet", _questions(130, without=request.param == "squad_v2"), group=50)
    ran = gen("--corpus", folder, "--topk", 1, "--stride", 4, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    dataset = SmoothedDataset(tmp_path / "out", "train")
    assert len(dataset) > 300 and len(dataset.shards) == 1
    return dataset


class Reader(torch.nn.Module):
    """A span model that knows the right answers, or answers at random: a function of the row alone."""

    def __init__(self, dataset: SmoothedDataset, sure: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(type_vocab_size=2)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rows = {}
        for i in range(len(dataset)):
            block = dataset.batch(np.array([i]))
            logits = np.random.default_rng(i).normal(0, 1, (len(block.input_ids), 2)).astype(np.float32)
            assert block.spans is not None
            logits[block.spans[0], [0, 1]] += sure
            self.rows[block.input_ids.astype(np.int64).tobytes()] = logits

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        from transformers.utils import ModelOutput

        out = torch.full((*input_ids.shape, 2), 50.0)  # what stands in pads must not matter
        for row, ids, mask in zip(out, input_ids, attention_mask, strict=True):
            row[: mask.sum()] = torch.from_numpy(self.rows[ids[mask == 1].numpy().tobytes()])
        return ModelOutput(start_logits=out[..., 0], end_logits=out[..., 1])


def _reference(dataset: SmoothedDataset, student: Reader) -> dict[str, float]:
    """All columns at once, question by question."""
    import pyarrow as pa

    rows = pa.Table.from_batches(list(dataset.record_batches())).to_pylist()
    may_be_none = any(not row["answers"]["text"] for row in rows)
    scores = []
    for number in sorted({row["row"] for row in rows}):
        windows = [row for row in rows if row["row"] == number]
        answers = []
        for row in windows:
            logits = student.rows[np.array(row["input_ids"], np.int64).tobytes()]
            answers.append(answer_of(logits, np.array(row["offsets"], np.int32), row["context"]))
        best = max(answers, key=lambda answer: answer.score)
        text = "" if may_be_none and min(a.none for a in answers) > best.score else best.text
        golds = windows[0]["answers"]["text"]
        scores.append((token_f1(text, golds), exact_match(text, golds)))
    return dict(zip(("f1", "exact_match"), np.mean(scores, axis=0), strict=True))


def test_answers_are_scored_over_all_windows_of_a_question(squad: SmoothedDataset) -> None:
    guessing, knowing = Reader(squad, 0.0), Reader(squad, 30.0)
    found = Evaluation(squad, kind=SPAN)(guessing)
    assert list(found) == ["f1", "exact_match"] and not guessing.training
    assert found == pytest.approx(_reference(squad, guessing)) and 0 < found["f1"] < 0.7
    assert Evaluation(squad, kind=SPAN, batch_size=3)(guessing) == found
    assert Evaluation(squad, kind=SPAN)(knowing) == {"f1": 1.0, "exact_match": 1.0}


def test_answers_of_some_rows(squad: SmoothedDataset) -> None:
    rows = np.flatnonzero(np.array([squad.batch(np.array([i])).row[0] for i in range(len(squad))]) % 2)
    half = Evaluation(squad, rows, kind=SPAN)
    asked = [answer for answer, _ in half._answers(Reader(squad, 30.0))]
    assert len(asked) == 65
    assert half(Reader(squad, 30.0)) == {"f1": 1.0, "exact_match": 1.0}


# ---- masks ----


def test_the_teacher_itself_fills_masks_as_the_dataset_says(gen: Callable[..., Ran], teacher: Path, reviews: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    ran = gen("--corpus", reviews, "--context", "masked:3", "--topk", 8, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    dataset = SmoothedDataset(tmp_path / "out", "train")
    model = AutoModelForMaskedLM.from_pretrained(teacher)
    found = Evaluation(dataset, kind=MASKED_TOKENS)(model)
    block = dataset.batch(np.arange(len(dataset)))
    batch = MaskedCollator.for_dataset(dataset)(block)
    masked = np.searchsorted(np.flatnonzero(batch.attention_mask.numpy()), batch.masked.places.numpy())
    nll = -float(block.soft.original_logprob[masked].astype(np.float64).mean())
    assert found["nll"] == pytest.approx(nll, rel=1e-3) and found["perplexity"] == pytest.approx(np.exp(nll), rel=1e-2)
    assert abs(found["kl"]) < 1e-3 and 0 <= found["accuracy"] <= 1
    few = Evaluation(dataset, kind=MASKED_TOKENS, batch_size=5)
    assert few(model) == pytest.approx(found, rel=1e-4, abs=1e-5)
    torch.manual_seed(1)
    other = AutoModelForMaskedLM.from_config(model.config)
    assert few(other)["kl"] > 0.01


def test_an_unmasked_dataset_cannot_be_scored_on_masks(smoothed):
    with pytest.raises(UsageError, match="generate with --context masked:8"):
        Evaluation(SmoothedDataset(smoothed, "validation"), kind=MASKED_TOKENS)
