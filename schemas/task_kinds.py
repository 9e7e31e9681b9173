"""What a model predicts for a row, one object per kind: a class, a number, an answer span, or masked tokens.

`label_kind` of a manifest or a plan is the name of such a kind: `task_kind(manifest.corpus["label_kind"])`. Where code depends on the kind,
it asks the object for a fact or calls a method of it; it does not compare names.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TaskKind(ABC):
    """Facts about a kind of labels. The defaults are those of a kind without labels in the dataset."""

    name: str | None  # `label_kind` in manifest.json, plan.json and train.json
    task_category: str  # of the Hub, and the name of the pipeline of transformers
    auto_class: str  # class of transformers whose head predicts this
    main_metric: str  # where the dataset is no known task
    has_label_column = False  # a shard has the column `label`, one label per row
    has_classes = False  # labels are numbers of classes, which may have names
    has_answers = False  # labels are answers inside the context (SQuAD); the teacher's logits are per token
    logits_width: int | None = None  # logits of a row or token; None: one per class
    problem_type: str | None = None  # in the config.json of a sequence classifier
    long_rows = "truncate"  # default of --long

    def output_names(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the logits, for id2label of a student's configuration."""
        return class_names


class LabelColumn(TaskKind):
    """One label per row, in the column `label`."""

    task_category = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    has_label_column = True
    label_dtype: str  # of numpy: int64 or float64

    @abstractmethod
    def from_cells(self, cells: Sequence[str], names: Sequence[str] | None) -> list[Any]:
        """Labels from the cells of a CSV file; an empty cell is None."""

    @abstractmethod
    def to_array(self, values: Sequence[Any], names: Sequence[str] | None, *, missing: int | None = None) -> "NDArray[Any]":
        """Labels as they are stored, [R]. None, and the value `missing` where it is given, stand for no label."""


class _Class(LabelColumn):
    """A class: int64 from 0, -1 for no label."""

    name = "class"
    main_metric = "accuracy"
    has_classes = True
    problem_type = "single_label_classification"
    label_dtype = "int64"

    def from_cells(self, cells: Sequence[str], names: Sequence[str] | None) -> list[Any]:
        known = set(names or ())
        return [(cell if cell in known else json.loads(cell)) if cell else None for cell in cells]

    def to_array(self, values: Sequence[Any], names: Sequence[str] | None, *, missing: int | None = None) -> "NDArray[Any]":
        import numpy as np

        number = {name: i for i, name in enumerate(names or ())}
        return np.array([-1 if v is None or v == missing or v != v else int(number.get(v, v)) for v in values], np.int64)


class _Value(LabelColumn):
    """A number: float64, NaN for no label."""

    name = "value"
    main_metric = "pearson"
    logits_width = 1
    problem_type = "regression"
    label_dtype = "float64"

    def output_names(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        return ("value",)

    def from_cells(self, cells: Sequence[str], names: Sequence[str] | None) -> list[Any]:
        return [float(cell) if cell else None for cell in cells]

    def to_array(self, values: Sequence[Any], names: Sequence[str] | None, *, missing: int | None = None) -> "NDArray[Any]":
        import numpy as np

        return np.array([np.nan if v is None or v == missing else v for v in values], np.float64)


class _Span(TaskKind):
    """An answer in the context: start and end token; more than one window of a row where rows are long."""

    name = "span"
    task_category = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    main_metric = "f1"
    has_answers = True
    logits_width = 2
    long_rows = "window"

    def output_names(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        return ("start", "end")


class _MaskedTokens(TaskKind):
    """The masked tokens of a row: what a masked LM predicts. No dataset names it as its label_kind."""

    name = "mlm"
    task_category = "fill-mask"
    auto_class = "AutoModelForMaskedLM"
    main_metric = "nll"


class _NoLabels(TaskKind):
    """A corpus without labels."""

    name = None


CLASS, VALUE, SPAN, MASKED_TOKENS, NO_LABELS = _Class(), _Value(), _Span(), _MaskedTokens(), _NoLabels()
LABEL_KINDS: dict[str, TaskKind] = {"class": CLASS, "value": VALUE, "span": SPAN}  # the kinds that a dataset may have
_BY_NAME = {kind.name: kind for kind in (CLASS, VALUE, SPAN, MASKED_TOKENS, NO_LABELS)}


def task_kind(name: str | None) -> TaskKind:
    """The kind of this name; NO_LABELS for None. KeyError for a name that is none."""
    return _BY_NAME[name]
