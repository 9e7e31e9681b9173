"""The files of very large runs: how long a plan, a manifest and receipts take to write and to read, and in how much memory.

    python benchmarks/scale_files.py plan --count 1_000_000          rows cut and hashed, one to a unit; plan.json written and read back
    python benchmarks/scale_files.py manifest --count 100_000        manifest.json of so many shards, written and read back
    python benchmarks/scale_files.py receipts --count 100_000        resume and commit over so many receipts; shards of ten bytes

Wall and CPU seconds of each step, resident memory after it, and its peak so far. Nothing but the teacher is left out: corpus, plan and
receipts are those of a run, with made-up numbers where a teacher would have given them.
"""

import argparse
import hashlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from textsmooth.pipeline.commit.commit import commit, finished_units
from textsmooth.pipeline.commit.receipts import receipt_name, shard_path
from textsmooth.pipeline.plan.cut import make_plan
from textsmooth.pipeline.plan.resolve import Request, resolve_request
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.manifest import FileEntry, Manifest, ShardEntry
from textsmooth.schemas.plan import Plan
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.soft_ids.statistics import UnitStats
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.storage.folder import read_json


def memory(name: str) -> int:
    """MB of this process, from /proc."""
    with open("/proc/self/status") as file:  # noqa: PTH123
        return int(next(line for line in file if line.startswith(name)).split()[1]) // 1024


def told(what: str, step: Callable[[], Any]) -> Any:
    """What a step gives, with its times and memory printed."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:18s} {wall:6.2f} s  ({cpu:6.2f} s of CPU)   {memory('VmRSS'):5d} MB, peak {memory('VmHWM'):5d} MB", flush=True)
    return found


def requested(folder: Path, count: int) -> Request:
    """A request for a corpus of one-line rows, one to a unit."""
    (folder / "corpus").mkdir()
    for number in range(4):
        lines = (f"row {i} of it\n" for i in range(count * number // 4, count * (number + 1) // 4))
        (folder / f"corpus/part-{number}.txt").write_text("".join(lines))
    return resolve_request(GenerateOptions(corpus=str(folder / "corpus/*.txt"), teacher="demo", rows_per_shard=1, threads=1))


def write(folder: Path, made: Plan) -> None:
    open_folder(folder).put("plan.json", pretty_json(made.to_json()))


def plan(folder: Path, count: int) -> None:
    asked = told("corpus, teacher", lambda: requested(folder, count))
    made = told("cut and hashed", lambda: make_plan(asked))
    told("plan.json written", partial(write, folder, made))
    digest = made.digest
    del made  # of two plans neither run nor resume has need
    again = told("plan.json read", lambda: Plan.from_json(read_json(open_folder(folder), "plan.json")))
    assert again.digest == digest and len(again.units) == count
    print(f"plan.json: {(folder / 'plan.json').stat().st_size / 1e6:.0f} MB")


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def manifest(folder: Path, count: int) -> None:
    shards = tuple(
        ShardEntry(
            path=f"train/{n:05d}-{sha(n)[:12]}.arrow",
            split="train",
            rows=2048,
            tokens=10**5 + n,
            entries=3 * 10**6 + n,
            bytes=n,
            sha256=sha(n),
        )
        for n in range(count)
    )
    plan = make_plan(requested(folder, 1))
    made = Manifest(
        dataset=Manifest.dataset_digest(plan.digest, shards),
        plan=plan.digest,
        corpus=plan.corpus.to_json(),
        teacher=plan.teacher.to_json(),
        config=plan.config.to_json(),
        token_types=True,
        special_ids={"pad": 0},
        shards=shards,
        files=(FileEntry(path="README.md", bytes=5, sha256="a" * 64),),
        statistics={**UnitStats().summary(), "bytes": 0, "bytes_per_token": 0.0},
        versions={},
        created="2026-01-01T00:00:00+00:00",
    )
    value = made.to_json()
    told("manifest written", lambda: open_folder(folder).put("manifest.json", pretty_json(value)))
    for _ in range(5):
        assert told("manifest read", lambda: read_manifest(folder)).to_json()["digest"] == value["digest"]
    print(f"manifest.json: {(folder / 'manifest.json').stat().st_size / 1e6:.0f} MB")


def receipts(folder: Path, count: int) -> None:
    asked = requested(folder, count)
    made, out, rng = make_plan(asked), folder / "out", random.Random(0)
    for room in ("train", "receipts"):
        (out / room).mkdir(parents=True)
    (out / "plan.json").write_bytes(pretty_json(made.to_json()))
    numbers = [[rng.random() for _ in range(32)] for _ in range(100)]
    for unit in made.units:
        stats = UnitStats(rows=1, tokens=7, smoothed=5, entries=160, mass_by_rank=rng.choice(numbers), original_bins=[9] * 100)
        receipt = Receipt(
            unit=unit.id,
            split=unit.split,
            number=unit.number,
            shard=shard_path(unit, sha(unit.number)),
            sha256=sha(unit.number),
            bytes=10,
            rows=1,
            tokens=7,
            entries=160,
            stats=stats.to_json(),
            versions=made.versions,
            device="none",
            timings={"prepare_s": 0.1234, "score_s": 1.2345, "encode_s": 0.1234, "write_s": 0.0123},
        )
        (out / receipt.shard).write_bytes(b"0123456789")
        (out / receipt_name(unit)).write_bytes(pretty_json(receipt.to_json()))
    place = open_folder(out)
    assert len(told("receipts read", lambda: finished_units(place, made))) == count
    told("commit", lambda: commit(place, made, asked.tokenizer))
    for _ in range(3):
        assert len(told("dataset opened", lambda: SmoothedDataset(out, "train"))) == count


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("what", choices=("plan", "manifest", "receipts"))
    ask.add_argument("--count", type=int, default=100_000)
    ask.add_argument("--folder", type=Path, help="where files are written; else a temporary folder")
    asked = ask.parse_args()
    folder = Path(tempfile.mkdtemp(dir=asked.folder, prefix="scale-"))
    try:
        {"plan": plan, "manifest": manifest, "receipts": receipts}[asked.what](folder, asked.count)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
