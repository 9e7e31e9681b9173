"""Build wheel and sdist into dist/, twice, and compare; install the wheel into an empty environment and try it there.

    python .ci/dist.py

Reproducible: times are those of the last commit, and the sdist is packed again with sorted names and no owner.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRIAL = """
import importlib.util, sys
from pathlib import Path
from textsmooth.pipeline import __version__, generate, make_student, train, verify
assert not importlib.util.find_spec("pytest") and not importlib.util.find_spec("ray"), "more than the dependencies is installed"
generate("demo", out="dataset", limit=200, progress="none")
assert verify("dataset").ok
make_student("demo", (0,), "student")
made = train(dataset="dataset", student="student", out="trained", max_steps=3, progress="none")
assert Path("trained/model.safetensors").is_file()
print(__version__, made.metrics)
"""


def run(*words: object, **more: object) -> str:
    return subprocess.run([str(word) for word in words], check=True, text=True, stdout=subprocess.PIPE, **more).stdout  # type: ignore[call-overload, no-any-return]


def build(out: Path, epoch: int) -> dict[str, bytes]:
    """Wheel and sdist of the files that git knows, by name."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        checkout.mkdir()
        data = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(checkout, filter="data")
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, checkout, env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)})
    (sdist,) = out.glob("*.tar.gz")
    sdist.write_bytes(repacked(sdist.read_bytes(), epoch))
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def repacked(data: bytes, epoch: int) -> bytes:
    """The same files in an archive that depends on nothing else."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname, member.pax_headers = epoch, 0, 0, "", "", {}
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(packed.getvalue(), mtime=0)


def main() -> None:
    epoch = int(run("git", "-C", ROOT, "log", "-1", "--format=%ct"))
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        first, second = build(dist, epoch), build(Path(folder) / "again", epoch)
        assert first == second, f"two builds differ: {[name for name in first if first[name] != second.get(name)]}"
        environment = Path(folder) / "environment"
        venv.create(environment, with_pip=True)
        python, trial = environment / "bin/python", Path(folder) / "trial"
        trial.mkdir()
        install = (python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt")
        run(*install, "torch")
        run(*install, next(dist.glob("*.whl")))
        print(run(python, "-c", TRIAL, cwd=trial), end="")
        print(run(environment / "bin/textsmooth", "--version"), end="")
    for name, data in first.items():
        print(f"{hashlib.sha256(data).hexdigest()}  {name}")


if __name__ == "__main__":
    main()
