"""Corpora at URIs are read as those on this machine, by ranges or from the cache, and a file that changes meanwhile is told."""

import gzip
import re
import shutil
from pathlib import Path

import pytest
from helpers_gen import rows, write_jsonl, write_parquet
from s3_server import S3, Fault

from textsmooth.schemas.errors import CorpusError, UsageError
from textsmooth.stages.corpus import reader as readers
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.open import open_corpus
from textsmooth.stages.corpus.source_file import SourceFile


def texts(file: SourceFile) -> list[str]:
    return [text for part in readers.scan(file, ("text",), rows=1000) for text in part.rows["text"]]


def content(corpus: Corpus) -> dict[str, dict[str, list[str]]]:
    return {split: {file.name: texts(file) for file in files} for split, files in corpus.splits.items()}


def same(here: Corpus, there: Corpus) -> None:
    assert (there.name, there.class_names, there.license) == (here.name, here.class_names, here.license)
    assert list(there.splits) == list(here.splits)
    if "pair" not in here.name:
        assert content(there) == content(here)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of files, some in folders."""
    folder = tmp_path / "data"
    for number, name in enumerate(("a.jsonl", "b.jsonl", "more/c.jsonl", "more/deep/d.jsonl")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / name, rows(5, number))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
    write_parquet(folder / "p.parquet", rows(40, 7), group=10)
    return folder


@pytest.mark.parametrize("streaming", ["auto", "always", "never"])
@pytest.mark.parametrize("name", ["a.jsonl", "*.jsonl", "**/*.jsonl", "more/*/*.jsonl", "a.jsonl.gz", "p.parquet", "[ab].jsonl"])
def test_files_and_globs_are_those_of_this_machine(name: str, streaming: str, data: Path, bucket: str, s3: S3) -> None:
    s3.upload(data, f"{bucket}/data")
    same(open_corpus(f"{data}/{name}"), open_corpus(f"{bucket}/data/{name}", streaming=streaming))


@pytest.mark.parametrize("config", ["", ":single", ":pair"])
def test_a_folder_is_that_of_this_machine(config: str, hub_folder: Path, bucket: str, s3: S3) -> None:
    uri = s3.upload(hub_folder, f"{bucket}/some/{hub_folder.name}")
    if not config:
        with pytest.raises(UsageError, match=rf"{uri} has several configs; give one of .*: --corpus {uri}:\w+"):
            open_corpus(uri)
        return
    same(open_corpus(f"{hub_folder}{config}"), open_corpus(f"{uri}{config}"))


def test_a_folder_saved_by_datasets_is_that_of_this_machine(tmp_path: Path, bucket: str, s3: S3) -> None:
    import datasets

    folder = tmp_path / "saved"
    parts = {split: datasets.Dataset.from_list(rows(6, seed)) for seed, split in enumerate(("train", "test"))}
    datasets.DatasetDict(parts).save_to_disk(folder)
    same(open_corpus(str(folder)), open_corpus(s3.upload(folder, f"{bucket}/saved"), streaming="never"))
    shutil.rmtree(folder / "test")
    uri = s3.upload(folder, f"{bucket}/half")
    with pytest.raises(CorpusError, match=rf"cannot read {uri}/test/state.json"):
        open_corpus(uri)


def test_parquet_is_read_in_place_only_as_far_as_needed(tmp_path: Path, bucket: str, s3: S3) -> None:
    big = [{**row, "note": f"{i}" * 2000, "text": f"{i} " * 400} for i, row in enumerate(rows(1500))]
    path = write_parquet(tmp_path / "big.parquet", big, group=100)
    s3.upload(tmp_path, bucket)
    file = open_corpus(f"{bucket}/big.parquet", streaming="always").splits["train"][0]
    s3.clear()
    assert readers.read(file, ("text",), 1200, 1203, None)["text"] == [row["text"] for row in big[1200:1203]]
    asked = [re.search(r"bytes=(\d+)-(\d+)", line) for line in s3.log()]
    assert all(asked) and len(asked) <= 6
    assert not (tmp_path / "cache").exists() and path.stat().st_size > 0


def test_a_file_is_fetched_once(data: Path, bucket: str, s3: S3) -> None:
    s3.upload(data, bucket)
    for _ in range(2):
        for file in open_corpus(f"{bucket}/*.jsonl").files:
            texts(file)
    assert sum("bytes=" in line for line in s3.log()) == 2
    s3.clear()
    texts(open_corpus(f"{bucket}/a.jsonl", streaming="always").splits["train"][0])  # from the cache all the same
    assert [line.split()[0] for line in s3.log()] == ["HEAD"]


@pytest.mark.parametrize("streaming", ["always", "never"])
@pytest.mark.parametrize("change", ["content", "longer", "shorter", "gone"])
def test_a_file_that_changes_meanwhile_is_told(change: str, streaming: str, data: Path, bucket: str, s3: S3) -> None:
    s3.upload(data, bucket)
    before = open_corpus(f"{bucket}/a.jsonl", streaming=streaming).splits["train"][0]
    old = (data / "a.jsonl").read_bytes()
    if change == "gone":
        s3.delete(f"{bucket}/a.jsonl")
    else:
        s3.put(f"{bucket}/a.jsonl", {"content": old.swapcase(), "longer": old * 2, "shorter": old[:100]}[change])
    with pytest.raises(CorpusError, match=rf"{bucket}/a.jsonl was changed or removed since it was listed"):
        texts(before)
    if change != "gone":
        after = open_corpus(f"{bucket}/a.jsonl", streaming=streaming).splits["train"][0]
        assert after.stat() != before.stat()


def test_reading_in_place_is_tried_again(data: Path, bucket: str, s3: S3) -> None:
    s3.upload(data, bucket)
    file = open_corpus(f"{bucket}/p.parquet", streaming="always").splits["train"][0]
    s3.faults(Fault("^GET ", body_bytes=10, times=2), Fault("^GET ", status=500, times=2), Fault("^GET ", drop=True, times=2))
    assert len(texts(file)) == 40


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.jsonl", "there is no such file or folder"),
        ("none/*.jsonl", "no file matches"),
        ("none", "there is no such file or folder"),
        ("data/none:config", "there is no such file or folder"),
        ("data/x.zip", "cannot read s3://.*x.zip: its format is not one of"),
    ],
)
def test_what_is_not_there_is_told(name: str, told: str, bucket: str, s3: S3) -> None:
    s3.put(f"{bucket}/data/x.zip", b"PK")
    with pytest.raises(UsageError, match=told):
        open_corpus(f"{bucket}/{name}")


def test_only_the_hub_has_revisions(bucket: str) -> None:
    with pytest.raises(UsageError, match="in an object store, only a corpus on the Hub has revisions"):
        open_corpus(f"{bucket}/a.jsonl", revision="main")


def test_no_name_holds_a_place(data: Path, bucket: str, s3: S3) -> None:
    s3.upload(data, f"{bucket}/secret/data")
    for name, files in {"a.jsonl": ["a.jsonl"], "**/*.jsonl": ["a.jsonl", "b.jsonl", "more/c.jsonl", "more/deep/d.jsonl"]}.items():
        corpus = open_corpus(f"{bucket}/secret/data/{name}")
        assert corpus.name == name.rpartition("/")[2]
        assert [file.name for file in corpus.files] == files
