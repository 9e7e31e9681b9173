"""Checkpoints of a training run: all that a later process needs to go on as if nothing had happened.

    <out>.run/                    while a student is trained; goes when it is saved
      log.jsonl                   a line for each update and evaluation
      step-00000500/              put in place whole, by renaming
        model.safetensors         the student's parameters and buffers
        optimizer.safetensors     AdamW: exp_avg, exp_avg_sq and step of each parameter
        state.json                TrainState: where in the data, what came out so far; sha256 of the others, and of itself

No generator has a state (stages/training/step.py), so none is stored. Safetensors and JSON only: nothing in a checkpoint is ever run.
"""

import json
import re
import secrets
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from msgspec import Meta

from textsmooth.schemas.canonical import digest, file_sha256
from textsmooth.schemas.errors import DatasetError, StorageError, first_line
from textsmooth.schemas.field_types import Count, Number, Sha256, convert
from textsmooth.stages.storage.atomic import TEMP_PREFIX, pretty_json, remove, sync

STATE, MODEL, OPTIMIZER = "state.json", "model.safetensors", "optimizer.safetensors"
KEPT = 2  # the last ones, and the best
_NAME = re.compile(r"step-(\d{8,})")
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
LossSum = Annotated[list[Number], Meta(min_length=2, max_length=2)]  # sum, updates


@dataclass(kw_only=True)
class TrainState:
    """Where a run is: what is stored beside weights and optimizer."""

    options: dict[str, Any]  # TrainOptions.fixed()
    dataset: Sha256
    student: Sha256  # digest of the folder it began from
    versions: dict[str, str]
    update: Count = 0  # updates made
    epoch: Count = 0  # that is read next
    stream: dict[str, Any] = field(default_factory=dict)  # BatchStream.state_after; empty at the very beginning
    rows: Count = 0  # read so far, a row of `both` once for each update
    tokens: Count = 0
    train_s: Number = 0.0
    evaluate_s: Number = 0.0
    losses: dict[str, LossSum] = field(default_factory=dict)  # by form, since the last evaluation
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry for each evaluation
    best_update: Count | None = None
    best_score: Number | None = None
    waited: Count = 0  # evaluations since the best
    ended: bool = False  # by --patience

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read back. DatasetError if a field is missing, unknown, or has no value that it can have."""
        try:
            if not isinstance(value, dict) or set(value) != {f.name for f in fields(cls)}:
                raise ValueError("other fields")
            state: Self = convert(value, cls)
        except ValueError as error:
            raise DatasetError(
                f"{where} is no state of this version of textsmooth ({error}); remove its folder, or begin again with --overwrite"
            ) from None
        return state


def name_of(update: int) -> str:
    return f"step-{update:08d}"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in run.glob("step-*") if _NAME.fullmatch(path.name)) if run.is_dir() else []


def sweep(run: Path) -> None:
    """Remove checkpoints that a kill left half written."""
    for temp in run.glob(f"{TEMP_PREFIX}*") if run.is_dir() else ():
        remove(temp)


def save(run: Path, student: torch.nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> Path:
    """Write a checkpoint, whole or not at all, durable when the call returns; older ones than KEPT go, but for the best.

    StorageError if the storage says no: then the run's earlier checkpoints are still there.
    """
    from safetensors.torch import save_file

    place = run / name_of(state.update)
    temp = run / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        temp.mkdir(parents=True)
        save_file(_weights(student), temp / MODEL)
        save_file(_moments(student, optimizer), temp / OPTIMIZER)
        files = {name: file_sha256(temp / name) for name in (MODEL, OPTIMIZER)}
        value = {"state": state.to_json(), "files": files}
        (temp / STATE).write_bytes(pretty_json({**value, "digest": digest(value)}))
        for path in (*temp.iterdir(), temp):
            sync(path)
        if place.is_dir():  # of the same update, made before the run was resumed
            remove(place)
        temp.rename(place)
        sync(run)
    except Exception as error:
        shutil.rmtree(temp, ignore_errors=True)
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise StorageError(f"cannot write the checkpoint {place}: {error}; make room; the run goes on from the one before") from error
    kept = {name_of(update) for update in (state.update, state.best_update) if update is not None}
    for old in checkpoints(run)[:-KEPT]:
        if old.name not in kept:
            remove(old)
    return place


def read_state(checkpoint: Path) -> TrainState:
    """Where the run was. DatasetError if the checkpoint is damaged."""
    return TrainState.from_json(_whole(checkpoint).get("state"), str(checkpoint / STATE))


def _whole(checkpoint: Path) -> dict[str, Any]:
    """The content of state.json, as it was written."""
    try:
        value: dict[str, Any] = json.loads((checkpoint / STATE).read_bytes())
        whole = value.pop("digest") == digest(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(checkpoint, f"{STATE}: {first_line(error)}") from None
    if not whole:
        raise _damaged(checkpoint, f"{STATE} was altered")
    return value


def restore(checkpoint: Path, student: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Put weights, and AdamW's state if it is given, back to the bit. DatasetError if they are damaged or another student's."""
    weights = _read(checkpoint, MODEL)
    own = _tensors(student)
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
        raise DatasetError(f"the checkpoint {checkpoint} is of another student; begin again with --overwrite")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    if optimizer is None:
        return
    moments = _read(checkpoint, OPTIMIZER)
    fused = any(group.get("fused") for group in optimizer.param_groups)
    optimizer.state.clear()
    for name, parameter in student.named_parameters():
        if f"step.{name}" in moments:
            found = {what: moments[f"{what}.{name}"] for what in _MOMENTS}
            optimizer.state[parameter] = {
                what: value.to("cpu" if what == "step" and not fused else parameter.device) for what, value in found.items()
            }


def _tensors(student: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and stored buffers by name, a shared one once."""
    stored = student.state_dict().keys()
    return {**dict(student.named_parameters()), **{name: b for name, b in student.named_buffers() if name in stored}}


def _weights(student: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().contiguous() for name, value in _tensors(student).items()}


def _moments(student: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    states = ((name, optimizer.state[p]) for name, p in student.named_parameters() if p in optimizer.state)
    return {f"{what}.{name}": state[what].detach().contiguous() for name, state in states for what in _MOMENTS}


def _read(checkpoint: Path, file: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    digests = _whole(checkpoint).get("files")
    try:
        if not isinstance(digests, dict) or file_sha256(checkpoint / file) != digests.get(file):
            raise _damaged(checkpoint, f"{file} was altered")
        found: dict[str, torch.Tensor] = load_file(checkpoint / file)
    except (OSError, SafetensorError) as error:
        raise _damaged(checkpoint, first_line(error)) from error
    return found


def _damaged(checkpoint: Path, what: str) -> DatasetError:
    return DatasetError(f"the checkpoint {checkpoint} is damaged ({what}); remove it, and the run goes on from the one before")
