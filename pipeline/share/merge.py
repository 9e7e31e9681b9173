"""Merge datasets with the same teacher and settings: `textsmooth merge`. Shards are linked or copied unchanged.

A unit keeps its id and the numbers of its rows. Plan and manifest get `sources`, and each shard gets `row_offset`: the number of rows of
the split that come before those of its source. Readers add it to the row numbers.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from textsmooth.pipeline.commit.card import card
from textsmooth.pipeline.commit.commit import TokenizerFiles, commit, finished_units, tidy
from textsmooth.pipeline.commit.finished import Previous, open_previous, read_checked, take_shard
from textsmooth.pipeline.commit.run_folder import plan_in, publish_plan
from textsmooth.pipeline.formatting import counted, size
from textsmooth.schemas.errors import ConflictError, DatasetError, UsageError
from textsmooth.schemas.manifest import CARD, MANIFEST, PLAN, TOKENIZER_FOLDER, FileEntry, Manifest, ShardEntry
from textsmooth.schemas.plan import CorpusIdentity, Plan
from textsmooth.schemas.printable import printable
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.checks.shard import unreadable
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.storage.folder import Folder, read_json
from textsmooth.stages.storage.local import LocalFolder, overlap

AT_ONCE = 8  # shards copied or compared at the same time
NAMES = 4  # corpora named in the name of the merged corpus
SHOWN = 20  # files listed in the output
FITS = "datasets can be merged if teacher, settings and columns are equal"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The result of a merge."""

    out: str  # path or URI of the folder
    manifest: Manifest
    taken: int  # shards linked or copied now; 0 if all were complete
    mended: tuple[str, ...]  # damaged or missing files restored in a finished dataset
    linked: int  # shards that share their disk space with a source
    notes: tuple[str, ...] = ()  # notes, one line each

    def to_json(self) -> dict[str, Any]:
        return {
            "out": self.out,
            "dataset": self.manifest.dataset,
            "sources": list(self.manifest.sources),
            "splits": {split: sum(s.rows - s.skipped for s in self.manifest.split(split)) for split in self.manifest.splits},
            "shards": len(self.manifest.shards),
            "taken": self.taken,
            "mended": list(self.mended),
            "linked": self.linked,
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The output of the command."""
        manifest, sources = self.manifest, self.manifest.sources
        if self.mended:
            done = f"{self.out} already contains these datasets; {len(self.mended):,} damaged or missing restored"
        elif self.taken:
            done = f"{len(sources)} datasets merged into {self.out}"
        else:
            done = f"Nothing to do: {self.out} already contains these datasets"
        lines = [f"{done}  (dataset {manifest.dataset[:12]})", *(f"  restored: {printable(path)}" for path in self.mended[:SHOWN])]
        if len(self.mended) > SHOWN:
            lines.append(f"  and {len(self.mended) - SHOWN:,} more")
        for split in manifest.splits:
            parts = ((source["corpus"]["name"], source["splits"].get(split, {"rows": 0})["rows"]) for source in sources)
            parts_text = " + ".join(f"{rows:,} of {printable(name)}" for name, rows in parts if rows)
            lines.append(f"  {split}: {sum(s.rows for s in manifest.split(split)):,} rows, {parts_text}")
        copies = len(manifest.shards) - self.linked
        how = f"{self.linked:,} linked, {copies:,} copied" if self.linked and copies else "linked" if self.linked else "copied"
        lines.append(f"  {counted(len(manifest.shards), 'shard')}, {how}; {size(manifest.statistics['bytes'])}")
        return "\n".join([*lines, *(f"  {line}" for line in self.notes)])


def merge(
    datasets: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Merge finished datasets: each split has the rows of the first dataset, then those of the second, and so on.

    datasets: paths, URIs or names on the Hub. progress: called with shards done and shards in all.
    The same call continues an interrupted merge; on a finished one it compares every file of `out` and restores damaged ones.
    Raises UsageError if the datasets do not fit together (with the first difference) or share rows, ConflictError if `out` holds
    something else, DatasetError if a dataset is not complete.
    """
    datasets = [datasets] if isinstance(datasets, str | Path) else datasets
    if len(datasets) < 2:
        raise UsageError(f"nothing to merge: give at least two datasets, not {len(datasets)}")
    folder = open_folder(out)
    sources = [open_previous(open_folder(dataset, reading=True)) for dataset in datasets]
    for source in sources:
        if overlap(source.folder, folder):
            raise UsageError(f"{source.folder} and --out {folder} overlap: a finished dataset must not change; give another --out")
    for other in sources[1:]:
        _check_fit(sources[0], other)
    plan = merged_plan(sources)
    notes = tuple(_other_versions(sources))
    before = plan_in(folder, overwrite=overwrite)
    if before is None and not publish_plan(folder, plan, overwrite=overwrite):
        before = Plan.from_json(read_json(folder, PLAN))  # another process published its plan first
    if before is not None and before.digest != plan.digest:
        raise ConflictError(
            f"{folder} contains another dataset, of {before.corpus.name}; give another --out, or start again with --overwrite"
        )
    if folder.size(MANIFEST) is not None:
        mended = _restore(sources, folder, plan, progress)
        manifest = tidy(folder, plan)
        linked = _linked(sources, folder, manifest)
        taken = sum(shard.path in mended for shard in manifest.shards)
        return Merged(out=str(folder), manifest=manifest, taken=taken, mended=mended, linked=linked, notes=notes)
    done = finished_units(folder, plan)
    left = {unit.id: unit for unit in plan.units if unit.id not in done}
    for number, receipt in enumerate(_taken(sources, left, partial(_take, folder, left)), len(done) + 1):
        assert receipt.unit in left
        if progress is not None:
            progress(number, len(plan.units))
    manifest = commit(folder, plan, _tokenizer(sources[0]))
    return Merged(out=str(folder), manifest=manifest, taken=len(left), mended=(), linked=_linked(sources, folder, manifest), notes=notes)


def _settings(source: Previous) -> Iterator[tuple[str, Any]]:
    """Names and values that must be equal, in the order in which they are compared."""
    plan, manifest = source.plan, source.manifest
    yield "teacher", plan.teacher.digest[:12]
    yield "tokenizer", plan.teacher.tokenizer_digest[:12]
    yield "vocabulary", plan.teacher.vocab_digest[:12]
    yield from plan.config.to_json().items()
    yield "stride", plan.config.stride
    second = plan.task_teacher
    yield "task teacher", None if second is None else {**second.decides_json(), "width": second.width}
    yield "task", plan.corpus.task
    yield "kind of label", plan.corpus.label_kind
    yield "classes", plan.corpus.label_names
    yield "texts in a row", len(plan.corpus.text_columns)
    yield "kept columns", dict(zip(plan.corpus.keep_columns, plan.corpus.keep_types, strict=True))
    yield "token types", manifest.token_types
    yield "special tokens", manifest.special_ids


def _check_fit(one: Previous, other: Previous) -> None:
    settings = dict(_settings(other))
    for name, value in dict(_settings(one)).items():
        if settings[name] != value:
            differs = f"{name} is {_shown(value)} and {_shown(settings[name])}"
            raise UsageError(f"{one.folder} and {other.folder} cannot be merged: {differs}; {FITS}")


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def source_entries(source: Previous) -> list[dict[str, Any]]:
    """The entries for one dataset in `sources` of the merged one; for a merged dataset, its own sources."""
    if source.plan.sources:
        return list(source.plan.sources)
    shards, rows = Counter(unit.split for unit in source.plan.units), Counter[str]()
    for unit in source.plan.units:
        rows[unit.split] += unit.rows
    return [
        {
            "dataset": source.manifest.dataset,
            "corpus": source.manifest.corpus,
            "versions": source.plan.versions,
            "splits": {split: {"shards": shards[split], "rows": rows[split]} for split in shards},
        }
    ]


def merged_plan(sources: Sequence[Previous]) -> Plan:
    """The plan of the merged dataset. UsageError if rows come twice."""
    entries = [entry for source in sources for entry in source_entries(source)]
    twice = next((digest for digest, times in Counter(entry["dataset"] for entry in entries).items() if times > 1), None)
    if twice is not None:
        name = next(entry["corpus"]["name"] for entry in entries if entry["dataset"] == twice)
        raise UsageError(f"dataset {twice[:12]}, of {name}, is given twice: name each dataset once")
    splits = dict.fromkeys(split for source in sources for split in source.plan.splits)
    units = []
    seen: dict[str, Previous] = {}
    for split in splits:
        number = 0
        for source in sources:
            for unit in source.plan.units:
                if unit.split != split:
                    continue
                if unit.id in seen:
                    raise UsageError(
                        f"{seen[unit.id].folder} and {source.folder} contain the same rows ({unit.name} of {source.plan.corpus.name}): "
                        "a corpus can be merged only once"
                    )
                seen[unit.id] = source
                units.append(replace(unit, number=number))
                number += 1
    first = sources[0].plan
    versions: dict[str, str] = {}
    for name in dict.fromkeys(name for source in sources for name in source.plan.versions):
        versions[name] = ", ".join(dict.fromkeys(v for s in sources for v in s.plan.versions.get(name, "unknown").split(", ")))
    return Plan(
        corpus=_corpus(sources, entries, tuple(splits)),
        teacher=first.teacher,
        config=first.config,
        versions=versions,
        units=tuple(units),
        task_teacher=first.task_teacher,
        sources=tuple(entries),
    )


def _corpus(sources: Sequence[Previous], entries: list[dict[str, Any]], splits: tuple[str, ...]) -> CorpusIdentity:
    names = [entry["corpus"]["name"] for entry in entries]
    more = [f"{len(names) - NAMES} more"] if len(names) > NAMES else []
    licenses = [entry["corpus"].get("license") for entry in entries]
    parts = dict.fromkeys(part.strip() for text in licenses if text for part in text.split(","))
    files = {split: [file for source in sources for file in source.plan.corpus.files.get(split, ())] for split in splits}
    return replace(
        sources[0].plan.corpus,
        name=" + ".join([*names[:NAMES], *more]),
        files={split: list(dict.fromkeys(names)) for split, names in files.items()},
        limit=None,
        license=", ".join(parts) if all(licenses) else None,
        revision=None,
        about={},
    )


def _other_versions(sources: Sequence[Previous]) -> Iterator[str]:
    first = sources[0].plan.versions
    differ = [name for name in first if any(source.plan.versions.get(name) != first[name] for source in sources)]
    if differ:
        yield f"made with different versions of {', '.join(differ)}: see the manifest"


def _taken(sources: Sequence[Previous], left: dict[str, Any], take_one: Callable[[Previous, Receipt], Receipt]) -> Iterator[Receipt]:
    for source in sources:
        wanted = [unit.id for unit in source.plan.units if unit.id in left]
        with ThreadPoolExecutor(AT_ONCE, "merge") as threads:
            receipts = source.receipts(wanted) if wanted else iter(())
            yield from threads.map(partial(take_one, source), receipts)


def _take(out: Any, left: dict[str, Any], source: Previous, receipt: Receipt) -> Receipt:
    """Link or copy one shard and write its receipt. DatasetError if the shard differs from its manifest."""
    taken = take_shard(source, out, left[receipt.unit], receipt)
    if isinstance(taken, str):
        raise DatasetError(f"{taken}; repair that dataset, then run the same command again")
    return taken


def _restore(sources: Sequence[Previous], out: Folder, plan: Plan, progress: Callable[[int, int], None] | None) -> tuple[str, ...]:
    """Compare the files of a finished merged dataset with its manifest and restore those that differ; returns their paths.

    DatasetError for a file that no source has, or that is damaged there too.
    """
    manifest = read_manifest(out)
    if manifest.plan != plan.digest or manifest.partial_of is not None:
        return ()  # tidy reports it
    files: dict[str, FileEntry | ShardEntry] = {entry.path: entry for entry in manifest.files if not _whole(out, entry)}
    texts = {**_tokenizer(sources[0]).files, CARD: card(manifest).encode()} if files else {}
    for path, entry in files.items():
        if hashlib.sha256(texts.get(path, b"")).hexdigest() != entry.sha256:
            raise DatasetError(f"{out.at(path)} is missing or damaged, and no source has it: merge again with --overwrite")
        out.put(path, texts[path])
    left = {}
    with ThreadPoolExecutor(AT_ONCE, "merge") as threads:
        compared = zip(plan.units, manifest.shards, threads.map(partial(_whole, out), manifest.shards), strict=True)
        for number, (unit, shard, whole) in enumerate(compared, 1):
            if not whole:
                left[unit.id] = unit
                files[shard.path] = shard
            if progress is not None:
                progress(number, len(plan.units))
    for receipt in _taken(sources, left, partial(_take, out, left)):
        assert receipt.unit in left
    return tuple(files)


def _whole(folder: Folder, entry: FileEntry | ShardEntry) -> bool:
    """Whether a file has the bytes that the manifest lists. DatasetError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        folder.stream(entry.path, entry.bytes, digest.update)
    except (FileNotFoundError, DatasetError):  # a store compares the size
        return False
    except OSError as error:
        raise DatasetError(f"{folder}: {unreadable(entry.path, error)}") from None
    return digest.hexdigest() == entry.sha256


def _tokenizer(source: Previous) -> TokenizerFiles:
    """The files of the tokenizer, unchanged."""
    names = [file.path for file in source.manifest.files if file.path.startswith(f"{TOKENIZER_FOLDER}/")]
    files = {name: read_checked(source.folder, source.manifest, name) for name in names}
    return TokenizerFiles(files=files, token_types=source.manifest.token_types, special_ids=source.manifest.special_ids)


def _linked(sources: Sequence[Previous], out: Any, manifest: Manifest) -> int:
    """The number of shards that are hard links to files of the sources."""
    if not isinstance(out, LocalFolder):
        return 0
    originals = {
        shard.sha256: Path(s.folder.at(shard.path)) for s in sources if isinstance(s.folder, LocalFolder) for shard in s.manifest.shards
    }

    def same(original: Path | None, copy: Path) -> bool:
        return original is not None and original.exists() and original.samefile(copy)

    return sum(same(originals.get(shard.sha256), out.path / shard.path) for shard in manifest.shards)
