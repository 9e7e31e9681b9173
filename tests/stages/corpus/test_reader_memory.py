"""Reading takes as much memory as a range of rows does, however large the file is."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MEGABYTES = 60
LINE = "".join(f"word{i * 7919 % 99991} " for i in range(1250))  # 10 kB
PEAK = """
import sys
from pathlib import Path
from textsmooth.stages.corpus.reader import read, rows_sha256, scan
from textsmooth.stages.corpus.formats import source_file

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024

small, large = (source_file(name, path=Path(name)) for name in sys.argv[1:])
for file in (small, large):
    file.columns()
    last = total = 0
    for part in scan(file, ("text",), rows=100):
        rows_sha256(part.rows)
        total, last = total + sum(map(len, part.rows["text"])), part
    assert read(file, ("text",), last.start, last.start + last.count, last.offset) == last.rows
    print(peak(), total)
"""


def write(path: Path, count: int) -> None:
    if path.suffix == ".parquet":  # one row group, pages of 1 MB
        table = pa.table({"text": [f"{i} {LINE[:1000]}" for i in range(count * 10)]})
        pq.write_table(table, path, row_group_size=10**9, use_dictionary=False, compression="none")
        return
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        if path.suffix == ".csv":
            file.write(b"text\n")
        for i in range(count):
            row = json.dumps({"text": f"{i} {LINE}"}) if path.suffix == ".jsonl" else f"{i} {LINE}"
            file.write(row.encode() + b"\n")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("suffix", [".txt.gz", ".jsonl", ".csv", ".parquet"])
def test_memory_does_not_grow_with_the_file(suffix: str, tmp_path: Path) -> None:
    small, large = tmp_path / f"small{suffix}", tmp_path / f"large{suffix}"
    write(small, 200)
    write(large, MEGABYTES * 100)
    assert suffix == ".txt.gz" or large.stat().st_size > 59e6
    ran = subprocess.run([sys.executable, "-c", PEAK, small, large], capture_output=True, text=True, check=True)
    (before, few), (after, all_of_it) = ([int(word) for word in line.split()] for line in ran.stdout.splitlines())
    assert all_of_it > 29 * few
    assert after - before < MEGABYTES / 3, f"{after - before} MB more for {MEGABYTES} MB"
