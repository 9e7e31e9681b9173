"""`textsmooth report`: one HTML page about a dataset, with all it needs inside. It works from a file and loads nothing."""

import base64
import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from textsmooth.pipeline.formatting import counted, size
from textsmooth.pipeline.inspect import report_charts as charts
from textsmooth.pipeline.inspect.report_rows import Sentence, Sentences, choose_sentences
from textsmooth.pipeline.inspect.stats import MANIFEST, SAMPLE, Figures, figures
from textsmooth.pipeline.inspect.token_counts import told_p
from textsmooth.pipeline.inspect.token_text import TokenNames, open_tokenizer
from textsmooth.schemas.errors import ConflictError, StorageError, UsageError
from textsmooth.schemas.printable import printable
from textsmooth.schemas.version import VERSION
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.storage.atomic import put
from textsmooth.stages.storage.local import LocalFolder

PAGE = "report.html"
MOST_SENTENCES = 2000
LEVELS = (0.02, 0.08, 0.2, 0.35, 0.6)  # weight of other tokens from which on each shade is used
LAM = 0.5  # as the page opens
GENERATOR = "textsmooth"
HEAD_BYTES = 4096  # in which a page says what made it


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A page that was written."""

    path: Path
    bytes: int
    sentences: int
    figures: Figures

    def summary(self) -> str:
        return f"Wrote {self.path} ({size(self.bytes)}, {counted(self.sentences, 'sentence')}): open it in a browser"

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "bytes": self.bytes, "sentences": self.sentences, "figures": self.figures.to_json()}


def report(
    dataset: Path | str,
    *,
    out: Path | str = PAGE,
    sentences: int = 100,
    split: str | None = None,
    all_rows: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Reported:
    """Write a page about a dataset at a path or URI: sentences with their alternatives, figures, provenance.

    out: a file; one that is there is replaced if it is such a page, ConflictError if it is anything else.
    sentences: how many rows, 0 to MOST_SENTENCES, drawn by the seed. split, all_rows, progress: as `figures` has them.
    DatasetError or UsageError if it is no dataset; UsageError to write into it; StorageError.
    """
    if not isinstance(sentences, int) or not 0 <= sentences <= MOST_SENTENCES:
        raise UsageError(f"sentences {sentences!r}: a whole number from 0 to {MOST_SENTENCES} is needed")
    path = Path(out).expanduser()
    _check_out(path, dataset)
    told = figures(dataset, split=split, all_rows=all_rows, seed=seed, progress=progress)
    folder = open_folder(dataset, reading=True)
    manifest = read_manifest(folder)
    parts = [SmoothedDataset(dataset, name) for name in ([split] if split else manifest.splits)]
    chosen = choose_sentences(parts, TokenNames(open_tokenizer(folder, manifest)), count=sentences, seed=seed)
    data = page(told, chosen, corpus=str(manifest.corpus["name"]), teacher=str(manifest.teacher["name"])).encode(
        "utf-8", "backslashreplace"
    )
    try:
        put(path, data)
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(f"cannot write {path}: {cause.strerror}; make room, or give another --out") from error
    return Reported(path=path, bytes=len(data), sentences=len(chosen.sentences), figures=told)


def _check_out(path: Path, dataset: Path | str) -> None:
    folder = open_folder(dataset, reading=True)
    if isinstance(folder, LocalFolder) and path.resolve().is_relative_to(folder.path.resolve()):
        raise UsageError(f"{path} is inside the dataset, which is never written again; give another --out")
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, --out must be a file")
        if path.exists() and not _is_page(path):
            raise ConflictError(f"{path} is there and no report of textsmooth; give another --out")
    except OSError as error:
        raise StorageError(f"cannot use {path}: {error.strerror}; choose another --out") from None


def _is_page(path: Path) -> bool:
    if not path.is_file():  # a device may have no end
        return False
    with path.open("rb") as file:
        return f'name="generator" content="{GENERATOR}'.encode() in file.read(HEAD_BYTES)


def page(told: Figures, chosen: Sentences, *, corpus: str, teacher: str) -> str:
    """The whole page: a pure function of its arguments. All texts are escaped here."""
    style, script = _asset("report.css"), _asset("report.js")
    none = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    policy = f"{none}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    corpus, teacher = escape(printable(corpus)), escape(printable(teacher))
    parts = {
        "policy": escape(policy, quote=False),
        "generator": f"{GENERATOR} {VERSION}",
        "title": f"{corpus}, smoothed by {teacher}",
        "style": style,
        "script": script,
        "corpus": corpus,
        "teacher": teacher,
        "tiles": "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in _tiles(told)),
        "temperatures": "".join(f"<option{' selected' if t == 1 else ''}>{t:g}</option>" for t in chosen.temperatures),
        "legend": "".join(_legend()),
        "shown": counted(len(chosen.sentences), "sentence"),
        "sentences": "\n".join(_item(n, sentence, chosen) for n, sentence in enumerate(chosen.sentences)),
        "note": escape(_note(chosen)),
        "counted": escape(_counted(told)),
        "charts": "\n".join(_charts(told)),
        "words": _words(told),
        "provenance": "".join(_provenance(told)),
        "data": embedded(_payload(chosen)),
    }
    # in one pass: what is put in may hold braces of its own
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("report.html"))


def embedded(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _asset(name: str) -> str:
    return (files("textsmooth.pipeline") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _payload(chosen: Sentences) -> dict[str, Any]:
    rows = [[data if data is not None else 0 for _, _, data in sentence.tokens] for sentence in chosen.sentences]
    return {"names": chosen.names, "levels": LEVELS, "temperatures": chosen.temperatures, "sentences": rows}


def _tiles(told: Figures) -> Iterator[tuple[str, str]]:
    yield "rows", f"{told.rows:,}"
    if told.cut:
        yield "windows", f"{sum(part.windows or 0 for part in told.splits):,}"
    yield "tokens", f"{told.tokens:,}"
    if told.p_original:
        yield "mean p(original)", f"{told.p_original['mean']:.3f}"
    else:
        yield "smoothed tokens", "none"
    for k, mass in sorted(told.captured_mass.items())[-1:]:
        yield f"captured mass, k\u00a0=\u00a0{k}", f"{mass:.3f}"
    yield "bytes per token", f"{told.bytes_per_token:,.0f}"
    yield "size", size(told.bytes)


def _legend() -> Iterator[str]:
    edges = (0, *LEVELS)
    for level, least in enumerate(edges):
        most = f"{100 * edges[level + 1]:g}" if level + 1 < len(edges) else ""
        yield f'<span><span class="t s{level}">{f"{100 * least:g}–{most} %" if most else f"over {100 * least:g} %"}</span></span>'


def _level(data: list[Any], at: int) -> int:
    """The shade of a token as the page opens."""
    own, _, probs, entries = data
    p = probs[at][entries.index(own)] if own in entries else 0.0
    return sum(LAM - LAM * p >= least for least in LEVELS)


def _item(number: int, sentence: Sentence, chosen: Sentences) -> str:
    at = chosen.temperatures.index(1.0)
    words = []
    for n, (space, text, data) in enumerate(sentence.tokens):
        gap = " " if space and n else ""
        if data is None:
            words.append(f'{gap}<span class="plain">{escape(text)}</span>')
        else:
            words.append(f'{gap}<span class="t s{_level(data, at)}" role="button" tabindex="-1" data-n="{n}">{escape(text)}</span>')
    left = f" · first {len(sentence.tokens)} of {sentence.length:,} tokens" if len(sentence.tokens) < sentence.length else ""
    window = f", window {sentence.window}" if sentence.window is not None else ""
    label = f" · {sentence.label}" if sentence.label is not None else ""
    where = escape(f"{sentence.split} row {sentence.row}{window}{label}{left}")
    text = "".join(words) + (" …" if left else "")
    return f'<li data-n="{number}"><p class="where">{where}</p><p class="s" dir="auto" translate="no">{text}</p></li>'


def _note(chosen: Sentences) -> str:
    left = [t for t in chosen.stored if t not in chosen.temperatures]
    more = f" Temperatures that the dataset stores but this page leaves out: {', '.join(f'{t:g}' for t in left)}." if left else ""
    return (
        "Teacher: p at the temperature, under the full softmax. Student: the weight it reads. “All others” is the rest of the vocabulary: "
        "entries that are not listed here, and the tail, which a student reads as the mean embedding unless --tail says otherwise. "
        f"Temperatures are those that the dataset stores, so all of this is exact to the digits shown.{more}"
    )


def _counted(told: Figures) -> str:
    c, what = told.counted, "windows" if told.cut else "rows"
    if c.source != SAMPLE:
        return f"Counted over all {c.rows:,} {what} ({c.tokens:,} tokens)."
    exact = " p(original) and captured mass are of every token." if told.p_original_source == MANIFEST else ""
    return f"From a sample of {c.rows:,} {what} ({c.tokens:,} tokens; {c.shards:,} of {c.of_shards:,} shards, seed {c.seed}).{exact}"


def _charts(told: Figures) -> Iterator[str]:
    p, e, n = told.p_original, told.entropy, told.length
    if p:
        note = f"mean {p['mean']:.3f}, median {told_p(p['q50'])}, 5 % quantile {told_p(p['q05'])}"
        title = "How sure the teacher is of the token that is there"
        yield charts.histogram("p", title, told.p_original_histogram, x="p(original)", what="tokens", note=note)
    else:
        yield '<p class="lead">No token is smoothed: there is no p(original), captured mass or entropy.</p>'
    if told.captured_mass:
        yield charts.captured("k", "What k entries hold of the distribution", told.captured_mass, note="mean over the smoothed tokens")
    if e:
        note = f"the tail as one entry: mean {e['mean']:.2f} bits; spread evenly over all other tokens: {e['mean_most']:.2f} bits"
        title = "Entropy of the soft ids"
        yield charts.histogram("e", title, told.entropy_histogram, x="entropy (bits)", what="tokens", note=note, form="{:.1f}")
    if n:
        note = f"mean {n['mean']:,.1f}, median {n['q50']:,}, longest {n['max']:,}; special tokens included"
        what = "windows" if told.cut else "rows"
        title = f"Length of {what}"
        yield charts.histogram("l", title, told.length_histogram, x="length (tokens)", what=what, note=note, form="{:,.0f}")


def _words(told: Figures) -> str:
    if not told.words:
        return f'<p class="lead">No word occurs {told.words_at_least} times.</p>'
    rows = []
    for word in told.words:
        instead = "".join(f"<span><b>{escape(name)}</b> {p:.3f}</span>" for name, p in word.replacements)
        rows.append(
            f'<tr><th scope="row">{escape(word.word)}</th><td class="n">{word.count:,}</td><td class="n">{word.p_original:.3f}</td>'
            f'<td><div class="instead">{instead}</div></td></tr>'
        )
    heads = (
        '<th scope="col">word</th><th scope="col" class="n">seen</th><th scope="col" class="n">p(original)</th><th scope="col">instead</th>'
    )
    lead = (
        f"Whole words that the teacher least expects where they stand, of those seen at least {told.words_at_least:,} times, and the mean "
    )
    return (
        f'<p class="lead">{lead}probability of what it puts in their place.</p>'
        f'<table class="data"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _provenance(told: Figures) -> Iterator[str]:
    for name, value in told.provenance:
        digest = ' class="digest"' if name.endswith("digest") else ""
        yield f"<div><dt>{escape(name)}</dt><dd{digest}>{escape(value)}</dd></div>"
