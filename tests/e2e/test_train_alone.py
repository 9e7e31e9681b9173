"""Training needs the dataset and the student alone: the teacher is deleted, and every file that is opened is looked at."""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_gen import Ran, rows, write_jsonl

from textsmooth.stages.models.student_init import make_student

ROOT = Path(__file__).resolve().parents[2]
# Opens are noted from the first line of the program on; names that are file descriptors are those of files opened before.
AUDIT = """
import sys, os, json
seen = set()
sys.addaudithook(lambda event, args: seen.add(os.fsdecode(args[0])) if event == "open" and isinstance(args[0], (str, bytes)) else None)
from textsmooth.pipeline.cli.app import run
from textsmooth.pipeline.cli.train import train
code = run(train, "textsmooth-train", sys.argv[2:])
there = sorted(os.path.realpath(path) for path in seen)
with open(sys.argv[1], "w") as file:
    json.dump(there, file)
sys.exit(code)
"""


@pytest.mark.parametrize("objective", [pytest.param("task", marks=pytest.mark.ci), pytest.param("mlm", marks=pytest.mark.slow)])
def test_nothing_outside_dataset_student_and_out_is_opened(gen: Callable[..., Ran], teacher: Path, tmp_path: Path, objective: str) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows(24))
    own = shutil.copytree(teacher, tmp_path / "teacher")
    context = "masked:3" if objective == "mlm" else "unmasked"
    made = gen("--corpus", corpus, "--teacher", own, "--out", tmp_path / "dataset", "--topk", 4, "--context", context)
    assert made.code == 0, made.err
    make_student(own, (0,), tmp_path / "student")
    shutil.rmtree(own)
    corpus.unlink()

    asked = [tmp_path / "dataset", "--student", tmp_path / "student", "--out", tmp_path / "out", "--objective", objective, "--max-steps", 3]
    words = [str(word) for word in (tmp_path / "opened.json", *asked, "--threads", 1, "--eval-split", "train", "--batch-size", 4)]
    home = tmp_path / "home"
    home.mkdir()
    env = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "HF_HOME": str(home / "hf"), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run([sys.executable, "-c", AUDIT, *words], capture_output=True, text=True, check=False, env=env, cwd=home)
    assert ran.returncode == 0, ran.stderr

    libraries = {*sysconfig.get_paths().values(), *site.getsitepackages(), sys.base_prefix, sys.prefix}
    allowed = [tmp_path / name for name in ("dataset", "student", "out", "out.run", "home")]
    allowed += [Path(os.path.realpath(place)) for place in libraries]
    allowed += [ROOT / room for room in ("stages", "schemas", "pipeline", "pyproject.toml")]
    allowed += [Path(place) for place in ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib")]
    opened = [Path(path) for path in json.loads((tmp_path / "opened.json").read_text())]
    temporary = [path for path in opened if path.name.startswith(".tmp-") or any(part.startswith(".tmp-out-") for part in path.parts)]
    opened = [path for path in opened if path != tmp_path]  # its names are put on the disk, with that of `out`
    strange = [path for path in opened if not any(path.is_relative_to(place) for place in allowed) and path not in temporary]
    assert strange == []
    shards = [path for path in opened if path.is_relative_to(tmp_path / "dataset") and path.suffix == ".arrow"]
    assert shards and any(path.name == "model.safetensors" for path in opened)  # the hook sees what is opened
