"""The result of a training run: a summary for people, a dataclass for programs, train.json beside the student."""

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from textsmooth.pipeline.formatting import counted
from textsmooth.schemas.errors import ConflictError, DatasetError
from textsmooth.schemas.manifest import Manifest
from textsmooth.schemas.task_kinds import MASKED_TOKENS, task_kind
from textsmooth.schemas.train import TrainOptions
from textsmooth.schemas.version import VERSION
from textsmooth.stages.storage.atomic import read_json

if TYPE_CHECKING:
    from textsmooth.pipeline.training.setup import Setup
    from textsmooth.stages.training.checkpoint import TrainState

RECORD = "train.json"  # record of the run, beside the saved student


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training run."""

    out: Path
    inputs: str  # plain, smoothed, both, mixed; masked for the objective mlm
    objective: str
    kind: str  # of the labels: class, value, span; mlm where masked tokens were learned
    metric: str  # name of the main metric
    metrics: dict[str, float | None]  # of the state that is saved; empty without an evaluation split
    eval_split: str | None
    steps: int  # optimizer updates
    saved_step: int  # the update after which the saved state was reached
    rows: int  # trained on
    unlabelled_rows: int  # left out
    tokens: int  # through the student while training, padding not counted
    train_s: float  # of updates and their batches, evaluation and saving not counted
    corpus_rows: int | None = None  # of which these rows are windows, where long rows were cut into windows
    before: bool = field(default=False, compare=False)  # an earlier run had already made it: nothing was done

    @classmethod
    def from_json(cls, value: dict[str, Any], out: Path, *, before: bool = False) -> Self:
        """The result that train.json records."""
        names = {f.name for f in fields(cls)} - {"out", "train_s", "corpus_rows", "before"}
        known = {name: value[name] for name in names}
        return cls(out=out, train_s=value["seconds"]["train"], corpus_rows=value.get("corpus_rows"), before=before, **known)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / max(self.train_s, 1e-9)

    def summary(self) -> str:
        """A few lines for people: score, speed, folder, next command."""
        what = "row" if self.corpus_rows is None else "window"
        of = "" if self.corpus_rows is None else f" of {counted(self.corpus_rows, 'row')}"
        left_out = f", {counted(self.unlabelled_rows, f'unlabelled {what}')} left out" if self.unlabelled_rows else ""
        kind = task_kind(self.kind)
        needed = "labelled validation split" if kind.has_label_column else "validation split"
        score = f"not evaluated: the dataset has no {needed}; choose one with --eval-split"
        if self.metrics:
            first = {self.metric: self.metrics[self.metric], **self.metrics} if self.metric in self.metrics else self.metrics
            shown = "  ".join(f"{k} {'undefined' if v is None else f'{v:.4f}'}" for k, v in first.items())
            best = f", best of update {self.saved_step:,}" if self.saved_step < self.steps else ""
            read = "masked" if kind is MASKED_TOKENS else "plain"
            score = f"{shown}  (on {self.eval_split}, {read} input{best})"
        return "\n".join(
            [
                *([f"nothing to do: {self.out} was trained just so"] if self.before else []),
                f"score    {score}",
                f"trained  {counted(self.steps, 'update')}, {self.inputs} input, from {counted(self.rows, what)}{of}{left_out}",
                f"speed    {self.tokens_per_s:,.0f} tokens/s, {self.train_s:.1f} s",
                f"saved    {self.out}  (details in {RECORD})",
                f'next     transformers.pipeline("{kind.task_category}", model="{self.out}")',
            ]
        )


def versions() -> dict[str, str]:
    """Versions of the libraries that decide the numbers."""
    import torch
    import transformers

    return {"textsmooth": VERSION, "torch": str(torch.__version__), "transformers": transformers.__version__}


def record(setup: "Setup", state: "TrainState", found: TrainResult, seconds: dict[str, float]) -> dict[str, Any]:
    """The content of train.json."""
    import torch

    from textsmooth.stages.models.device import device_name

    manifest = setup.manifest
    return {
        **{name: value for name, value in asdict(found).items() if name not in ("out", "train_s", "before")},
        "tokens_per_s": found.tokens_per_s,
        "seconds": seconds,
        "history": state.history,
        "options": setup.options.to_json(),
        "dataset": {"digest": manifest.dataset, "corpus": manifest.corpus["name"], "teacher": manifest.teacher["name"]},
        "student": setup.student_digest,
        "device": device_name(str(setup.train_step.device)),
        "processes": setup.world.size,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "versions": versions(),
    }


def finished_before(out: Path, options: TrainOptions, manifest: Manifest, student: str) -> dict[str, Any] | None:
    """The content of train.json in `out`, if it was made from this dataset and student with these options; else None.

    ConflictError, naming the differences, if it was made from others and --overwrite is not given.
    """
    try:
        found = read_json(out / RECORD)
        then = TrainOptions(**found["options"]).fixed() | {"dataset": found["dataset"]["digest"], "student": found["student"]}
        saved = (out / "config.json").is_file()
    except (OSError, DatasetError, KeyError, TypeError, ValueError):
        return None
    now = options.fixed() | {"dataset": manifest.dataset, "student": student}
    other = [f"{name} {_short(then.get(name))}, now {_short(now[name])}" for name in now if now[name] != then.get(name)]
    if saved and other and not options.overwrite:
        raise ConflictError(
            f"{out} holds a student that was trained with {'; '.join(other[:3])}; choose another --out, or replace it with --overwrite"
        )
    return found if saved and not other else None


def _short(value: Any) -> str:
    """The first 12 characters of a digest; other values as text."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
