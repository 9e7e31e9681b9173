"""What goes wrong on machines: memory, disks, files that change or go away, units that hang. One line, and the same command goes on."""

import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_gen import Process, Ran, make_model, rows, shards_of, tree, write_jsonl

from textsmooth.pipeline.executors.inline import Inline
from textsmooth.pipeline.plan import machine
from textsmooth.pipeline.plan.cut import make_plan
from textsmooth.pipeline.plan.resolve import resolve_request
from textsmooth.pipeline.units import watchdog as watch
from textsmooth.pipeline.units import worker as units
from textsmooth.pipeline.units.blame import RowsError, blaming_rows
from textsmooth.pipeline.units.worker import UnitWorker
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import CorpusError, MachineError, StorageError, TeacherError, UsageError
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.models.teacher import Teacher
from textsmooth.stages.storage import atomic as storage

SIZES = ("--rows-per-shard", 5, "--topk", 3)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Eight units, to be changed."""
    return write_jsonl(tmp_path / "c.jsonl", rows(40, 5))


@pytest.fixture
def whole(corpus: Path, gen: Callable[..., Ran], tmp_path: Path) -> dict[str, bytes]:
    """The shards of an undisturbed run."""
    assert gen("--corpus", corpus, "--out", tmp_path / "whole", *SIZES).code == 0
    return shards_of(tmp_path / "whole")


def one_line(ran: Ran) -> str:
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1), ran.err
    return ran.err


def no_temp(folder: Path) -> bool:
    return not [name for name in tree(folder) if ".tmp-" in name]


# memory


def test_a_device_that_is_full_gets_half_the_batch(
    corpus: Path, whole: dict[str, bytes], gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = Teacher.encode, []

    def encode(self: Teacher, batch: Any) -> torch.Tensor:
        if len(batch.rows) > 2:
            refused.append(len(batch.rows))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch)

    monkeypatch.setattr(Teacher, "encode", encode)
    assert gen("--corpus", corpus, "--out", tmp_path / "out", *SIZES).code == 0
    assert refused and shards_of(tmp_path / "out") == whole


def test_a_row_that_fits_nowhere_ends_the_run_and_names_what_to_lower(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, out = Teacher.encode, tmp_path / "out"

    def encode(self: Teacher, batch: Any) -> torch.Tensor:
        if hasattr(self, "full"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "encode", encode)
        patch.setattr(Teacher, "full", True, raising=False)
        patch.setattr(Teacher, "_probe", lambda self, folder, dtype, vocab_size: (vocab_size, True))
        patch.setattr(Teacher, "_pack_projection", lambda self: None)
        said = one_line(gen("--corpus", corpus, "--out", out, *SIZES))
    assert "a single row of" in said and "does not fit on cpu; lower --max-length, and --max-batch-tokens" in said
    assert not (out / "quarantine.jsonl").exists()
    assert gen("--corpus", corpus, "--out", out, *SIZES).code == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "lower --max-batch-tokens or --rows-per-shard"),
        (MemoryError(), "lower --max-batch-tokens or --rows-per-shard"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "lower --max-batch-tokens"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), "check the device"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "check the device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_machine_does_is_not_blamed_on_the_rows(
    error: Exception, words: str, corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls, out = UnitWorker.score, [], tmp_path / "out"

    def score(self: UnitWorker, ready: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise error
        return real(self, ready)

    monkeypatch.setattr(UnitWorker, "score", score)
    said = one_line(gen("--corpus", corpus, "--out", out, *SIZES))
    assert "train/00002: " in said and words in said and "run the same command again" in said
    assert len(calls) == 3 and not (out / "quarantine.jsonl").exists()
    assert gen("--corpus", corpus, "--out", out, *SIZES).code == 0


@pytest.mark.parametrize("kind", [StorageError, UsageError, OSError, KeyboardInterrupt])
def test_storage_usage_and_interrupts_pass_as_they_are(kind: type[BaseException]) -> None:
    with pytest.raises(kind, match="x"), blaming_rows("train/00000"):
        raise kind("x")


def test_a_teacher_error_that_came_of_the_device_is_the_devices() -> None:
    with pytest.raises(TeacherError, match="failed at rows"), blaming_rows("train/00000"):
        try:
            raise RuntimeError("CUDA error: device-side assert triggered")
        except RuntimeError as error:
            raise TeacherError("failed at rows of 9 tokens") from error
    with pytest.raises(RowsError, match=r"^ValueError: odd$"), blaming_rows("a"), blaming_rows("b"):
        raise ValueError("odd\nand more")


# disks


@contextmanager
def _full() -> Iterator[None]:
    """A kernel that takes ten bytes of a file and no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "what", [".arrow", "receipts/train-00003", "plan.json", "quarantine", "receipts.jsonl", "tokenizer.json", "manifest.json"]
)
def test_a_disk_that_is_full_is_told_and_leaves_no_part_of_a_file(
    what: str, corpus: Path, whole: dict[str, bytes], gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused, out = storage._write_temp, [], tmp_path / "out"
    if what == "quarantine":
        write_jsonl(corpus, [{**row, "text": None if i == 7 else row["text"]} for i, row in enumerate(rows(40, 5))])

    def write_temp(path: Path, write: Any, place: Any) -> None:
        if what in str(path):
            refused.append(path)
            with _full():
                real(path, write, place)
        else:
            real(path, write, place)

    args = ("--corpus", corpus, "--out", out, *SIZES, "--skip-bad-rows")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_write_temp", write_temp)
        said = one_line(gen(*args))
    assert refused and f"cannot write {refused[0]}: File too large" in said and "run the same command again" in said
    assert no_temp(tmp_path) and not (out / "manifest.json").exists()
    assert gen(*args).code == 0
    if what != "quarantine":
        assert shards_of(out) == whole


def test_no_space_while_failures_are_written_down_is_told(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, out = storage._write_temp, tmp_path / "out"

    def no_space(file: Any) -> None:
        raise OSError(28, os.strerror(28))

    def write_temp(path: Path, write: Any, place: Any) -> None:
        real(path, no_space if path.name == "quarantine.jsonl" else write, place)

    def score(self: UnitWorker, ready: Any) -> Any:
        if ready.positions.size == 5 and ready.rows["text"][0] == bad:
            raise RuntimeError("odd")
        return scored(self, ready)

    bad, scored = rows(40, 5)[10]["text"], UnitWorker.score
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_write_temp", write_temp)
        patch.setattr(UnitWorker, "score", score)
        said = one_line(gen("--corpus", corpus, "--out", out, *SIZES))
    assert "quarantine.jsonl: No space left on device; make room and run the same command again" in said
    assert gen("--corpus", corpus, "--out", out, *SIZES).code == 0


# files that change


@pytest.mark.slow
def test_text_beyond_what_a_shard_holds_names_what_to_lower(gen: Callable[..., Ran], tmp_path: Path) -> None:
    """A kept column of 8 MB in each of some 400 windows: 3 GB."""
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "the cat sat . " * 400, "note": "x" * 8_000_000}])
    options = ("--text-column", "text", "--keep-columns", "note", "--long", "window", "--max-length", 8, "--stride", 1, "--topk", 1)
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", *options)
    (line,) = ran.err.splitlines()
    assert line.endswith("column note has more than 2 GiB of text in one shard; lower --rows-per-shard, or keep fewer columns")
    assert ran.code == 2


def _edit(corpus: Path) -> str:
    lines = corpus.read_text().splitlines()
    lines[33] = json.dumps({**json.loads(lines[33]), "label": 1 - (json.loads(lines[33])["label"] or 0)})
    other = corpus.with_suffix(".new")
    other.write_text("\n".join(lines) + "\n")
    other.replace(corpus)  # at once: a reader that is on its way sees no half of a file
    return "rows 30..35 of {} changed since the run was planned"


def _cut_off(corpus: Path) -> str:
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:22]))
    return "{} ends before row 25: it changed since the run was planned"


def _other_text(corpus: Path) -> str:
    write_jsonl(corpus, rows(40, 6))
    return "of {} "


def _delete(corpus: Path) -> str:
    corpus.unlink()
    return "cannot read {}: No such file or directory"


@pytest.mark.parametrize("change", [_edit, _cut_off, _other_text, _delete])
@pytest.mark.parametrize("when", ["planned", "begun"])
def test_a_corpus_that_changes_under_a_run_ends_it_and_put_back_it_goes_on(
    when: str,
    change: Callable[[Path], str],
    corpus: Path,
    whole: dict[str, bytes],
    gen: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, before, said = tmp_path / "out", corpus.read_bytes(), []
    load, finish = Inline.load, UnitWorker.finish

    def after_planning(*args: Any) -> None:
        load(*args)
        said.append(change(corpus))

    def after_a_unit(self: Any, unit: Any, *args: Any) -> Any:
        receipt = finish(self, unit, *args)
        if not said:
            said.append(change(corpus))
        return receipt

    with monkeypatch.context() as patch:
        if when == "planned":
            patch.setattr(Inline, "load", after_planning)
        else:
            patch.setattr(UnitWorker, "finish", after_a_unit)
        found = one_line(gen("--corpus", corpus, "--out", out, *SIZES))
    assert said[0].format(corpus) in found
    assert set(shards_of(out).items()) <= set(whole.items()) and not (out / "quarantine.jsonl").exists()
    corpus.write_bytes(before)
    assert gen("--corpus", corpus, "--out", out, *SIZES).code == 0
    assert shards_of(out) == whole


def test_another_teacher_in_its_place_is_refused_by_name(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def stop(self: Any, unit: Any, *args: Any) -> Any:
        raise KeyboardInterrupt

    args = ("--corpus", corpus, "--teacher", desk / "teacher", "--out", out, *SIZES)
    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, "finish", stop)
        assert gen(*args).code == 130
    before = {name: (desk / "teacher" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    make_model(initializer_range=0.3).save_pretrained(desk / "teacher")
    said = one_line(gen(*args))
    assert f"{out} holds another run (teacher digest: " in said and "give another --out" in said
    for name, data in before.items():
        (desk / "teacher" / name).write_bytes(data)
    assert gen(*args).code == 0


# units that hang


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What hangs does so until the test is over."""
    over = threading.Event()
    monkeypatch.setattr(watch, "GRACE_S", 0.3)
    yield over
    over.set()


@pytest.mark.parametrize(("method", "what"), [("read", "reading and tokenizing it"), ("encode", "writing it")])
def test_a_unit_that_hangs_beside_the_forward_pass_ends_the_run(
    method: str,
    what: str,
    corpus: Path,
    whole: dict[str, bytes],
    gen: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stuck: threading.Event,
) -> None:
    real, out = getattr(UnitWorker, method), tmp_path / "out"

    def hang(self: Any, unit: Any, *args: Any) -> Any:
        if unit.number == 3:
            stuck.wait(30)
        return real(self, unit, *args)

    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, method, hang)
        said = one_line(gen("--corpus", corpus, "--out", out, *SIZES, "--unit-timeout", 0.3))
    assert f"unit train/00003 hangs: {what} takes longer than 0.3 s (--unit-timeout); the same command goes on from here" in said
    assert not (out / "quarantine.jsonl").exists()
    assert gen("--corpus", corpus, "--out", out, *SIZES, "--unit-timeout", 60).code == 0
    assert shards_of(out) == whole


def test_a_forward_pass_that_ends_too_late_ends_the_run_too(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck: threading.Event
) -> None:
    real = UnitWorker.score

    def slow(self: Any, ready: Any) -> Any:
        stuck.wait(0.5)
        return real(self, ready)

    monkeypatch.setattr(watch, "GRACE_S", 30.0)
    monkeypatch.setattr(UnitWorker, "score", slow)
    said = one_line(gen("--corpus", corpus, "--out", tmp_path / "out", *SIZES, "--unit-timeout", 0.2))
    assert "unit train/00000 hangs: the forward pass takes longer than 0.2 s" in said


HANGS = """
from textsmooth.pipeline.units import worker as unit
from textsmooth.pipeline.units import watchdog as watch
watch.GRACE_S = 0.5
def hang(self, ready):
    import threading
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # in C, without the interpreter's lock: no Python code of this thread runs any more
unit.UnitWorker.score = hang
"""


def test_a_process_that_is_stuck_is_ended_with_one_line(
    corpus: Path, teacher: Path, gen: Callable[..., Ran], zygote: Callable[[Any], Any], tmp_path: Path
) -> None:
    args = ["--corpus", corpus, "--teacher", teacher, "--out", tmp_path / "out", "--dtype", "float32", "--threads", 1, *SIZES]
    (tmp_path / "process").mkdir()
    ran = Process(zygote, [*map(str, args), "--progress", "none", "--unit-timeout", "0.5"], tmp_path / "process", HANGS).wait()
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1), ran.err
    assert ran.err.startswith("textsmooth-gen: unit train/00000 hangs: the forward pass takes longer than 0.5 s (--unit-timeout)")
    assert gen("--corpus", corpus, "--out", tmp_path / "out", *SIZES).code == 0


# several units at once


def _worker(corpus: Path, teacher: Path, out: Path, **given: Any) -> tuple[UnitWorker, Any]:
    options = GenerateOptions(
        corpus=str(corpus), teacher=str(teacher), topk=3, rows_per_shard=5, out=str(out), dtype="float32", threads=1, device="cpu"
    )
    asked = resolve_request(options)
    plan = make_plan(asked)
    return UnitWorker(plan, asked.sources, open_folder(out), **given), plan


def test_threads_that_share_a_worker_make_the_same_bytes(corpus: Path, teacher: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    worker, plan = _worker(corpus, teacher, tmp_path / "out")
    inside: list[int] = []
    real, most = worker.score, []

    def score(ready: Any) -> Any:
        inside.append(1)
        most.append(len(inside))
        found = real(ready)
        inside.pop()
        return found

    worker.score = score  # type: ignore[method-assign]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(worker.do, plan.units))
    assert all(isinstance(receipt, Receipt) for receipt in done) and set(most) == {1}
    assert shards_of(tmp_path / "out") == whole
    most.clear()
    assert worker.do(plan.units[3]) == done[3] and not most  # it has a receipt: it is not run again


def test_a_worker_that_is_stopped_begins_nothing(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    worker, plan = _worker(corpus, teacher, tmp_path / "out", stopped=lambda: True)
    assert worker.do(plan.units[0]) is None and list(worker.run(plan.units)) == []
    worker, plan = _worker(corpus, teacher, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text("{}")
    assert worker.do(plan.units[0]) is None and not (tmp_path / "out/train").exists()


# machines that lack something


def test_a_machine_without_bfloat16_is_told_before_the_teacher_is_loaded(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsmooth.stages.models import device

    out = tmp_path / "out"

    def stop(self: Any, unit: Any, *args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, "finish", stop)
        assert gen("--corpus", corpus, "--out", out, "--dtype", "bfloat16", *SIZES).code == 130
    monkeypatch.setattr(device, "computes", lambda where, dtype: dtype != "bfloat16")
    monkeypatch.setattr(machine.platform, "node", lambda: "old-node")
    words = "node old-node cannot do bfloat16 on cpu ("
    assert words in one_line(gen("--corpus", corpus, "--out", tmp_path / "new", "--dtype", "bfloat16", *SIZES))
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(units, "load_tokenizer", lambda folder: pytest.fail("loaded first"))
    assert words in one_line(gen("--corpus", corpus, "--out", out, "--dtype", "auto", *SIZES))  # the plan says so


def test_a_gpu_that_only_emulates_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from textsmooth.stages.models.device import computes, pick_dtype

    monkeypatch.setattr(torch.cuda, "device", lambda where: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not computes("cuda", "bfloat16") and pick_dtype("cuda:0") == "float16"
    assert all(computes("cpu", dtype) for dtype in ("float32", "bfloat16", "float16"))
    with pytest.raises(MachineError, match=r"cannot do bfloat16 on cuda .* choose --dtype float16 or float32"):
        machine.check_dtype("cuda", "bfloat16")


def test_a_corpus_error_of_reading_is_not_quarantined(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    worker, plan = _worker(corpus, teacher, tmp_path / "out")
    _edit(corpus)
    with pytest.raises(CorpusError, match="changed since the run was planned"):
        worker.do(plan.units[6])
