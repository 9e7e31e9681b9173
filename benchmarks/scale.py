"""Many rows through a teacher that computes nothing: does the driver's memory stay flat, and what does everything but the teacher cost?

    python benchmarks/scale.py --rows 10_000_000
    python benchmarks/scale.py --rows 10_000_000 --executor ray --num-workers 2
    python benchmarks/scale.py --rows 300_000 --rows-per-shard 16        many units, to see what grows with them

Writes a corpus of short seeded rows, makes a dataset of it (null_teacher.py), and checks that: every row once, in order, and the sha256
of a sample of the shards. The driver's memory is sampled all along; `slope` is the least-squares line through the samples of the running
phase, its first fifth left out, per thousand units. Inline, the worker is in the driver's process; with Ray it is not.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BENCHMARKS = Path(__file__).resolve().parent
SAMPLE_S = 0.2


def write_corpus(folder: Path, rows: int, files: int) -> int:
    """JSON lines of 3 to 9 words and a label, in so many files of nearly equal length; bytes written."""
    rng = random.Random(0)
    syllables = [first + second for first in "bdfgklmnprstv" for second in ("a", "e", "i", "o", "u", "an", "er", "in")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(5000)]
    texts = [" ".join(rng.choices(words, k=rng.randint(2, 8))) for _ in range(50_000)]
    folder.mkdir()
    size = 0
    for number in range(files):
        with (folder / f"part-{number:05d}.jsonl").open("w") as file:
            for row in range(rows * number // files, rows * (number + 1) // files):
                size += file.write(f'{{"text": "{words[row * 7919 % 5000]} {texts[row % 50_000]}", "label": {row % 3}}}\n')
    return size


class Memory:
    """Resident memory of this process over time, and how many units were done by then."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, int]] = []  # seconds, MB, units
        self.units = 0

    def sample(self) -> float:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            mb = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        self.samples.append((time.perf_counter(), mb, self.units))
        return mb

    @contextmanager
    def watched(self) -> Iterator[None]:
        end = threading.Event()

        def watch() -> None:
            while not end.wait(SAMPLE_S):
                self.sample()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def slope(self) -> tuple[float, float]:
        """MB per thousand units, and MB in all, from the first fifth of the units to the last."""
        found = np.array([(units, mb) for _, mb, units in self.samples if self.units * 0.2 <= units < self.units])
        if len(found) < 3 or np.ptp(found[:, 0]) == 0:
            return float("nan"), float("nan")
        line = np.polyfit(found[:, 0], found[:, 1], 1)[0]
        return float(line * 1000), float(line * np.ptp(found[:, 0]))


def check(out: Path, rows: int, sample: int) -> int:
    """Every row once and in order, and whole shards in a sample; how many shards there are."""
    from textsmooth.stages.dataset.open import read_manifest
    from textsmooth.stages.soft_ids.shard import ShardReader

    manifest = read_manifest(out)
    assert sum(shard.rows for shard in manifest.shards) == rows, "rows are missing"
    first = np.concatenate([[0], np.cumsum([shard.rows for shard in manifest.shards])])
    for index in random.Random(1).sample(range(len(manifest.shards)), min(sample, len(manifest.shards))):
        shard = manifest.shards[index]
        path = out / shard.path
        assert path.stat().st_size == shard.bytes and hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256, f"{path} differs"
        reader = ShardReader(path)
        found = np.concatenate([reader.record_batch(i).column("row").to_numpy() for i in range(len(reader))])
        assert np.array_equal(found, np.arange(first[index], first[index + 1])), f"{path} has other rows"
    on_disk = {path.name for path in (out / "train").iterdir()}
    assert on_disk == {Path(shard.path).name for shard in manifest.shards}, "files that are no shards of the dataset"
    return len(manifest.shards)


def executor(name: str, options: Any) -> Any:
    from null_teacher import NullWorker

    if name == "ray":
        os.environ["PYTHONPATH"] = f"{BENCHMARKS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"  # the workers import it, too
        from textsmooth.pipeline.executors.ray_driver import RayExecutor

        return RayExecutor(options, NullWorker)
    from textsmooth.pipeline.executors.inline import Inline

    return Inline(NullWorker)


def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from textsmooth.pipeline.generation.run import generate
    from textsmooth.pipeline.progress import Progress
    from textsmooth.schemas.config import GenerateOptions

    memory = Memory()

    class Shown(Progress):
        def unit(self, *args: Any, **kwargs: Any) -> None:
            super().unit(*args, **kwargs)
            memory.units += 1

    start = time.perf_counter()
    size = write_corpus(folder / "corpus", asked.rows, asked.files)
    write_s = time.perf_counter() - start
    options = GenerateOptions(
        corpus=str(folder / "corpus/*.jsonl"),
        text_columns=("text",),
        teacher="demo",
        topk=asked.topk,
        rows_per_shard=asked.rows_per_shard,
        out=str(folder / "out"),
        threads=1,
        executor=asked.executor,
        num_workers=None if asked.executor == "inline" else asked.num_workers,
    )
    before = memory.sample()
    with memory.watched():
        made = generate(options, Shown("none"), executor=executor(asked.executor, options))
    record = json.loads((folder / "out/run.json").read_bytes())
    start = time.perf_counter()
    shards = check(folder / "out", asked.rows, asked.sample)
    check_s = time.perf_counter() - start
    start = time.perf_counter()
    again = generate(options, executor=executor("inline", options))
    assert again.units == 0 and again.manifest.dataset == made.manifest.dataset
    again_s = time.perf_counter() - start
    running = record["seconds"]["running"]
    slope, grown = memory.slope()
    return {
        "rows": asked.rows,
        "units": shards,
        "tokens": record["tokens"],
        "executor": asked.executor,
        "workers": record["workers"],
        "corpus_mb": size / 1e6,
        "dataset_mb": record["bytes"] / 1e6,
        "seconds": {"write_corpus": write_s, **record["seconds"], "check": check_s, "again": again_s},
        "planning_rows_per_s": asked.rows / record["seconds"]["planning"],
        "units_per_s": shards / running,
        "rows_per_s": asked.rows / running,
        "tokens_per_s": record["tokens"] / running,
        "memory_mb": {"before": before, "peak": max(mb for _, mb, _ in memory.samples), "slope_per_1000_units": slope, "grown": grown},
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rows", type=int, default=10_000_000)
    ask.add_argument("--rows-per-shard", type=int, default=2048)
    ask.add_argument("--files", type=int, default=8)
    ask.add_argument("--topk", type=int, default=8)
    ask.add_argument("--executor", choices=("inline", "ray"), default="inline")
    ask.add_argument("--num-workers", default="2", help="with --executor ray")
    ask.add_argument("--sample", type=int, default=200, help="shards whose sha256 is compared at the end")
    ask.add_argument("--folder", type=Path, help="where corpus and dataset are written; else a temporary one")
    ask.add_argument("--keep", action="store_true", help="leave corpus and dataset there")
    asked = ask.parse_args()
    sys.path.insert(0, str(BENCHMARKS))
    folder = Path(tempfile.mkdtemp(dir=asked.folder, prefix="scale-"))
    try:
        found = run(asked, folder)
    finally:
        if not asked.keep:
            shutil.rmtree(folder)
    for name, value in found.items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        print(f"{name:20s}", "  ".join(f"{f'{k} ' if k else ''}{v:,.2f}" if isinstance(v, float) else f"{v}" for k, v in inner))


if __name__ == "__main__":
    main()
