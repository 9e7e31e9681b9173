"""Folders as corpora: laid out as Hub datasets in every line format, with options in a README.md, or saved by `datasets`."""

import gzip
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from textsmooth.schemas.errors import CorpusError, StorageError, UsageError
from textsmooth.stages.corpus.open import open_corpus
from textsmooth.stages.corpus.reader import read, scan


def put(folder: Path, files: dict[str, bytes], head: str = "") -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if head:
        (folder / "README.md").write_text(f"---\n{head}\n---\n")
    return folder


@pytest.mark.parametrize("end", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt", ".ndjson"])
def test_folders_of_every_line_format(suffix: str, end: str, tmp_path: Path) -> None:
    data = {".csv": b"text,label\na,1\n", ".tsv": b"text\tlabel\na\t1\n", ".txt": b"a\n"}.get(suffix, b'{"text": "a", "label": "1"}\n')
    data = gzip.compress(data) if end == ".gz" else pa.Codec("zstd").compress(data, asbytes=True) if end else data
    folder = put(tmp_path / "plain", {f"train{suffix}{end}": data, f"test{suffix}{end}": data, "notes.pdf": b"no data"})
    found = open_corpus(str(folder))
    assert {split: [f.name for f in files] for split, files in found.splits.items()} == {
        "train": [f"train{suffix}{end}"],
        "test": [f"test{suffix}{end}"],
    }
    for file in found.files:
        names = ("text",) if suffix == ".txt" else ("text", "label")
        assert read(file, names, 0, 1, None) == dict(zip(names, (["a"], ["1"]), strict=False))


def test_a_cache_that_cannot_be_written_is_not_the_corpus_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "corpus", {"a.jsonl": b'{"text": "a"}\n'})
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file/datasets")
    with pytest.raises(StorageError) as told:
        open_corpus(str(folder))
    words = f"cannot use the cache of `datasets` in {tmp_path}/file/datasets (Not a directory: {tmp_path}/file/datasets); set HF_HOME or "
    assert str(told.value).startswith(words) and "HF_DATASETS_CACHE to" in str(told.value)


CONFIG = "configs:\n- config_name: default\n  data_files: a.csv\n"


def test_the_delimiter_of_a_readme(tmp_path: Path) -> None:
    folder = put(tmp_path / "semicolon", {"a.csv": b"text;label\na,b;1\n"}, CONFIG + "  sep: ';'")
    (file,) = open_corpus(str(folder)).files
    assert read(file, ("text", "label"), 0, 1, None) == {"text": ["a,b"], "label": ["1"]}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("names: [a, b]", "sets names: ['a', 'b'] for its files, which is not supported"),
        ("skiprows: 3", "sets skiprows: 3"),
        ("quoting: 3", "sets quoting: 3"),
        ("encoding: latin-1", "sets encoding: 'latin-1'"),
        ("sep: '::'", "delimiter '::': one character is needed"),
    ],
)
def test_options_of_a_readme_that_would_give_other_rows_are_refused(option: str, words: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "odd", {"a.csv": b"text,label\na,1\n"}, f"{CONFIG}  {option}")
    with pytest.raises(UsageError) as raised:
        open_corpus(str(folder))
    assert words in str(raised.value)


def test_options_that_read_alike_are_taken(tmp_path: Path) -> None:
    folder = put(tmp_path / "plain", {"a.csv": b"text,label\na,1\n"}, CONFIG + "  encoding: utf-8\n  chunksize: 5")
    assert [f.name for f in open_corpus(str(folder)).files] == ["a.csv"]


def test_csv_beside_a_config_of_another_format_is_refused(tmp_path: Path) -> None:
    head = (
        "configs:\n- config_name: one\n  data_files: one.jsonl\n- config_name: more\n  data_files: more.jsonl\n"
        "- config_name: cells\n  data_files: a.csv\n  sep: ';'"
    )
    line = b'{"text": "a"}\n'
    folder = put(tmp_path / "both", {"one.jsonl": line, "more.jsonl": line, "a.csv": b"text;label\na,b;1\n"}, head)
    with pytest.raises(UsageError, match=r"one format for all configs, here another one: .*both cannot be read with config 'cells'"):
        open_corpus(f"{folder}:cells")
    assert [f.name for f in open_corpus(f"{folder}:one").files] == ["one.jsonl"]


def test_class_names_of_a_readme(tmp_path: Path) -> None:
    head = (
        "dataset_info:\n  features:\n  - name: text\n    dtype: string\n"
        "  - name: label\n    dtype:\n      class_label:\n        names:\n          '0': bad\n          '1': good"
    )
    folder = put(tmp_path / "named", {"train.jsonl": b'{"text": "a", "label": 1}\n'}, head)
    assert open_corpus(str(folder)).class_names == {"label": ("bad", "good")}


def test_a_file_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("text\na\n")
    folder = put(tmp_path / "sly", {"a.csv": b"text\na\n"}, "configs:\n- config_name: default\n  data_files: ../secret.csv\n")
    with pytest.raises(UsageError):
        open_corpus(str(folder))


@pytest.fixture
def dataset() -> Any:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    info = datasets.DatasetInfo(features=features, license="mit")
    return datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}, features=features, info=info)


def test_a_saved_dataset_is_a_corpus(dataset: Any, tmp_path: Path) -> None:
    dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    (tmp_path / "saved/data-00002-of-00003.arrow").write_bytes(b"not listed")
    found = open_corpus(str(tmp_path / "saved"))
    assert (found.name, found.license, found.with_class_names().class_names) == ("saved", "mit", {"label": ("no", "yes")})
    assert [f.name for f in found.files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert [part.rows["text"] for f in found.files for part in scan(f, ("text",), rows=5)] == [["a", "b"], ["c"]]
    with pytest.raises(UsageError, match="it has no configs"):
        open_corpus(f"{tmp_path / 'saved'}:main")


def test_saved_splits_are_a_corpus(dataset: Any, tmp_path: Path) -> None:
    import datasets

    both = datasets.DatasetDict({"validation": dataset.select(range(1)), "train": dataset.select([2, 0])})
    both.save_to_disk(tmp_path / "saved")
    found = open_corpus(str(tmp_path / "saved"))
    assert {s: [t for f in files for p in scan(f, ("text",), rows=5) for t in p.rows["text"]] for s, files in found.splits.items()} == {
        "validation": ["a"],
        "train": ["c", "a"],
    }
    assert len({f.name for f in found.files}) == 2


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("dataset_dict.json", b'{"splits": ["../train"]}', "names splits that are no folders"),
        ("dataset_dict.json", b'{"splits": ["other"]}', "cannot read .*other"),
        ("dataset_dict.json", b"[]", "not a JSON object"),
        ("dataset_dict.json", b"{", "cannot read"),
        ("train/state.json", b'{"_data_files": [{"filename": "../../secret.arrow"}]}', "which is not a file in that folder"),
        ("train/state.json", b'{"_data_files": [{"filename": "gone.arrow"}]}', "which is not a file in that folder"),
        ("train/state.json", b'{"_data_files": []}', "lists no data files"),
    ],
)
def test_a_saved_dataset_that_is_damaged(name: str, data: bytes, words: str, dataset: Any, tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / name).write_bytes(data)
    with pytest.raises(CorpusError, match=words):
        open_corpus(str(tmp_path / "saved"))


@pytest.mark.parametrize("extra", ["more.csv", "extra.jsonl", "sub/notes.txt", "b::c.jsonl"])
def test_data_files_that_no_split_reads_are_named(extra: str, tmp_path: Path) -> None:
    folder = put(
        tmp_path / "mixed", {"train.jsonl": b'{"text": "a"}\n', ".hidden.csv": b"text\na\n", "LICENSE.txt": b"free\n", extra: b"text\na\n"}
    )
    with pytest.raises(UsageError, match=f"data files that no split reads: {extra}; move them away"):
        open_corpus(str(folder))
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n")
    assert [f.name for f in open_corpus(str(folder)).files] == ["train.jsonl"]


def test_a_file_in_two_splits_is_refused(tmp_path: Path) -> None:
    corpus = open_corpus(str(put(tmp_path / "both", {"train_test_part.jsonl": b'{"text": "a"}\n'})))
    with pytest.raises(UsageError, match=r"train_test_part\.jsonl is read as train and as test"):
        corpus.select(())
    assert list(corpus.select(("test",)).splits) == ["test"]


@pytest.mark.parametrize("name", ["old[v1]", "a::b", "what?", "all*"])
def test_a_folder_whose_name_is_a_pattern_is_refused(name: str, tmp_path: Path) -> None:
    folder = put(tmp_path / name, {"train.jsonl": b'{"text": "a"}\n'})
    with pytest.raises(UsageError, match="takes for a pattern: rename it"):
        open_corpus(str(folder))
