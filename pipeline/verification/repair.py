"""Make damaged files of a dataset again, byte for byte: `textsmooth verify --repair`."""

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
class Origins:
    """Corpus, teachers and device given on the command line; None: as in the manifest."""

    corpus: str | None = None
    teacher: str | None = None
    task_teacher: str | None = None
    device: str | None = None


@dataclass(kw_only=True)
class Repaired:
    """The result of a repair."""

    mended: list[str] = field(default_factory=list)  # paths
    refused: list[str] = field(default_factory=list)  # files that were not repaired, with the reason, one line each


def can_make(path: str) -> bool:
    """Whether a file can be made again. Plan and receipts cannot: they contain times of their run."""
    return path in (CARD, QUARANTINE) or path.startswith(f"{TOKENIZER_FOLDER}/") or SHARD.fullmatch(path) is not None


def make_again(
    folder: Folder, manifest: Manifest, records: Records, damaged: Iterable[str], origins: Origins, progress: Progress | None = None
) -> Repaired:
    """Make damaged files again, and replace each one only if the new bytes are those of the manifest.

    damaged: paths. Raises UsageError, CorpusError or TeacherError if corpus or teacher are missing or different; StorageError.
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
            _put(folder, files[path], card(manifest).encode(), "this version of textsmooth writes a different card", done)
        elif path == QUARANTINE and len(records.receipts) >= len(shards):
            offsets = {shard.path: shard.row_offset for shard in manifest.shards}
            rows = [asdict(replace(row, row=row.row + offsets[p])) for p in shards for row in records.receipts[p].skipped]
            _put(folder, files[path], jsonl(rows), "the skipped rows of the receipts give other bytes", done)
        elif path.startswith(f"{TOKENIZER_FOLDER}/"):
            tokenizer.append(files[path])
        else:
            done.refused.append(f"{path} cannot be made again, because it contains times of its run: download it again")
    if tokenizer:
        _tokenizer(folder, manifest, tokenizer, origins, done)
    if wanted:
        _shards(folder, manifest, records, wanted, origins, progress, done)
    return done


def _put(folder: Folder, entry: FileEntry | ShardEntry, data: "bytes | memoryview", reason: str, done: Repaired) -> None:
    if hashlib.sha256(data).hexdigest() == entry.sha256:
        folder.put(entry.path, data)
        done.mended.append(entry.path)
    else:
        done.refused.append(f"{entry.path} was not replaced: {reason}; download it again")


def known_model(given: str | None, known: dict[str, Any], option: str) -> Model:
    """The given model, or else the one that the manifest names. UsageError if it is not found."""
    if given:
        return find_model(given, None, option=option)
    name, revision = str(known["name"]), known.get("revision")
    hint = f"the manifest names {option.strip('-').replace('-', ' ')} {name!r}: give its path with {option}"
    if revision is None and "/" not in name and name != "demo" and not Path(name).is_dir():  # a model from the Hub has a revision
        raise UsageError(hint)
    try:
        return find_model(name, revision, option=option)
    except UsageError as error:
        raise UsageError(f"{error}; {hint}") from None


def checked_model(given: str | None, known: dict[str, Any], option: str, digest: str) -> Model:
    """Like known_model. TeacherError if its digest is not that of the dataset's model."""
    from textsmooth.stages.models.load import teacher_digest

    model = known_model(given, known, option)
    actual = teacher_digest(model.folder)
    if actual != digest:
        expected = f"{option} must be the model of the dataset, with digest {digest[:12]}"
        raise TeacherError(f"{model.folder} is a different model, with digest {actual[:12]}; {expected}")
    return model


def _tokenizer(folder: Folder, manifest: Manifest, entries: list[FileEntry], origins: Origins, done: Repaired) -> None:
    from textsmooth.stages.tokens.load import load_tokenizer

    model = checked_model(origins.teacher, manifest.teacher, "--teacher", manifest.teacher["digest"])
    made = saved(load_tokenizer(model.folder)).files
    for entry in entries:
        _put(folder, entry, made.get(entry.path, b""), "the tokenizer of the teacher gives other bytes here", done)


def _shards(
    folder: Folder,
    manifest: Manifest,
    records: Records,
    wanted: list[ShardEntry],
    origins: Origins,
    progress: Progress | None,
    done: Repaired,
) -> None:
    from textsmooth.stages.tokens.load import load_tokenizer
    from textsmooth.stages.tokens.tokenize import tokenizer_digest

    plan = records.plan
    units = [records.units[entry.path] for entry in wanted if entry.path in records.units]
    if plan is None or len(units) < len(wanted):
        done.refused.append("shards cannot be made again without plan.json: download it first")
        return
    if plan.converted is not None:
        done.refused.append(
            "a converted dataset is repaired by converting again: verify and repair the dataset it was made of, then convert it"
        )
        return
    if plan.sources:
        done.refused.append("a merged dataset is repaired by merging again: verify and repair its sources, then run textsmooth merge")
        return
    sources = _sources(plan, units, origins)
    if tokenizer_digest(load_tokenizer(sources.teacher)) != plan.teacher.tokenizer_digest:
        done.refused.append(f"shards cannot be made again: the tokenizer of the teacher differs here{_why(plan, sources.device)}")
        return
    runtime = {**plan.runtime, "skip_bad_rows": any(entry.skipped for entry in manifest.shards)}
    runtime.pop("unit_timeout_s", None)
    part = replace(plan, units=tuple(units), runtime=runtime)
    by_unit = {unit.id: entry for unit, entry in zip(units, wanted, strict=True)}
    with tempfile.TemporaryDirectory(prefix="textsmooth-") as scratch, progress or Progress("none") as shown:
        out = LocalFolder(Path(scratch))
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
                path = Path(scratch) / outcome.shard
                _put(folder, entry, path.read_bytes(), f"this machine gives other bytes{_why(plan, sources.device)}", done)
                path.unlink()
        except CorpusError as error:
            done.refused.append(f"shards were not made again: {error}")


def _sources(plan: Plan, units: list[Unit], origins: Origins) -> Sources:
    """The files of the corpus and the teachers. UsageError, CorpusError or TeacherError if they differ from the plan."""
    from textsmooth.stages.models.device import pick_device

    name = origins.corpus or plan.corpus.name
    try:
        corpus = open_corpus(name, revision=None if origins.corpus else plan.corpus.revision)
    except UsageError as error:
        if origins.corpus:
            raise
        raise UsageError(f"{error}; the manifest names corpus {name!r}: give its path with --corpus") from None
    files = {file.name: file for file in corpus.select(tuple(plan.corpus.files)).with_class_names().files}
    absent = next((unit.file for unit in units if unit.file not in files), None)
    if absent is not None:
        raise UsageError(f"corpus {name} has no file {absent}, which the dataset was made from: give the right corpus with --corpus")
    second = plan.task_teacher
    return Sources(
        files=files,
        teacher=checked_model(origins.teacher, plan.teacher.to_json(), "--teacher", plan.teacher.digest).folder,
        device=pick_device(origins.device or plan.config.device),
        task_teacher=None
        if second is None
        else checked_model(origins.task_teacher, asdict(second), "--task-teacher", second.digest).folder,
    )


def _why(plan: Plan, device: str) -> str:
    """Possible reasons for other bytes: different versions or device."""
    now = versions(device, plan.config.codec)
    differs = [f"{name} {then} then, {now.get(name, 'none')} now" for name, then in plan.versions.items() if now.get(name) != then]
    return f" ({'; '.join(differs)})" if differs else ", though versions and device are the same"
