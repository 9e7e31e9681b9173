"""Scores of a student on a split: classification or regression metrics, SQuAD's, or those of masked tokens. Its input is plain ids.

Legend: R rows, C classes, L length, M masked places, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.task_kinds import CLASS, MASKED_TOKENS, SPAN, VALUE, TaskKind
from textsmooth.schemas.tasks import TASKS
from textsmooth.stages.dataset.collate import MaskedTargets, SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.mlm_collate import MaskedCollator
from textsmooth.stages.dataset.row_gather import gather
from textsmooth.stages.soft_ids.codec import TokenBlock, decode
from textsmooth.stages.training.losses import soft_cross_entropy
from textsmooth.stages.training.squad_metrics import Answer, answer_of, exact_match, token_f1
from textsmooth.stages.training.step import TrainingError
from textsmooth.stages.training.student_forward import autocast, forward, masked_logits

LOWER_IS_BETTER = ("loss", "nll", "perplexity", "kl")


def main_metric(kind: TaskKind, task: str | None = None) -> str:
    """The metric that decides: the first of a known task's, else the default of the kind of labels."""
    return next(iter(_task_metrics(kind, task)), kind.main_metric)


def _task_metrics(kind: TaskKind, task: str | None) -> tuple[str, ...]:
    """The metrics of a known task; none if masked tokens are learned instead of its labels."""
    return TASKS[task].metrics if task in TASKS and kind is not MASKED_TOKENS else ()


def higher_is_better(name: str) -> bool:
    return name not in LOWER_IS_BETTER


def labelled(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows have a label, [R] bool. Without a label a class is -1, a value NaN."""
    return ~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0


class Evaluation:
    """Scores students on rows of a split.

    rows: row numbers of the split; None: all. pad_id: None for the dataset's. For masked tokens each row is masked in one of its
    passes, always the same one. DatasetError if no row can be scored.
    """

    def __init__(
        self,
        dataset: SmoothedDataset,
        rows: NDArray[np.int64] | None = None,
        *,
        kind: TaskKind,
        pad_id: int | None = None,
        batch_size: int = 64,
        dtype: str = "float32",
    ) -> None:
        self.dataset, self.kind, self.batch_size, self.dtype = dataset, kind, batch_size, dtype
        self.pad_id = dataset.manifest.special_ids.get("pad") or 0 if pad_id is None else pad_id
        self.task = dataset.manifest.corpus.get("task")
        self.rows = np.arange(len(dataset)) if rows is None else np.asarray(rows, np.int64)
        self._masking = MaskedCollator.for_dataset(dataset) if kind is MASKED_TOKENS else None
        if kind.has_label_column:
            if dataset.labels is None:
                raise DatasetError(f"split {dataset.name!r} has no labels, it cannot be scored; choose another split or dataset")
            self.rows = self.rows[labelled(dataset.labels[self.rows])]
        if not len(self.rows):
            raise DatasetError(f"no row of split {dataset.name!r} can be scored: none has a label; choose another split or dataset")

    def __call__(self, student: Any) -> dict[str, float | None]:
        """Scores by name, those of the task first; None for an undefined one. Leaves the student in eval mode.

        class, value: as `metrics`. span: f1, exact_match. mlm: nll (nats per masked token), perplexity and accuracy against the token that
        was masked, and kl from the stored soft ids at T = 1, their tail as one bucket.
        """
        student.eval()
        scores = _SCORES[self.kind](self, student)
        return {**{name: scores[name] for name in _task_metrics(self.kind, self.task)}, **scores}

    def _row_scores(self, student: Any) -> dict[str, float | None]:
        assert self.dataset.labels is not None
        logits = predict(student, self.dataset, self.rows, pad_id=self.pad_id, batch_size=self.batch_size, dtype=self.dtype)
        return metrics(logits, self.dataset.labels[self.rows], self.kind)

    def _span_scores(self, student: Any) -> dict[str, float | None]:
        """One pass over the record batches of the split; only the answers to the current question are kept in memory.

        If any question has no answer, as in SQuAD v2, the student may predict no answer to all of them.
        """
        pairs: list[tuple[list[float], list[float]]] = []  # of each question [f1, exact match]: always answered, perhaps not answered
        may_be_none = False
        for answer, golds in self._answers(student):
            may_be_none = may_be_none or not any(golds)
            texts = (answer.prediction(may_be_none=none) for none in (False, True))
            answered, perhaps_none = ([token_f1(text, golds), exact_match(text, golds)] for text in texts)
            pairs.append((answered, perhaps_none))
        f1, exact = np.mean([pair[may_be_none] for pair in pairs], axis=0).tolist()
        return {"f1": f1, "exact_match": exact}

    def _answers(self, student: Any) -> Iterator[tuple[Answer, list[str]]]:
        """The student's answer to each question, from all its windows, and the answers of the corpus."""
        wanted = np.zeros(len(self.dataset), np.bool_)
        wanted[self.rows] = True
        begin, last = 0, -1
        answer: Answer | None = None
        golds: list[str] = []
        for batch in self.dataset.record_batches():
            chosen = np.flatnonzero(wanted[begin : begin + batch.num_rows])
            begin += batch.num_rows
            if not len(chosen):
                continue
            block = decode(batch)
            contexts, answers, offsets = (batch.column(name) for name in ("context", "answers", "offsets"))
            for i, logits in zip(chosen.tolist(), self._span_logits(student, block, chosen), strict=True):
                window = answer_of(logits, offsets[i].values.flatten().to_numpy().reshape(-1, 2), contexts[i].as_py())
                if answer is not None and block.row[i] == last:
                    answer = answer.or_better(window)
                    continue
                if answer is not None:
                    yield answer, golds
                answer, golds, last = window, answers[i].as_py()["text"], int(block.row[i])
        if answer is not None:
            yield answer, golds

    def _span_logits(self, student: Any, block: TokenBlock, chosen: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Logits [L, 2] of each chosen row of a block, without padding; batches are of similar length."""
        device, collate = next(student.parameters()).device, SmoothedCollator(pad_id=self.pad_id)
        lengths = np.diff(block.row_offsets)[chosen]
        unpadded: list[Any] = [None] * len(chosen)
        by_length = np.argsort(-lengths, kind="stable")
        for start in range(0, len(chosen), self.batch_size):
            part = by_length[start : start + self.batch_size]
            rows = collate(gather([block] * len(part), chosen[part].tolist())).to(device)
            with torch.inference_mode(), autocast(device, self.dtype):
                logits = forward(student, rows, None).float().cpu().numpy()
            _check_finite(logits, self.dataset)
            for i, row in zip(part, logits, strict=True):
                unpadded[i] = row[: lengths[i]]
        return unpadded

    def _masked_scores(self, student: Any) -> dict[str, float | None]:
        assert self._masking is not None
        device, width = next(student.parameters()).device, int(self.dataset.manifest.teacher["vocab_size"])
        sums = np.zeros(4)  # masked places, nll, correct predictions, kl
        by_length = self.rows[np.argsort(-self.dataset.lengths[self.rows], kind="stable")]
        for start in range(0, len(by_length), self.batch_size):
            batch = self._masking(self.dataset.batch(by_length[start : start + self.batch_size])).to(device)
            assert batch.masked is not None
            with torch.inference_mode(), autocast(device, self.dtype):
                logits = masked_logits(student, batch)[:, :width].float()
                sums += [len(logits), *_masked_sums(logits, batch.masked)]
        if not sums[0]:
            raise DatasetError(f"split {self.dataset.name!r} has no token to mask; choose another split or dataset")
        if np.isnan(sums).any():
            raise _diverged(self.dataset)
        nll, accuracy, kl = (sums[1:] / sums[0]).tolist()  # infinite where the student rules out what is true
        scores = {"nll": nll, "perplexity": math.exp(nll) if nll < 700 else math.inf, "accuracy": accuracy, "kl": kl}
        return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def _masked_sums(logits: torch.Tensor, targets: MaskedTargets) -> tuple[float, float, float]:
    """(nll, correct predictions, kl), summed over the masked places of a batch."""
    nll = F.cross_entropy(logits, targets.original, reduction="sum")
    correct = (logits.argmax(1) == targets.original).sum()
    entropy = torch.xlogy(targets.probs, targets.probs).sum() + torch.xlogy(targets.tail, targets.tail).sum()
    return float(nll), float(correct), float(soft_cross_entropy(logits, targets, 1.0).sum() + entropy)


def predict(
    student: Any, dataset: SmoothedDataset, rows: NDArray[np.int64], *, pad_id: int, batch_size: int = 64, dtype: str = "float32"
) -> NDArray[np.float32]:
    """Logits [R, C] of rows (row numbers of the split), in their order; batches are of similar length. Sets the student to eval mode."""
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
    _check_finite(logits, dataset)
    return logits


def _check_finite(values: Any, dataset: SmoothedDataset) -> None:
    """TrainingError if the student has diverged."""
    if not np.isfinite(values).all():
        raise _diverged(dataset)


def _diverged(dataset: SmoothedDataset) -> TrainingError:
    return TrainingError(f"the student's predictions on {dataset.name} are not finite numbers; lower --lr")


def metrics(logits: NDArray[np.float32], labels: NDArray[Any], kind: TaskKind) -> dict[str, float | None]:
    """Scores of logits [R, C] against labels [R]; None where a score is undefined.

    class: accuracy, f1 (of class 1 if there are two, else the mean over the classes that occur in labels or predictions), matthews, loss
    (mean cross-entropy).
    value: pearson, spearman, loss (mean squared error); the logits are [R, 1]. DatasetError for a label that is not a class.
    """
    scores = _class_scores(logits, labels) if kind.has_classes else _value_scores(logits[:, 0], labels)
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def _class_scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef

    predicted = logits.argmax(1)
    classes = np.arange(logits.shape[1])
    if labels.max() >= len(classes):
        raise DatasetError(f"label {labels.max()} is none of the {len(classes)} classes; generate the dataset again")
    average = "binary" if len(classes) == 2 else "macro"  # over the classes that occur in labels or predictions, as scikit-learn's default
    probs = torch.from_numpy(logits).double().softmax(1).numpy()
    one_class = len(np.unique(np.concatenate([predicted, labels]))) == 1  # scikit-learn warns and returns 0
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average=average, zero_division=0)),
        "matthews": 0.0 if one_class else float(matthews_corrcoef(labels, predicted)),
        "loss": float(log_loss(labels, probs, labels=classes)),
    }


def _value_scores(predicted: NDArray[np.float32], labels: NDArray[np.float64]) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_squared_error

    constant = np.ptp(predicted) == 0 or np.ptp(labels) == 0  # the correlation is undefined
    return {
        "pearson": math.nan if constant else float(pearsonr(predicted, labels).statistic),
        "spearman": math.nan if constant else float(spearmanr(predicted, labels).statistic),
        "loss": float(mean_squared_error(labels, predicted)),
    }


_SCORES: dict[TaskKind, Callable[[Evaluation, Any], dict[str, float | None]]] = {
    CLASS: Evaluation._row_scores,
    VALUE: Evaluation._row_scores,
    SPAN: Evaluation._span_scores,
    MASKED_TOKENS: Evaluation._masked_scores,
}
