"""Kills what runs a job on a real Ray cluster, again and again, and compares what is left with an uninterrupted run.

    python tests/support/chaos.py --rounds 50 --seed 0

A round: the command is started, something is killed at a random moment, and the same command is run until it ends with 0. Then the
shards must be those of an uninterrupted run, byte for byte, no other file may lie there, and no unit may have been run that was committed
before. The command is textsmooth-gen itself, with a worker that notes what it runs, and takes a little longer.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray_host import RayHost

JOB = ("--corpus", "demo", "--limit", "120", "--rows-per-shard", "8", "--topk", "4", "--dtype", "float32", "--threads", "1")
UNIT_S = 0.15  # that a unit takes longer
RUN_S = 180.0  # that a run may take
RUNS = 4  # of the same command after a kill, at most
KINDS = ("driver", "raylet", "worker", "node", "driver with SIGTERM", "two drivers", "raylet with SIGTERM")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What became of one round."""

    kind: str
    at: str  # when it was killed
    runs: int  # of the command, until it ended with 0
    seconds: float
    wrong: tuple[str, ...]  # empty: nothing was lost


def drive(args: list[str]) -> int:
    """textsmooth-gen, with a worker that notes when it runs a unit that is committed already."""
    from textsmooth.pipeline.cli import app as cli
    from textsmooth.pipeline.cli import gen as cli_gen
    from textsmooth.pipeline.commit.receipts import find_receipt
    from textsmooth.pipeline.executors import select as executors
    from textsmooth.pipeline.executors.ray_driver import RayExecutor
    from textsmooth.pipeline.units.worker import UnitWorker

    notes = os.environ["CHAOS_NOTES"]

    class Noting(UnitWorker):
        def forward(self, unit: Any, ready: Any, *rest: Any) -> Any:
            line = f"{unit.name} {'again' if find_receipt(self.out, unit) else 'first'}\n"
            with open(notes, "a") as file:  # noqa: PTH123 (sent to workers: nothing of this module is there)
                file.write(line)
            time.sleep(UNIT_S)
            return super().forward(unit, ready, *rest)

    executors.select_executor = lambda options: RayExecutor(options, worker=Noting)
    return cli.run(cli_gen.gen, "textsmooth-gen", args)


class Chaos:
    """A cluster of three nodes that take a worker each, and the bytes that every round must end with."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.notes = folder, random.Random(seed), folder / "notes"
        self.host = RayHost()
        self.nodes = [self.host.ask(add={"num_cpus": 1}) for _ in range(3)]
        start = time.monotonic()
        process = self.start(folder / "reference")
        assert process.wait(RUN_S) == 0, self.said(process)
        self.run_s = time.monotonic() - start
        self.expected = self.shards(folder / "reference")
        self.files = self.names(folder / "reference")

    def close(self) -> None:
        self.host.__exit__()

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        log = (self.folder / f"log-{time.monotonic_ns()}").open("wb")
        args = [*JOB, "--out", str(out), "--ray-address", self.host.address, "--num-workers", "3", "--progress", "json"]
        env = {**os.environ, "CHAOS_NOTES": str(self.notes)}
        with log:
            process = subprocess.Popen([sys.executable, __file__, "drive", *args], stdout=log, stderr=log, env=env)
        process.log = Path(log.name)  # type: ignore[attr-defined]
        return process

    @staticmethod
    def said(process: subprocess.Popen[bytes]) -> str:
        return process.log.read_text()[-600:]  # type: ignore[attr-defined,no-any-return]

    @staticmethod
    def shards(out: Path) -> dict[str, bytes]:
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.arrow"))}

    @staticmethod
    def names(out: Path) -> set[str]:
        return {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}

    def wait_until_a_moment(self, out: Path, process: subprocess.Popen[bytes]) -> str:
        """Half the time any moment of a run, else one in which units run."""
        if self.random.random() < 0.3:
            seconds = self.random.uniform(0, self.run_s)
            time.sleep(seconds)
            return f"after {seconds:.1f} s"
        wanted = self.random.randrange(1, len(self.expected))
        while process.poll() is None and not (out / "manifest.json").exists():
            found = len(list((out / "receipts").glob("*.json"))) if (out / "receipts").is_dir() else 0
            if found >= wanted:
                return f"after {found} of {len(self.expected)} units"
            time.sleep(0.005)
        return "at its end"

    def workers(self) -> list[psutil.Process]:
        tree = psutil.Process(self.host.pid).children(recursive=True)
        return [p for p in tree if p.is_running() and any("MapWorker" in word for word in _cmdline(p))]

    def strike(self, kind: str, process: subprocess.Popen[bytes]) -> None:
        if kind.startswith("driver"):
            process.send_signal(signal.SIGTERM if "SIGTERM" in kind else signal.SIGKILL)
        elif kind == "worker":
            for victim in self.random.sample(found, 1) if (found := self.workers()) else []:
                victim.kill()
        else:
            place = self.random.randrange(len(self.nodes))
            if kind == "node":
                self.host.ask(remove=self.nodes[place])
            else:
                os.kill(self.host.ask(raylet=self.nodes[place]), signal.SIGTERM if "SIGTERM" in kind else signal.SIGKILL)
            self.nodes[place] = self.host.ask(add={"num_cpus": 1})  # as a cluster of spot machines gets another one

    def round(self, number: int, kind: str) -> Round:
        out = self.folder / f"round-{number}"
        self.notes.write_text("")
        start, wrong, runs = time.monotonic(), [], 1
        process = self.start(out)
        if kind == "two drivers":
            at, second = "from the start", self.start(out)
            for both in (process, second):
                if self.wait(both) != 0:
                    wrong.append(f"a driver ended with {both.returncode}: {self.said(both)}")
        else:
            at = self.wait_until_a_moment(out, process)
            self.strike(kind, process)
            while self.wait(process) != 0 and runs < RUNS:
                process, runs = self.start(out), runs + 1
            if process.returncode != 0:
                wrong.append(f"ended with {process.returncode}: {self.said(process)}")
        found = self.shards(out)
        lost = [name for name, data in self.expected.items() if found.get(name) != data]
        if lost:
            wrong.append(f"{len(lost)} shards are missing or other bytes: {lost[:3]}")
        if self.names(out) != self.files:
            wrong.append(f"files: {sorted(self.names(out) ^ self.files)[:5]}")
        again = [line for line in self.notes.read_text().splitlines() if line.endswith("again")]
        if again:
            wrong.append(f"{len(again)} committed units were run again: {again[:3]}")
        if not wrong:
            shutil.rmtree(out)
        return Round(kind=kind, at=at, runs=runs, seconds=time.monotonic() - start, wrong=tuple(wrong))

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(RUN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -1000  # it hung


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()  # type: ignore[no-any-return]
    except psutil.Error:
        return []


def chaos(rounds: int, seed: int) -> list[Round]:
    """Run rounds of all kinds in turn, and print what was killed and what was lost."""
    done: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        running = Chaos(Path(folder), seed)
        print(f"{len(running.expected)} units, uninterrupted in {running.run_s:.0f} s; seed {seed}", flush=True)
        try:
            for number in range(rounds):
                found = running.round(number, KINDS[number % len(KINDS)])
                done.append(found)
                what = "; ".join(found.wrong) or "nothing"
                print(
                    f"{number + 1:3} of {rounds}  {found.kind:20} {found.at:22} {found.runs} runs {found.seconds:5.0f} s  lost: {what}",
                    flush=True,
                )
        finally:
            running.close()
    kinds = Counter(found.kind for found in done)
    bad = sum(bool(found.wrong) for found in done)
    print(f"{len(done)} rounds ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}): {bad} with a loss")
    return done


def main() -> int:
    if sys.argv[1:2] == ["drive"]:
        return drive(sys.argv[2:])
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", type=Path, help="write what became of each round here")
    asked = options.parse_args()
    done = chaos(asked.rounds, asked.seed)
    if asked.json:
        asked.json.write_text(json.dumps([vars(found) for found in done], indent=1))
    return int(any(found.wrong for found in done))


if __name__ == "__main__":
    sys.exit(main())
