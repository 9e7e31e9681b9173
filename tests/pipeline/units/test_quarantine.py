"""A row that cannot be smoothed: its unit is set aside and named, or the row is left out and counted. Everything else is done."""

import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers_gen import VOCAB, Ran, files_of, make_model, make_tokenizer, rows, shards_of, write_jsonl
from helpers_inspect import read_row

from textsmooth.pipeline.generation.run import generate
from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.units.bad_rows import find_bad_rows
from textsmooth.pipeline.units.worker import UnitWorker
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import UsageError
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import read_manifest

POISON = "q"  # a word that no row of `rows` has
BAD = (7, 23, 24)
SIZES = ("--rows-per-shard", 5, "--topk", 3)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real teacher that gives NaN for rows with POISON: the weights of that word are NaN."""
    folder = tmp_path_factory.mktemp("models") / "fragile"
    model = make_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[VOCAB.index(POISON)] = float("nan")
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def lines(count: int = 40, bad: tuple[int, ...] = BAD, text: Any = f"a {POISON} dog") -> list[dict[str, Any]]:
    return [{**row, "text": text} if i in bad else row for i, row in enumerate(rows(count, 5))]


@pytest.fixture
def run(gen: Callable[..., Ran], fragile: Path) -> Callable[..., Ran]:
    return lambda *args: gen("--teacher", fragile, *(() if "--rows-per-shard" in args else SIZES), *args)


def quarantined(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


def bad_rows(folder: Path) -> list[int]:
    return [line["row"] for line in quarantined(folder) if "row" in line]


def one_line(ran: Ran, code: int) -> str:
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (code, "", 1), ran.err
    return ran.err


def table(folder: Path, split: str = "train") -> pa.Table:
    shards = [pa.ipc.open_file(pa.memory_map(str(p))).read_all() for p in sorted((folder / split).glob("*.arrow"))]
    return pa.concat_tables([t.replace_schema_metadata() for t in shards])


def same_rows(found: pa.Table, clean: pa.Table, numbers: list[int]) -> None:
    """A table that lacks rows is that of a corpus without them, but for the rows' numbers and rounding."""
    assert found["row"].to_pylist() == [numbers[row] for row in clean["row"].to_pylist()]
    for name in found.column_names:
        if name in ("original_logprob", "log_tail", "teacher_logits"):
            for one, other in zip(found[name].to_pylist(), clean[name].to_pylist(), strict=True):
                np.testing.assert_allclose(np.array(one, np.float64), np.array(other, np.float64), rtol=0.01, atol=0.01)
        elif name not in ("row", "soft_logprobs"):
            assert found[name].to_pylist() == clean[name].to_pylist(), name


def test_a_unit_with_a_poisonous_row_is_set_aside_and_the_rest_is_done(run: Callable[..., Ran], tmp_path: Path) -> None:
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines()), tmp_path / "out"
    said = one_line(run("--corpus", corpus, "--out", out), 3)
    assert "2 of 8 units failed, the rest is done; the first is train/00001 (row 7 of c.jsonl: the teacher gave NaN" in said
    assert f"{out}/quarantine.jsonl" in said and "--skip-bad-rows" in said and "give another --out" in said
    assert not (out / "manifest.json").exists()
    assert len(shards_of(out)) == 6
    units = [line for line in quarantined(out) if "unit" in line]
    assert [(u["unit"], u["file"], u["first_row"], u["rows"], u["bad_rows"], u["attempts"]) for u in units] == [
        ("train/00001", "c.jsonl", 5, 5, 1, 2),
        ("train/00004", "c.jsonl", 20, 5, 2, 2),
    ]
    found = [line for line in quarantined(out) if "row" in line]
    assert [(row["split"], row["row"], row["file"], row["file_row"]) for row in found] == [("train", i, "c.jsonl", i) for i in BAD]
    assert found[0]["values"] == {"text": f"a {POISON} dog", "label": lines()[7]["label"]}
    assert all("NaN" in row["error"] for row in found)


def test_a_rerun_tries_just_the_units_that_failed(run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines()), tmp_path / "out"
    assert run("--corpus", corpus, "--out", out).code == 3
    before = shards_of(out)
    tried: list[int] = []
    real = UnitWorker.finish

    def finish(self: Any, unit: Any, *args: Any) -> Any:
        tried.append(unit.number)
        return real(self, unit, *args)

    monkeypatch.setattr(UnitWorker, "finish", finish)
    assert run("--corpus", corpus, "--out", out).code == 3
    assert set(tried) == {1, 4}
    assert shards_of(out) == before and bad_rows(out) == list(BAD)
    tried.clear()
    done = run("--corpus", corpus, "--out", out, "--skip-bad-rows")
    assert done.code == 0 and "left out: 3 rows that could not be smoothed" in done.out
    assert set(tried) == {1, 4}


def test_the_same_bytes_however_often_it_was_begun(run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", lines())
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert run("--corpus", corpus, "--out", whole, "--skip-bad-rows").code == 0
    assert run("--corpus", corpus, "--out", again).code == 3
    real = UnitWorker.finish

    def finish(self: Any, unit: Any, *args: Any) -> Any:
        receipt = real(self, unit, *args)
        if unit.number == 1:
            raise KeyboardInterrupt
        return receipt

    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, "finish", finish)
        assert run("--corpus", corpus, "--out", again, "--skip-bad-rows").code == 130
    assert run("--corpus", corpus, "--out", again, "--skip-bad-rows").code == 0
    assert shards_of(whole) == shards_of(again)
    assert read_manifest(whole).dataset == read_manifest(again).dataset
    assert (whole / "quarantine.jsonl").read_bytes() == (again / "quarantine.jsonl").read_bytes()
    assert run("--corpus", corpus, "--out", again).out.startswith("Nothing to do")


def test_rows_left_out_are_counted_and_every_other_row_can_be_read(run: Callable[..., Ran], tmp_path: Path) -> None:
    bad = (*BAD, *range(10, 15))  # all of unit 2
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines(bad=bad)), tmp_path / "out"
    assert run("--corpus", corpus, "--out", out, "--skip-bad-rows", "--keep-columns", "idx,note").code == 0
    manifest = read_manifest(out)
    assert [(s.rows, s.skipped, s.samples) for s in manifest.shards] == [
        (5, n, 5 - n) for n in (0, 1, 5, 0, 2, 0, 0, 0)
    ]  # a unit without a row to keep has a shard without rows
    statistics = manifest.statistics
    assert statistics["rows"] == 40 == len(table(out)) + statistics["skipped_rows"] and statistics["skipped_rows"] == 8
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    assert listed["quarantine.jsonl"] == hashlib.sha256((out / "quarantine.jsonl").read_bytes()).hexdigest()
    assert bad_rows(out) == sorted(bad)
    card = (out / "README.md").read_text()
    assert "| left out | 8 rows of the corpus" in card and "| train | 32 |" in card
    good = [i for i in range(40) if i not in bad]
    read = SmoothedDataset(out, "train")
    assert len(read) == len(read.lengths) == 32 and read.labels is not None
    assert read.batch(np.arange(32)).row.tolist() == good
    assert read.labels.tolist() == [-1 if lines()[i]["label"] is None else lines()[i]["label"] for i in good]
    assert sorted(read.order(seed=1, epoch=0).window(0)) == list(range(32))
    others = datasets.load_dataset("arrow", data_files=f"{out}/train/*.arrow", cache_dir=str(tmp_path / "hf"), split="train")
    assert others["row"][:] == good
    assert read_row(out, 15).row == 15
    with pytest.raises(UsageError, match="row 11 of split train was left out of the dataset"):
        read_row(out, 11)
    clean, corpus = tmp_path / "clean", write_jsonl(tmp_path / "d.jsonl", [lines()[i] for i in good])
    assert run("--corpus", corpus, "--out", clean, "--keep-columns", "idx,note").code == 0
    same_rows(table(out), table(clean), good)


def test_without_bad_rows_the_bytes_are_those_of_a_run_that_skips_none(run: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", lines(bad=()))
    one, other = tmp_path / "one", tmp_path / "other"
    assert run("--corpus", corpus, "--out", one).code == run("--corpus", corpus, "--out", other, "--skip-bad-rows").code == 0
    assert shards_of(one) == shards_of(other) and read_manifest(one).dataset == read_manifest(other).dataset
    for folder in (one, other):
        assert not (folder / "quarantine.jsonl").exists()
        assert "skip" not in (folder / "manifest.json").read_text() + (folder / "receipts.jsonl").read_text()
    assert not any(name.startswith("quarantine") for name in files_of(other))


@pytest.mark.parametrize("text", [None, 3, ["a"]])
def test_text_that_is_none_is_refused_or_left_out(text: Any, run: Callable[..., Ran], tmp_path: Path) -> None:
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines(bad=(7, 9), text=text)), tmp_path / "out"
    what = "null" if text is None else type(text).__name__
    assert f"row 7 of {corpus}: column 'text' is {what}, not text" in one_line(run("--corpus", corpus, "--out", out), 1)
    assert not out.exists()
    assert run("--corpus", corpus, "--out", out, "--skip-bad-rows", "--dry-run").code == 0
    assert run("--corpus", corpus, "--out", out, "--skip-bad-rows").code == 0
    assert [(line["row"], line["error"]) for line in quarantined(out)] == [(i, f"column 'text' is {what}, not text") for i in (7, 9)]
    assert quarantined(out)[0]["values"]["text"] == text
    corpus.touch()  # read again: its rows are those that it was planned with
    assert run("--corpus", corpus, "--out", out).out.startswith("Nothing to do")


def test_a_run_that_was_begun_to_skip_rows_quarantines_them_without(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines(bad=(7,), text=None)), tmp_path / "out"

    def stop(self: Any, unit: Any, *args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, "finish", stop)
        assert run("--corpus", corpus, "--out", out, "--skip-bad-rows").code == 130
    assert "(row 7 of c.jsonl: column 'text' is null, not text)" in one_line(run("--corpus", corpus, "--out", out), 3)
    assert bad_rows(out) == [7]


def test_a_corpus_without_any_text_is_refused(run: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": None}, {"text": None}])
    said = one_line(run("--corpus", corpus, "--out", tmp_path / "out", "--text-column", "text", "--skip-bad-rows"), 1)
    assert "--skip-bad-rows would leave out all 2 rows of c.jsonl" in said


def test_answers_that_are_none_are_left_out_with_all_their_windows(gen: Callable[..., Ran], tmp_path: Path) -> None:
    context = "the cat sat on the big red house . " * 4
    good = {"question": "who sat", "context": context, "answers": {"text": ["cat"], "answer_start": [4]}}
    wrong: list[Any] = [None, {"text": ["dog"], "answer_start": [4]}, {"text": ["cat"], "answer_start": []}, "cat"]
    given = [{"id": str(i), **good, **({"answers": wrong[i // 2]} if i % 2 and i < 8 else {})} for i in range(12)]
    corpus, out = write_jsonl(tmp_path / "c.jsonl", given), tmp_path / "out"
    assert "row 1 of" in one_line(gen("--corpus", corpus, "--out", out, *SIZES), 1)
    ran = gen("--corpus", corpus, "--out", out, *SIZES, "--skip-bad-rows")
    assert ran.code == 0, ran.err
    manifest = read_manifest(out)
    assert [s.skipped for s in manifest.shards] == [2, 2, 0] and bad_rows(out) == [1, 3, 5, 7]
    assert "column 'answers' is null" in quarantined(out)[0]["error"]
    kept = [i for i in range(12) if not (i % 2 and i < 8)]
    assert sorted(set(table(out)["row"].to_pylist())) == kept == [int(x) for x in dict.fromkeys(table(out)["example_id"].to_pylist())]
    assert len(SmoothedDataset(out, "train")) == manifest.statistics["windows"] == sum(s.windows or 0 for s in manifest.shards) > 12
    clean = tmp_path / "clean"
    assert gen("--corpus", write_jsonl(tmp_path / "d.jsonl", [given[i] for i in kept]), "--out", clean, *SIZES).code == 0
    same_rows(table(out), table(clean), kept)
    assert read_row(out, 8, window=1).row == 8


def test_a_task_teachers_logits_stay_with_their_rows(run: Callable[..., Ran], tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": len(VOCAB), "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(3)
    second = tmp_path / "second"
    BertForSequenceClassification(BertConfig(**sizes, max_position_embeddings=24, initializer_range=0.4)).save_pretrained(second)
    make_tokenizer().save_pretrained(second)
    given = [{**row, "label": i % 2} for i, row in enumerate(lines())]
    good = [i for i in range(40) if i not in BAD]
    one, other = tmp_path / "one", tmp_path / "other"
    more = ("--task-teacher", second)
    ran = run("--corpus", write_jsonl(tmp_path / "c.jsonl", given), "--out", one, *more, "--skip-bad-rows")
    assert ran.code == 0, ran.err
    assert run("--corpus", write_jsonl(tmp_path / "d.jsonl", [given[i] for i in good]), "--out", other, *more).code == 0
    same_rows(table(one), table(other), good)


def test_a_tokenizer_that_fails_for_a_row_is_its_fault(gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textsmooth.pipeline.units import worker as units

    real = units.tokenize

    def tokenize(tokenizer: Any, texts: list[str], *args: Any, **named: Any) -> Any:
        if any(POISON in text.split() for text in texts):
            raise RuntimeError("no way\nto read this")
        return real(tokenizer, texts, *args, **named)

    monkeypatch.setattr(units, "tokenize", tokenize)
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines()), tmp_path / "out"
    assert "row 7 of c.jsonl: RuntimeError: no way)" in one_line(gen("--corpus", corpus, "--out", out, *SIZES), 3)
    assert gen("--corpus", corpus, "--out", out, *SIZES, "--skip-bad-rows").code == 0
    assert bad_rows(out) == list(BAD)


def test_a_failure_that_does_not_come_again_leaves_no_trace(
    gen: Callable[..., Ran], reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert gen("--corpus", reviews, "--out", one, *SIZES).code == 0
    real, failed = UnitWorker.score, []

    def score(self: Any, ready: Any) -> Any:
        if not failed:
            failed.append(1)
            raise RuntimeError("once")
        return real(self, ready)

    monkeypatch.setattr(UnitWorker, "score", score)
    assert gen("--corpus", reviews, "--out", other, *SIZES).code == 0
    assert failed and shards_of(one) == shards_of(other) and not (other / "quarantine.jsonl").exists()


@pytest.mark.parametrize("skip", [(), ("--skip-bad-rows",)])
def test_where_no_row_gets_through_it_is_the_set_up(
    skip: tuple[str, ...], gen: Callable[..., Ran], reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(self: Any, ready: Any) -> Any:
        raise RuntimeError("nothing works")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, "score", score)
        said = one_line(gen("--corpus", reviews, "--out", out, *SIZES, *skip), 1)
    assert "no row of the first 3 units got through (train/00000: RuntimeError: nothing works): it seems to be the set-up" in said
    assert shards_of(out) == {} and not (out / "quarantine.jsonl").exists()
    assert gen("--corpus", reviews, "--out", out, *SIZES, *skip).code == 0


def test_a_single_unit_with_one_bad_row_is_no_matter_of_the_set_up(run: Callable[..., Ran], tmp_path: Path) -> None:
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines()), tmp_path / "out"
    assert "1 of 1 units failed" in one_line(run("--corpus", corpus, "--out", out, "--rows-per-shard", 100, "--topk", 3), 3)
    assert bad_rows(out) == list(BAD)


def test_a_unit_of_nothing_but_bad_rows_needs_another_row_that_gets_through(run: Callable[..., Ran], tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "c.jsonl", lines(20, bad=tuple(range(5))))
    assert run("--corpus", first, "--out", tmp_path / "one", "--skip-bad-rows").code == 0
    assert [s.samples for s in read_manifest(tmp_path / "one").shards] == [0, 5, 5, 5]
    every = write_jsonl(tmp_path / "d.jsonl", lines(4, bad=tuple(range(4))))
    said = one_line(run("--corpus", every, "--out", tmp_path / "other", "--skip-bad-rows"), 1)
    assert "no row of the first unit got through (train/00000: the teacher gave NaN" in said


def test_a_file_of_the_last_run_is_replaced_and_removed(run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines(bad=())), tmp_path / "out"
    real = UnitWorker.score

    def score(self: Any, ready: Any) -> Any:
        if any(t in bad for t in ready.rows["text"]):
            raise RuntimeError("for now")
        return real(self, ready)

    bad = [lines(bad=())[5]["text"], lines(bad=())[20]["text"]]
    monkeypatch.setattr(UnitWorker, "score", score)
    assert run("--corpus", corpus, "--out", out).code == 3
    assert bad_rows(out) == [5, 20]
    del bad[0]
    assert run("--corpus", corpus, "--out", out).code == 3
    assert bad_rows(out) == [20]
    bad.clear()
    assert run("--corpus", corpus, "--out", out).code == 0
    assert not (out / "quarantine.jsonl").exists()


def test_overwrite_removes_it(run: Callable[..., Ran], tmp_path: Path) -> None:
    corpus, out = write_jsonl(tmp_path / "c.jsonl", lines()), tmp_path / "out"
    assert run("--corpus", corpus, "--out", out).code == 3
    good = write_jsonl(tmp_path / "c.jsonl", lines(bad=()))
    assert run("--corpus", good, "--out", out, "--overwrite").code == 0
    assert not (out / "quarantine.jsonl").exists()


def test_the_example_of_the_docs(gen: Callable[..., Ran], desk: Path) -> None:
    doc = (Path(__file__).resolve().parents[3] / "docs/failures.md").read_text()
    write, command, show = re.findall(r"```bash\n(.*?)```", doc, re.DOTALL)[0].splitlines()
    subprocess.run(write, shell=True, check=True)
    assert gen(*shlex.split(command)[1:]).code == 0
    assert subprocess.run(show, shell=True, capture_output=True, text=True).stdout == re.findall(r"```json\n(.*?)```", doc, re.DOTALL)[0]


def test_in_python_it_is_an_error_with_the_folder(fragile: Path, tmp_path: Path) -> None:
    from textsmooth.schemas.errors import QuarantineError

    corpus = write_jsonl(tmp_path / "c.jsonl", lines())
    options = GenerateOptions(
        corpus=str(corpus), teacher=str(fragile), topk=3, rows_per_shard=5, out=str(tmp_path / "out"), dtype="float32"
    )
    with pytest.raises(QuarantineError, match="2 of 8 units failed"):
        generate(options)


@pytest.mark.parametrize("most", [None, 4])
@pytest.mark.parametrize("bad", [{0}, {99}, {3, 4, 50}, set(range(0, 100, 7)), set(range(100)) - {41}, set()])
def test_halving_finds_all_rows_at_fault_or_some(bad: set[int], most: int | None) -> None:
    runs = 0

    def fails(part: Any) -> str | None:
        nonlocal runs
        runs += len(part)
        return "bad" if bad & set(part.tolist()) else None

    found = find_bad_rows(np.arange(100), fails, max_parts=most, others_work=lambda: True)
    assert found.errors.keys() <= bad and found.works
    assert runs <= 100 * 9 + 8
    if most is None:
        assert found.errors.keys() == bad and found.unknown == 0
    else:
        assert len(found.errors) >= min(len(bad), most)
    assert not bad or found.unknown or found.errors.keys() == bad


def test_the_search_is_given_up_where_nothing_gets_through() -> None:
    runs = 0

    def fails(part: Any) -> str | None:
        nonlocal runs
        runs += len(part)
        return "bad"

    found = find_bad_rows(np.arange(1000), fails, max_parts=None, others_work=lambda: False)
    assert not found.works and found.unknown == 992 and len(found.errors) == 8 and runs == 1008


def test_of_a_part_a_row_left_out_is_told_from_one_that_was_not_pulled(run: Callable[..., Ran], tmp_path: Path) -> None:
    corpus, whole, part = write_jsonl(tmp_path / "c.jsonl", lines()), tmp_path / "whole", tmp_path / "part"
    assert run("--corpus", corpus, "--out", whole, "--skip-bad-rows").code == 0
    pull(whole, part, shards="1,4")  # rows 5-9 and 20-24
    assert read_row(part, 22) == read_row(whole, 22)
    for row in BAD:
        with pytest.raises(UsageError, match=f"^row {row} of split train was left out of the dataset: quarantine.jsonl says why$"):
            read_row(part, row)
    with pytest.raises(UsageError, match=r"^row 10 is not in this part of the dataset, which has rows 5-9, 20-24 of split train;"):
        read_row(part, 10)
