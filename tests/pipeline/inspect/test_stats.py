"""`textsmooth stats` and the figures: against a plain count over every row, from the manifest where it has them, sampled by a seed."""

import io
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers_gen import Ran, write_jsonl
from helpers_inspect import read_row
from helpers_report import HOSTILE, make_hostile
from helpers_verify import Kinds
from rich.cells import cell_len

from textsmooth.pipeline.cli import app as cli
from textsmooth.pipeline.cli.stats import stats as stats_command
from textsmooth.pipeline.inspect import stats as gathered
from textsmooth.pipeline.inspect import token_counts as tally
from textsmooth.pipeline.inspect.report import report
from textsmooth.pipeline.inspect.stats_table import stats_table
from textsmooth.pipeline.share.diff import diff
from textsmooth.stages.dataset.open import read_manifest


def stats(capsys: pytest.CaptureFixture[str], *args: object) -> Ran:
    capsys.readouterr()
    code = cli.run(stats_command, "textsmooth stats", [str(a) for a in args])
    return Ran(code, *capsys.readouterr())


def stored(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*/*.arrow")) for row in pa.ipc.open_file(path).read_all().to_pylist()]


def test_the_figures_are_those_of_a_plain_count(smoothed: Path, kit: ModuleType) -> None:
    found = gathered.figures(smoothed, all_rows=True, words=4)
    rows = stored(smoothed)
    originals, entropies, mass, times, p_of, instead = [], [], defaultdict(float), defaultdict(int), defaultdict(float), {}
    for row in rows:
        for token, ids, logs, tail, own in zip(
            *(row[c] for c in ("input_ids", "soft_ids", "soft_logprobs", "log_tail", "original_logprob")), strict=True
        ):
            if not ids:
                continue
            p = np.exp(np.array(logs, np.float64))
            originals.append(np.exp(np.float64(own)))
            rest = np.exp(np.float64(tail))
            entropies.append(-(p * np.log2(p)).sum() - rest * np.log2(rest))
            for k in found.captured_mass:
                mass[k] += p[:k].sum()
            times[token] += 1
            p_of[token] += originals[-1]
            others = instead.setdefault(token, defaultdict(float))
            for i, value in zip(ids, p, strict=True):
                if i != token:
                    others[i] += value
    assert (found.rows, found.tokens) == (len(rows), sum(len(row["input_ids"]) for row in rows)) == (360, found.counted.tokens)
    assert found.smoothed_share == pytest.approx(len(originals) / found.tokens)
    assert found.captured_mass == pytest.approx({k: total / len(originals) for k, total in mass.items()})
    assert set(found.captured_mass) == {1, 2, 4, 8}
    assert found.p_original["mean"] == pytest.approx(np.mean(originals))
    for name, q in (("q05", 5), ("q50", 50), ("q95", 95)):
        assert found.p_original[name] == pytest.approx(np.percentile(originals, q), abs=0.011)
    assert found.entropy["mean"] == pytest.approx(np.mean(entropies))
    assert found.entropy["q50"] == pytest.approx(np.median(entropies), abs=0.01)
    assert found.entropy["mean_most"] > found.entropy["mean"]
    lengths = [len(row["input_ids"]) for row in rows]
    assert found.length["mean"] == pytest.approx(np.mean(lengths))
    assert (found.length["min"], found.length["max"]) == (min(lengths), max(lengths))
    for histogram, total in (
        (found.p_original_histogram, len(originals)),
        (found.entropy_histogram, len(originals)),
        (found.length_histogram, 360),
    ):
        assert sum(histogram.counts) == total and len(histogram.edges) == len(histogram.counts) + 1
    assert dict(found.labels) == {name: sum(row["label"] == n for row in rows) for n, name in enumerate(("even", "odd"))}
    names = kit.make_tokenizer().convert_ids_to_tokens
    often = sorted((t for t in times if times[t] >= found.words_at_least), key=lambda t: p_of[t] / times[t])[:4]
    assert [word.word for word in found.words] == names(often)
    for word, token in zip(found.words, often, strict=True):
        assert (word.count, word.p_original) == (times[token], pytest.approx(p_of[token] / times[token]))
        best = sorted(instead[token].values(), reverse=True)[:5]
        assert [p for _, p in word.replacements] == pytest.approx([total / times[token] for total in best])
    assert (found.counted.source, found.p_original_source) == (gathered.ALL, gathered.MANIFEST)


def test_quantiles_tell_no_more_than_is_known(smoothed: Path) -> None:
    assert [tally.quantile_text(p) for p in (0.005, 0.015, 0.985, 0.995)] == ["< 0.01", "0.01", "0.98", "> 0.99"]
    found = gathered.figures(smoothed, all_rows=True)
    entropies = []
    for row in stored(smoothed):
        for ids, logs, tail in zip(row["soft_ids"], row["soft_logprobs"], row["log_tail"], strict=True):
            if ids:
                p, rest = np.exp(np.array(logs, np.float64)), np.exp(np.float64(tail))
                entropies.append(-(p * np.log2(p)).sum() - (rest * np.log2(rest) if rest else 0.0))
    for q in (5, 25, 50, 75, 95):
        wanted = np.percentile(entropies, q, method="inverted_cdf")
        assert found.entropy[f"q{q:02d}"] == pytest.approx(wanted, abs=0.0006)
    sure = replace(found, p_original={**found.p_original, "q05": 0.005, "q50": 0.995, "q75": 0.995, "q95": 0.995})
    text = stats_table(sure)
    assert "median > 0.99; 5 % < 0.01," in text and "95 % > 0.99" in text and "quantiles to within 0.01" in text
    assert "0.99\n" not in text.replace("> 0.99\n", "")


def test_what_the_manifest_has_is_taken_from_there(gen: Callable[..., Ran], hub_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gen("--corpus", f"{hub_folder}:single", "--out", out, "--topk", 4, "--rows-per-shard", 8).code == 0
    told = read_manifest(out).statistics
    found = gathered.figures(out)
    assert found.p_original["mean"] == told["p_original"]["mean"]
    assert {q: found.p_original[q] for q in ("q05", "q50")} == {q: told["p_original"][q] for q in ("q05", "q50")}
    assert {str(k): v for k, v in found.captured_mass.items()} == told["captured_mass"]
    assert list(found.p_original_histogram.counts) == told["p_original_bins"]
    assert found.smoothed_share == told["smoothed_tokens"] / told["tokens"]
    assert found.p_original_source == found.captured_source == gathered.MANIFEST
    assert [(s.split, s.rows) for s in found.splits] == [("train", 30), ("validation", 9)]
    part = gathered.figures(out, split="validation")
    assert (part.rows, len(part.splits), part.p_original_source) == (9, 1, gathered.ALL)
    assert sum(part.p_original_histogram.counts) < sum(told["p_original_bins"])
    assert dict(part.provenance)["licence of the corpus"] == "cc-by-4.0"
    assert dict(part.provenance)["licence of the teacher"].startswith("unknown")
    assert {"no", "yes"} <= set(dict(found.labels)) | {"unlabelled"}


def test_a_sample_is_drawn_by_its_seed_and_says_so(smoothed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "SAMPLE_TOKENS", 300)
    one, again = (gathered.figures(smoothed, seed=1) for _ in range(2))
    assert one == again and one.counted.source == gathered.SAMPLE
    assert 300 <= one.counted.tokens < one.tokens and one.counted.rows == sum(one.length_histogram.counts)
    told = " ".join(stats_table(one).split())
    assert "Figures marked * come from a sample" in told and "--all counts every row" in told
    assert len({gathered.figures(smoothed, seed=seed).counted for seed in range(8)}) > 2
    monkeypatch.setattr(gathered, "SAMPLE_SHARDS", 1)
    assert {gathered.figures(smoothed, seed=seed).counted.shards for seed in range(4)} == {1}


def test_all_rows_count_every_row_in_both_ways(smoothed: Path) -> None:
    by_sample, by_all = gathered.figures(smoothed).to_json(), gathered.figures(smoothed, all_rows=True).to_json()
    assert by_sample.pop("counted")["source"] == by_all.pop("counted")["source"] == gathered.ALL
    assert by_sample == by_all


def test_stats_prints_the_figures_as_a_table_or_json(
    smoothed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ran = stats(capsys, smoothed)
    assert ran.code == 0
    assert ran.out == stats_table(gathered.figures(smoothed)) + "\n"
    for words in (
        "p(original)",
        "captured mass",
        "entropy of the soft ids in bits",
        "tokens per row",
        "most smoothed words",
        "dataset digest: ",
    ):
        assert words in ran.out
    assert "*" not in ran.out  # all of it was read
    value = json.loads(stats(capsys, smoothed, "--json", "--split", "validation").out)
    assert value["rows"] == 60 and set(value) == set(gathered.Figures.__dataclass_fields__)
    assert value == json.loads(json.dumps(gathered.figures(smoothed, split="validation").to_json()))


@pytest.mark.parametrize("columns", [20, 40, 50, 80, 100, 300])
def test_stats_is_as_narrow_as_the_terminal(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_hostile(tmp_path / "hostile", monkeypatch, rows=120)
    monkeypatch.setenv("COLUMNS", str(columns))
    out, most = stats(capsys, dataset).out, max(40, min(columns, 100))
    assert [line for line in out.splitlines() if cell_len(line) > most and len(line.split()) > 1] == []  # a digest is never broken
    wide, narrow = (" ".join(text.split()) for text in (stats_table(gathered.figures(dataset)), out))
    sentence = wide[wide.index("entropy of the soft ids") : wide.index(" over all other tokens")]
    assert sentence in narrow and sum("█" in line for line in out.splitlines()) > 5


def test_bars_are_signs_that_the_output_can_encode(smoothed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.run(stats_command, "textsmooth stats", [str(smoothed)]) == 0
    sys.stdout.flush()
    text, bars = raw.getvalue().decode("ascii"), stats_table(gathered.figures(smoothed)).count("█")
    assert "\\u2588" not in text and text.count("#") == bars > 30 and max(map(len, text.splitlines())) <= 100


def test_what_is_counted_of_windows_is_not_said_of_rows(kinds: Kinds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = kinds["windows"][0]
    windows = sum(shard.windows or 0 for shard in read_manifest(folder).shards)
    page = report(folder, out=tmp_path / "page.html").path.read_text()
    for told in (f"Counted over all {windows} windows", "Length of windows", f"<dt>windows</dt><dd>{windows}<", "<dt>rows</dt><dd>30<"):
        assert told in page
    monkeypatch.setattr(gathered, "SAMPLE_TOKENS", 10)
    found = gathered.figures(folder)
    out = " ".join(stats_table(found).split())
    assert f"sample: {found.counted.rows} windows (" in out and "--all counts every window." in out
    assert "tokens per window" in out and "labels of windows" in out and found.counted.rows < windows


def test_sizes_are_in_units_that_say_something(smoothed: Path, tmp_path: Path) -> None:
    found = gathered.figures(smoothed)
    small = stats_table(replace(found, bytes=1234, splits=tuple(replace(part, bytes=617) for part in found.splits)))
    assert "0.6 kB\n" in small and "1.2 kB\n" in small and "MB" not in small
    assert "12.3 MB\n" in stats_table(replace(found, bytes=12_345_678))
    made = report(smoothed, sentences=1, out=tmp_path / "page.html")
    assert re.fullmatch(r"Wrote .* \(\d+\.\d kB, 1 sentence\): open it in a browser", made.summary())
    assert "1 sentence<" in made.path.read_text()


def test_a_table_too_wide_for_the_terminal_is_told_line_by_line(smoothed: Path) -> None:
    found = gathered.figures(smoothed)
    many = replace(found, splits=tuple(replace(part, split="a" * 30, tokens=10**12) for part in found.splits))
    assert f"  {'a' * 30}  " in stats_table(many) and f"\n{'a' * 30}: rows " not in stats_table(many)
    lines = stats_table(many, 50).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("a" * 30))
    assert lines[at].startswith(f"{'a' * 30}: rows ") and lines[at + 1].startswith("  ") and "tokens 1,000,000,000,000," in lines[at + 1]
    assert all(len(line) <= 50 for line in lines[at : at + 4])


def test_what_cannot_be_told_is_told_in_one_line(smoothed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code, words, *args in ((2, "no split 'test'", smoothed, "--split", "test"), (2, "no such folder", tmp_path / "none")):
        ran = stats(capsys, *args)
        assert (ran.code, ran.out) == (code, "") and words in ran.err and len(ran.err.splitlines()) == 1


def test_a_corpus_cannot_steer_the_terminal_or_break_the_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stats(capsys, make_hostile(tmp_path / "hostile", monkeypatch, rows=120)).out
    assert not [char for char in out if not char.isprintable() and char != "\n"]
    table = out[out.index("most smoothed") : out.index("corpus:")].splitlines()[1:-1]
    at = table[0].index("replacements")
    assert len(table) > 8 and any(HOSTILE[11] in line for line in table)
    for line in table:
        cut = next(n for n in range(len(line) + 1) if cell_len(line[:n]) >= at - 2)
        assert line[cut : cut + 2] == "  ", line


@pytest.mark.parametrize("kind", ["value", None])
def test_labels_of_other_kinds(kind: str | None, kit: ModuleType, tmp_path: Path) -> None:
    found = gathered.figures(kit.small_dataset(tmp_path / "d", label_kind=kind))
    assert found.labels == ((("with a value", 360), ("unlabelled", 0)) if kind else ())


LARGE = (1234567, 1234568, 1234569, 2**53, 2**53 + 1)


def test_large_whole_numbers_are_told_as_they_are(gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "a dog", "label": label} for label in LARGE])
    assert gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2).code == 0
    for row, label in enumerate(LARGE):
        assert read_row(tmp_path / "out", row).label == str(label)
    assert dict(gathered.figures(tmp_path / "out").labels) == {str(label): 1 for label in LARGE}


def test_classes_that_look_the_same_are_told_apart(kit: ModuleType, tmp_path: Path) -> None:
    names = ("", "a\x1b", "a\\x1b", "unlabelled")
    block = kit.random_rows(1, 7).block
    kit.write_dataset(tmp_path / "d", {"train": [replace(block, label=np.array([0, 0, 1, 1, 2, 3, -1]))]}, label_names=names)
    assert gathered.figures(tmp_path / "d").to_json()["labels"] == {
        "''": 2,
        "a\\x1b": 2,
        "a\\x1b (class 2)": 1,
        "unlabelled (class 3)": 1,
        "unlabelled": 1,
    }
    assert read_row(tmp_path / "d", 0).label == "''"


def test_a_dataset_without_words_has_figures(bare_dataset: Path) -> None:
    found = gathered.figures(bare_dataset)
    assert found.words == () and found.rows == 2 and stats_table(found)


def test_where_no_token_is_smoothed_there_are_no_figures_of_them(
    bare_dataset: Path, smoothed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = stats(capsys, bare_dataset)
    assert "no token is smoothed" in printed.out and "mean 0.00" not in printed.out and "< 0.01" not in printed.out
    told = json.loads(stats(capsys, bare_dataset, "--json").out)
    assert told["p_original"] is told["captured_mass"] is told["entropy"] is None and told["length"]["max"] == 2
    page = report(bare_dataset, out=tmp_path / "page.html").path.read_text()
    assert "No token is smoothed" in page and "with 0.0%" not in page and "mean p(original)" not in page
    found = diff(smoothed, bare_dataset, rows=0)
    assert "no token of B is smoothed" in found.summary() and "no token of A" not in found.summary()
    assert {c.b for c in found.numbers if c.what.startswith(("captured mass", "p(original)", "entries per"))} == {None}


def test_a_sample_without_smoothed_tokens_says_so(smoothed: Path) -> None:
    found = replace(gathered.figures(smoothed), entropy={})
    assert "no counted token is smoothed" in stats_table(found) and "p(original): the probability" in stats_table(found)


@pytest.fixture
def bare_dataset(gen: Callable[..., Ran], tmp_path: Path) -> Path:
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n{"text": " "}\n')
    assert gen("--corpus", tmp_path / "c.jsonl", "--out", tmp_path / "out", "--topk", 2).code == 0
    return tmp_path / "out"
