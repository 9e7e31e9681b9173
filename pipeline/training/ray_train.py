"""Train in several processes with Ray Train: each runs the same loop, and after a failure all resume from the last checkpoint.

All nodes must see the folders under the same names. The cluster is the one of RAY_ADDRESS, or a local one that is shut down at the end.
This process and the workers communicate by files in a folder beside --out: a request to stop, errors.
"""

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

try:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
except ImportError as _missing:
    from textsmooth.schemas.errors import UsageError as _UsageError

    raise _UsageError('--num-workers needs Ray Train: pip install "textsmooth[ray]"') from _missing

from textsmooth.pipeline.executors import shutdown
from textsmooth.pipeline.executors.ray_cluster import quiet
from textsmooth.pipeline.progress import TrainProgress
from textsmooth.pipeline.training.log import LOG, LogTail
from textsmooth.pipeline.training.places import out_folder
from textsmooth.pipeline.training.result import RECORD, TrainResult
from textsmooth.pipeline.training.run import run_folder, train_here
from textsmooth.pipeline.training.stop import Stop
from textsmooth.schemas.errors import TextsmoothError, WorkerError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.open import hub_uri
from textsmooth.stages.models.device import default_threads
from textsmooth.stages.storage.atomic import TEMP_PREFIX, read_json
from textsmooth.stages.storage.folder import is_uri
from textsmooth.stages.training.distributed import OVER_GPUS, WAIT, LostError, World

TRIES = 3  # how often dead workers are replaced
ERROR_WAIT_S = 10.0  # time for a failed process to write its error before the others report it as lost
POLL_S = 0.2


def train_on_ray(options: TrainOptions, progress: TrainProgress) -> TrainResult:
    """As `train`, with `num_workers` processes. WorkerError if they die more than TRIES times."""
    out = out_folder(options).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{TEMP_PREFIX}{out.name}-ray-", dir=out.parent))
    try:
        with _cluster(options) as resources, Stop() as stop, progress:
            progress.line(f"starting {options.num_workers} processes on Ray, with {resources['CPU']:g} CPUs each")
            _follow(_trainer(_absolute(options, out), work, resources), stop, work, out, progress)
        return TrainResult.from_json(read_json(out / RECORD), out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _absolute(options: TrainOptions, out: Path) -> TrainOptions:
    """The options with absolute paths, for processes with another working directory."""
    remote = is_uri(options.dataset) or hub_uri(options.dataset) is not None
    dataset = options.dataset if remote else str(Path(options.dataset).absolute())
    log_dir = None if options.log_dir is None else str(Path(options.log_dir).absolute())
    folder = Path(options.student).expanduser()
    student = str(folder.absolute()) if folder.exists() else options.student  # a name on the Hub
    return replace(options, dataset=dataset, student=student, out=str(out), log_dir=log_dir, progress="none")


@contextmanager
def _cluster(options: TrainOptions) -> Iterator[dict[str, float]]:
    """Connect to the cluster of RAY_ADDRESS or of this process, or start a local one. Yields the resources of each worker."""
    started = not ray.is_initialized()
    address = os.environ.get("RAY_ADDRESS") or "local"
    if started:
        size = {"num_cpus": max(default_threads(), options.num_workers), "include_dashboard": False} if address == "local" else {}
        try:
            with quiet():
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                    namespace="textsmooth",
                    **size,
                )
            shutdown.listen_again()
        except (ValueError, OSError, RuntimeError) as error:
            raise WorkerError(f"no Ray for --num-workers at {address}: {' '.join(str(error).split())[:300]}") from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = 0.0 if (options.device or "").startswith("cpu") else sum(node.get("GPU", 0.0) for node in nodes)
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        wanted = {"CPU": float(options.threads or max(cpus // options.num_workers, 1)), **({"GPU": 1.0} if gpus else {})}
        if cpus < options.num_workers or (gpus and gpus < options.num_workers):
            raise WorkerError(
                f"--num-workers {options.num_workers}: the cluster has {cpus:g} CPUs and {gpus:g} GPUs; ask for fewer, or give --device cpu"
            )
        wanted["CPU"] = min(wanted["CPU"], max(cpus // options.num_workers, 1))
        yield wanted
    finally:
        if started:
            ray.shutdown()


def _trainer(options: TrainOptions, work: Path, resources: dict[str, float]) -> Any:
    threads = options.threads or int(resources["CPU"])
    return TorchTrainer(
        _work,
        train_loop_config={"options": asdict(replace(options, threads=threads, num_workers=1)), "work": str(work)},
        torch_config=TorchConfig(backend=OVER_GPUS if resources.get("GPU") else "gloo", timeout_s=int(WAIT.total_seconds())),
        scaling_config=ScalingConfig(num_workers=options.num_workers, use_gpu="GPU" in resources, resources_per_worker=resources),
        run_config=RunConfig(name="ray", storage_path=str(work), failure_config=FailureConfig(max_failures=TRIES)),
    )


def _work(config: dict[str, Any]) -> None:
    """The loop of one worker. A known error is written to a file and the worker returns: Ray restarts only workers that died."""
    work, options = Path(config["work"]), TrainOptions(**config["options"])
    if list(work.glob("error-*.json")):  # one worker failed with a known error; others died waiting for it
        return
    world = World.from_environment()
    if world.first:
        options = replace(options, resume=options.resume or (work / "begun").exists())
        (work / "begun").touch()
    try:
        train_here(options, TrainProgress(mode="none"), world, stop_file=work / "stop")
    except LostError:
        end = time.monotonic() + ERROR_WAIT_S
        while time.monotonic() < end:
            if list(work.glob("error-*.json")):
                return
            time.sleep(POLL_S)
        raise
    except TextsmoothError as error:
        description = {"kind": type(error).__name__, "text": str(error), "exit_code": error.exit_code}
        temp = work / f"writing-{world.rank}"
        temp.write_text(json.dumps(description))
        temp.replace(work / f"error-{world.rank}.json")


def _follow(trainer: Any, stop: Stop, work: Path, out: Path, progress: TrainProgress) -> None:
    """Run a trainer to its end, show the log of its workers, pass on a request to stop. Raises the error of a worker."""
    failed: list[BaseException] = []
    tail = LogTail(run_folder(out) / LOG)

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised below, in the calling thread
            failed.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        if stop.asked and not (work / "stop").exists():
            (work / "stop").write_text(str(int(stop.signal or 0)))
        tail.show(progress)
    tail.path = tail.path if tail.path.exists() else out / LOG  # its place after the student was saved
    tail.show(progress)
    for path in sorted(work.glob("error-*.json")):
        raise _error(read_json(path))
    if failed:
        what = " ".join(str(failed[0]).split())[:300]
        raise WorkerError(f"training processes died more than {TRIES} times: {what}; the same command goes on") from failed[0]


def _error(description: dict[str, Any]) -> TextsmoothError:
    """The error of another process, from the file that it wrote."""
    queue, by_name = [TextsmoothError], dict[str, type[TextsmoothError]]()
    while queue:
        kind = queue.pop()
        by_name[kind.__name__] = kind
        queue += kind.__subclasses__()
    kind = by_name.get(description["kind"], TextsmoothError)
    error = kind.__new__(kind, description["text"])
    error.args, error.exit_code = (description["text"],), description["exit_code"]
    return error
