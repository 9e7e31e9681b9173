"""`textsmooth inspect`: windows, rows without tokens, what a student reads, words that are looked for, terminals of all kinds."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from helpers_gen import Ran, rows, write_jsonl
from helpers_inspect import read_row
from helpers_report import make_hostile
from rich.cells import cell_len
from rich.console import Console

from textsmooth.pipeline.cli import app as cli
from textsmooth.pipeline.cli.inspect import inspect as inspect_command
from textsmooth.pipeline.cli.inspect import show
from textsmooth.pipeline.generation import run as generation
from textsmooth.pipeline.inspect.report import report
from textsmooth.pipeline.inspect.rows import SmoothedRow, SmoothedRows, _number, _places
from textsmooth.pipeline.inspect.token_text import TokenNames, fold, word_pattern
from textsmooth.pipeline.share.pull import pull
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.stages.soft_ids import temperature as temper


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


@pytest.mark.parametrize("windows", [False, True])
def test_rows_of_a_part_keep_their_numbers(
    windows: bool, gen: Callable[..., Ran], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shards 1, 2 and 4 of five have rows 4 to 11 and 16 to 18."""
    corpus, whole, part = write_jsonl(tmp_path / "c.jsonl", rows(19, longest=60)), tmp_path / "whole", tmp_path / "part"
    long = ("--long", "window") if windows else ()
    assert gen("--corpus", corpus, "--out", whole, "--topk", 2, "--rows-per-shard", 4, *long).code == 0
    pull(whole, part, shards="1-2,4")
    opened = SmoothedRows(part)
    for number in range(19):
        if number in (*range(4, 12), *range(16, 19)):
            assert opened.row(number) == read_row(whole, number)
            continue
        with pytest.raises(UsageError) as error:
            opened.row(number)
        has = "which has rows 4-11, 16-18 of split train"
        assert str(error.value) == f"row {number} is not in this part of the dataset, {has}; textsmooth pull adds other shards"
    for number in (-1, 19):
        with pytest.raises(UsageError, match=f"row {number} is not in this part of the dataset"):
            opened.row(number)
    assert opened.sample(0) == opened.row(4)
    assert inspect(capsys, part).out.startswith("train row 4, ")  # what pull tells to do next
    (part / "plan.json").unlink()
    assert (
        inspect(capsys, part, "--row", 0).err
        == "textsmooth inspect: row 0 is not in this part of the dataset; textsmooth pull adds other shards\n"
    )


def test_a_row_that_cannot_be_there_is_refused_before_a_shard_is_read(smoothed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = SmoothedRows(smoothed)
    monkeypatch.delattr(opened.dataset, "folder")
    with pytest.raises(UsageError, match=r"^no row 300 in split train: it has rows 0 to 299$"):
        opened.row(300)


def test_a_whole_split_of_a_dataset_has_all_its_rows(gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus, whole, part = tmp_path / "c", tmp_path / "whole", tmp_path / "part"
    corpus.mkdir()
    write_jsonl(corpus / "train.jsonl", rows(5))
    write_jsonl(corpus / "test.jsonl", rows(10)[5:])
    assert gen("--corpus", corpus, "--out", whole, "--topk", 2, "--rows-per-shard", 3).code == 0
    pull(whole, part, splits="test")
    assert read_row(part, 4) == read_row(whole, 4, "test")
    with pytest.raises(UsageError, match=r"^no row 5 in split test: it has rows 0 to 4$"):
        read_row(part, 5)


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


# ---- what a student reads

LAM = 0.3


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_the_weights_are_those_of_a_dense_reference(temperature: float, smoothed: Path, kit: ModuleType) -> None:
    dense, number = kit.random_rows(1, 270), kit.make_tokenizer().get_vocab()
    p = np.exp(kit.log_softmax(dense.logits / temperature))
    taught = SmoothedRows(smoothed, "train", alternatives=4, temperature=temperature)
    mixed = SmoothedRows(smoothed, "train", alternatives=4, temperature=temperature, lam=LAM)
    for row in (0, 7, 269):
        start, stop = dense.block.row_offsets[row : row + 2]
        for n, told, read in zip(range(start, stop), taught.row(row).tokens, mixed.row(row).tokens, strict=True):
            own = int(dense.block.input_ids[n])
            if dense.plain[n]:
                assert told.alternatives == read.alternatives == () and told.p_original == read.p_original == 1
                continue
            assert told.p_original == pytest.approx(p[n, own], rel=5e-3)
            for name, value in told.alternatives:
                assert value == pytest.approx(p[n, number[name]], rel=5e-3)
            assert sum(value for _, value in told.alternatives) <= 1 + 1e-3
            stored = dense.block.soft.ids[dense.block.soft.offsets[n] : dense.block.soft.offsets[n + 1]]
            assert read.p_original == pytest.approx(1 - LAM + LAM * p[n, own] * (own in stored), rel=5e-3)
            weights = dict(read.alternatives)
            assert list(weights.values()) == sorted(weights.values(), reverse=True) and len(weights) == len(read.alternatives)
            for name, value in weights.items():
                taken = LAM * p[n, number[name]] * (number[name] in stored)
                assert value == pytest.approx(taken + (1 - LAM) * (number[name] == own), rel=5e-3)
            assert [number[name] == own for name in weights] == list(read.is_original)
    assert taught.note is mixed.note is None


def test_lam_0_is_the_token_and_lam_1_is_p(smoothed: Path) -> None:
    plain, whole, taught = (read_row(smoothed, 4, lam=lam) for lam in (0.0, 1.0, None))
    assert all(token.p_original == 1 for token in plain.tokens)
    for one, other in zip(whole.tokens, taught.tokens, strict=True):
        assert dict(one.alternatives) == pytest.approx(dict(other.alternatives), abs=1e-6)


def test_a_temperature_that_is_not_stored_tells_its_error_or_is_refused(
    smoothed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = inspect(capsys, smoothed, "--temperature", 0.7, "--lam", 0.5)
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "what a student reads at lam 0.5, temperature 0.7: (1 - lam) x the token + lam x p"
    assert ran.out.splitlines()[1].startswith("temperature 0.7 is not stored (it has 0.5, 1, 2): interpolated, probabilities off by")
    monkeypatch.setattr(temper, "MOST_ERROR", 1e-9)
    far = inspect(capsys, smoothed, "--temperature", 0.7)
    assert far.code == 2 and "temperature 0.7 is not stored in this dataset, it has 0.5, 1, 2" in far.err and not far.out
    assert far.err.endswith("; choose one of these or one near them, or generate with --temperatures 0.7\n")  # of no option of train


# ---- looking for words


def test_grep_finds_rows_by_a_word_and_says_how_many_more(smoothed: Path, kit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    ids = kit.random_rows(1, 270).block
    rows = [n for n in range(270) if 17 in ids.input_ids[ids.row_offsets[n] : ids.row_offsets[n + 1]]]
    found = list(SmoothedRows(smoothed, "train").grep("W17"))
    assert [match.sample for match in found if match.sample < 270] == rows and len(rows) > 5
    opened = SmoothedRows(smoothed, "train")
    for match in found:
        tokens = opened.sample(match.sample).tokens
        assert all(tokens[first].token == "w17" and first == last for first, last in match.places)
    ran = inspect(capsys, smoothed, "--grep", "w17", "--limit", 2)
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith("train row ")] == [
        f"train row {row}, label {'odd' if ids.label[row] else 'even'}" for row in rows[:2]
    ]
    assert ran.out.splitlines()[-1] == f"… and {len(found) - 2} more rows with it; --limit {len(found)} shows all"
    assert inspect(capsys, smoothed, "--grep", "w1").out == "no row of split train holds the word\n"  # whole words only
    assert inspect(capsys, smoothed, "--grep", " ").code == 2
    assert "leave out --row" in inspect(capsys, smoothed, "--grep", "w17", "--row", 3).err


def test_a_limit_without_a_word_is_refused(smoothed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = inspect(capsys, smoothed, "--limit", 3)
    assert ran.code == 2 and "--limit 3 does nothing without --grep WORD: leave it away, or add that" in ran.err


def test_a_row_without_a_label_says_so(kit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = kit.random_rows(5, 4).block
    kit.write_dataset(tmp_path / "d", {"train": [replace(block, label=np.array([-1, 1, 0, -1]))]}, label_names=("even", "odd"))
    out = inspect(capsys, tmp_path / "d", "--row", 0, "--row", 1).out
    assert "train row 0, no label\n" in out and "train row 1, label odd\n" in out and "-1" not in out
    report(tmp_path / "d", out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "train row 3 · no label" in page and "· -1" not in page


@pytest.mark.parametrize(
    ("value", "told"),
    [(2.5, "2.5"), (3.0, "3"), (0.1234567, "0.1234567"), (1234567.5, "1234567.5"), (float(np.float32(2.6)), "2.6"), (1e300, "1e+300")],
)
def test_values_are_short_and_do_not_become_others(value: float, told: str) -> None:
    assert _number(value) == told


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{}")])
def test_a_tokenizer_that_is_gone_names_the_command_that_mends_it(damage: Callable[[Path], object], smoothed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(smoothed, tmp_path / "d"))
    damage(folder / "tokenizer/tokenizer.json")
    with pytest.raises(
        DatasetError, match=rf"tokenizer\.json .*; textsmooth verify {re.escape(str(folder))} --repair makes its files again"
    ):
        read_row(folder, 0)


def test_grep_shows_the_surroundings_of_a_word_in_a_long_row(kit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = kit.random_rows(3, 1, longest=200).block
    while len(block.input_ids) < 80:
        block = kit.random_rows(int(block.input_ids.sum()), 1, longest=200).block
    word = int(block.input_ids[40])
    kit.write_dataset(tmp_path / "long", {"train": [block]})
    lines = inspect(capsys, tmp_path / "long", "--grep", f"w{word}").out.splitlines()
    assert sum(line.split()[0] == f"w{word}" for line in lines) >= 1 and "  …" in lines
    assert len(lines) <= 3 * 15 + 5 < len(block.input_ids) + 1


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("Café", "a cafe ."),
        ("don't", "i don ' t know"),
        ("state-of-the-art", "a state - of - the - art film"),
        ("super bowl", "the  super\tbowl 50"),
        ("北京", "我 爱 北 京 。"),
        ("STRASSE", "die straße"),
        ("(a+b)*", "so ( a + b ) * c"),
    ],
)
def test_words_are_found_whatever_case_accents_and_space_around_signs(word: str, text: str) -> None:
    assert word_pattern(word).search(fold(text))
    assert not word_pattern(word).search(fold("something else, caf, don, art, bowl 北"))


def test_words_of_byte_level_tokens_are_found_across_characters_and_tokens() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["the cat sat"] * 9, trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False))
    names = TokenNames(tokenizer)
    ids = tokenizer.encode("the naïve cat 😀 sat").ids
    pieces = names.pieces_of(ids)
    assert b"".join(pieces).decode() == "the naïve cat 😀 sat"
    for word in ("naïve", "NAIVE", "😀"):
        ((first, last),) = _places(word_pattern(word), pieces)
        assert b"".join(pieces[first : last + 1]).decode().strip() in ("naïve", "😀")
    assert "".join(" " * space + text for space, text in names.spelled(tokenizer.encode("the cat sat").ids)) == " the cat sat"
    assert "<0x9F>" in [text for _, text in names.spelled(ids)]


def test_pieces_of_word_pieces_join_to_words() -> None:
    from tokenizers import Tokenizer, models

    names = TokenNames(Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, ".": 3}, unk_token="[UNK]")))
    assert names.spelled([1, 2, 3]) == [(True, "play"), (False, "ing"), (True, ".")]
    assert names.name(2) == "##ing" and names.name(99) == "<id 99>"


# ---- safe and legible on every terminal


def test_a_corpus_cannot_steer_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = make_hostile(tmp_path / "hostile", monkeypatch)
    ran = inspect(capsys, hostile, *(word for row in range(12) for word in ("--row", row)), "--alternatives", 8)
    assert ran.code == 0
    assert not [char for char in ran.out if not char.isprintable() and char != "\n"]
    assert "\\x1b[31mred" in ran.out and "\\u202eturned" in ran.out and "a\\nb\\rc" in ran.out
    assert sum(line.startswith("train row ") for line in ran.out.splitlines()) == 12


def test_a_split_cannot_steer_the_terminal() -> None:
    row = SmoothedRow(split="\x1b]0;x\x07", row=0, window=None, windows=1, label=None, tokens=())
    assert rendered(row) == "\\x1b]0;x\\x07 row 0\n"


def rendered(row: SmoothedRow, **options: object) -> str:
    out = io.StringIO()
    show(Console(file=out, highlight=False, markup=False, emoji=False, soft_wrap=True, **options), row)
    return out.getvalue()


def test_a_row_fits_the_terminal_and_says_the_same_without_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoothed: Path) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    row = SmoothedRows(make_hostile(tmp_path / "hostile", monkeypatch), alternatives=8).row(3)
    shaded = rendered(row, force_terminal=True, color_system="truecolor", width=80)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = rendered(row, force_terminal=True, color_system="truecolor", width=80)
    assert re.search(r"\x1b\[[0-9;]*48;2;", shaded) and not re.search(r"\x1b\[[0-9;]*[34]8;", plain)
    without = [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (shaded, plain)]
    assert without[0] == without[1]
    long = [line for line in without[0].splitlines() if cell_len(line) > 80]
    assert all(len(line.split()) <= 2 for line in long)  # one name alone may be wider than the terminal
    piped = rendered(row, width=80)
    assert len(piped.splitlines()) == 1 + len(row.tokens) and "\x1b" not in piped  # a line per token, whole, for other programs


def test_an_output_that_cannot_encode_it_gets_escapes(smoothed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.run(inspect_command, "textsmooth inspect", [str(smoothed), "--grep", "w20", "--limit", "1"]) == 0
    sys.stdout.flush()
    text = raw.getvalue().decode("ascii")
    assert "\\u2026 and" in text and "#" in text
