"""Metrics are the library's; predictions do not depend on how rows are batched."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from textsmooth.stages.evaluate import labelled, metrics, predict
from textsmooth.stages.stream import SmoothedDataset


def _logits(predicted, classes):
    return np.eye(classes, dtype=np.float32)[predicted] * 3


def test_two_classes():
    labels, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 1])
    found = metrics(_logits(predicted, 2), labels, "class")
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["f1"] == pytest.approx(f1_score(labels, predicted))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
    log_probs = torch.from_numpy(_logits(predicted, 2)).log_softmax(1)
    assert found["loss"] == pytest.approx(float(-log_probs[torch.arange(5), torch.from_numpy(labels)].mean()), rel=1e-6)


def test_three_classes_have_a_macro_f1():
    labels, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 1])  # class 2 never occurs
    found = metrics(_logits(predicted, 3), labels, "class")
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="macro", labels=[0, 1, 2], zero_division=0))


@pytest.mark.parametrize("predicted", [0, 1])
def test_one_class_only_scores_without_warnings(predicted):
    found = metrics(_logits(np.full(4, predicted), 2), np.ones(4, np.int64), "class")
    assert found["accuracy"] == predicted
    assert found["matthews"] == 0


def test_values():
    labels, predicted = np.array([0.1, 0.5, 0.4, 0.9]), np.array([0.2, 0.4, 0.5, 0.7], np.float32)
    found = metrics(predicted[:, None], labels, "value")
    assert found["pearson"] == pytest.approx(pearsonr(predicted, labels).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(predicted, labels).statistic)
    assert found["loss"] == pytest.approx(((predicted - labels) ** 2).mean())


def test_a_constant_prediction_has_no_correlation():
    found = metrics(np.ones((4, 1), np.float32), np.array([0.1, 0.5, 0.4, 0.9]), "value")
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
