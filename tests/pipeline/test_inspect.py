"""`textsmooth inspect`: windows, and rows without tokens."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers_gen import Ran, rows, write_jsonl

from textsmooth.pipeline import cli, generation
from textsmooth.pipeline.cli_inspect import inspect as inspect_command
from textsmooth.pipeline.inspect import read_row


def inspect(capsys: pytest.CaptureFixture[str], *args: object) -> Ran:
    capsys.readouterr()
    code = cli.run(inspect_command, "textsmooth inspect", [str(a) for a in args])
    return Ran(code, *capsys.readouterr())


def table(folder: Path) -> pa.Table:
    shards = [pa.ipc.open_file(pa.memory_map(str(p))).read_all() for p in sorted((folder / "train").glob("*.arrow"))]
    return pa.concat_tables([t.replace_schema_metadata() for t in shards])


def test_rows_and_windows_are_found_by_their_numbers(gen: Callable[..., Ran], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_jsonl(tmp_path / "long.jsonl", rows(9, longest=60))
    out = tmp_path / "out"
    assert gen("--corpus", corpus, "--out", out, "--topk", 2, "--long", "window", "--rows-per-shard", 4).code == 0
    samples = table(out).select(["row", "window", "input_ids"]).to_pylist()
    counts = np.bincount([sample["row"] for sample in samples])
    assert len(samples) > 12 and len(counts) == 9 and set(counts) > {1}
    for sample in samples:
        found = read_row(out, sample["row"], window=sample["window"])
        assert (found.row, found.window, found.windows) == (sample["row"], sample["window"], counts[sample["row"]])
        assert len(found.tokens) == len(sample["input_ids"])
    row = int(counts.argmax())
    assert inspect(capsys, out, "--row", row, "--window", 1).out.startswith(f"train row {row}, window 1 (of {counts[row]})")
    gone = inspect(capsys, out, "--row", row, "--window", counts[row])
    assert gone.code == 2
    assert gone.err == (
        f"textsmooth inspect: no window {counts[row]} of row {row} in split train: its windows are 0 to {counts[row] - 1}\n"
    )
    assert "no row 9 in split train: it has rows 0 to 8" in inspect(capsys, out, "--row", 9).err


def test_rows_that_were_not_cut_have_no_windows(
    gen: Callable[..., Ran], reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 2).code == 0
    assert read_row(tmp_path / "out", 7).window is None
    assert inspect(capsys, tmp_path / "out", "--row", 7).out.startswith("train row 7")
    assert "window" not in inspect(capsys, tmp_path / "out", "--row", 7).out
    assert inspect(capsys, tmp_path / "out", "--row", 7, "--window", 1).code == 2


@pytest.fixture
def bare(teacher: Path, tmp_path: Path) -> Path:
    """The tiny teacher with a tokenizer that adds no special tokens: blank text is a row without tokens."""
    folder = shutil.copytree(teacher, tmp_path / "bare")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    return folder


@pytest.mark.parametrize("extra", [(), ("--long", "window"), ("--context", "masked:2"), ("--specials", "smoothed")])
@pytest.mark.parametrize("texts", [["", " "], ["", "the cat sat", " ", "a dog"]])
def test_rows_without_tokens_are_rows(
    texts: list[str],
    extra: tuple[str, ...],
    bare: Path,
    gen: Callable[..., Ran],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []
    real = generation.Progress.batch
    monkeypatch.setattr(
        generation.Progress, "batch", lambda self, tokens, padded, rows: told.append(rows) or real(self, tokens, padded, rows)
    )
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": text, "label": n} for n, text in enumerate(texts)])
    ran = gen("--corpus", corpus, "--teacher", bare, "--out", tmp_path / "out", "--topk", 2, *extra)
    assert ran.code == 0, ran.err
    assert sum(told) == len(texts)
    found = table(tmp_path / "out").to_pylist()
    assert [row["label"] for row in found] == list(range(len(texts)))
    assert [len(row["soft_ids"]) for row in found] == [len(text.split()) for text in texts]
    assert inspect(capsys, tmp_path / "out", "--row", 0).code == 0
    dry = gen("--corpus", corpus, "--teacher", bare, "--out", tmp_path / "dry", "--topk", 2, *extra, "--dry-run")
    assert dry.code in (0, 1) and "Traceback" not in dry.err, dry.err


def test_a_task_teacher_says_nothing_of_a_row_without_tokens(bare: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    from helpers_gen import make_model
    from transformers import BertForSequenceClassification

    second = shutil.copytree(bare, tmp_path / "second")
    BertForSequenceClassification(make_model().config).save_pretrained(second)
    for texts in (["", " "], ["", "the cat"]):
        corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": text, "label": n} for n, text in enumerate(texts)])
        out = tmp_path / f"out{len(texts[1])}"
        ran = gen("--corpus", corpus, "--teacher", bare, "--task-teacher", second, "--out", out, "--topk", 2)
        assert ran.code == 0, ran.err
        assert [any(logits) for logits in table(out)["teacher_logits"].to_pylist()] == [bool(text.strip()) for text in texts]
