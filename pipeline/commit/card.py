"""The dataset card: README.md of a smoothed dataset, made from its manifest alone. What it says in its YAML head: card_head.py.

Names and licences come from strangers' files: none of them can break a table, or put HTML or YAML into the card.
"""

import html
import re
from collections.abc import Iterable, Iterator
from typing import Any

from textsmooth.pipeline.commit.card_yaml import head, hub_page, license_texts, licenses, line
from textsmooth.pipeline.formatting import size
from textsmooth.schemas.codecs import parse_codec
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.manifest import QUARANTINE, Manifest
from textsmooth.stages.soft_ids.statistics import captured_by_temperature

PLACE = "path/to/dataset"  # stands in the snippets for a folder, or a name on the Hub
BAR = 40  # characters of the longest bar
PAPERS = """@misc{wu2020distilling,
  title = {Distilling Knowledge from Pre-trained Language Models via Text Smoothing},
  author = {Wu, Xing and Liu, Yibing and Zhou, Xiangyang and Yu, Dianhai},
  year = {2020},
  eprint = {2005.03848},
  archivePrefix = {arXiv}
}

@inproceedings{wu2022textsmoothing,
  title = {Text Smoothing: Enhance Various Data Augmentation Methods on Text Classification Tasks},
  author = {Wu, Xing and Gao, Chaochen and Lin, Meng and Zang, Liangjun and Hu, Songlin},
  booktitle = {Proceedings of the 60th Annual Meeting of the Association for Computational Linguistics (Volume 2: Short Papers)},
  year = {2022},
  pages = {871--875},
  doi = {10.18653/v1/2022.acl-short.97},
  eprint = {2202.13840},
  archivePrefix = {arXiv}
}"""


def card(manifest: Manifest) -> str:
    """Markdown text with a YAML head: a pure function of the manifest. Its `files`, `created` and `digest` play no part."""
    import yaml

    title = f"{manifest.corpus['name']}, smoothed by {manifest.teacher['name']}"
    parts = [
        f"---\n{yaml.safe_dump(head(manifest, title), sort_keys=False, allow_unicode=True, width=1_000_000)}---",
        f"# {escaped(title)}",
        "A *smoothed dataset*: for every token the top of the distribution that a masked language model, the teacher, gives over its "
        "vocabulary\n(soft ids), so that students can be distilled without the teacher. Made by textsmooth; the method is Text Smoothing "
        "([arXiv\n2005.03848](https://arxiv.org/abs/2005.03848), [2202.13840](https://arxiv.org/abs/2202.13840)).",
        *_warnings(manifest),
        _table(("split", "rows", "tokens", "shards", "size"), _splits(manifest), right=True),
        "## What was done",
        _table(("", ""), _facts(manifest)),
        *_sources(manifest),
        *_figures(manifest),
        *_loading(manifest),
        "## Citation",
        f"```bibtex\n{PAPERS}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: object) -> str:
    """A text on one line that Markdown and HTML take as it is, also in a table."""
    return re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", html.escape(line(text), quote=False))


def code(text: object) -> str:
    """A name in a code span; as plain text if it could end one."""
    return f"`{line(text)}`" if re.fullmatch(r"[\w .,:;=+/@()*-]+", line(text)) else escaped(text)


def _table(names: tuple[str, ...], rows: Iterator[tuple[str, ...]], *, right: bool = False) -> str:
    rule = ("---", *("---:" if right else "---" for _ in names[1:]))
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (names, rule, *rows))


def _warnings(manifest: Manifest) -> Iterator[str]:
    """What a reader must know before anything else."""
    readable = "The rows' text can be read back from the tokens: check"
    lines = []
    if not all(license_texts(manifest)):
        lines.append(f"**Licence of the corpus unknown.** {readable} before you share.")
    elif licenses(manifest) == {"license": "other"}:
        lines.append(f"**Licence of the corpus is `other`, without a name.** {readable} what its own card says before you share.")
    teachers = [manifest.teacher, *([manifest.task_teacher] if manifest.task_teacher else [])]
    for called, teacher in zip(("teacher", "task teacher"), teachers, strict=False):
        if teacher.get("license") in (None, "unknown"):
            lines.append(f"**Licence of the {called} unknown.** Some licences bind what a model puts out: check before you share.")
    if lines:
        yield "\n".join(["> [!WARNING]", *(f"> {line}" + ("\\" if line != lines[-1] else "") for line in lines)])
    else:
        yield "The rows' text can be read back from the tokens: heed the licence of the corpus."


def _splits(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    for split in manifest.splits:
        shards = manifest.split(split)
        rows, tokens, total = (sum(counts) for counts in zip(*((s.rows - s.skipped, s.tokens, s.bytes) for s in shards), strict=True))
        yield line(split), f"{rows:,}", f"{tokens:,}", f"{len(shards):,}", size(total)


def _named(identity: dict[str, Any], kind: str = "") -> str:
    """A name, with a link to its page on the Hub and the commit where it is from there."""
    page, revision = hub_page(identity, kind), identity.get("revision")
    name = f"[{escaped(identity['name'])}]({page})" if page else escaped(identity["name"])
    return f"{name} at commit `{line(revision)[:12]}`" if revision else name


def _license(identity: dict[str, Any]) -> str:
    about = identity.get("about", {})
    called = " ".join(filter(None, (identity.get("license"), about.get("license_name"), about.get("license_link"))))
    return f"licence: {escaped(called or 'unknown')}"


def _text(corpus: dict[str, Any]) -> str:
    return f"text from {' + '.join(map(code, corpus['text_columns']))}"


def _label(corpus: dict[str, Any]) -> str:
    if not corpus["label_kind"]:
        return "none"
    column = code(corpus["label_column"])
    if corpus["label_kind"] == "span":
        return f"column {column}: `answers` as they are, `start_positions` and `end_positions` in tokens"
    classes = ", ".join(f"{number} {escaped(name)}" for number, name in enumerate(corpus["label_names"] or ()))
    return f"`label` from column {column}{f' ({classes})' if classes else ''}"


def _facts(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    config, corpus, teacher, numbers = manifest.config, manifest.corpus, manifest.teacher, manifest.statistics
    settings = GenerationConfig.from_json(config)
    merged = "" if not manifest.sources else f": {len(manifest.sources)} datasets merged into one, see below"
    yield (
        "corpus",
        f"{escaped(corpus['name'])}{merged}" if merged else f"{_named(corpus, 'datasets/')}, {_text(corpus)}; {_license(corpus)}",
    )
    if corpus.get("limit") is not None:
        yield "part of the corpus", f"the first {corpus['limit']:,} rows of each split"
    if corpus.get("task"):
        yield "task", escaped(corpus["task"])
    yield "label", _label(corpus)
    if corpus["keep_columns"]:
        yield "other columns", ", ".join(map(code, corpus["keep_columns"]))
    yield (
        "teacher",
        f"{_named(teacher)} ({escaped(teacher['model_type'])}, vocabulary {teacher['vocab_size']:,}), read in {config['dtype']}; "
        f"{_license(teacher)}",
    )
    yield "teacher digest", f"`{teacher['digest']}`"
    second = manifest.task_teacher
    if second:
        kind = f"({escaped(second['model_type'])}, {second['kind']})"
        yield "task teacher", f"`teacher_logits` by {_named(second)} {kind}; {_license(second)}; digest `{second['digest']}`"
    yield "k", f"{settings.topk} entries per token at most"
    yield "mass", "1: none is cut off" if settings.mass == 1 else f"{settings.mass:g}: the fewest entries that hold it"
    yield "temperatures stored", ", ".join(f"{t:g}" for t in sorted({1.0, *settings.temperatures}))
    yield "context", f"{settings.context}{f': {settings.passes} passes over a row' if settings.passes > 1 else ''}"
    yield "special tokens", "left plain" if settings.specials == "plain" else "smoothed too"
    long = f"{settings.max_length} tokens; {numbers['truncated_rows']:,} rows were cut"
    if settings.long == "window":
        long += f"; longer rows became windows that share {settings.stride} tokens: {numbers.get('windows', 0):,} in all"
        if numbers.get("lost_answers"):
            long += f"; of {numbers['lost_answers']:,} rows no window holds the whole answer"
    yield "longest row", long
    if "unknown_tokens" in numbers:
        yield "unknown to the tokenizer", f"{numbers['unknown_tokens'] / max(numbers['tokens'], 1):.1%} of the tokens"
    if "skipped_rows" in numbers:
        yield "left out", f"{numbers['skipped_rows']:,} rows of the corpus that could not be smoothed: `{QUARANTINE}`"
    yield "size", f"{size(numbers['bytes'])}, {numbers['bytes_per_token']:.0f} bytes per token"
    yield "made with", escaped(", ".join(f"{name} {version}" for name, version in manifest.versions.items()))
    yield "dataset digest", f"`{manifest.dataset}`"
    before = manifest.predecessor
    if before:
        took = f"{before['taken_over']['units']:,} of {len(manifest.shards):,} shards taken over"
        yield "predecessor", f"dataset `{before['dataset']}` of {escaped(before['corpus'])}: {took}"


def _sources(manifest: Manifest) -> Iterator[str]:
    """Of a merged dataset: what came from where."""
    if not manifest.sources:
        return

    def rows() -> Iterator[tuple[str, ...]]:
        for source in manifest.sources:
            corpus = source["corpus"]
            counts = ", ".join(f"{line(split)} {count['rows']:,}" for split, count in source["splits"].items())
            yield f"{_named(corpus, 'datasets/')}, {_text(corpus)}; {_license(corpus)}", counts, f"`{source['dataset']}`"

    yield "## Merged from"
    yield _table(("corpus", "rows", "dataset digest"), rows())
    yield (
        "In each split the rows of the first come first, then those of the second, and so on. The shards are those of the sources: column "
        "`row`\ncounts in the source; textsmooth adds the rows of the sources before it."
    )


def _figures(manifest: Manifest) -> Iterator[str]:
    """What the soft ids look like: bars of the captured mass by k, and of p(original) by tenths."""
    original = manifest.statistics["p_original"]
    captured = captured_by_temperature(manifest.statistics)
    yield "## What the soft ids hold"
    if not captured:
        yield "No token is smoothed."
        return
    yield "Probability inside the k most probable entries, the mean over all smoothed tokens:"
    for temperature, masses in captured.items():
        if len(captured) > 1:
            yield f"At temperature {temperature:g}:"
        yield _block(f"k = {k:>4,}  {mass:6.1%}  {'█' * round(BAR * mass)}" for k, mass in masses.items())
    if manifest.statistics.get("reached_mass") is not None:
        yield f"{manifest.statistics['reached_mass']:.1%} of the smoothed tokens reach mass {manifest.config['mass']:g}."
    yield (
        f"p(original), what the teacher gives the word that stands there: mean {original['mean']:.3f}, median {_bin(original['q50'])}, "
        f"5 % quantile {_bin(original['q05'])}."
    )
    bins = manifest.statistics["p_original_bins"]
    tenths = [sum(bins[start : start + 10]) for start in range(0, 100, 10)]
    total, most = max(sum(tenths), 1), max(*tenths, 1)
    rows = [
        f"{n / 10:.1f} to {(n + 1) / 10:.1f}  {count / total:6.1%}  {'█' * round(BAR * count / most)}" for n, count in enumerate(tenths)
    ]
    yield _block(rows)


def _block(rows: Iterable[str]) -> str:
    return "\n".join(["```text", *(row.rstrip() for row in rows), "```"])


def _bin(p: float) -> str:
    """A quantile that is known to within a bin of 0.01."""
    return "below 0.01" if p < 0.01 else "above 0.99" if p > 0.99 else f"{p:.2f}"


def _loading(manifest: Manifest) -> Iterator[str]:
    split, shard = line(manifest.splits[0]), line(manifest.shards[0].path)
    yield "## Loading it"
    yield f"`{PLACE}` stands for the folder, or for the name on the Hub (`owner/name`). With textsmooth, a batch as a student reads it:"
    yield f"""```python
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages import SmoothedCollator, SmoothedDataset

rows = SmoothedDataset("{PLACE}", "{split}")
collate = SmoothedCollator.for_dataset(rows, smoothing=Smoothing(lam=0.5))
batch = next(iter(rows.stream(collate, batch_size=8)))
```"""
    yield "or a trained student, from the command line:"
    yield f"```text\ntextsmooth train {PLACE} --student STUDENT --out OUT\n```"
    if parse_codec(manifest.config["codec"])[0].nested_lists:
        yield from _other_readers(split, shard)
    else:
        yield "Any other reader takes what `textsmooth convert --format parquet` makes of it."
    if manifest.config["codec"] == "compact":
        yield from _compact_reader(manifest, shard)
    yield "What each column holds is in textsmooth's docs/format.md. `tokenizer/` turns the ids into text."


def _compact_reader(manifest: Manifest, shard: str) -> Iterator[str]:
    """How numpy and pcodec read a shard of codec compact."""
    temperatures = len(manifest.config["temperatures"]) - (1.0 in manifest.config["temperatures"])
    yield "Without textsmooth, a record batch at a time, with pcodec, numpy, and pyarrow to open the file:"
    yield f"""```python
import numpy as np
import pyarrow as pa
from pcodec.standalone import simple_decompress

batch = pa.ipc.open_file(pa.memory_map("{PLACE}/{shard}")).get_batch(0)
sizes, tail, own, escapes, *streams = map(simple_decompress, batch["soft_streams"][0].as_py())
_, *table = batch["soft_table"].dictionary.to_pylist()
keys, counts, steps = map(simple_decompress, table)
tokens = batch["input_ids"].flatten().to_numpy()
edges = [0, 1, 2, 3, *(part << n for n in range(1, 15) for part in (2, 3))]
ranks = np.arange(sizes.max())
inside = ranks < sizes[:, None]
groups = np.searchsorted(edges, ranks, side="right")
places, bits = np.zeros((2, *inside.shape), np.uint16)
streams = iter(streams[{temperatures}:])
for grid in (places, bits):
    for group in dict.fromkeys(groups.tolist()):
        grid[inside & (groups == group)] = next(streams)
begins = dict(zip(keys.tolist(), (np.cumsum(counts, dtype=int) - counts).tolist()))
first = np.array([begins.get(token, 0) for token in tokens.tolist()])
ids = np.cumsum(steps, dtype=steps.dtype)[first[:, None] + places - 1]  # [tokens, k], most probable first
ids[inside & (places == 0)] = [] if escapes is None else escapes
logprobs = np.cumsum(bits, axis=1, dtype=np.uint16).view(np.float16)
```"""


def _other_readers(split: str, shard: str) -> Iterator[str]:
    """How `datasets` and pyarrow read a shard of nested lists."""
    yield "With `datasets`:"
    yield f"""```python
import datasets

rows = datasets.load_dataset("{PLACE}", split="{split}")
first = rows[0]
for token, ids, logprobs in zip(first["input_ids"], first["soft_ids"], first["soft_logprobs"]):
    print(token, ids[:3], logprobs[:3])
```"""
    yield "With pyarrow alone, a shard at a time, memory-mapped; of a folder:"
    yield f"""```python
import pyarrow as pa

with pa.memory_map("{PLACE}/{shard}") as file:
    table = pa.ipc.open_file(file).read_all()
entries = table["soft_ids"].combine_chunks().flatten()  # a list per token, most probable first
```"""
    yield "and of the Hub, where the shard is fetched first:"
    yield f"""```python
import pyarrow as pa
from huggingface_hub import hf_hub_download

with pa.memory_map(hf_hub_download("{PLACE}", "{shard}", repo_type="dataset")) as file:
    table = pa.ipc.open_file(file).read_all()
entries = table["soft_ids"].combine_chunks().flatten()
```"""
