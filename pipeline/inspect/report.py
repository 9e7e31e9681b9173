"""Write one self-contained HTML page about a dataset: `textsmooth report`. The page works offline and loads nothing.

The templates lie in pipeline/page and escape every value; charts are computed in report_charts.py, sentences in report_rows.py.
"""

import base64
import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from textsmooth.pipeline.formatting import counted, size
from textsmooth.pipeline.inspect.report_charts import Chart, captured_mass_chart, histogram_chart
from textsmooth.pipeline.inspect.report_rows import Sentence, Sentences, choose_sentences
from textsmooth.pipeline.inspect.stats import MANIFEST, SAMPLE, Figures, figures
from textsmooth.pipeline.inspect.token_counts import quantile_text
from textsmooth.pipeline.inspect.token_text import TokenNames, open_tokenizer
from textsmooth.schemas.errors import ConflictError, StorageError, UsageError
from textsmooth.schemas.printable import printable
from textsmooth.schemas.version import VERSION
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.storage.atomic import put
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder

PAGE = "report.html"
MOST_SENTENCES = 2000
LEVELS = (0.02, 0.08, 0.2, 0.35, 0.6)  # lowest weight on other tokens of each shade
LAM = 0.5  # when the page opens
GENERATOR = "textsmooth"
HEAD_BYTES = 4096  # the generator is named within these


@dataclass(frozen=True, kw_only=True)
class Reported:
    """The page that `report` wrote."""

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
    """Write a page about the dataset at a path or URI: sentences with their alternatives, figures, provenance.

    out: the file; an earlier report there is replaced. sentences: number of rows to show, 0 to MOST_SENTENCES, drawn with the seed.
    split, all_rows, progress: see `figures`.
    Raises UsageError for bad arguments or an `out` in the dataset, ConflictError if `out` is any other file, DatasetError, StorageError.
    """
    if not isinstance(sentences, int) or not 0 <= sentences <= MOST_SENTENCES:
        raise UsageError(f"sentences {sentences!r}: a whole number from 0 to {MOST_SENTENCES} is needed")
    path = Path(out).expanduser()
    folder = open_folder(dataset, reading=True)
    _check_out(path, folder)
    stats = figures(dataset, split=split, all_rows=all_rows, seed=seed, progress=progress)
    manifest = read_manifest(folder)
    splits = [SmoothedDataset(dataset, name) for name in ([split] if split else manifest.splits)]
    chosen = choose_sentences(splits, TokenNames(open_tokenizer(folder, manifest)), count=sentences, seed=seed)
    html = page(stats, chosen, corpus=str(manifest.corpus["name"]), teacher=str(manifest.teacher["name"]))
    data = html.encode("utf-8", "backslashreplace")
    try:
        put(path, data)
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(f"cannot write {path}: {cause.strerror}; free some space, or give another --out") from error
    return Reported(path=path, bytes=len(data), sentences=len(chosen.sentences), figures=stats)


def _check_out(path: Path, folder: Folder) -> None:
    if isinstance(folder, LocalFolder) and path.resolve().is_relative_to(folder.path.resolve()):
        raise UsageError(f"{path} is inside the dataset, which must not change; give another --out")
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; --out must be a file")
        if path.exists() and not _is_page(path):
            raise ConflictError(f"{path} exists and is not a textsmooth report; give another --out")
    except OSError as error:
        raise StorageError(f"cannot use {path}: {error.strerror}; choose another --out") from None


def _is_page(path: Path) -> bool:
    if not path.is_file():  # a device may have no end
        return False
    with path.open("rb") as file:
        return f'name="generator" content="{GENERATOR}'.encode() in file.read(HEAD_BYTES)


def page(stats: Figures, chosen: Sentences, *, corpus: str, teacher: str) -> str:
    """The whole page, a pure function of its arguments."""
    style, script = _asset("report.css"), _asset("report.js")
    none = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        policy=f"{none}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'",
        generator=f"{GENERATOR} {VERSION}",
        style=Markup(style),
        script=Markup(script),
        corpus=printable(corpus),
        teacher=printable(teacher),
        stats=stats,
        tiles=list(_tiles(stats)),
        lam=LAM,
        temperatures=chosen.temperatures,
        hidden_temperatures=", ".join(f"{t:g}" for t in chosen.stored if t not in chosen.temperatures),
        legend=list(_legend()),
        shown=counted(len(chosen.sentences), "sentence"),
        sentences=[_sentence(sentence, chosen.temperatures.index(1.0)) for sentence in chosen.sentences],
        counted_over=_counted_over(stats),
        charts=list(_charts(stats)),
        data=embedded(_payload(chosen)),
    )


def embedded(value: Any) -> Markup:
    """JSON for a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029]", lambda char: f"\\u{ord(char[0]):04x}", text))


def _asset(name: str) -> str:
    return (files("textsmooth.pipeline") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _payload(chosen: Sentences) -> dict[str, Any]:
    rows = [[data if data is not None else 0 for _, _, data in sentence.tokens] for sentence in chosen.sentences]
    return {"names": chosen.names, "levels": LEVELS, "temperatures": chosen.temperatures, "sentences": rows}


def _tiles(stats: Figures) -> Iterator[tuple[str, str]]:
    yield "rows", f"{stats.rows:,}"
    if stats.cut:
        yield "windows", f"{sum(part.windows or 0 for part in stats.splits):,}"
    yield "tokens", f"{stats.tokens:,}"
    if stats.p_original:
        yield "mean p(original)", f"{stats.p_original['mean']:.3f}"
    else:
        yield "smoothed tokens", "none"
    for temperature, masses in _captured(stats):
        at = "" if temperature == 1.0 else f", temperature\u00a0{temperature:g}"
        yield f"captured mass, k\u00a0=\u00a0{max(masses)}{at}", f"{masses[max(masses)]:.3f}"
    yield "bytes per token", f"{stats.bytes_per_token:,.0f}"
    yield "size", size(stats.bytes)


def _captured(stats: Figures) -> list[tuple[float, dict[int, float]]]:
    """The captured mass at each stored temperature, if any token is smoothed."""
    return sorted({1.0: stats.captured_mass, **stats.captured_mass_by_temperature}.items()) if stats.captured_mass else []


def _legend() -> Iterator[str]:
    """The range of each shade, the lightest first."""
    edges = [f"{100 * edge:g}" for edge in (0, *LEVELS)]
    yield from (f"{low}–{high} %" for low, high in pairwise(edges))
    yield f"over {edges[-1]} %"


def _sentence(sentence: Sentence, at: int) -> dict[str, Any]:
    """A sentence for the template. at: index of temperature 1, with which the page opens."""
    cut = len(sentence.tokens) < sentence.length
    first = f" · first {len(sentence.tokens)} of {sentence.length:,} tokens" if cut else ""
    window = f", window {sentence.window}" if sentence.window is not None else ""
    label = f" · {sentence.label}" if sentence.label is not None else ""
    return {
        "where": f"{sentence.split} row {sentence.row}{window}{label}{first}",
        "tokens": [
            (" " if space and n else "", text, None if data is None else _shade(data, at))
            for n, (space, text, data) in enumerate(sentence.tokens)
        ],
        "rest": " …" if cut else "",
    }


def _shade(data: list[Any], at: int) -> int:
    """The number of the shade of a token at LAM."""
    own, _, probs, entries = data
    p = probs[at][entries.index(own)] if own in entries else 0.0
    return sum(LAM - LAM * p >= least for least in LEVELS)


def _counted_over(stats: Figures) -> str:
    c, what = stats.counted, "windows" if stats.cut else "rows"
    if c.source != SAMPLE:
        return f"Counted over all {c.rows:,} {what} ({c.tokens:,} tokens)."
    exact = " p(original) and captured mass cover every token." if stats.p_original_source == MANIFEST else ""
    return f"From a sample of {c.rows:,} {what} ({c.tokens:,} tokens; {c.shards:,} of {c.of_shards:,} shards, seed {c.seed}).{exact}"


def _charts(stats: Figures) -> Iterator[Chart]:
    p, e, n = stats.p_original, stats.entropy, stats.length
    if p:
        note = f"mean {p['mean']:.3f}, median {quantile_text(p['q50'])}, 5 % quantile {quantile_text(p['q05'])}"
        title = "Probability of the original token"
        yield histogram_chart("p", title, stats.p_original_histogram, x_title="p(original)", what="tokens", note=note)
    for number, (temperature, masses) in enumerate(_captured(stats)):
        at = f" at temperature {temperature:g}" if stats.captured_mass_by_temperature else ""
        title = f"Captured mass of the top k entries{at}"
        yield captured_mass_chart(f"k{number or ''}", title, masses, note="mean over the smoothed tokens")
    if e:
        note = (
            f"mean {e['mean']:.2f} bits with the tail as one entry, {e['mean_most']:.2f} bits with it spread evenly over all other tokens"
        )
        title, x_title = "Entropy of the soft ids", "entropy (bits)"
        yield histogram_chart("e", title, stats.entropy_histogram, x_title=x_title, what="tokens", note=note, edge_format="{:.1f}")
    if n:
        note = f"mean {n['mean']:,.1f}, median {n['q50']:,}, maximum {n['max']:,}; special tokens included"
        what, x_title = "windows" if stats.cut else "rows", "length (tokens)"
        title = f"Length of {what}"
        yield histogram_chart("l", title, stats.length_histogram, x_title=x_title, what=what, note=note, edge_format="{:,.0f}")
