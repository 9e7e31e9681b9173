"""The commands as Python functions: the same options and defaults, nothing printed, exceptions instead of exit codes.

An error is a TextsmoothError (schemas/errors.py) with the line that the command would print. Options have the name of the command's option,
with _ for -; generate() and train() take them from GenerateOptions and TrainOptions. `progress` is "none" by default.
"""

from collections.abc import Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.options import takes_options_of
from textsmooth.schemas.train import TrainOptions

if TYPE_CHECKING:
    from textsmooth.pipeline.generation.run import Generated
    from textsmooth.pipeline.training.result import TrainResult


@takes_options_of(GenerateOptions, progress="none")
def generate(**options: Any) -> "Generated":
    """Make a smoothed dataset, or finish one that was begun: `textsmooth gen`.

    Raises UsageError, CorpusError, TeacherError, ConflictError, StorageError, or QuarantineError for rows that cannot be smoothed.

    """
    from textsmooth.pipeline.generation.run import generate as run
    from textsmooth.pipeline.progress import Progress

    checked = GenerateOptions(**options)
    return run(checked, Progress(checked.progress))


def train(
    dataset: str | Path,
    *,
    student: str | Path,
    student_revision: str | None = None,
    out: str | Path | None = None,
    inputs: str | None = None,
    lam: float | str = 0.5,
    temperature: float = 1.0,
    topk: int | None = None,
    mass: float = 1.0,
    tail: str = TrainOptions.tail,
    draws: int | None = None,
    objective: str = "task",
    kd_weight: float | None = None,
    kd_temperature: float = 2.0,
    epochs: int = 3,
    max_steps: int | None = None,
    max_rows: int | None = None,
    rows_per_class: int | None = None,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    accumulate: int = 1,
    lr: float = 5e-05,
    warmup: float = 0.1,
    schedule: str = "linear",
    weight_decay: float = 0.01,
    max_grad_norm: float | None = 1.0,
    dropout: float | None = None,
    seed: int = 0,
    dtype: str = "float32",
    eval_split: str | None = None,
    eval_every: int | None = None,
    patience: int | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    log_dir: str | Path | None = None,
    progress: str = "none",
    loader_workers: int = 0,
    num_workers: int = 1,
    threads: int | None = None,
    device: str | None = None,
) -> "TrainResult":
    """Train a student on a smoothed dataset and save it in a folder that transformers opens: `textsmooth train`.

    Raises UsageError, DatasetError, TeacherError (the student does not fit), ConflictError, StorageError, MachineError (memory),
    TrainingError (the loss is not a number) or Stopped (a signal; resumable). Seeds torch's generator and sets its threads.
    """
    from textsmooth.pipeline.training.dispatch import train as run

    asked = {name: value for name, value in locals().items() if name in TrainOptions.__dataclass_fields__}
    return run(TrainOptions(**_places(asked)))


def make_student(
    teacher: str | Path, layers: Sequence[int], out: str | Path, *, revision: str | None = None, overwrite: bool = False
) -> Path:
    """A student of some of a teacher's encoder layers, counted from 0, its embeddings and head: `textsmooth student`; its folder.

    teacher: `demo`, a folder, or a name on the Hub. Raises UsageError, TeacherError, ConflictError or StorageError.
    """
    from textsmooth.pipeline.plan.inputs import find_model
    from textsmooth.stages.models.student import model_folder
    from textsmooth.stages.models.student_init import make_student as make

    try:
        chosen = tuple(index(layer) for layer in layers)
    except TypeError:
        raise UsageError(f"layers must be a sequence of whole numbers, not {layers!r}") from None
    found = find_model(str(teacher), revision, option="--from")
    return make(model_folder(str(found.folder), "teacher"), chosen, Path(out), overwrite=overwrite)


def _places(asked: dict[str, Any]) -> dict[str, Any]:
    """With paths as the texts that options are."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asked.items()}
