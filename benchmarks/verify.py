"""`textsmooth verify` beside plain sha256, or plain reading, of the same files; and whether it finds single flipped bits.

    python benchmarks/verify.py DATASET [--workers 1 2 4] [--repeat 3]
    python benchmarks/verify.py DATASET --cold [--workers 1 2 4] [--repeat 3]
    python benchmarks/verify.py DATASET --flips 1000 [--seed 0] [--first 0]

Without --flips, files are read once before, so that both read from memory: the ratio is one of work, not of the disk. `sha256` is
hashlib over each file in as many threads. With --cold, files are dropped from the page cache before each timing, and verify is held
against reading them to their end with as many threads, in turn; what is printed are medians. With --flips, each bit is flipped in a copy,
the whole dataset verified, and the bit flipped back; files are taken in turn, so that small ones get as many flips as large ones. Use a
small dataset for it.
"""

import argparse
import hashlib
import os
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from textsmooth.pipeline.verification.run import verify
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.stages.dataset.open import read_manifest

READ_BYTES = 4 << 20


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def speed(folder: Path, workers: int, repeat: int) -> None:
    manifest = read_manifest(folder)
    files = [folder / entry.path for entry in (*manifest.files, *manifest.shards)]
    size = sum(path.stat().st_size for path in files)
    best = {"sha256": float("inf"), "verify": float("inf")}
    for _ in range(repeat):
        with ThreadPoolExecutor(workers) as threads:
            start = time.perf_counter()
            list(threads.map(sha256, files))
            best["sha256"] = min(best["sha256"], time.perf_counter() - start)
        start = time.perf_counter()
        found = verify(folder, workers=workers)
        best["verify"] = min(best["verify"], time.perf_counter() - start)
        assert found.ok, found.summary()
    rates = {name: size / seconds / 1e6 for name, seconds in best.items()}
    print(
        f"{folder.name}: {size / 1e6:,.1f} MB in {len(manifest.shards)} shards, {workers} workers: verify {rates['verify']:,.0f} MB/s, "
        f"sha256 {rates['sha256']:,.0f} MB/s, ratio {rates['verify'] / rates['sha256']:.2f}",
        flush=True,
    )


def cold(folder: Path, workers: int, repeat: int) -> None:
    manifest = read_manifest(folder)
    files = [folder / MANIFEST, *(folder / entry.path for entry in (*manifest.files, *manifest.shards))]
    size = sum(path.stat().st_size for path in files)

    def read_all() -> None:
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(read, files))

    def check(*, checksums: bool) -> None:
        found = verify(folder, checksums=checksums, workers=workers)
        assert found.ok, found.summary()

    runs = {"verify": partial(check, checksums=False), "--checksums": partial(check, checksums=True), "reading": read_all}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    check(checksums=False)  # what it imports is read before
    for _ in range(repeat):
        for name, run in runs.items():
            for path in files:
                drop(path)
            start = time.perf_counter()
            run()
            rates[name].append(size / (time.perf_counter() - start) / 1e6)
    checked, compared, plain = (statistics.median(rates[name]) for name in runs)
    print(
        f"{folder.name}: {size / 1e6:,.1f} MB in {len(manifest.shards)} shards, cold, {workers} workers: verify {checked:,.0f} MB/s, "
        f"--checksums {compared:,.0f} MB/s, reading {plain:,.0f} MB/s, ratios {checked / plain:.2f} and {compared / plain:.2f}",
        flush=True,
    )


def read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(READ_BYTES):
            pass


def drop(path: Path) -> None:
    """Take a file out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet stays
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def flips(folder: Path, count: int, seed: int, first: int) -> None:
    with tempfile.TemporaryDirectory() as room:
        copy = Path(shutil.copytree(folder, Path(room) / "dataset"))
        manifest = read_manifest(copy)
        files = [MANIFEST, *(entry.path for entry in (*manifest.files, *manifest.shards))]
        found, missed = Counter[str](), []
        start = time.perf_counter()
        for number in range(first, first + count):
            name = files[number % len(files)]
            path = copy / name
            data = path.read_bytes()
            bit = random.Random(f"{seed}/{number}").randrange(8 * len(data))
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            told = verify(copy, workers=1)
            path.write_bytes(data)
            if name in told.damaged:
                found[name] += 1
            else:
                missed.append((name, bit))
        assert verify(copy).ok
    print(f"{sum(found.values())} of {count} flipped bits found, in {len(found)} files, in {time.perf_counter() - start:.0f} s")
    for name, bit in missed:
        print(f"missed: {name} bit {bit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--flips", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first flip: a thousand in several runs")
    asked = parser.parse_args()
    if asked.flips:
        flips(asked.dataset, asked.flips, asked.seed, asked.first)
        return
    for workers in asked.workers:
        (cold if asked.cold else speed)(asked.dataset, workers, asked.repeat)


if __name__ == "__main__":
    main()
