"""The tasks that are known by name: where their text is, what their labels mean, how they are scored."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

ID_COLUMN = "id"
MOST_CLASSES = 65_536  # different labels of a column, and classes of a student
SPAN_COLUMNS = (ID_COLUMN, "question", "context", "answers")  # SQuAD's; answers: {text: [string], answer_start: [int]}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a benchmark."""

    name: str  # as --corpus takes it: glue/qnli, squad
    repo: str  # on the Hub
    config: str | None
    text_columns: tuple[str, ...]  # one text, or a pair
    label_column: str
    label_kind: str  # class, value, span: as CorpusIdentity.label_kind
    label_names: tuple[str, ...] | None
    metrics: tuple[str, ...]  # the first is the one that counts
    max_length: int  # tokens, specials included; a shorter teacher shortens it. GLUE's rows fit into 512, docs/log.md has the counts

    @property
    def long(self) -> str:
        """What happens to rows that are longer: an answer must not be cut off."""
        return "window" if self.label_kind == "span" else "truncate"


def _glue(name: str, text: str, labels: str | None, metrics: str, *, kind: str = "class", max_length: int = 512) -> Task:
    return Task(
        name=f"glue/{name}",
        repo="nyu-mll/glue",
        config=name,
        text_columns=tuple(text.split()),
        label_column="label",
        label_kind=kind,
        label_names=tuple(labels.split()) if labels else None,
        metrics=tuple(metrics.split()),
        max_length=max_length,
    )


def _squad(name: str) -> Task:
    return Task(
        name=name,
        repo=f"rajpurkar/{name}",
        config="plain_text" if name == "squad" else "squad_v2",
        text_columns=("question", "context"),
        label_column="answers",
        label_kind="span",
        label_names=None,
        metrics=("f1", "exact_match"),
        max_length=384,
    )


_NLI = "entailment not_entailment"
_NLI3 = "entailment neutral contradiction"
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _glue("cola", "sentence", "unacceptable acceptable", "matthews"),
        _glue("sst2", "sentence", "negative positive", "accuracy"),
        _glue("mrpc", "sentence1 sentence2", "not_equivalent equivalent", "f1 accuracy"),
        _glue("qqp", "question1 question2", "not_duplicate duplicate", "f1 accuracy"),
        _glue("stsb", "sentence1 sentence2", None, "pearson spearman", kind="value"),
        _glue("mnli", "premise hypothesis", _NLI3, "accuracy"),
        _glue("qnli", "question sentence", _NLI, "accuracy"),
        _glue("rte", "sentence1 sentence2", _NLI, "accuracy"),
        _glue("wnli", "sentence1 sentence2", "not_entailment entailment", "accuracy"),
        _glue("ax", "premise hypothesis", _NLI3, "matthews"),
        _squad("squad"),
        _squad("squad_v2"),
    )
}

# Where the text is in a corpus that is no known task, in the order of trying: the first entry whose columns are all there.
TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("question", "sentence"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "context"),
    ("sentence",),
    ("text",),
)
TEXT_NAMES = {name for names in TEXT_COLUMNS for name in names}
LABEL_COLUMN = "label"
TRAIN_SPLIT = "train"  # that students learn from


def find_task(corpus: str, columns: Iterable[str]) -> Task | None:
    """The task that a corpus is, by its name and its columns; None if it is none of TASKS.

    corpus: as --corpus takes it, or as a corpus names itself: `glue/qnli`, `nyu-mll/glue:qnli`, `glue:qnli` (a folder's), `squad`.
    SQuAD is known by its columns, under any name: v2 by its name.
    """
    have = set(columns)
    found = re.fullmatch(r"(?:nyu-mll/)?glue[:/](\w+)", corpus)
    task = TASKS.get(f"glue/{found[1]}") if found else None
    if task is None and set(SPAN_COLUMNS) <= have:
        task = TASKS["squad_v2" if re.search(r"squad_?v2", corpus) else "squad"]
    return task if task is not None and {*task.text_columns, task.label_column} <= have else None
