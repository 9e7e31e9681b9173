"""Units on real Ray clusters of several nodes: same bytes as inline, one line for whatever cannot work."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Process, Ran, rows, shards_of, until, write_jsonl
from ray_host import RayHost

from textsmooth.pipeline.executors.ray_driver import Pool, pool_for
from textsmooth.pipeline.executors.ray_worker import check_versions
from textsmooth.schemas.config import GenerateOptions, workers
from textsmooth.schemas.errors import UsageError, WorkerError
from textsmooth.stages.dataset.open import read_manifest

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("--topk", 3, "--rows-per-shard", 4, "--threads", 1)
GPU, CPU2, HEAD = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0}, {"CPU": 0.0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayHost]:
    """Three nodes that take one worker each, and a head that takes none. Tests may add nodes and take them away again."""
    with RayHost() as host:
        for _ in range(3):
            host.ask(add={"num_cpus": 1})
        yield host


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpora") / "many.jsonl", rows(90, 5))


@pytest.fixture
def inline(gen: Callable[..., Ran], many: Path, tmp_path: Path) -> Path:
    assert gen("--corpus", many, *SIZES, "--out", tmp_path / "inline").code == 0
    return tmp_path / "inline"


def doctored(folder: Path, file: str, *changes: tuple[str, str]) -> dict[str, str]:
    """The environment of a node that has other code: a copy of the package with one file changed."""
    for room in ("schemas", "stages", "pipeline"):
        shutil.copytree(ROOT / room, folder / "textsmooth" / room, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "textsmooth" / file
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.ci
def test_three_workers_write_the_bytes_of_inline(
    cluster: RayHost, gen_process: Callable[..., Process], inline: Path, many: Path, tmp_path: Path
) -> None:
    """One and two do, further down."""
    out = tmp_path / "ray"
    here = Path(os.path.relpath(many))  # workers have another current folder
    ran = gen_process("--corpus", here, *SIZES, "--out", out, "--ray-address", cluster.address, "--num-workers", 3).wait()
    assert ran.code == 0, ran.err
    assert ran.err == ""  # nothing of Ray's own
    assert shards_of(out) == shards_of(inline)
    assert read_manifest(out).dataset == read_manifest(inline).dataset
    receipts = [json.loads(line) for line in (out / "receipts.jsonl").read_text().splitlines()]
    assert len(receipts) == 23 and all(r["versions"]["code"] for r in receipts)


@pytest.mark.slow
def test_a_pool_that_grows_on_parts_of_a_gpu(
    cluster: RayHost, gen_process: Callable[..., Process], inline: Path, many: Path, tmp_path: Path
) -> None:
    node = cluster.ask(add={"num_cpus": 2, "num_gpus": 1})
    try:
        shared = ("--ray-address", cluster.address, "--gpus-per-worker", 0.5, "--device", "cpu", "--cpus-per-worker", 1)
        running = gen_process("--corpus", many, *SIZES, "--out", tmp_path / "ray", *shared, "--num-workers", "1-2", "--initial-workers", 2)
        until(lambda: cluster.ask(resources=True).get("GPU", 0) == 0, 200)  # two workers share it
        ran = running.wait()
    finally:
        cluster.ask(remove=node)
        until(lambda: "GPU" not in cluster.ask(resources=True), 200)
    assert ran.code == 0, ran.err
    assert shards_of(tmp_path / "ray") == shards_of(inline)


@pytest.mark.slow
def test_sigterm_ends_resumable_and_a_finished_job_needs_no_ray(
    cluster: RayHost, gen_process: Callable[..., Process], gen: Callable[..., Ran], inline: Path, many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ray"
    args = ("--corpus", many, *SIZES, "--out", out, "--ray-address", cluster.address, "--num-workers", 2)
    running = gen_process(*args)
    until(lambda: (out / "receipts").is_dir() and len(list((out / "receipts").iterdir())) >= 2, 400)
    running.kill(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.code in (0, 143), stopped.err  # it may have been at its last units
    assert gen_process(*args).wait().code == 0
    assert shards_of(out) == shards_of(inline)
    again = gen(*args[:-4], "--ray-address", "127.0.0.1:1", "--num-workers", 2)  # nobody is there
    assert again.code == 0 and "Nothing to do" in again.out, again.err


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused_and_shipped_code_is_not(
    gen_process: Callable[..., Process], inline: Path, many: Path, tmp_path: Path
) -> None:
    env = doctored(tmp_path / "old", "stages/soft_ids/codec.py", ('"""', '"""Another version. '))
    with RayHost() as host:
        host.ask(add={"num_cpus": 1, "env_vars": env})
        args = ("--corpus", many, *SIZES, "--ray-address", host.address)
        begun = gen_process("--corpus", many, *SIZES, "--limit", 8, "--out", tmp_path / "begun").wait()
        assert begun.code == 0, begun.err
        (tmp_path / "begun/manifest.json").unlink()
        refused = gen_process(*args, "--limit", 8, "--out", tmp_path / "begun").wait()
        assert refused.code == 1 and "versions code" in refused.err, refused.err
        shipped = gen_process(*args, "--ship-code", "--out", tmp_path / "shipped").wait()
        assert shipped.code == 0, shipped.err
    assert shards_of(tmp_path / "shipped") == shards_of(inline)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("def check(job", "raise ValueError('no such driver')\ndef check(job"), "no such driver"),
        (("    try:\n        make_worker(job, lambda: False)", "    os.kill(os.getpid(), 9)\n    try:\n        pass"), "died"),
    ],
)
def test_a_worker_that_dies_at_start_ends_the_run_with_its_own_message(
    change: tuple[str, str], said: str, gen_process: Callable[..., Process], many: Path, tmp_path: Path
) -> None:
    with RayHost() as host:
        host.ask(add={"num_cpus": 1, "env_vars": doctored(tmp_path / "broken", "pipeline/executors/ray_worker.py", change)})
        ran = gen_process("--corpus", many, *SIZES, "--ray-address", host.address, "--out", tmp_path / "out").wait()
    assert ran.code == 1 and said in ran.err and len(ran.err.splitlines()) == 1, ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.ci
def test_units_that_hang_or_kill_their_worker_are_named_and_the_rest_is_done(
    gen_process: Callable[..., Process], many: Path, inline: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    hangs = (
        "            self.clock.begin()\n",
        "            self.clock.begin()\n            time.sleep(60 * (unit.number == 5))\n"
        "            unit.number == 7 and os.kill(os.getpid(), 9)\n",
    )
    with RayHost() as host:
        host.ask(add={"num_cpus": 1, "env_vars": doctored(tmp_path / "slow", "pipeline/executors/ray_worker.py", hangs)})
        args = ("--corpus", many, *SIZES, "--ray-address", host.address, "--out", out)
        ran = gen_process(*args, "--unit-timeout", 8).wait()
    assert ran.code == 3, ran.err
    failed = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert "train/00005" in json.dumps(failed) and "took longer than 8 s" in json.dumps(failed)
    assert "train/00007" in json.dumps(failed) and "the worker died each of the 3 times" in json.dumps(failed)
    assert len(list((out / "train").glob("*.arrow"))) == 21
    assert gen_process("--corpus", many, *SIZES, "--out", out).wait().code == 0
    assert shards_of(out) == shards_of(inline)


@pytest.mark.slow
def test_what_no_node_has_is_said(gen_process: Callable[..., Process], many: Path, tmp_path: Path) -> None:
    ran = gen_process("--corpus", many, *SIZES, "--executor", "ray", "--gpus-per-worker", 4, "--out", tmp_path / "out").wait()
    assert ran.code == 1 and "no worker with 1 CPU and 4 GPU" in ran.err and len(ran.err.splitlines()) == 1, ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_no_cluster_at_the_address_is_one_line(gen_process: Callable[..., Process], many: Path, tmp_path: Path) -> None:
    ran = gen_process("--corpus", many, "--ray-address", "127.0.0.1:1", "--out", tmp_path / "out").wait()
    assert ran.code == 1 and "no Ray cluster at 127.0.0.1:1" in ran.err and len(ran.err.splitlines()) == 1, ran.err


def test_without_ray_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['ray'] = None; from textsmooth.pipeline.cli import app as cli, gen as cli_gen; " + (
        "sys.exit(cli.run(cli_gen.gen, 'textsmooth-gen', ['--corpus', 'demo', '--executor', 'ray']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and 'pip install "textsmooth[ray]"' in ran.stderr


def options(**asked: Any) -> GenerateOptions:
    return GenerateOptions(corpus="demo", executor="ray", **asked)


@pytest.mark.parametrize(
    ("asked", "nodes", "expected"),
    [
        ({}, [HEAD, GPU, GPU], (4, 4, 4, 1.0, 1.0)),  # all visible GPUs
        ({"gpus_per_worker": 0.5}, [HEAD, GPU], (4, 4, 4, 1.0, 0.5)),
        ({"device": "cpu"}, [HEAD, CPU2, CPU2], (2, 2, 2, 2.0, 0.0)),  # a worker per node, with all its CPUs
        ({"num_workers": "4"}, [HEAD, CPU2, CPU2], (4, 4, 4, 1.0, 0.0)),
        ({"num_workers": "4", "threads": 1}, [CPU2, CPU2], (4, 4, 4, 1.0, 0.0)),
        ({"num_workers": "1-8", "initial_workers": 3, "gpus_per_worker": 1.0}, [HEAD], (1, 8, 3, 1.0, 1.0)),  # nodes come later
        ({"cpus_per_worker": 3.0, "num_workers": "2"}, [CPU2], (2, 2, 2, 3.0, 0.0)),
    ],
)
def test_the_pool_that_is_asked_for(asked: dict[str, Any], nodes: list[dict[str, float]], expected: tuple[float, ...]) -> None:
    least, most, initial, cpus, gpus = expected
    assert pool_for(options(**asked), nodes) == Pool(least=int(least), most=int(most), initial=int(initial), cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    "asked",
    [
        {"num_workers": "0"}, {"num_workers": "3-1"}, {"num_workers": "many"}, {"gpus_per_worker": 1.5}, {"gpus_per_worker": -1.0},
        {"num_workers": "2-4", "initial_workers": 5}, {"initial_workers": 2},
    ],
)  # fmt: skip
def test_a_pool_that_cannot_be(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        options(**asked)


def test_ranges_of_workers() -> None:
    assert (workers(None), workers("3"), workers("2-8")) == ((1, 1), (3, 3), (2, 8))


def test_a_difference_of_versions_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from textsmooth.pipeline.executors import ray_worker

    monkeypatch.setattr(ray_worker, "node", lambda: "spot-7")
    check_versions({"torch": "2.13.0"}, {"torch": "2.13.0"})
    with pytest.raises(WorkerError, match=r"spot-7 has torch 2\.12\.0, the plan 2\.13\.0"):
        check_versions({"torch": "2.13.0"}, {"torch": "2.12.0"})


@pytest.mark.ci
def test_the_doctor_joins_a_cluster_and_leaves_it(cluster: RayHost, textsmooth_process: Callable[..., Process]) -> None:
    ran = textsmooth_process("doctor", "--no-trial", "--json", "--ray-address", cluster.address).wait()
    assert (ran.code, ran.err) == (0, "")
    (found,) = (f for f in json.loads(ran.out)["findings"] if f["group"] == "Ray cluster")
    assert (found["state"], found["text"]) == ("ok", f"4 at {cluster.address}, with 3 CPUs and 0 GPUs; Ray and Python there are as here")
