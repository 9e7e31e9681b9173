"""`textsmooth doctor`: what is here, what is not, what to do about it; and nothing is left behind."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path

import pytest
import torch
from helpers_gen import Ran, tree, write_jsonl
from helpers_hub import go_offline
from helpers_share import TOKEN
from hub_server import Fault as HubFault
from hub_server import Hub
from s3_server import S3, Fault

from textsmooth import pipeline
from textsmooth.pipeline import doctor
from textsmooth.pipeline.cli.doctor import COLOURS
from textsmooth.pipeline.diagnostics import machine as doctor_machine
from textsmooth.pipeline.diagnostics import places as doctor_places
from textsmooth.pipeline.diagnostics import run as diagnosis
from textsmooth.pipeline.diagnostics.check_result import CheckResult, Group
from textsmooth.schemas.errors import UsageError
from textsmooth.stages.models import cgroup
from textsmooth.stages.storage import atomic, cache

NOWHERE = "http://127.0.0.1:9"  # where nobody listens
FAST = ("doctor", "--no-trial")


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cache and temporary files of the test's own; no variables of whoever runs it."""
    for name in ("RAY_ADDRESS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES", "TEXTSMOOTH_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEXTSMOOTH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert {name for name in tree(tmp_path / "temporary") if not name.startswith("torchinductor")} == set()  # torch's own, of any run


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets the installed textsmooth ask for other libraries: asks("torch>=99", s3="s3fs>=1")."""

    def change(*required: str, **extras: str) -> None:
        real, real_about = importlib.metadata.requires, importlib.metadata.metadata
        mine = [*required, *(f'{needs}; extra == "{name}"' for name, needs in extras.items())]
        about = Message()
        for name in extras:
            about["Provides-Extra"] = name
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: mine if name == "textsmooth" else real(name))
        monkeypatch.setattr(importlib.metadata, "metadata", lambda name: about if name == "textsmooth" else real_about(name))

    return change


def named(findings: list[CheckResult], name: str) -> CheckResult:
    """The one finding of that name."""
    (found,) = (finding for finding in findings if finding.name == name)
    return found


def of(check: Callable[[], Iterator[CheckResult]], name: str) -> CheckResult:
    return named(list(check()), name)


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_where_all_is_well_it_ends_with_0(columns: int, textsmooth: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = textsmooth("doctor", *([] if columns == 80 else ["--no-trial"]))
    assert (ran.code, ran.err) == (0, "") and "\x1b" not in ran.out
    lines = ran.out.splitlines()
    assert re.fullmatch(r"all is well(, \d+ notes?)?", lines[-1])
    groups = ["Python and libraries", "Machine", "Hub", "Cache of files from object stores", *["Trial"][: columns == 80]]
    assert [line for line in lines[:-1] if not line.startswith(" ")] == groups
    for line in lines:
        assert len(line) <= columns or len(line.removeprefix("           ->").split()) == 1, line
    if columns == 80:
        trial = " ".join(lines[lines.index("Trial") + 1 : -1])
        assert re.search(r"32 rows smoothed and verified: \d+ tokens in [\d.]+ s, [\d,]+ +tokens/s", trial)
    assert not any(Path().iterdir())


def test_the_function_and_json_have_the_same_findings(textsmooth: Callable[..., Ran]) -> None:
    ran = textsmooth(*FAST, "--json")
    told = json.loads(ran.out)
    found = pipeline.doctor(trial=False)
    assert (ran.code, told["ok"], told["problems"]) == (0, True, 0)
    assert [(f["group"], f["name"], f["state"]) for f in told["findings"]] == [(f.group, f.name, f.state) for f in found]
    assert told["notes"] == sum(f.state == "note" for f in found)
    assert {f.name for f in found} >= {"python", "textsmooth", "torch", "transformers", "tokenizers", "fsspec", "memory", "endpoint"}
    for finding in found:
        assert (finding.remedy is None) == (finding.state == "ok") and set(COLOURS) >= {finding.state}


def test_an_extra_that_is_missing_is_a_note_with_its_line(
    asks: Callable[..., None], textsmooth: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    asks("torch>=2", s3="nosuchfs>=2024", ray="torch>=1", plot="torch>=99", dev="nosuchtool")
    monkeypatch.setenv("COLUMNS", "100")
    ran = textsmooth(*FAST)
    assert '  note     [s3]: nosuchfs not installed, for datasets at s3://\n           -> pip install "textsmooth[s3]"\n' in ran.out
    assert f"  ok       [ray]: torch {torch.__version__}, for units on clusters\n" in ran.out
    assert f"  problem  [plot]: torch {torch.__version__}, >=99 is needed, for pictures of compare\n" in ran.out
    assert "nosuchtool" not in ran.out and ran.code == 1


@pytest.mark.parametrize(
    ("required", "said", "remedy"),
    [
        ("torch>=99", rf"{re.escape(torch.__version__)}, textsmooth needs >=99", 'pip install "torch>=99"'),
        ("nosuchlibrary>=1", "not installed, textsmooth needs it", 'pip install "nosuchlibrary>=1"'),
        ("PyYAML>=6", r".*, does not import: ModuleNotFoundError: .* yaml .*", r'pip install --force-reinstall "PyYAML.*>=6"'),
        ("tokenizers>=99", r".*, textsmooth needs >=99", r'pip install "tokenizers.*>=99"'),
    ],
)
def test_a_library_that_does_not_do_is_a_problem(
    required: str, said: str, remedy: str, asks: Callable[..., None], textsmooth: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    asks(required)
    monkeypatch.setitem(sys.modules, "yaml", None)
    ran = textsmooth(*FAST, "--json")
    told = json.loads(ran.out)
    found = next(f for f in told["findings"] if f["name"] == re.split("[>=]", required)[0])
    assert (ran.code, found["state"]) == (1, "problem")
    assert re.fullmatch(said, found["text"]) and re.fullmatch(re.escape(remedy).replace(r"\.\*", ".*"), found["remedy"])


def test_without_most_libraries_it_still_answers() -> None:
    gone = ["numpy", "pyarrow", "torch", "transformers", "datasets", "sklearn", "huggingface_hub"]
    code = f"import sys\nfor name in {gone!r}: sys.modules[name] = None\nfrom textsmooth.pipeline.cli.app import main\nmain()"
    ran = subprocess.run([sys.executable, "-c", code, "doctor", "--json"], capture_output=True, text=True, cwd="/")
    assert (ran.returncode, ran.stderr) == (1, "")
    told = {f["name"]: f for f in json.loads(ran.stdout)["findings"]}
    assert all(told[name]["state"] == "problem" for name in ("numpy", "torch", "CPU", "endpoint", "demo"))
    assert told["demo"]["remedy"] == "repair the libraries, then run textsmooth doctor again"
    assert told["memory"]["state"] == told["cache"]["state"] == "ok"


def test_a_check_that_fails_is_told_and_the_rest_goes_on(textsmooth: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Iterator[CheckResult]:
        yield doctor_machine.MACHINE.ok("memory", "plenty")
        raise RuntimeError("lost\nmind")

    monkeypatch.setattr(doctor_machine, "memory", fails)
    found = doctor(trial=False)
    assert [f.state for f in found if f.name == "memory"] == ["ok", "problem"]
    assert "failed: RuntimeError: lost" in [f.text for f in found]
    assert {"cache", "endpoint", "limit"} <= {f.name for f in found}
    assert "--debug" in next(f.remedy or "" for f in found if f.state == "problem")
    ran = textsmooth(*FAST)
    assert (ran.code, ran.err, ran.out.splitlines()[-1][:9]) == (1, "", "1 problem")
    with pytest.raises(RuntimeError, match="mind"):
        textsmooth(*FAST, "--debug")


def test_an_error_is_parted_from_its_advice() -> None:
    group = Group("g")
    for said, text, remedy in (
        ("cannot write x: no; is full; make room", "cannot write x: no; is full", "make room"),
        ('s3:// needs s3fs: pip install "textsmooth[s3]"', "s3:// needs s3fs", 'pip install "textsmooth[s3]"'),
        ("no: it\nis not", "no: it is not", "do that"),
    ):
        found = group.error("x", UsageError(said), "do that")
        assert (found.state, found.text, found.remedy) == ("problem", text, remedy)


def test_it_is_written_to_a_place_and_nothing_stays(textsmooth: Callable[..., Ran], tmp_path: Path, smoothed: Path) -> None:
    for there in ("there", "not/yet/there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        ran = textsmooth(*FAST, "--out", tmp_path / there)
        assert ran.code == 0 and "can be written" in " ".join(ran.out.split())
        assert tree(tmp_path / "there") == set() and not (tmp_path / "not").exists()
    shutil.copytree(smoothed, tmp_path / "dataset")
    write_jsonl(tmp_path / "mine/notes.jsonl", [{}]) if (tmp_path / "mine").mkdir() is None else None
    for place, said in (("dataset", "holds a finished dataset"), ("mine", "holds files that are no dataset of textsmooth")):
        before = tree(tmp_path / place)
        found = [f for f in doctor(out=tmp_path / place, trial=False) if f.name == "--out"]
        assert [f.state for f in found] == ["ok", "note"] and said in found[1].text
        assert tree(tmp_path / place) == before


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/textsmooth/x", "s3://", "hf://datasets/owner/name", ""])
def test_a_place_that_cannot_be_is_a_problem(place: str, textsmooth: Callable[..., Ran]) -> None:
    Path("file").touch()
    ran = textsmooth(*FAST, "--out", place, "--json")
    found = named([CheckResult(**f) for f in json.loads(ran.out)["findings"]], "--out")
    assert (ran.code, found.state) == (1, "problem") and found.remedy
    assert tree(Path()) == {"file"}


def test_a_folder_that_may_not_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(atomic, "NO_LINKS", ())
    found = named(doctor(out=tmp_path / "new/place", trial=False), "--out")
    assert (found.state, found.remedy) == ("problem", "choose a folder you may write to")
    assert not (tmp_path / "new").exists()


def test_a_place_that_takes_a_file_twice_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def overwritten(path: Path, data: bytes) -> bool:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return True

    monkeypatch.setattr(atomic, "put_exclusive", overwritten)
    found = named(doctor(out=tmp_path / "place", trial=False), "--out")
    assert found.state == "problem" and "takes a second file of the same name" in found.text
    assert not (tmp_path / "place").exists()


def test_an_object_store_is_tried_and_nothing_stays(bucket: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> set[str]:
        name = bucket.removeprefix("s3://").partition("/")[0]
        return set(re.findall("<Key>(.*?)</Key>", s3.request("GET", f"/{name}?list-type=2").decode()))

    def at(place: str) -> CheckResult:
        return named([*diagnosis.examine(out=place, trial=False)], "--out")

    assert (at(f"{bucket}/new").state, keys()) == ("ok", set())
    assert len([line for line in s3.log() if line.startswith("PUT ")]) == 2
    assert "there is no bucket" in at("s3://no-such-bucket/new").text
    s3.faults(Fault("^PUT ", status=403, code="AccessDenied"))
    found = at(f"{bucket}/new")
    assert (found.state, "access denied" in found.text, keys()) == ("problem", True, set())
    s3.clear()
    s3.faults(Fault("^PUT ", status=503, code="SlowDown"))
    assert "2 times" in at(f"{bucket}/new").text
    monkeypatch.setattr(doctor_places, "STORE_S", 0.2)
    s3.clear()
    s3.faults(Fault("^GET ", delay_s=1.0))
    assert at(f"{bucket}/new").text.endswith("has not answered in 0.2 s") and keys() == set()


def test_the_hub_answers_and_the_token_is_not_told(hub: Hub, textsmooth: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    for token, state, said in (
        (TOKEN, "ok", "there is one (in HF_TOKEN), it is me's"),
        ("hf_old", "problem", "there is one (in HF_TOKEN), and the Hub refuses it"),
        ("", "note", "none, so only public repositories can be read"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        hub.log.clear()
        ran = textsmooth(*FAST, "--json")
        found = [CheckResult(**f) for f in json.loads(ran.out)["findings"]]
        assert re.fullmatch(rf"{hub.url} answers in [\d.]+ s", named(found, "endpoint").text)
        assert (named(found, "token").state, named(found, "token").text) == (state, said)
        assert len(hub.log) == 1 and (not token or token not in ran.out + ran.err)
    go_offline(monkeypatch)
    hub.log.clear()
    found = [*doctor_places.hub()]
    assert named(found, "endpoint").state == "note" and "HF_HUB_OFFLINE" in (named(found, "endpoint").remedy or "")
    assert hub.log == []


def test_a_hub_that_does_not_answer_is_a_problem(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.faults.append(HubFault("whoami", status=503))
    assert f"{hub.url} fails with 503" in of(doctor_places.hub, "endpoint").text
    monkeypatch.setattr(doctor_places, "ANSWER_S", 0.2)
    hub.faults[:] = [HubFault("whoami", delay_s=1.0)]
    assert of(doctor_places.hub, "endpoint").text == f"{hub.url} cannot be reached (no answer in 0.2 s)"
    for endpoint in (NOWHERE, "nonsense"):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        found = [*doctor_places.hub()]
        assert named(found, "endpoint").state == "problem" and endpoint in named(found, "endpoint").text
        assert "HF_ENDPOINT" in (named(found, "endpoint").remedy or "") and named(found, "token").state == "ok"


def test_the_cache_is_looked_at_and_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "cache"
    assert "not there yet, writable" in of(doctor_places.copies, "cache").text and not place.exists()
    (place / "files").mkdir(parents=True)
    (place / "files/a").write_bytes(bytes(200_000_000))
    assert of(doctor_places.copies, "limit").text.startswith("200.0 MB taken of at most ")
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "100000000")
    found = of(doctor_places.copies, "limit")
    assert found.state == "note" and re.match(r"set TEXTSMOOTH_CACHE_GB=\d+, or TEXTSMOOTH_CACHE to ", found.remedy or "")
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "much")
    assert "TEXTSMOOTH_CACHE_GB is 'much'" in next(f.text for f in doctor(trial=False) if f.state == "problem")
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "1")
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path / "file"))
    assert of(doctor_places.copies, "cache").state == "problem"
    monkeypatch.setattr(doctor_places, "LITTLE", 1 << 60)
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(place))
    assert of(doctor_places.copies, "cache").state == "note"


def test_threads_and_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PROC", tmp_path / "proc"), ("CGROUPS", tmp_path)):
        monkeypatch.setattr(cgroup, name, value)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("3000000000\n")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert of(doctor_machine.cpus, "threads").text.startswith("1, its container has the time of 1.5 CPUs, of ")
    assert of(doctor_machine.memory, "memory").text.endswith("; its container may use 3.0 GB")
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert of(doctor_machine.cpus, "threads").text.startswith("3, as OMP_NUM_THREADS=3,1 says, of ")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OMP_WAIT_POLICY", "ACTIVE", True),
        ("GOMP_SPINCOUNT", "infinity", True),
        ("OMP_WAIT_POLICY", "PASSIVE", False),
        ("GOMP_SPINCOUNT", "9", False),
    ],
)
def test_threads_that_never_sleep_are_told(name: str, value: str, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    found = [f for f in doctor_machine.cpus() if f.name == "waiting"]
    assert len(found) == told and all(f.state == "note" and f"unset {name}" in (f.remedy or "") for f in found)


def test_a_gpu_is_told_or_why_it_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class About:
        name, total_memory = "NVIDIA H100", 80_000_000_000

    monkeypatch.setattr(cgroup, "PROC", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert of(doctor_machine.gpus, "GPU").text == "none"
    (tmp_path / "driver/nvidia/gpus/0000:01").mkdir(parents=True)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = of(doctor_machine.gpus, "GPU")
    assert found.state == "problem" and "is built without CUDA" in found.text and "pytorch.org" in (found.remedy or "")
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    assert "not usable: torch finds none" in of(doctor_machine.gpus, "GPU").text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert of(doctor_machine.gpus, "GPU").state == "note"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: About)
    monkeypatch.setattr("textsmooth.stages.models.device.computes", lambda device, dtype: device == "cuda:0")
    assert [f.text for f in doctor_machine.gpus()] == ["NVIDIA H100, 80.0 GB, bfloat16", "NVIDIA H100, 80.0 GB, float16"]
    monkeypatch.setattr("textsmooth.stages.models.device.computes", lambda device, dtype: True)
    assert of(doctor_machine.choice, "--device auto --dtype auto").text == "cuda, bfloat16: the GPU has bfloat16 of its own"


def test_a_trial_that_fails_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textsmooth.pipeline import demo

    monkeypatch.setattr(diagnosis, "_checks", lambda *args, **named: [(diagnosis.TRIAL, "demo", diagnosis._trial, diagnosis.AGAIN)])
    shutil.copytree(demo.teacher_folder(), tmp_path / "teacher")
    weights = next((tmp_path / "teacher").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    monkeypatch.setattr(demo, "teacher_folder", lambda: tmp_path / "teacher")
    (found,) = doctor()
    assert found.state == "problem" and "cannot load the model" in found.text and found.remedy
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    (found,) = doctor()
    assert found.state == "problem" and found.remedy == "check the path, its permissions and the space left"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_a_cluster_that_is_not_there_is_a_problem(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is: test_ray.py."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    found = named(doctor(trial=False), "nodes")
    assert (found.state, found.remedy) == ("problem", "check the address; on the head of the cluster, `ray status` shows it")
    assert address in found.text
