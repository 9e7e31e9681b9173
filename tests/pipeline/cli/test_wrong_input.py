"""What a user can get wrong: one line that says so, the right exit code, and nothing on disk that was not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import POSITIONS, VOCAB, Ran, make_model, make_tokenizer, rows, tree, write_jsonl, wrong

from textsmooth.pipeline.cli import app as cli
from textsmooth.pipeline.cli.inspect import inspect as inspect_command

OPTIONS: list[tuple[list[object], int, str]] = [
    (["--topk", 0], 2, "topk must be a whole number of at least 1, not 0"),
    (["--topk", -3], 2, "-3"),
    (["--topk", len(VOCAB) + 1], 2, f"topk {len(VOCAB) + 1} is more than the teacher's vocabulary of {len(VOCAB)}"),
    (["--topk", "many"], 2, "many"),
    (["--mass", 0], 2, "mass must be a number above 0 and at most 1, not 0"),
    (["--mass", 1.5], 2, "not 1.5"),
    (["--mass", -1], 2, "not -1"),
    (["--mass", "nan"], 2, "not nan"),
    (["--temperatures", 0], 2, "temperature must be a finite number of at least 0.001, not 0"),
    (["--temperatures", "1,-2"], 2, "not -2"),
    (["--temperatures", "nan"], 2, "not nan"),
    (["--temperatures", "inf"], 2, "not inf"),
    (["--temperatures", "1,,2"], 2, "1,,2"),
    (["--temperatures", "warm"], 2, "warm"),
    (["--specials", "some"], 2, "some"),
    (["--dtype", "int8"], 2, "int8"),
    (["--device", "abacus"], 2, "abacus"),
    (["--device", "meta"], 2, "meta"),
    (["--threads", 0], 2, "threads must be a whole number of at least 1"),
    (["--limit", 0], 2, "limit must be a whole number of at least 1"),
    (["--rows-per-shard", 0], 2, "rows-per-shard"),
    (["--max-batch-tokens", 0], 2, "max-batch-tokens"),
    (["--max-length", POSITIONS + 1], 2, f"max-length {POSITIONS + 1} is more than the teacher's {POSITIONS} positions"),
    (["--max-length", 2], 2, "max-length 2 leaves no room for text: 3 is the least"),
    (["--max-length", "short"], 2, "short"),
    (["--text-column", "prose"], 2, "no column 'prose'; it has text, label, idx, score, note, flag"),
    (["--text-column", "text", "--text-column", "note", "--text-column", "idx"], 2, "not 3 times"),
    (["--text-column", "text", "--text-column", "text"], 2, "'text' twice"),
    (["--text-column", "idx"], 1, "column 'idx' is int, not text"),
    (["--label-column", "class"], 2, "no column 'class'"),
    (["--keep-columns", "idx,colour"], 2, "no column 'colour'"),
    (["--keep-columns", "idx,idx"], 2, "'idx' twice"),
    (["--keep-columns", "label"], 2, "cannot keep column 'label'"),
    (["--split", "test"], 2, "no split 'test'; it has train"),
    (["--colour", "red"], 2, "--colour"),
    (["extra"], 2, "extra"),
    (["--teacher", "no/where/bert"], 2, "no model at 'no/where/bert'"),
    (["--teacher", "good.jsonl"], 2, "'good.jsonl' is a file"),
    (["--out", "good.jsonl"], 1, "good.jsonl is a file"),
    (["--out", "good.jsonl", "--overwrite"], 1, "good.jsonl is a file"),
    (["--out", "good.jsonl/below"], 1, "a file stands where a folder is needed"),
    (["--out", "teacher"], 1, "teacher is not empty and holds no run of textsmooth"),
    (["--out", "teacher", "--overwrite"], 1, "--overwrite removes only runs"),
    (["--out", "o" * 300], 1, "File name too long"),
    (["--out", "/proc/nothing/here"], 1, "cannot write /proc/nothing/here"),
]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    OPTIONS,
    ids=lambda v: "-".join(map(str, v))[:40] if isinstance(v, list) else None,
)
def test_a_wrong_option_is_told_in_one_line(args: list[object], code: int, words: str, gen: Callable[..., Ran], desk: Path) -> None:
    given = [] if "--out" in args else ["--out", "out"]
    assert words in wrong(gen, desk, code, "--corpus", "good.jsonl", *given, *args)


def test_a_corpus_must_be_named(gen: Callable[..., Ran], desk: Path) -> None:
    assert "--corpus" in wrong(gen, desk, 2, "--out", "out")


def test_no_arguments_are_wrong_usage(gen: Callable[..., Ran], desk: Path) -> None:
    assert gen().code == 2


CORPORA: list[tuple[str, bytes, int, str]] = [
    ("c.jsonl", b"", 1, "is empty"),
    ("c.jsonl", b"\n\n \n", 1, "is empty"),
    ("c.txt", b"", 1, "is empty"),
    ("c.jsonl", b'{"text": "a"}\n{"text": \n', 1, "row 1 of c.jsonl is not JSON"),
    ("c.jsonl", b'{"text": "a"}\n[1]\n', 1, "row 1 of c.jsonl is not a JSON object but list"),
    ("c.jsonl", b'{"text": "a"}\n{"prose": "a"}\n', 1, "row 1 of c.jsonl has no column 'text'; it has prose"),
    ("c.jsonl", b'{"text": "a"}\n{"text": null}\n', 1, "row 1 of c.jsonl: column 'text' is null, not text"),
    ("c.jsonl", b'{"text": "a"}\n{"text": 3}\n', 1, "row 1 of c.jsonl: column 'text' is int, not text"),
    ("c.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', 1, "row 1 of c.jsonl is not UTF-8"),
    ("c.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', 1, "row 1 of c.jsonl: column 'text' has half of a surrogate pair"),
    (
        "c.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b", "label": 99999999999999999999}\n',
        1,
        "row 1 of c.jsonl: column 'label' is 99999999999999999999",
    ),
    ("c.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n', 1, "label column 'label' of c.jsonl holds int and str"),
    ("c.jsonl", b'{"text": "a", "label": [1]}\n', 1, "label column 'label' of c.jsonl holds list"),
    ("c.jsonl", b'{"one": "a", "two": "b"}\n', 2, "which column of c.jsonl is the text? It has one, two"),
    ("c.jsonl", b'{"one": 1}\n', 2, "which column of c.jsonl is the text? It has one"),
    ("c.jsonl", b"{}\n", 1, "row 0 of c.jsonl is an empty object"),
    ("c.txt", b"good\nb\xffd\n", 1, "row 1 of c.txt is not UTF-8"),
    ("c.parquet", b"PAR1 but no more", 1, "cannot read c.parquet"),
    ("c.parquet", b"", 1, "cannot read c.parquet"),
    ("c.docx", b"PK", 2, "cannot read c.docx: its format is not one of"),
]


@pytest.mark.parametrize(
    ("name", "content", "code", "words"), CORPORA, ids=lambda v: v.decode("latin1")[:30] if isinstance(v, bytes) else None
)
def test_a_corpus_that_cannot_be_read_is_told_in_one_line(
    name: str, content: bytes, code: int, words: str, gen: Callable[..., Ran], desk: Path
) -> None:
    (desk / name).write_bytes(content)
    assert words in wrong(gen, desk, code, "--corpus", name, "--out", "out", "--topk", 3)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere", "no*where.txt", "nowhere:config"])
def test_an_unknown_corpus_is_told_in_one_line(name: str, gen: Callable[..., Ran], desk: Path) -> None:
    assert f"no corpus {name!r}" in wrong(gen, desk, 2, "--corpus", name, "--out", "out")


def test_an_unknown_config_names_those_there_are(hub_folder: Path, gen: Callable[..., Ran], desk: Path) -> None:
    line = wrong(gen, desk, 2, "--corpus", f"{hub_folder}:triple", "--out", "out")
    assert "'triple'" in line and "single" in line and "pair" in line


def test_a_corpus_with_several_configs_asks_for_one(hub_folder: Path, gen: Callable[..., Ran], desk: Path) -> None:
    line = wrong(gen, desk, 2, "--corpus", hub_folder, "--out", "out")
    assert "single" in line and "pair" in line


def test_an_unknown_split_or_column_of_a_hub_folder(hub_folder: Path, gen: Callable[..., Ran], desk: Path) -> None:
    corpus = f"{hub_folder}:single"
    assert "it has train, validation" in wrong(gen, desk, 2, "--corpus", corpus, "--split", "test", "--out", "out")
    assert "no column 'prose'" in wrong(gen, desk, 2, "--corpus", corpus, "--text-column", "prose", "--out", "out")


@pytest.mark.parametrize("content", [{}, {"notes.md": b"x"}, {"train.csv": b""}, {"train.parquet": b"broken"}])
def test_a_folder_that_is_no_corpus(content: dict[str, bytes], gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "folder").mkdir()
    for name, data in content.items():
        (desk / "folder" / name).write_bytes(data)
    ran = gen("--corpus", "folder", "--out", "out")
    assert ran.code in (1, 2)
    assert len(ran.err.splitlines()) == 1 and not (desk / "out").exists()


def test_a_second_file_without_the_columns_is_named(gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "x1.jsonl", rows(3))
    write_jsonl(desk / "x2.jsonl", [{"prose": "a"}])
    assert "x2.jsonl has no column 'text'" in wrong(gen, desk, 2, "--corpus", "x*.jsonl", "--out", "out")


def test_a_split_with_the_name_of_a_folder_of_ours(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "hub").mkdir()
    (desk / "hub/README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: [{split: receipts, path: a.jsonl}]\n---\n")
    write_jsonl(desk / "hub/a.jsonl", rows(3))
    assert "'receipts'" in wrong(gen, desk, 2, "--corpus", "hub", "--out", "out", "--topk", 3)


def test_parquet_text_that_is_not_utf8(gen: Callable[..., Ran], desk: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = pa.array([b"good", b"b\xffd"]).cast(pa.binary())
    text = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"text": text}), desk / "c.parquet")
    line = wrong(gen, desk, 1, "--corpus", "c.parquet", "--out", "out", "--topk", 3)
    assert "row 1 of c.parquet: column 'text' is not UTF-8 (invalid start byte at byte 1)" in line


def test_a_corpus_file_that_may_not_be_read(gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(self: Path, *args: Any, **named: Any) -> Any:
        if self.name == "good.jsonl":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        ran = gen("--corpus", "good.jsonl", "--out", "out")
    assert (ran.code, ran.err) == (1, "textsmooth-gen: cannot read good.jsonl: Permission denied\n")


def _no_head(folder: Path) -> None:
    make_model().bert.save_pretrained(folder)


def _classifier(folder: Path) -> None:
    from transformers import BertForSequenceClassification

    BertForSequenceClassification(make_model().config).save_pretrained(folder)


def _pickled(folder: Path) -> None:
    import torch

    torch.save(make_model().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config = {k: v for k, v in {**config, **changes}.items() if v is not ...}
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _file(name: str, content: bytes | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return change


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _more_tokens(folder: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["surplus"])
    tokenizer.save_pretrained(folder)


def _other_weights(folder: Path) -> None:
    make_model(vocab_size=len(VOCAB) + 3).save_pretrained(folder)
    _config(vocab_size=len(VOCAB))(folder)


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 90868376\n"
TEACHERS: list[tuple[str, Callable[[Path], None], str]] = [
    ("an encoder without a head", _no_head, "is missing weights that BertForMaskedLM needs (cls.predictions"),
    ("a classifier", _classifier, "is missing weights that BertForMaskedLM needs (cls.predictions"),
    ("pickled weights", _pickled, "no *.safetensors weights"),
    ("cut weights", _cut_weights, "cannot load the model"),
    (
        "weights that Git LFS has not fetched",
        _file("model.safetensors", LFS),
        "model.safetensors is a Git LFS pointer, not the file: git lfs",
    ),
    ("a deep tokenizer_config.json", _file("tokenizer_config.json", b"[" * 100_000), "cannot load a tokenizer from teacher"),
    ("no weights", _file("model.safetensors", None), "no *.safetensors weights"),
    ("no config", _file("config.json", None), "no config.json"),
    ("damaged config", _file("config.json", b'{"vocab_size": '), "config.json cannot be read as JSON"),
    ("binary config", _file("config.json", b"\xff\xfe\x00"), "config.json cannot be read as JSON"),
    ("config that is a list", _file("config.json", b"[]"), "names no vocab_size"),
    ("config without sizes", _config(vocab_size=...), "names no vocab_size"),
    ("vocab_size null", _config(vocab_size=None), "vocab_size"),
    ("vocab_size a word", _config(vocab_size="many"), "vocab_size"),
    ("positions a word", _config(max_position_embeddings="many"), "max_position_embeddings"),
    ("unknown model type", _config(model_type="weather"), "cannot load"),
    ("a model that is no masked LM", _config(model_type="vit"), "not a masked language model"),
    ("other sizes", _config(hidden_size=26), "cannot load|is missing weights"),
    ("more tokens than the model", _more_tokens, "token ids up to"),
    ("no tokenizer", _no_tokenizer, "tokenizer"),
    ("a damaged tokenizer", _file("tokenizer.json", b"{"), "tokenizer"),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in TEACHERS], ids=[case[0] for case in TEACHERS])
def test_a_teacher_that_will_not_do_is_told_in_one_line(
    change: Callable[[Path], None], words: str, gen: Callable[..., Ran], desk: Path
) -> None:
    change(desk / "teacher")
    line = wrong(gen, desk, 1, "--corpus", "good.jsonl", "--teacher", "teacher", "--out", "out", "--topk", 3)
    assert any(word in line for word in words.split("|")), line


def test_a_head_of_another_width_is_told_in_its_own_words(gen: Callable[..., Ran], desk: Path) -> None:
    _other_weights(desk / "teacher")
    line = wrong(gen, desk, 1, "--corpus", "good.jsonl", "--teacher", "teacher", "--out", "out", "--topk", 3)
    assert "above report" not in line and "is missing weights" in line


def test_no_space_is_told_in_one_line_and_the_same_command_goes_on(
    gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    args = ("--corpus", "good.jsonl", "--out", "out", "--topk", 3, "--rows-per-shard", 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        ran = gen(*args)
    assert ran.code == 1
    assert "No space left on device; make room and run the same command again" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not [name for name in tree(desk) if ".tmp-" in name]
    assert gen(*args).code == 0


@pytest.mark.parametrize("number", ["EACCES", "EROFS", "EDQUOT", "EIO"])
def test_a_storage_that_refuses_is_told_in_one_line(
    number: str, gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    code = getattr(errno, number)

    def refuse(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    line = wrong_storage(gen("--corpus", "good.jsonl", "--out", "out", "--topk", 3))
    assert os.strerror(code) in line
    assert not [name for name in tree(desk) if ".tmp-" in name]


def wrong_storage(ran: Ran) -> str:
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1 and ran.err.startswith("textsmooth-gen: cannot write "), ran.err
    return ran.err


def test_debug_shows_the_traceback(gen: Callable[..., Ran], desk: Path) -> None:
    with pytest.raises(ValueError, match="mass must be"):
        gen("--corpus", "good.jsonl", "--mass", 2, "--debug")


def inspect(capsys: pytest.CaptureFixture[str], *args: object) -> Ran:
    capsys.readouterr()
    code = cli.run(inspect_command, "textsmooth inspect", [str(a) for a in args])
    return Ran(code, *capsys.readouterr())


@pytest.fixture
def made(gen: Callable[..., Ran], desk: Path) -> Path:
    """A finished dataset."""
    assert gen("--corpus", "good.jsonl", "--out", "made", "--topk", 3).code == 0
    return desk / "made"


def test_inspect_shows_a_row(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = inspect(capsys, made, "--row", 5, "--alternatives", 2)
    assert ran.code == 0
    assert ran.out.startswith("train row 5")
    assert "[CLS]" in ran.out and "(plain)" in ran.out


def test_a_dataset_that_is_none_is_told_in_one_line(made: Path, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def altered(**changes: Any) -> bytes:
        value = json.loads((made / "manifest.json").read_bytes())
        return json.dumps({**value, **changes}).encode()

    def say(*args: object) -> str:
        ran = inspect(capsys, *args)
        assert ran.code in (1, 2)
        assert ran.out == "" and len(ran.err.splitlines()) == 1 and ran.err.startswith("textsmooth inspect: "), ran
        return ran.err

    assert "there is no such folder" in say("nowhere")
    assert "no row 6 in split train: it has rows 0 to 5" in say(made, "--row", 6)
    assert "no split 'test'" in say(made, "--split", "test")
    manifest = (made / "manifest.json").read_bytes()
    for content, words in {
        altered(created="yesterday"): "was altered",
        altered(format=2): "has format 2, this version of textsmooth reads 1; update textsmooth",
        altered(shards=[]): "is damaged",
        altered(shards=3): "is damaged",
        altered(shards=[{}]): "is damaged",
        manifest[:100]: "is damaged",
        b"[]": "is not the manifest",
        b"": "is damaged",
    }.items():
        (made / "manifest.json").write_bytes(content)
        assert words in say(made), content[:50]
    (made / "manifest.json").unlink()
    assert "has no manifest.json: not a smoothed dataset, or not finished" in say(made)
    (made / "manifest.json").write_bytes(manifest)
    (shard,) = made.glob("train/*.arrow")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert f"{shard.name} in {made} has" in say(made) and f"textsmooth verify {made} --repair" in say(made)
    shard.unlink()
    assert f"{shard.name} in {made} is missing" in say(made)
    shard.write_bytes(whole)
    (made / "tokenizer/tokenizer.json").unlink()
    assert "tokenizer.json is missing" in say(made)
