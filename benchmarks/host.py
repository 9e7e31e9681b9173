"""What everything but the teacher costs: CPU time per token of each step, with a teacher that computes nothing.

    python benchmarks/host.py --corpus FOLDER[:config] --teacher FOLDER [--split validation] [--rows 4000] [--repeats 3] [--wall]

One row for each of k = 32 and 8, mass 1 and 0.99, temperatures 1 and 1,2. Each step in microseconds of CPU per token (specials included),
measured in its own thread, the smallest of the repeats.
--wall: instead, tokens/s of wall time on one core and on two, in processes of their own, alternating.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import null_teacher

from textsmooth.pipeline.executors.inline import Inline
from textsmooth.pipeline.generation.run import generate
from textsmooth.pipeline.units import worker
from textsmooth.schemas.config import GenerateOptions

SETTINGS = [(k, mass, t) for k in (32, 8) for mass in (1.0, 0.99) for t in ((1.0,), (1.0, 2.0))]
SECONDS: Counter[str] = Counter()


def timed(holder: Any, name: str, step: str) -> None:
    """Add the CPU time of each call of holder.name to SECONDS[step]; those inside it included."""
    real = getattr(holder, name)

    @functools.wraps(real)
    def call(*args: Any, **how: Any) -> Any:
        start = time.thread_time()
        try:
            return real(*args, **how)
        finally:
            SECONDS[step] += time.thread_time() - start

    setattr(holder, name, call)


STEPS: list[tuple[Any, str, str]] = [
    (worker, "read", "read"),
    (worker, "tokenize", "tokenize"),
    (null_teacher.NullWorker, "score", "null teacher"),
    (worker, "gather_soft_ids", "gather"),
    (worker.UnitStats, "of", "statistics"),
    (worker, "encode", "columns"),
    (worker, "shard_bytes", "shard"),
    (worker.UnitWorker, "finish", "finish"),
]


def once(corpus: str, teacher: str, split: str, rows: int, topk: int, mass: float, temperatures: tuple[float, ...]) -> dict[str, float]:
    """One run: seconds of CPU per step, of the whole process, of wall time, and the number of tokens."""
    SECONDS.clear()
    with tempfile.TemporaryDirectory() as folder:
        options = GenerateOptions(
            corpus=corpus,
            teacher=teacher,
            splits=(split,),
            limit=rows,
            topk=topk,
            mass=mass,
            temperatures=temperatures,
            out=f"{folder}/out",
            threads=1,
            dtype="float32",
            rows_per_shard=512,
        )
        cpu, wall = time.process_time(), time.perf_counter()
        made = generate(options, executor=Inline(null_teacher.NullWorker))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    tokens = made.manifest.statistics["tokens"]
    return {**SECONDS, "cpu": cpu, "wall": wall, "tokens": tokens}


def row(values: list[dict[str, float]]) -> str:
    """Microseconds of CPU per token of each step; the smallest of the runs."""
    least = {name: min(v[name] for v in values) for name in values[0]}
    micro = {name: 1e6 * seconds / least["tokens"] for name, seconds in least.items()}
    inside = sum(micro[name] for name in ("gather", "statistics", "columns", "shard"))
    cells = [micro[name] for name in ("read", "tokenize", "gather", "statistics", "columns", "shard")]
    after = micro["finish"]
    total = micro["read"] + micro["tokenize"] + after
    return " | ".join(f"{cell:.2f}" for cell in (*cells, after - inside, after, total))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a setting, as JSON: run it once, print the times
    asked = parser.parse_args()
    run: Callable[..., dict[str, float]] = functools.partial(once, asked.corpus, asked.teacher, asked.split, asked.rows)
    if asked.one:
        topk, mass, temperatures = json.loads(asked.one)
        run(topk, mass, tuple(temperatures))
        print(json.dumps(run(topk, mass, tuple(temperatures))))
        return
    if asked.wall:
        print("| k | mass | T | tokens/s on 1 core | on 2 | ratio |\n|---|---|---|---|---|---|")
        for setting in SETTINGS[:1]:
            speed: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(asked.repeats):
                for cores in speed:
                    command = [sys.executable, __file__, "--corpus", asked.corpus, "--teacher", asked.teacher, "--split", asked.split]
                    command += ["--rows", str(asked.rows), "--one", json.dumps(setting)]
                    limit = functools.partial(os.sched_setaffinity, 0, range(cores))
                    ran = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=limit).stdout)
                    speed[cores].append(ran["tokens"] / ran["wall"])
            best = {cores: max(values) for cores, values in speed.items()}
            topk, mass, temperatures = setting
            shown = ",".join(f"{t:g}" for t in temperatures)
            print(f"| {topk} | {mass:g} | {shown} | {best[1]:,.0f} | {best[2]:,.0f} | {best[2] / best[1]:.2f} |")
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of its own are in no thread's CPU time
    for holder, name, step in STEPS:
        timed(holder, name, step)
    run(*SETTINGS[0])
    print(f"CPU microseconds per token; {Path(asked.corpus).name}, {asked.split}, {asked.rows} rows")
    print("| k | mass | T | read | tokenize | gather | statistics | columns | shard | hash, write | after tokenizing | all |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for topk, mass, temperatures in SETTINGS:
        values = [run(topk, mass, temperatures) for _ in range(asked.repeats)]
        print(f"| {topk} | {mass:g} | {','.join(f'{t:g}' for t in temperatures)} | {row(values)} |", flush=True)


if __name__ == "__main__":
    main()
