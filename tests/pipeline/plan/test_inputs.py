"""A run's folder and its corpus are apart: the same command always goes on, and nothing of the corpus is removed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_gen import Ran, files_of, rows, write_jsonl, wrong

SHARED = ("--teacher", "teacher", "--topk", 2)


@pytest.fixture
def corpus(desk: Path) -> Path:
    """A corpus folder with a file on top and one in a folder."""
    (desk / "c/sub").mkdir(parents=True)
    for name in ("c/a.jsonl", "c/sub/b.jsonl"):
        write_jsonl(desk / name, rows(3))
    (desk / "link").symlink_to("c")
    return desk / "c"


@pytest.mark.parametrize(
    ("named", "out", "words"),
    [
        ("c", "c/out", "--out c/out lies in the corpus folder c, whose files it would become; give another --out"),
        ("c:default", "c/out", "lies in the corpus folder c,"),
        ("c", "link/out", "--out link/out lies in the corpus folder c,"),
        ("link", "c/far/out", "--out c/far/out lies in the corpus folder link,"),
        ("c", "c", "--out c is the corpus folder c itself"),
        (".", None, "--out smoothed/desk-teacher-k2 (the default) lies in the corpus folder .,"),
        ("c/**", "c/out", "the corpus c/** would find files of --out c/out too"),
        ("c/**/*.jsonl", "link/out", "would find files of --out link/out too"),
        ("?/*/*.json*", "c/out", "would find files of --out c/out too"),
        ("**/*.arrow", None, "would find files of --out smoothed/"),
        ("s3://b/c", "s3://b/c/out", "--out s3://b/c/out lies in the corpus folder s3://b/c,"),
        ("s3://b/c:config", "s3://b/c/out", "lies in the corpus folder s3://b/c,"),
        ("s3://b/c/", "s3://b/c", "--out s3://b/c is the corpus folder s3://b/c/ itself"),
        ("s3://b/c/**.jsonl", "s3://b/c", "the corpus s3://b/c/**.jsonl would find files of --out s3://b/c too"),
        ("s3://b/c/*/*.jsonl", "s3://b/c/out", "would find files of --out s3://b/c/out too"),
        ("s3://b/c/train", "s3://b/c", "the corpus s3://b/c/train lies in --out s3://b/c,"),
    ],
)
def test_what_a_run_writes_does_not_become_its_corpus(
    named: str, out: str | None, words: str, gen: Callable[..., Ran], desk: Path, corpus: Path
) -> None:
    there = () if out is None else ("--out", out)
    for more in ((), ("--dry-run",), ("--overwrite",)):
        assert words in wrong(gen, desk, 2, "--corpus", named, *SHARED, *there, *more)


@pytest.mark.parametrize("named", ["a.jsonl", "*.jsonl", "sub/*.jsonl", "s*/b.jsonl", "sub"])
def test_files_beside_the_folder_of_a_run_are_a_corpus(
    named: str, gen: Callable[..., Ran], corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    args = ("--corpus", named, "--teacher", "../teacher", "--topk", 2, "--out", "out")
    assert gen(*args).out.startswith("Wrote out")
    assert gen(*args).out.startswith("Nothing to do: out is finished")


def test_a_corpus_in_the_folder_of_a_run_is_not_removed(gen: Callable[..., Ran], desk: Path) -> None:
    assert gen("--corpus", "good.jsonl", *SHARED, "--out", "out", "--keep-columns", "note").code == 0
    shutil.copy("good.jsonl", "out/tokenizer/mine.jsonl")
    (desk / "far").symlink_to("out/tokenizer")
    (desk / "near.jsonl").symlink_to("out/tokenizer/mine.jsonl")
    (shard,) = Path("out/train").iterdir()
    before = files_of(desk)
    for named in ("out/tokenizer/mine.jsonl", "out/tokenizer/m*.jsonl", "far", "near.jsonl", "*/tokenizer/mine.jsonl", "out/train", shard):
        for more in (("--overwrite",), ("--overwrite", "--dry-run"), ()):
            line = wrong(gen, desk, 2, "--corpus", named, *SHARED, "--text-column", "text", "--out", "out", *more)
            assert "--out out, which is for a run alone" in line or "has no column 'text'" in line
    assert files_of(desk) == before
