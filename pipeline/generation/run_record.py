"""run.json: what the last run in a folder did, how fast, and what it cost. Beside the dataset, not of it; its digest is its own."""

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from textsmooth.pipeline.executors.base import Executor, Outcome
from textsmooth.pipeline.executors.shutdown import Terminated
from textsmooth.pipeline.progress import Progress
from textsmooth.schemas.canonical import digest
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import StorageError, TextsmoothError, first_line
from textsmooth.schemas.manifest import RUN
from textsmooth.schemas.plan import Plan
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.storage.folder import Folder

PHASES = ("planning", "loading", "running", "committing")
OUTCOMES = {0: "done", 1: "failed", 2: "refused", 3: "unfinished", 130: "interrupted", 143: "terminated"}


def exit_code(error: BaseException | None) -> int:
    """What the command ends with, for what a run was ended by."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, Terminated):
        return 143
    return error.exit_code if isinstance(error, TextsmoothError) else 1


class RunRecord:
    """Counts and times of a run, from its start. Sums only: a run may have a million units."""

    def __init__(self, options: GenerateOptions) -> None:
        self.options = options
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.rows = self.tokens = self.bytes = self.units = self.failed = self.skipped = self.reused = 0
        self._real = self._padded = 0
        self._busy_s = 0.0
        self._devices: set[str] = set()
        self._started, self._clock = _now(), time.perf_counter()
        self._phase = PHASES[0]
        self._plan: Plan | None = None
        self._out: Folder | None = None
        self._executor: Executor | None = None

    @contextmanager
    def kept(self, shown: Progress) -> Iterator[None]:
        """While this block runs an error is recorded, where something had been begun, and goes on its way."""
        try:
            yield
        except BaseException as error:
            with suppress(Exception):  # the error that ended the run is the one to tell
                self.write(error)
                shown.finish(self.to_json(error))
            raise

    def phase(self, name: str) -> None:
        """From here on the time is that of another of PHASES."""
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._clock
        self._phase, self._clock = name, now

    def begin(self, out: Folder, plan: Plan, executor: Executor, *, reused: int) -> None:
        """The run is under way in a folder: from here on it leaves a record, however it ends."""
        self._out, self._plan, self._executor, self.reused = out, plan, executor, reused

    def nothing_to_do(self, plan: Plan, executor: Executor) -> None:
        """The dataset was finished before: the record in its folder stays."""
        self._plan, self._executor, self.reused = plan, executor, len(plan.units)

    def add(self, outcome: Outcome) -> None:
        """What became of a unit."""
        if not isinstance(outcome, Receipt):
            self.failed += 1
            return
        self.units, self.rows, self.tokens = self.units + 1, self.rows + outcome.rows, self.tokens + outcome.tokens
        self.bytes, self.skipped = self.bytes + outcome.bytes, self.skipped + len(outcome.skipped)
        self._real += outcome.stats.get("passed") or outcome.tokens
        self._padded += outcome.stats.get("padded", 0)
        self._busy_s += outcome.timings.get("score_s", 0.0)
        self._devices.add(outcome.device)

    def write(self, error: BaseException | None = None) -> None:
        """Put run.json into the folder, if the run began; storage that says no is no reason for a run to fail."""
        if self._out is not None:
            self.phase(self._phase)
            body = self.to_json(error)
            with suppress(StorageError, OSError):
                self._out.put(RUN, pretty_json({**body, "digest": digest(body)}))

    def to_json(self, error: BaseException | None = None) -> dict[str, Any]:
        """The record, as docs/jobs.md describes it."""
        plan, code, workers = self._plan, exit_code(error), self.workers
        running, held = self.seconds["running"], self.seconds["loading"] + self.seconds["running"]
        rate = self.tokens / running if running > 0 and self.tokens else None
        price = self.options.price_per_hour
        cost = None if price is None else price * workers * held / 3600
        return {
            "outcome": OUTCOMES.get(code, "failed"),
            "exit_code": code,
            "error": None if error is None else first_line(error),
            "started": self._started,
            "ended": _now(),
            "corpus": plan.corpus.name if plan else self.options.corpus,
            "plan": plan.digest if plan else None,
            "executor": self._executor.name if self._executor else None,
            "workers": workers,
            "devices": sorted(self._devices),
            "units": {
                "all": len(plan.units) if plan else 0,
                "run": self.units,
                "reused": self.reused,
                "failed": self.failed,
            },
            "rows": self.rows,
            "skipped_rows": self.skipped,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "seconds": {name: round(seconds, 4) for name, seconds in self.seconds.items()},
            "tokens_per_s": rate,
            "tokens_per_s_per_worker": None if rate is None else rate / workers,
            "device_busy": min(self._busy_s / (workers * running), 1.0) if running > 0 and self.units else None,
            "padding": 1 - self._real / self._padded if self._padded else None,
            "retries": self._executor.retries if self._executor else 0,
            "price_per_hour": price,
            "cost": cost,
            "cost_per_million_tokens": None if cost is None or not self.tokens else cost / self.tokens * 1e6,
            "versions": plan.versions if plan else {},
        }

    @property
    def workers(self) -> int:
        return self._executor.num_workers if self._executor else 1


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
