"""What a folder is before, during and after a run, and what running again does."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Ran, files_of, rows, shards_of, tree, write_jsonl

from textsmooth.pipeline.plan import cut
from textsmooth.pipeline.plan.inputs import default_out
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.dataset.open import read_manifest

HALF = 2.0**-11  # relative rounding error of float16


def test_a_dry_run_writes_nothing(reviews: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = gen("--corpus", reviews, "--topk", 3, "--rows-per-shard", 16, "--dry-run")
    assert ran.code == 0
    assert "Would write smoothed/reviews.jsonl-tiny-bert-k3" in ran.out
    assert "40 rows: train 40" in ran.out
    assert "3 shards, 0 done" in ran.out
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_dry_run_over_a_run_changes_nothing(overwrite: bool, reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ("--corpus", reviews, "--out", out, "--topk", 3, "--rows-per-shard", 16)
    assert gen(*args).code == 0
    finished = files_of(out)
    asked = ("--dry-run", *(("--overwrite",) if overwrite else ()))
    told = gen(*args, *asked).out
    assert told.startswith(f"Would write {out}, removing the run that is there" if overwrite else f"Nothing to do: {out} is finished")
    assert ("3 shards, 0 done" if overwrite else "3 shards, 3 done") in told
    assert files_of(out) == finished


def test_a_dry_run_keeps_the_receipt_of_a_missing_shard(
    reviews: Path, gen: Callable[..., Ran], unfinished: Callable[..., Path], tmp_path: Path
) -> None:
    out = unfinished(reviews, tmp_path / "out")
    next(out.glob("train/00000-*")).unlink()
    before = files_of(out)
    assert "3 shards, 2 done" in gen("--corpus", reviews, "--out", out, *UNFINISHED, "--dry-run").out
    assert files_of(out) == before


UNFINISHED = ("--topk", 3, "--rows-per-shard", 16)


@pytest.fixture
def unfinished(gen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A run stopped before its end: every unit done, nothing committed."""
    from textsmooth.pipeline.generation import run as generation

    def start(corpus: Path, out: Path) -> Path:
        def stop(*args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(generation, "commit", stop)
            assert gen("--corpus", corpus, "--out", out, *UNFINISHED).code == 130
        assert not (out / "manifest.json").exists()
        assert len(list((out / "receipts").iterdir())) == 3
        return out

    return start


@pytest.mark.parametrize("damage", ["deleted", "truncated", "emptied"])
def test_a_damaged_shard_of_an_unfinished_run_is_made_again(
    damage: str, reviews: Path, gen: Callable[..., Ran], unfinished: Callable[..., Path], tmp_path: Path
) -> None:
    out = unfinished(reviews, tmp_path / "out")
    expected = shards_of(out)
    shard = next(out.glob("train/00001-*"))
    others = {p: p.stat().st_ino for p in out.glob("train/*") if p != shard}
    match damage:
        case "deleted":
            shard.unlink()
        case "truncated":
            os.truncate(shard, shard.stat().st_size - 1)
        case "emptied":
            shard.write_bytes(b"")
    assert gen("--corpus", reviews, "--out", out, *UNFINISHED).code == 0
    assert shards_of(out) == expected
    assert {p: p.stat().st_ino for p in others} == others


@pytest.mark.parametrize("receipt", [b"", b"{", b"[]", b"{}", b"null", b'{"unit": 1}', b"\xff"])
def test_a_damaged_receipt_is_void(
    receipt: bytes, reviews: Path, gen: Callable[..., Ran], unfinished: Callable[..., Path], tmp_path: Path
) -> None:
    out = unfinished(reviews, tmp_path / "out")
    expected = shards_of(out)
    next((out / "receipts").iterdir()).write_bytes(receipt)
    ran = gen("--corpus", reviews, "--out", out, *UNFINISHED)
    assert ran.code == 0, ran.err
    assert shards_of(out) == expected


def test_a_finished_run_has_nothing_to_do_and_does_not_read_the_corpus(
    reviews: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3)
    assert gen(*args).code == 0
    finished = files_of(tmp_path / "out")

    def scan(*given: Any, **named: Any) -> Any:
        raise AssertionError("the corpus was read")

    monkeypatch.setattr(cut, "scan", scan)
    ran = gen(*args)
    assert ran.code == 0
    assert ran.out.startswith(f"Nothing to do: {tmp_path / 'out'} is finished")
    assert files_of(tmp_path / "out") == finished


def test_a_finished_dataset_that_lost_a_shard_is_not_called_finished(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    args = ("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3)
    assert gen(*args).code == 0
    shard = next((tmp_path / "out/train").iterdir())
    shard.unlink()
    ran = gen(*args)
    assert ran.code == 1
    assert str(shard) in ran.err and "--overwrite" in ran.err


@pytest.mark.parametrize("finished", [False, True])
def test_a_corpus_that_was_touched_or_laid_out_anew_is_the_same_corpus(
    finished: bool, gen: Callable[..., Ran], unfinished: Callable[..., Path], tmp_path: Path
) -> None:
    lines = rows(40, 8)
    corpus = write_jsonl(tmp_path / "c.jsonl", lines)
    out = unfinished(corpus, tmp_path / "out")
    expected = shards_of(out)
    if finished:
        assert gen("--corpus", corpus, "--out", out, *UNFINISHED).code == 0
    else:
        next(out.glob("train/00001-*")).unlink()
    corpus.write_text("".join("\n" + json.dumps(line, indent=None, separators=(" ,  ", " : ")) + "\r\n" for line in lines))
    ran = gen("--corpus", corpus, "--out", out, *UNFINISHED)
    assert ran.code == 0, ran.err
    assert shards_of(out) == expected


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("edit", ["a word", "a label", "a row more", "a row less", "two rows swapped"])
def test_an_edited_corpus_is_a_conflict_and_nothing_is_touched(
    edit: str, finished: bool, gen: Callable[..., Ran], unfinished: Callable[..., Path], tmp_path: Path
) -> None:
    lines = rows(40, 8)
    corpus = write_jsonl(tmp_path / "c.jsonl", lines)
    out = unfinished(corpus, tmp_path / "out")
    if finished:
        assert gen("--corpus", corpus, "--out", out, *UNFINISHED).code == 0
    before = files_of(out)
    match edit:
        case "a word":
            lines[20]["text"] += " cat"
        case "a label":
            lines[39]["label"] = 1 - (lines[39]["label"] or 0)
        case "a row more":
            lines.append(lines[0])
        case "a row less":
            lines.pop()
        case "two rows swapped":
            lines[3], lines[4] = lines[4], lines[3]
    write_jsonl(corpus, lines)
    ran = gen("--corpus", corpus, "--out", out, *UNFINISHED)
    assert ran.code == 1
    assert "changed since this folder was planned" in ran.err and "--overwrite" in ran.err
    assert files_of(out) == before


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--topk", 4), "topk: 3 there, 4 asked for"),
        (("--mass", 0.5), "mass: 1.0 there, 0.5 asked for"),
        (("--temperatures", 2), "temperatures: [1.0] there, [2.0] asked for"),
        (("--specials", "smoothed"), "specials: plain there, smoothed asked for"),
        (("--max-length", 9), "max_length: 24 there, 9 asked for"),
        (("--max-batch-tokens", 9), "max_batch_tokens: "),
        (("--rows-per-shard", 9), "rows_per_shard: 16 there, 9 asked for"),
        (("--dtype", "bfloat16"), "dtype: float32 there, bfloat16 asked for"),
        (("--limit", 30), "limit: null there, 30 asked for"),
        (("--keep-columns", "idx"), 'keep_columns: [] there, ["idx"] asked for'),
        (("--label-column", "idx"), "label_column: label there, idx asked for"),
        (("--text-column", "note"), 'text_columns: ["text"] there, ["note"] asked for'),
    ],
)
def test_another_option_is_a_conflict_that_names_it(
    options: tuple[Any, ...], name: str, reviews: Path, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert gen("--corpus", reviews, "--out", out, *UNFINISHED).code == 0
    before = files_of(out)
    shared = [word for pair in zip(UNFINISHED[::2], UNFINISHED[1::2], strict=True) if pair[0] != options[0] for word in pair]
    ran = gen("--corpus", reviews, "--out", out, *shared, *options)
    assert ran.code == 1
    assert name in ran.err and "--overwrite" in ran.err
    assert files_of(out) == before


def test_another_teacher_is_a_conflict(reviews: Path, teacher: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    import shutil

    other = tmp_path / teacher.name
    shutil.copytree(teacher, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3).code == 0
    ran = gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3, "--teacher", other)
    assert ran.code == 1
    assert "teacher digest" in ran.err


def test_another_version_is_a_conflict_only_before_the_end(
    reviews: Path, gen: Callable[..., Ran], unfinished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsmooth.pipeline.plan import versions as plan

    out = unfinished(reviews, tmp_path / "out")
    real = plan.versions("cpu", "plain")
    with monkeypatch.context() as patch:
        patch.setattr(plan, "versions", lambda device, codec: {**real, "torch": "9.9"})
        ran = gen("--corpus", reviews, "--out", out, *UNFINISHED)
        assert ran.code == 1
        assert "versions torch" in ran.err and "9.9 asked for" in ran.err
    assert gen("--corpus", reviews, "--out", out, *UNFINISHED).code == 0
    monkeypatch.setattr(plan, "versions", lambda device, codec: {**real, "torch": "9.9"})
    assert gen("--corpus", reviews, "--out", out, *UNFINISHED).code == 0


def test_dtype_auto_of_a_begun_run_is_that_of_its_plan(
    reviews: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsmooth.stages.models import device

    guesses = iter(["float32", "bfloat16"])
    monkeypatch.setattr(device, "pick_dtype", lambda kind: next(guesses))
    for _ in range(2):
        ran = gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3, "--dtype", "auto")
        assert ran.code == 0, ran.err


@pytest.mark.parametrize("finished", [False, True])
def test_overwrite_removes_the_run_and_leaves_what_is_not_its_own(
    finished: bool, reviews: Path, gen: Callable[..., Ran], unfinished: Callable[..., Path], tmp_path: Path
) -> None:
    out = unfinished(reviews, tmp_path / "out")
    if finished:
        assert gen("--corpus", reviews, "--out", out, *UNFINISHED).code == 0
    notes = [out / "notes.txt", out / "train/notes.txt", out / "mine/table.arrow"]
    for note in notes:
        note.parent.mkdir(exist_ok=True)
        note.write_text("mine")
    old = set(shards_of(out))
    assert gen("--corpus", reviews, "--out", out, *UNFINISHED, "--overwrite", "--mass", 0.5).code == 0
    assert [note.read_text() for note in notes] == ["mine"] * 3
    assert not old - {"mine/table.arrow"} & set(shards_of(out))
    manifest = read_manifest(out)
    assert manifest.config["mass"] == 0.5
    listed = {entry.path for entry in (*manifest.shards, *manifest.files)}
    assert set(files_of(out)) == {"manifest.json", "run.json", *listed, *(str(n.relative_to(out)) for n in notes)}


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"format": 99}', b'{"format": 1, "corpus": {"files": {"..": [], "": [], "/": []}}}']
)
def test_a_damaged_plan_is_refused_and_overwrite_starts_again(
    damage: bytes, reviews: Path, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    beside = tmp_path / "beside.txt"
    beside.write_text("x")
    assert gen("--corpus", reviews, "--out", out, *UNFINISHED).code == 0
    (out / "plan.json").write_bytes(damage)
    ran = gen("--corpus", reviews, "--out", out, *UNFINISHED)
    assert ran.code == 1
    assert "plan.json" in ran.err and "--overwrite" in ran.err and len(ran.err.splitlines()) == 1
    assert gen("--corpus", reviews, "--out", out, *UNFINISHED, "--overwrite").code == 0
    assert beside.exists()
    read_manifest(out)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_content_is_refused(overwrite: bool, reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/photo.jpg").write_bytes(b"x")
    ran = gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3, *(("--overwrite",) if overwrite else ()))
    assert ran.code == 1
    assert "holds no" in ran.err or "holds none" in ran.err
    assert tree(tmp_path / "out") == {"photo.jpg"}


def test_an_empty_folder_will_do(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3).code == 0


def test_a_corpus_edited_after_planning_is_noticed_by_the_unit(
    gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsmooth.pipeline.generation import run as generation

    lines = rows(20, 4)
    corpus = write_jsonl(tmp_path / "c.jsonl", lines)
    real = generation.make_plan

    def cut(*args: Any, **named: Any) -> Any:
        plan = real(*args, **named)
        write_jsonl(corpus, [*lines[:-1], {**lines[-1], "text": "another"}])
        return plan

    monkeypatch.setattr(generation, "make_plan", cut)
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 3, "--rows-per-shard", 5)
    assert ran.code == 1
    assert "changed since the run was planned" in ran.err
    assert not (tmp_path / "out/manifest.json").exists()


def test_progress_is_one_json_line_per_unit(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    ran = gen("--corpus", reviews, "--out", tmp_path / "out", *UNFINISHED, "--progress", "json")
    events = [event for line in ran.err.splitlines() if (event := json.loads(line))["event"] == "unit"]
    assert [(e["unit"], e["done"], e["units"], e["rows"]) for e in events] == [
        ("train/00000", 1, 3, 16),
        ("train/00001", 2, 3, 16),
        ("train/00002", 3, 3, 8),
    ]
    assert sum(e["tokens"] for e in events) == read_manifest(tmp_path / "out").statistics["tokens"]


def test_the_manifest_reads_back_as_written(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    assert gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3).code == 0
    value = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert json.loads(json.dumps(Manifest.from_json(value, "here").to_json())) == value


def test_explicit_threads_of_a_resumed_run_are_used(
    reviews: Path, gen: Callable[..., Ran], unfinished: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    out = unfinished(reviews, tmp_path / "out")
    next(out.glob("train/00001-*")).unlink()
    assert gen("--corpus", reviews, "--out", out, *UNFINISHED, "--threads", 2).code == 0
    assert torch.get_num_threads() == 2


def test_a_teacher_that_gives_nan_is_an_error(reviews: Path, teacher: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "nan"
    shutil.copytree(teacher, broken)
    weights = load_file(broken / "model.safetensors")
    weights["bert.embeddings.LayerNorm.bias"][3] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    ran = gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3, "--teacher", broken)
    assert ran.code == 1
    assert "NaN" in ran.err and len(ran.err.splitlines()) == 1


def test_a_finished_run_that_was_made_on_another_device_has_nothing_to_do(
    reviews: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3)
    assert gen(*args).code == 0
    monkeypatch.setattr("textsmooth.stages.models.device.pick_device", lambda asked: asked or "cuda")
    assert gen(*args).out.startswith("Nothing to do")
    ran = gen(*args, "--device", "cuda")
    assert (ran.code, "device: cpu there, cuda asked for" in ran.err) == (1, True)


def test_overwrite_leaves_a_folder_with_a_manifest_of_somebody_else(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "site"
    (out / "receipts").mkdir(parents=True)
    (out / "manifest.json").write_text('{"name": "an app", "icons": []}')
    (out / "receipts/2025.txt").write_text("paid")
    ran = gen("--corpus", reviews, "--out", out, "--topk", 3, "--overwrite")
    assert ran.code == 1 and "removes only runs of textsmooth" in ran.err
    assert (out / "receipts/2025.txt").read_text() == "paid" and (out / "manifest.json").is_file()


def test_what_else_lies_in_the_folder_of_receipts_stays(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gen("--corpus", reviews, "--out", out, "--topk", 3).code == 0
    (out / "receipts").mkdir()
    (out / "receipts/mine.txt").write_text("mine")
    for extra in ((), ("--overwrite",)):
        assert gen("--corpus", reviews, "--out", out, "--topk", 3, *extra).code == 0
        assert (out / "receipts/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("corpus", "folder"),
    [
        ("отзывы.jsonl", "отзывы.jsonl-demo-k8"),
        ("评论 1.jsonl", "评论-1.jsonl-demo-k8"),
        ("two words?.txt", "two-words-.txt-demo-k8"),
        ("**", "corpus-demo-k8"),
    ],
)
def test_the_default_folder_is_named_after_the_corpus_in_any_script(corpus: str, folder: str) -> None:
    assert default_out(GenerateOptions(corpus=corpus, teacher="demo", topk=8)) == Path("smoothed") / folder
