"""The log of a run that is followed from another process."""

import json
from pathlib import Path
from typing import Any

from textsmooth.pipeline.progress import TrainProgress
from textsmooth.pipeline.training.log import LOG, LogTail, TrainLog


class Shown(TrainProgress):
    def __init__(self) -> None:
        super().__init__(mode="none")
        self.steps: list[tuple[str, int]] = []

    def show(self, event: dict[str, Any]) -> None:
        self.steps.append((event["event"], event["step"]))


def _updates(log: TrainLog, first: int, last: int, seconds: float) -> None:
    for step in range(first, last + 1):
        log.event("update", step=step, seconds=seconds)


def test_a_log_that_a_restart_replaced_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Also where the new one is longer than what was read of the old one, and its lines have other lengths."""
    shown, tail, quiet = Shown(), LogTail(tmp_path / LOG), Shown()
    tail.show(shown)  # nothing is there yet
    with TrainLog(tmp_path, log_dir=None, progress=quiet) as log:
        _updates(log, 1, 8, 0.5)
        tail.show(shown)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"event": "upd')  # killed in the middle of a line
    tail.show(shown)
    with TrainLog(tmp_path, log_dir=None, progress=quiet, update=5) as log:
        log.event("resumed", step=5)
        _updates(log, 6, 40, 0.123456)
        tail.show(shown)
        log.event("finished", step=40)
    moved = tmp_path / "saved" / LOG
    moved.parent.mkdir()
    moved.write_bytes((tmp_path / LOG).read_bytes())
    tail.path = moved
    tail.show(shown)
    updates = [("update", step) for step in range(1, 41)]
    assert shown.steps == [*updates[:8], ("resumed", 5), *updates[5:], ("finished", 40)]
    assert json.loads(moved.read_text().splitlines()[-1])["event"] == "finished"
