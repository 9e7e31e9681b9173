"""Damaged files of a dataset made again, the same bytes, and put in place: `textsmooth verify --repair`."""

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from textsmooth.pipeline.commit.card import card
from textsmooth.pipeline.commit.commit import jsonl, saved
from textsmooth.pipeline.executors.inline import Inline
from textsmooth.pipeline.plan.inputs import Model, Sources, find_model, open_corpus
from textsmooth.pipeline.plan.versions import versions
from textsmooth.pipeline.progress import Progress
from textsmooth.pipeline.verification.metadata import Records
from textsmooth.schemas.errors import CorpusError, TeacherError, UsageError
from textsmooth.schemas.manifest import CARD, QUARANTINE, SHARD, TOKENIZER_FOLDER, FileEntry, Manifest, ShardEntry
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder


@dataclass(frozen=True, kw_only=True)
class From:
    """Where what a dataset was made from lies, as the command names it; None: as the manifest does."""

    corpus: str | None = None
    teacher: str | None = None
    task_teacher: str | None = None
    device: str | None = None


@dataclass(kw_only=True)
class Repaired:
    """What became of damaged files."""

    mended: list[str] = field(default_factory=list)  # paths
    refused: list[str] = field(default_factory=list)  # why not, one line each


def can_make(path: str) -> bool:
    """Whether a file of a dataset can be made again at all: plan and receipts hold times of the run that made them."""
    return path in (CARD, QUARANTINE) or path.startswith(f"{TOKENIZER_FOLDER}/") or SHARD.fullmatch(path) is not None


def make_again(
    folder: Folder, manifest: Manifest, records: Records, damaged: Iterable[str], places: From, progress: Progress | None = None
) -> Repaired:
    """Make files again whose bytes are not the manifest's, and put each in place whole if then they are; else say what differs.

    damaged: paths. Raises UsageError, CorpusError or TeacherError if corpus or teacher are not to be had, or are others; StorageError.
    """
    done = Repaired()
    files = {entry.path: entry for entry in manifest.files}
    shards = {entry.path: entry for entry in manifest.shards}
    wanted: list[ShardEntry] = []
    tokenizer: list[FileEntry] = []
    for path in damaged:
        if path in shards:
            wanted.append(shards[path])
        elif path == CARD:
            _put(folder, files[path], card(manifest).encode(), "the card that this version of textsmooth writes is another", done)
        elif path == QUARANTINE and len(records.receipts) >= len(shards):
            offsets = {shard.path: shard.row_offset for shard in manifest.shards}
            rows = [asdict(replace(row, row=row.row + offsets[p])) for p in shards for row in records.receipts[p].skipped]
            _put(folder, files[path], jsonl(rows), "the rows left out, as the receipts have them, are other bytes", done)
        elif path.startswith(f"{TOKENIZER_FOLDER}/"):
            tokenizer.append(files[path])
        else:
            done.refused.append(f"{path} cannot be made again, it holds times of the run that made it: fetch it again")
    if tokenizer:
        _tokenizer(folder, manifest, tokenizer, places, done)
    if wanted:
        _shards(folder, manifest, records, wanted, places, progress, done)
    return done


def _put(folder: Folder, entry: FileEntry | ShardEntry, data: "bytes | memoryview", otherwise: str, done: Repaired) -> None:
    if hashlib.sha256(data).hexdigest() == entry.sha256:
        folder.put(entry.path, data)
        done.mended.append(entry.path)
    else:
        done.refused.append(f"{entry.path} was not put in place: {otherwise}; fetch it again")


def known_model(asked: str | None, known: dict[str, Any], option: str) -> Model:
    """The model that is given, or else the one that the manifest names. UsageError if there is none."""
    if asked:
        return find_model(asked, None, option=option)
    name, revision = str(known["name"]), known.get("revision")
    calls = f"the manifest calls the {option.strip('-').replace('-', ' ')} {name!r}: say with {option} where it lies"
    if revision is None and "/" not in name and name != "demo" and not Path(name).is_dir():  # one of the Hub has a revision
        raise UsageError(calls)
    try:
        return find_model(name, revision, option=option)
    except UsageError as error:
        raise UsageError(f"{error}; {calls}") from None


def _model(asked: str | None, known: dict[str, Any], option: str, digest: str) -> Model:
    """As known_model. TeacherError if it is another one than the dataset's."""
    from textsmooth.stages.models.load import teacher_digest

    found = known_model(asked, known, option)
    mine = teacher_digest(found.folder)
    if mine != digest:
        raise TeacherError(
            f"{found.folder} is another model: its digest is {mine[:12]}, that of the dataset's {digest[:12]}; name that one"
        )
    return found


def _tokenizer(folder: Folder, manifest: Manifest, entries: list[FileEntry], places: From, done: Repaired) -> None:
    from textsmooth.stages.tokens.tokenize import load_tokenizer

    found = _model(places.teacher, manifest.teacher, "--teacher", manifest.teacher["digest"])
    made = saved(load_tokenizer(found.folder)).files
    for entry in entries:
        _put(folder, entry, made.get(entry.path, b""), "the teacher's tokenizer is written as other bytes here", done)


def _shards(
    folder: Folder, manifest: Manifest, records: Records, wanted: list[ShardEntry], places: From, progress: Progress | None, done: Repaired
) -> None:
    from textsmooth.stages.tokens.tokenize import load_tokenizer, tokenizer_digest

    plan = records.plan
    units = [records.units[entry.path] for entry in wanted if entry.path in records.units]
    if plan is None or len(units) < len(wanted):
        done.refused.append("shards cannot be made again without plan.json: fetch it first")
        return
    if plan.sources:
        done.refused.append("a merged dataset is mended by merging again: verify and repair its sources, then textsmooth merge")
        return
    sources = _sources(plan, units, places)
    if tokenizer_digest(load_tokenizer(sources.teacher)) != plan.teacher.tokenizer_digest:
        done.refused.append(f"shards cannot be made again: the teacher's tokenizer is another here{_why(plan, sources.device)}")
        return
    runtime = {**plan.runtime, "skip_bad_rows": any(entry.skipped for entry in manifest.shards)}
    runtime.pop("unit_timeout_s", None)
    part = replace(plan, units=tuple(units), runtime=runtime)
    by_unit = {unit.id: entry for unit, entry in zip(units, wanted, strict=True)}
    with tempfile.TemporaryDirectory(prefix="textsmooth-") as room, progress or Progress("none") as shown:
        out = LocalFolder(Path(room))
        executor = Inline()
        shown.start(part, 0, units=0, out=str(folder), executor=executor.name)
        executor.load(part, sources, out, shown.batch)
        shown.ready()
        try:
            for number, outcome in enumerate(executor.run(units), 1):
                entry = by_unit[outcome.unit]
                if not isinstance(outcome, Receipt):
                    done.refused.append(f"{entry.path} was not made again: {outcome.error}")
                    continue
                shown.unit(outcome, number, len(units))
                path = Path(room) / outcome.shard
                _put(folder, entry, path.read_bytes(), f"made here it is other bytes{_why(plan, sources.device)}", done)
                path.unlink()
        except CorpusError as error:
            done.refused.append(f"shards were not made again: {error}")


def _sources(plan: Plan, units: list[Unit], places: From) -> Sources:
    """Where the corpus and the teachers lie. UsageError, CorpusError or TeacherError if they are not those of the plan."""
    from textsmooth.stages.models.device import pick_device

    name = places.corpus or plan.corpus.name
    try:
        corpus = open_corpus(name, revision=None if places.corpus else plan.corpus.revision)
    except UsageError as error:
        if places.corpus:
            raise
        raise UsageError(f"{error}; the manifest calls the corpus {name!r}: say with --corpus where it lies") from None
    files = {file.name: file for file in corpus.files}
    lacking = next((unit.file for unit in units if unit.file not in files), None)
    if lacking is not None:
        raise UsageError(f"corpus {name} has no file {lacking}, of which the dataset was made: name with --corpus the one that has it")
    second = plan.task_teacher
    return Sources(
        files=files,
        teacher=_model(places.teacher, plan.teacher.to_json(), "--teacher", plan.teacher.digest).folder,
        device=pick_device(places.device or plan.config.device),
        task_teacher=None if second is None else _model(places.task_teacher, asdict(second), "--task-teacher", second.digest).folder,
    )


def _why(plan: Plan, device: str) -> str:
    """What may be why: other versions, another device."""
    here = versions(device)
    differs = [f"{name} {there} then, {here.get(name, 'none')} now" for name, there in plan.versions.items() if here.get(name) != there]
    return f" ({'; '.join(differs)})" if differs else ", though versions and device are the same"
