"""How good a student is: metrics of a library on a split. The student always gets plain ids, as in use.

Legend: R rows, C classes.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.stages.collate import SmoothedCollator
from textsmooth.stages.distill import autocast, forward
from textsmooth.stages.stream import SmoothedDataset

MAIN_METRIC = {"class": "accuracy", "value": "pearson"}


def labelled(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows have a label: [R]. Unlabelled is -1 (class) or NaN (value)."""
    return ~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0


def predict(
    student: Any, dataset: SmoothedDataset, rows: NDArray[np.int64], *, pad_id: int, batch_size: int = 64, dtype: str = "float32"
) -> NDArray[np.float32]:
    """Logits [R, C] of rows (global indices of the split), in their order; batches are of similar length. Student in eval mode."""
    student.eval()
    device = next(student.parameters()).device
    collate = SmoothedCollator(pad_id=pad_id)
    by_length = np.argsort(-dataset.lengths[rows], kind="stable")
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = collate(dataset.batch(rows[by_length[start : start + batch_size]])).to(device)
        with torch.inference_mode(), autocast(device, dtype):
            parts.append(forward(student, batch, None).float().cpu().numpy())
    sorted_logits = np.concatenate(parts)
    logits = np.empty_like(sorted_logits)
    logits[by_length] = sorted_logits
    return logits


def metrics(logits: NDArray[np.float32], labels: NDArray[Any], label_kind: str) -> dict[str, float | None]:
    """Scores of logits [R, C] against labels [R]; None where a score is undefined.

    class: accuracy, f1 (of class 1 if there are two, else macro), matthews, loss (mean cross-entropy).
    value: pearson, spearman, loss (mean squared error); the logits are [R, 1].
    """
    scores = _class_scores(logits, labels) if label_kind == "class" else _value_scores(logits[:, 0], labels)
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def _class_scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef

    predicted = logits.argmax(1)
    classes = np.arange(logits.shape[1])
    average = "binary" if len(classes) == 2 else "macro"
    probs = torch.from_numpy(logits).double().softmax(1).numpy()
    one_class = len(np.unique(np.concatenate([predicted, labels]))) == 1  # scikit-learn warns, and says 0
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, labels=None if average == "binary" else classes, average=average, zero_division=0)),
        "matthews": 0.0 if one_class else float(matthews_corrcoef(labels, predicted)),
        "loss": float(log_loss(labels, probs, labels=classes)),
    }


def _value_scores(predicted: NDArray[np.float32], labels: NDArray[np.float64]) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_squared_error

    constant = np.ptp(predicted) == 0 or np.ptp(labels) == 0  # no correlation to speak of
    return {
        "pearson": math.nan if constant else float(pearsonr(predicted, labels).statistic),
        "spearman": math.nan if constant else float(spearmanr(predicted, labels).statistic),
        "loss": float(mean_squared_error(labels, predicted)),
    }
