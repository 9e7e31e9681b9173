"""Folders of a training run: the student and the output, checked before anything is opened."""

from pathlib import Path

from textsmooth.pipeline.plan.inputs import find_model
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.open import dataset_name
from textsmooth.stages.hub.names import DATASET_NAME, HUB
from textsmooth.stages.models.model_folder import model_folder
from textsmooth.stages.storage.folder import is_uri
from textsmooth.stages.storage.local import refuse_slip


def hub_student(name: str) -> bool:
    """Whether the name is that of a model on the Hub, owner/name or hf://owner/name, and not a local path."""
    return DATASET_NAME.fullmatch(name.removeprefix(HUB)) is not None and not Path(name).exists()


def student_folder(options: TrainOptions) -> Path:
    """The folder of the student: a local one, the demo's teacher, or downloaded from the Hub. UsageError if there is none."""
    name = options.student
    if hub_student(name) or (name == "demo" and not Path(name).exists()):
        return find_model(name, options.student_revision, option="--student").folder
    if options.student_revision is not None:
        raise UsageError(f"--student {name!r} is on this machine, only a model on the Hub has revisions: remove --student-revision")
    return model_folder(name, "student")


def check_student_name(options: TrainOptions) -> None:
    """UsageError for a student that is not there, or whose name is nearly that of a folder here; nothing is downloaded."""
    name = options.student
    if not hub_student(name):
        student_folder(options)
    elif not name.startswith(HUB):
        refuse_slip(name, f"{HUB}{name}")


def out_folder(options: TrainOptions) -> Path:
    """The output folder. UsageError if it is the dataset or the student, contains one of them, or lies in the dataset."""
    objective = "" if options.objective == TrainOptions.objective else f"{options.objective.replace('+', '-')}-"
    out = Path(options.out or Path("students") / f"{dataset_name(options.dataset)}-{objective}{options.reads}").expanduser()
    resolved = out.resolve()
    kept = {} if hub_student(options.student) else {"student": Path(options.student).expanduser().resolve()}
    if not is_uri(options.dataset):
        kept["dataset"] = Path(options.dataset).resolve()
    for name, folder in kept.items():
        if resolved == folder or resolved in folder.parents or (name == "dataset" and folder in resolved.parents):
            raise UsageError(f"--out {out} would touch the {name} {folder}; choose another folder")
    return out
