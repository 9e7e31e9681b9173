"""Write the log of a training run: log.jsonl, one line per event, and TensorBoard events with --log-dir.

    {"event": "started", "step": 0, "steps": 750, "rows": 8000, "unlabelled_rows": 0}        `resumed` where it goes on
    {"event": "update", "step": 12, "epoch": 1, "form": "plain", "loss": …, "lr": …, "grad_norm": …, "rows": …, "tokens": …, "seconds": …}
    {"event": "evaluation", "step": 250, "epoch": 1, "train_loss": {"smoothed": …}, "metrics": {"accuracy": …}, "seconds": …}
    {"event": "finished", "step": 750, "saved_step": 750, "metric": "accuracy", "metrics": {"accuracy": …}, "seconds": …}

seconds: of all updates so far, or of that evaluation. A resumed run removes the lines logged after its checkpoint.
"""

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from textsmooth.pipeline.progress import TrainProgress
from textsmooth.schemas.errors import UsageError
from textsmooth.stages.storage.atomic import put

LOG = "log.jsonl"
_CURVES = ("loss", "lr", "grad_norm")


def events_until(path: Path, update: int) -> list[str]:
    """The lines of a log up to an update, without an incomplete last line."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:  # killed in the middle of a line
            break
        if event["step"] > update:
            break
        kept.append(line)
    return kept


class TrainLog(AbstractContextManager["TrainLog"]):
    """Writes events to `run`/log.jsonl and to `log_dir`, and shows them by `progress`. run None: does nothing, another process logs.

    update: the update that the run resumes from. UsageError if TensorBoard's writer is not installed.
    """

    def __init__(self, run: Path | None, *, log_dir: str | None, progress: TrainProgress, update: int = 0) -> None:
        self._progress, self._file, self._board = progress, None, None
        if run is None:
            return
        if log_dir is not None:
            writer = board_writer()
            self._board = writer(log_dir, purge_step=update + 1 if update else None)
        put(run / LOG, "".join(f"{line}\n" for line in events_until(run / LOG, update)).encode())
        self._file = (run / LOG).open("a", buffering=1)

    def __exit__(self, *args: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def event(self, kind: str, **facts: Any) -> None:
        """Something else happened: `started`, `resumed` or `finished`."""
        self._write({"event": kind, **facts})

    def update(self, **facts: Any) -> None:
        """An update was made."""
        self._write({"event": "update", **facts})
        if self._board is not None:
            for name in _CURVES:
                self._board.add_scalar(f"train/{name}", facts[name], facts["step"])

    def evaluation(self, **facts: Any) -> None:
        """The student was evaluated; without an evaluation split `metrics` is empty."""
        self._write({"event": "evaluation", **facts})
        if self._board is not None:
            for name, value in facts["metrics"].items():
                if value is not None:
                    self._board.add_scalar(f"evaluation/{name}", value, facts["step"])
            self._board.flush()

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(f"{json.dumps(event, ensure_ascii=False)}\n")
            self._progress.show(event)


def board_writer() -> Any:
    """The class that writes TensorBoard events. UsageError if tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UsageError('--log-dir needs tensorboardX: pip install "textsmooth[tensorboard]"; log.jsonl is written without it') from None
    return SummaryWriter


class LogTail:
    """Follows the events of a log, which may not exist yet; a restart puts another file in its place, with the events that it keeps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1  # its number (inode)
        self._read = 0  # bytes of it
        self._shown: list[bytes] = []

    def show(self, progress: TrainProgress) -> None:
        """Show the complete lines that were not shown before."""
        try:
            with self.path.open("rb") as file:
                replaced = (number := os.fstat(file.fileno()).st_ino) != self._file
                file.seek(0 if replaced else self._read)
                data = file.read()
        except FileNotFoundError:
            return
        complete = data[: data.rfind(b"\n") + 1]
        lines = complete.splitlines()
        if replaced:
            kept = next((i for i, pair in enumerate(zip(lines, self._shown, strict=False)) if pair[0] != pair[1]), len(self._shown))
            self._file, self._read, self._shown, lines = number, 0, lines[:kept], lines[kept:]
        self._read += len(complete)
        self._shown += lines
        for line in lines:
            progress.show(json.loads(line))
