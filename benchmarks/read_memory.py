"""Peak memory and speed of reading a corpus: every row read and hashed, as planning does, one process per format.

    python benchmarks/read_memory.py --gigabytes 1 --folder /tmp/read_memory

Each file has rows of about 300 bytes and is read in ranges of 512 rows. `peak` is the resident memory at its highest, `base` the same
process before it opens the file. Of a memory-mapped .arrow file, the pages read count as resident though they can be dropped.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

FORMATS = (".txt", ".txt.gz", ".jsonl", ".csv", ".parquet", ".arrow")
ROWS = 10_000  # rows that differ; a file repeats them under other numbers


def rows(count: int) -> list[str]:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    return [" ".join(rng.choices(words, k=46)) for _ in range(count)]


def write(path: Path, size: int) -> None:
    """A file with `size` bytes of text; the Parquet file has one row group and the Arrow file batches of 1,000 rows."""
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    base = rows(ROWS)
    repeats = max(1, size // sum(map(len, base)))
    if path.suffix in (".parquet", ".arrow"):
        tables = (pa.table({"text": [f"{i} {text}" for text in base], "label": [i % 2] * ROWS}) for i in range(repeats))
        if path.suffix == ".parquet":
            pq.write_table(pa.concat_tables(tables), path, row_group_size=1 << 40)
            return
        first = next(tables)
        with pa.ipc.new_file(str(path), first.schema) as writer:
            for table in (first, *tables):
                writer.write_table(table, 1000)
        return
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        if path.suffix == ".csv":
            file.write(b"text,label\n")
        for i in range(repeats):
            if path.suffix == ".jsonl":
                lines = [json.dumps({"text": f"{i} {text}", "label": i % 2}) for text in base]
            else:
                lines = [f"{i} {text}" + (f",{i % 2}" if path.suffix == ".csv" else "") for text in base]
            file.write("\n".join([*lines, ""]).encode())


def status(name: str) -> float:
    """MB of this process, from /proc."""
    with open("/proc/self/status") as file:  # noqa: PTH123
        return int(next(line for line in file if line.startswith(name)).split()[1]) / 1024


def read(path: Path) -> None:
    """Read and hash a file; print what it took."""
    import pyarrow.parquet  # noqa: F401

    from textsmooth.stages.corpus.formats import source_file
    from textsmooth.stages.corpus.reader import rows_sha256, scan

    base = status("VmRSS")
    file = source_file(path.name, path=path)
    names = tuple(file.columns())
    start, count, size = time.perf_counter(), 0, 0
    for part in scan(file, names, rows=512):
        rows_sha256(part.rows)
        count += part.count
        size += sum(map(len, part.rows["text"]))
    took = time.perf_counter() - start
    print(
        f"{''.join(path.suffixes):10s} {path.stat().st_size / 1e6:8.0f} MB  base {base:4.0f} MB  peak {status('VmHWM'):5.0f} MB  "
        f"{size / took / 1e6:6.0f} MB of text/s  {count / took / 1e3:6.0f} k rows/s"
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--gigabytes", type=float, default=1.0, help="of text in each file")
    ask.add_argument("--folder", type=Path, default=Path("/tmp/read_memory"))
    ask.add_argument("--formats", default=",".join(FORMATS))
    ask.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    asked = ask.parse_args()
    if asked.read:
        read(asked.read)
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    for suffix in asked.formats.split(","):
        path = asked.folder / f"c{suffix}"
        write(path, int(asked.gigabytes * 1e9))
        subprocess.run([sys.executable, __file__, "--read", str(path)], check=True)
        path.unlink()


if __name__ == "__main__":
    main()
