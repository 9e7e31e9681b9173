"""The HTML report without a browser: well-formed, safe, loads nothing, right numbers, legible in both themes."""

import base64
import errno
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers_gen import Ran
from helpers_report import HOSTILE, make_hostile
from s3_server import S3

from textsmooth.pipeline.cli import app as cli
from textsmooth.pipeline.cli.stats import report as report_command
from textsmooth.pipeline.inspect.report import LAM, LEVELS, embedded, report
from textsmooth.pipeline.inspect.report_charts import nice_ticks
from textsmooth.schemas.errors import ConflictError, StorageError, UsageError
from textsmooth.schemas.printable import printable
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset

VOID = {"meta", "input", "br", "img", "link", "hr"}
SHOWS_ITSELF = ("line", "rect", "circle", "polyline")


class Page(HTMLParser):
    """A page taken apart: every element must be closed by its own tag, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.declared: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), attrs
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHOWS_ITSELF
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def handle_decl(self, decl: str) -> None:
        self.declared.append(decl)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]


@pytest.fixture(scope="module")
def text(smoothed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = report(smoothed, out=tmp_path_factory.mktemp("report") / "page.html", sentences=30)
    assert made.sentences == 30 and made.path.stat().st_size == made.bytes
    return made.path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def hostile_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        folder = make_hostile(tmp_path_factory.mktemp("hostile") / "d", patch, rows=120)
    return report(folder, out=folder.parent / "page.html", sentences=120).path.read_text(encoding="utf-8")


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    value: dict[str, Any] = json.loads(found)
    return value


def test_the_page_is_well_formed_and_says_what_it_is(page: Page) -> None:
    assert page.declared == ["DOCTYPE html"]
    assert page.texts["title"][0] == "synthetic, smoothed by tiny"
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_all_that_is_referred_to_is_there(page: Page, text: str) -> None:
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for", "list"):
            assert set(attributes.get(name, "").split()) <= ids
    assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= ids
    labelled = {attributes["for"] for attributes in page.all("label")}
    assert {a["id"] for tag in ("input", "select") for a in page.all(tag)} <= labelled


def test_the_page_loads_nothing(page: Page, text: str) -> None:
    (policy,) = (a["content"] for a in page.all("meta", **{"http-equiv": "Content-Security-Policy"}))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|XMLHttp|import\(|url\(|@import", inside
        )
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object", "embed", "audio", "video", "base", "use")]
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "style", "action", "xlink:href", "poster"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    assert "http" not in text.replace("http-equiv", "")


def test_the_numbers_are_what_a_student_reads(text: str, smoothed: Path, kit: ModuleType) -> None:
    data = data_of(text)
    assert data["temperatures"] == [0.5, 1, 2]
    number = kit.make_tokenizer().get_vocab()
    ids = [number[name] for name in data["names"]]
    places = re.findall(r'<li data-n="(\d+)"><p class="where">(\w+) row (\d+)', text)
    assert [int(n) for n, _, _ in places] == list(range(30)) and {split for _, split, _ in places} == {"train", "validation"}
    for (_, split, row), tokens in zip(places, data["sentences"], strict=True):
        dataset = SmoothedDataset(smoothed, split)
        block = dataset[int(row)]
        assert len(tokens) == len(block.input_ids)
        for at, temperature in enumerate(data["temperatures"]):
            how = Smoothing(lam=0.3, temperature=temperature)
            bag = SmoothedCollator(pad_id=0, smoothing=how, temperatures=dataset.temperatures)(block).soft
            ends = bag.offsets.numpy()
            for n, token in enumerate(tokens):
                weights = np.zeros(60)
                np.add.at(weights, bag.ids[ends[n] : ends[n + 1]].numpy(), bag.weights[ends[n] : ends[n + 1]].numpy())
                if token == 0:
                    assert weights[block.input_ids[n]] == 1
                    continue
                own, originals, p, entries = token
                assert ids[own] == block.input_ids[n]
                for entry, value in zip(entries, p[at], strict=True):
                    assert 0.3 * value + 0.7 * (entry == own) == pytest.approx(weights[ids[entry]], abs=5e-5)
                if own not in entries:
                    assert weights[ids[own]] == pytest.approx(0.7) and originals[at] < 0.2
                elif at == 1:
                    assert originals[at] == pytest.approx(np.exp(float(block.soft.original_logprob[n])), abs=1e-3)


def test_the_shades_as_the_page_opens_are_those_of_lam(page: Page, text: str) -> None:
    data = data_of(text)
    tokens = [(int(a["data-n"]), a["class"]) for a in page.all("span", role="button")]
    expected = []
    for sentence in data["sentences"]:
        for n, token in enumerate(sentence):
            if token:
                own, _, p, entries = token
                kept = 1 - LAM + (LAM * p[1][entries.index(own)] if own in entries else 0)
                expected.append((n, f"t s{sum(1 - kept >= least - 1e-12 for least in LEVELS)}"))
    assert tokens == expected


def test_charts_have_titles_descriptions_units_and_tables(page: Page, text: str) -> None:
    charts = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    by_temperature = ["k, entries kept per token"] * 3  # 0.5, 1 and 2 are stored
    for chart, unit in zip(charts, ("p(original)", *by_temperature, "entropy (bits)", "length (tokens)"), strict=True):
        inside = Page(chart)
        (svg,) = inside.all("svg")
        assert svg["role"] == "img" and len(svg["aria-labelledby"].split()) == 2
        assert len(inside.texts["desc"][0]) > 30 and unit in inside.texts["text"]
        rows = len(inside.all("tr")) - 1
        marks = [a for tag in ("rect", "circle") for a in inside.all(tag)]
        assert 0 < len(marks) <= rows and all(float(v) >= 0 for a in marks for k, v in a.items() if k != "class")
    assert len(page.all("option")) == 3 + 3


def test_a_corpus_stays_text(hostile_text: str) -> None:
    page = Page(hostile_text)
    assert len(page.all("script")) == 2 and not page.all("img")
    assert hostile_text.count("<script") == hostile_text.count("</script") == 2 and "<!--" not in hostile_text
    data = data_of(hostile_text)
    shown = {printable(word) for word in HOSTILE}
    assert shown <= set(data["names"])
    assert shown <= set(page.texts["span"])
    assert page.texts["title"][0] == f"{printable(f'{HOSTILE[0]} {HOSTILE[8]} {HOSTILE[6]}')}, smoothed by tiny"
    assert any(HOSTILE[4] in text for text in page.texts["dd"])
    assert not [char for char in hostile_text if not char.isprintable() and char not in "\n\xa0"]
    assert "{{data}}" in page.texts["span"]


def test_embedded_json_ends_no_element_and_reads_back() -> None:
    value = {"a": ["</script><!--<script>", "\u2028\u2029", "]]>&amp;", '"\\'], "ü": "日本"}
    text = embedded(value)
    assert not re.search("[<>&\u2028\u2029]", text) and "日本" in text
    assert json.loads(text) == value


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_wcag_aa(theme: int) -> None:
    style = (files("textsmooth.pipeline") / "page" / "report.css").read_text()
    colour = {name: both.split(", ")[theme] for name, both in re.findall(r"--(\w+): light-dark\((.*?)\);", style)}

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(colour[one]), luminance(colour[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for ground in ("ground", "card"):
        for ink in ("ink", "quiet", "accent"):
            assert contrast(ink, ground) >= 4.5, (ink, ground)
        for mark in ("chart", "mark", "edge"):
            assert contrast(mark, ground) >= 3, (mark, ground)
    for level in range(1, 6):
        assert contrast("ink", f"s{level}") >= 4.5, level
    assert contrast("chart", "rule") >= 2 and contrast("mark", "rule") >= 2


def test_the_same_dataset_makes_the_same_page(smoothed: Path, tmp_path: Path, text: str) -> None:
    again = report(smoothed, out=tmp_path / "page.html", sentences=30)
    assert again.path.read_text(encoding="utf-8") == text
    other = report(smoothed, out=tmp_path / "page.html", sentences=30, seed=1)  # an earlier report is replaced
    assert other.path.read_text(encoding="utf-8") != text


def test_a_hundred_long_sentences_stay_under_2_mb(kit: ModuleType, tmp_path: Path) -> None:
    block = kit.random_rows(2, 110, longest=300).block
    made = report(kit.write_dataset(tmp_path / "d", {"train": [block]}), out=tmp_path / "page.html")
    assert made.sentences == 100 and made.bytes < 2e6
    assert re.search(r"first 80 of \d+ tokens", made.path.read_text())


def test_other_files_and_the_dataset_are_not_written(smoothed: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(ConflictError, match="/dev/zero exists and is not a textsmooth report"):  # a file without end
        report(smoothed, out="/dev/zero")
    with pytest.raises(ConflictError, match="exists and is not a textsmooth report"):
        report(smoothed, out=mine)
    assert mine.read_text() == "<p>mine</p>"
    with pytest.raises(UsageError, match="is inside the dataset"):
        report(smoothed, out=smoothed / "report.html")
    with pytest.raises(UsageError, match="is a folder"):
        report(smoothed, out=tmp_path)


def run(capsys: pytest.CaptureFixture[str], *args: object) -> Ran:
    capsys.readouterr()
    code = cli.run(report_command, "textsmooth report", [str(a) for a in args])
    return Ran(code, *capsys.readouterr())


def test_the_command_writes_a_page(
    smoothed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(capsys, smoothed, "--sentences", 3)
    size = (tmp_path / "report.html").stat().st_size
    assert (ran.code, ran.out) == (0, f"Wrote report.html ({size / 1e3:.1f} kB, 3 sentences): open it in a browser\n")
    none = run(capsys, tmp_path / "none")
    assert (none.code, none.out) == (2, "") and len(none.err.splitlines()) == 1


def test_a_dataset_in_a_store_makes_the_same_page(smoothed: Path, bucket: str, s3: S3, tmp_path: Path, text: str) -> None:
    made = report(s3.upload(smoothed, f"{bucket}/d"), out=tmp_path / "page.html", sentences=30)
    assert made.path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("top", "ticks"), [(41.3, [0, 10, 20, 30, 40, 50]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.013, [0, 0.005, 0.01, 0.015])]
)
def test_ticks_are_round_and_reach_the_top(top: float, ticks: list[float]) -> None:
    assert nice_ticks(top) == pytest.approx(ticks)


@pytest.mark.parametrize("sentences", [-1, 2.5, "3", 2001])
def test_a_number_of_sentences_that_cannot_be_is_refused(sentences: Any, smoothed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"sentences {sentences!r}: a whole number from 0 to 2000 is needed"):
        report(smoothed, out=tmp_path / "page.html", sentences=sentences)
    assert not (tmp_path / "page.html").exists()


def test_a_full_disk_is_told_in_words_that_fit_a_page(smoothed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"page\.html: No space left on device; free some space, or give another --out$"):
        report(smoothed, out=tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
