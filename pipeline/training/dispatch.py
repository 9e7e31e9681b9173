"""Train in this process, or in several by Ray Train."""

from typing import TYPE_CHECKING

from textsmooth.pipeline.progress import TrainProgress
from textsmooth.pipeline.training.places import check_student_name
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.open import open_folder, read_manifest

if TYPE_CHECKING:
    from textsmooth.pipeline.training.result import TrainResult


def train(options: TrainOptions, progress: TrainProgress | None = None) -> "TrainResult":
    """Train a student on a smoothed dataset and save it in a folder that transformers opens.

    Options, dataset and student are checked before the first update. Raises UsageError, DatasetError, TeacherError (the student does not
    fit), ConflictError (the output folder, an unfinished run), StorageError, MachineError (memory), TrainingError (the loss is not finite),
    or Stopped (by a signal; resumable). Seeds torch's generator and sets its number of threads. Equal options, threads and libraries give
    equal weights on a CPU, however often the run was interrupted and resumed.
    """
    read_manifest(open_folder(options.dataset, reading=True))  # wrong names end here, before the seconds that torch takes to import
    check_student_name(options)
    from textsmooth.pipeline.training.run import train_here
    from textsmooth.stages.training.distributed import World

    progress = progress or TrainProgress(mode=options.progress)
    world = World.from_environment()
    if options.num_workers > 1:
        if world.size > 1:
            raise UsageError("--num-workers starts processes by Ray Train, and torchrun has started some already: use one of them")
        from textsmooth.pipeline.training.ray_train import train_on_ray

        return train_on_ray(options, progress)
    return train_here(options, progress, world)
