"""Where a dataset comes from, from its manifest: as lines that a person reads."""

from collections.abc import Iterator
from typing import Any

from textsmooth.schemas.manifest import Manifest
from textsmooth.schemas.printable import printable

UNKNOWN = "unknown: ask whoever publishes it before you share this dataset"


def provenance(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """Pairs of what and which, safe to show: corpus, teacher, licences, settings, versions, predecessor, digests."""
    return tuple((name, printable(value)) for name, value in _lines(manifest))


def _lines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    corpus, teacher, config = manifest.corpus, manifest.teacher, manifest.config
    yield "corpus", _named(corpus)
    if corpus.get("task"):
        yield "task", str(corpus["task"])
    if corpus.get("text_columns"):
        yield "text from", " + ".join(map(str, corpus["text_columns"]))
    if corpus.get("label_column"):
        yield "label", f"{corpus['label_column']} ({corpus['label_kind']})"
    yield "licence of the corpus", str(corpus.get("license") or UNKNOWN)
    yield "teacher", f"{_named(teacher)}{', ' + teacher['model_type'] if teacher.get('model_type') else ''}"
    yield "licence of the teacher", str(teacher.get("license") or UNKNOWN)
    if manifest.task_teacher:
        yield "task teacher", f"{_named(manifest.task_teacher)}; licence: {manifest.task_teacher.get('license') or 'unknown'}"
    yield "vocabulary", f"{teacher['vocab_size']:,} tokens"
    mass = "" if config.get("mass", 1.0) == 1.0 else f", the fewest that reach mass {config['mass']!r}"
    yield "entries per token", f"at most {config['topk']}{mass}"
    yield "temperatures", ", ".join(f"{t:g}" for t in config.get("temperatures", [1.0]))
    yield "context", str(config.get("context", "unmasked"))
    yield "special tokens", "left plain" if config.get("specials", "plain") == "plain" else "smoothed too"
    long = f"windows that share {config.get('stride', 0)} tokens" if config.get("long") == "window" else "cut off"
    yield "longer rows", f"{long}, at {config['max_length']} tokens"
    if config.get("dtype"):
        yield "computed in", f"{config['dtype']} on {manifest.versions.get('device') or config.get('device')}"
    libraries = {name: value for name, value in manifest.versions.items() if name not in ("device", "code")}
    if libraries:
        yield "versions", ", ".join(f"{name} {value}" for name, value in libraries.items())
    yield "made", manifest.created
    if manifest.predecessor:
        yield "predecessor", _predecessor(manifest.predecessor)
    for name in ("digest", "tokenizer_digest", "vocab_digest"):
        if teacher.get(name):
            yield f"{'teacher' if name == 'digest' else name.partition('_')[0]} digest", str(teacher[name])
    yield "plan digest", manifest.plan
    yield "dataset digest", manifest.dataset


def _named(source: dict[str, Any]) -> str:
    revision = source.get("revision")
    return f"{source['name']} at commit {revision}" if revision else str(source["name"])


def _predecessor(told: dict[str, Any]) -> str:
    taken = told.get("taken_over") or {}
    return f"{told['dataset']} ({told.get('corpus', 'unknown')}); {taken.get('units', 0):,} units, {taken.get('rows', 0):,} rows taken over"
