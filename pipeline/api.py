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


@takes_options_of(TrainOptions, progress="none")
def train(**options: Any) -> "TrainResult":
    """Train a student on a smoothed dataset and save it in a folder that transformers opens: `textsmooth train`.

    Raises UsageError, DatasetError, TeacherError (the student does not fit), ConflictError, StorageError, MachineError (out of memory),
    TrainingError (the loss is not a number) or Stopped (a signal; resumable). Seeds torch's generator and sets its number of threads.

    """
    from textsmooth.pipeline.training.dispatch import train as run

    return run(TrainOptions(**options))


def make_student(
    teacher: str | Path, layers: Sequence[int], out: str | Path, *, revision: str | None = None, overwrite: bool = False
) -> Path:
    """Make a student from some of a teacher's encoder layers, its embeddings and its head: `textsmooth student`. Returns its folder.

    teacher: `demo`, a folder, or a name on the Hub. layers: counted from 0. Raises UsageError, TeacherError, ConflictError or StorageError.
    """
    from textsmooth.pipeline.plan.inputs import find_model
    from textsmooth.stages.models.model_folder import model_folder
    from textsmooth.stages.models.student_init import make_student as make

    try:
        chosen = tuple(index(layer) for layer in layers)
    except TypeError:
        raise UsageError(f"layers must be a sequence of whole numbers, not {layers!r}") from None
    model = find_model(str(teacher), revision, option="--from")
    return make(model_folder(str(model.folder), "teacher"), chosen, Path(out), overwrite=overwrite)
