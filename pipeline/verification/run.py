"""Is a dataset what it says? Every file against the manifest, every shard against the format, and all of them against each other."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from textsmooth.pipeline.formatting import counted, size
from textsmooth.pipeline.progress import Progress, TransferProgress
from textsmooth.pipeline.verification.metadata import SENSELESS, Records, check_records, read_checked
from textsmooth.pipeline.verification.repair import From, Repaired, can_make, make_again
from textsmooth.pipeline.verification.teacher_sample import SecondOpinion, second_opinion
from textsmooth.schemas.errors import DatasetError, UsageError, first_line
from textsmooth.schemas.manifest import MANIFEST, SHARD, FileEntry, Manifest, ShardEntry
from textsmooth.schemas.printable import printable
from textsmooth.stages.checks.shard import Finding, Looked, check_shard, missing, unreadable
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder

SHOWN = 20  # findings that are printed
STORE_WORKERS = 8  # where waiting for a store takes longer than looking


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was checked, and what was found."""

    dataset: str  # path or URI
    digest: str | None  # of the dataset; None if its manifest cannot be read
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()  # worth a look, no damage
    checksums: bool = False  # only bytes were compared: nothing is known of rows, tokens, entries
    shards: int = 0  # that were looked at row by row; so are the counts that follow
    rows: int = 0  # of the corpus
    windows: int | None = None  # rows of the shards, where long rows were cut
    tokens: int = 0
    entries: int = 0
    files: int = 0  # that were read beside the shards, manifest.json among them
    bytes: int = 0  # that were compared with the sha256
    unchecked_shards: int = 0  # that are missing, or cannot be read to their end
    unchecked_rows: int = 0  # of those shards, by the manifest
    unchecked_files: int = 0  # beside the shards
    seconds: float = 0.0  # without repair and teacher
    mended: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()  # why something was not mended
    teacher: SecondOpinion | None = None
    merged: bool = False  # of other datasets

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or nothing is any more."""
        return not self.findings

    @property
    def damaged(self) -> tuple[str, ...]:
        """Paths of the files with findings, each once."""
        return tuple(dict.fromkeys(finding.path for finding in self.findings))

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "dataset": self.dataset,
            "digest": self.digest,
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
            **{name: getattr(self, name) for name in ("checksums", "shards", "rows", "windows", "tokens", "entries", "files", "bytes")},
            "unchecked": {name: getattr(self, f"unchecked_{name}") for name in ("shards", "rows", "files")},
            "seconds": round(self.seconds, 4),
            "mended": list(self.mended),
            "refused": list(self.refused),
            "teacher": None if self.teacher is None else self.teacher.to_json(),
        }

    def summary(self) -> str:
        """What the command prints."""
        lines = [str(finding) for finding in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            lines.append(f"and {len(self.findings) - SHOWN:,} more (--json lists them all)")
        lines += [f"mended: {path}" for path in self.mended]
        lines += [f"not mended: {why}" for why in self.refused]
        told = f"{counted(len(self.findings), 'finding')} in {counted(len(self.damaged), 'file')}" if self.findings else "nothing wrong"
        lines.append(f"{self.dataset}{f' (dataset {self.digest[:12]})' if self.digest else ''}: {told}")
        lines += map("  {}".format, self._checked())
        if self.teacher is not None:
            lines += self.teacher.summary().splitlines()
        lines += [f"  note: {note}" for note in self.notes]
        advice = self.advice() if self.findings else None
        return "\n".join(map(printable, [*lines, *([f"  {advice}"] if advice else [])]))

    def _checked(self) -> Iterator[str]:
        """What was looked at, and what was not."""
        if self.digest is None:
            return
        speed = size(self.bytes / max(self.seconds, 1e-9))
        windows = "" if self.windows is None else f", {counted(self.windows, 'window')}"
        what = f"with {counted(self.rows, 'row')}{windows}, {self.tokens:,} tokens, {self.entries:,} entries"
        yield (
            f"{counted(self.shards, 'shard')} {'by their bytes, not what is in them' if self.checksums else what}; "
            f"{counted(self.files, 'other file')}; {size(self.bytes)} in {self.seconds:.2f} s, {speed}/s"
        )
        left = [f"{counted(self.unchecked_shards, 'shard')} with {counted(self.unchecked_rows, 'row')}"] if self.unchecked_shards else []
        left += [counted(self.unchecked_files, "other file")] if self.unchecked_files else []
        if left:
            yield f"not checked: {', '.join(left)}, missing or not to be read"

    def advice(self) -> str | None:
        """What to do next about findings; None if each of them says it."""
        if self.digest is None:
            return f"nothing else was checked: {MANIFEST} says what there is"
        if self.dataset.startswith("hf://"):
            return "tell who has published it"
        left = [finding for finding in self.findings if not finding.remedy]
        if not left:
            return None
        altered = dict.fromkeys(finding.path for finding in left if finding.altered)
        if self.merged and any(SHARD.fullmatch(path) or not can_make(path) for path in altered):
            end = "puts back what is damaged" if all(map(can_make, altered)) else "--overwrite makes it again"
            again = f"textsmooth merge SOURCE SOURCE… --out {self.dataset}"
            return f"it was merged: verify and repair its sources, then {again} {end}; or fetch it again"
        if self.refused or self.mended:
            return "what is left has to be fetched again, or the dataset made again with --overwrite"
        if not any(map(can_make, altered)):
            if {finding.path for finding in left} == altered.keys():
                return "none of these can be made again: fetch them again"
            return "nothing that --repair mends: the dataset contradicts itself or its teacher; fetch it again from who made it"
        return f"textsmooth verify {self.dataset} --repair makes damaged files again from corpus and teacher; or fetch them again"


def verify(
    dataset: str | Path,
    *,
    checksums: bool = False,
    against_teacher: int = 0,
    teacher: str | None = None,
    repair: bool = False,
    corpus: str | None = None,
    task_teacher: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    progress: str = "none",
) -> Verified:
    """Check a smoothed dataset: `textsmooth verify`. Damage is what it returns, nothing is raised for it.

    checksums: compare the bytes of shards with their sha256, and do not look at what is in them: two to three times as fast.
    against_teacher: so many rows, drawn with `seed`, run through the teacher again. repair: files whose bytes are not the manifest's are
    made again from corpus and teacher. teacher, corpus, task_teacher: where they lie, if not where the manifest's names lead. workers:
    threads. device, dtype: of the teacher's second opinion, if not the plan's.
    Raises UsageError if there is no such dataset, or corpus or teacher are not to be had; DatasetError if it is not finished; TeacherError
    for another teacher; StorageError.
    """
    if against_teacher < 0 or (workers is not None and workers < 1):
        raise UsageError(f"against-teacher {against_teacher}, workers {workers}: numbers of at least 0 and 1 are needed")
    _check_used(against_teacher, {"teacher": teacher, "device": device}, "--against-teacher N or --repair", used=repair)
    _check_used(against_teacher, {"dtype": dtype}, "--against-teacher N")
    _check_used(0, {"corpus": corpus, "task-teacher": task_teacher}, "--repair", used=repair)
    folder = open_folder(str(dataset), reading=True)
    if repair and folder.read_only:
        raise UsageError(f"{folder} is read, not written: --repair needs a folder on this machine or in an object store; pull it first")
    found = _check(folder, workers, progress, checksums=checksums)
    if repair and found.damaged:
        _repaired(found, From(corpus=corpus, teacher=teacher, task_teacher=task_teacher, device=device), progress)
    if against_teacher and found.manifest is not None:
        if any(finding.path in found.shards for finding in found.findings):
            found.notes.append("shards are damaged, so none was compared with the teacher: mend them first")
        else:
            found.opinion, wrong = second_opinion(
                folder, found.manifest, against_teacher, teacher=teacher, device=device, dtype=dtype, seed=seed
            )
            found.findings += wrong
    return found.verified()


def _check_used(against_teacher: int, given: dict[str, str | None], needs: str, *, used: bool = False) -> None:
    """UsageError for what is given and would do nothing."""
    idle = next((name for name, value in given.items() if value is not None), None)
    if idle is not None and not (used or against_teacher):
        raise UsageError(f"--{idle} {given[idle]} does nothing without {needs}: leave it away, or add that")


@dataclass(kw_only=True)
class _Found:
    """What is known so far."""

    folder: Folder
    manifest: Manifest | None
    findings: list[Finding]
    checksums: bool = False
    notes: list[str] = field(default_factory=list)
    records: Records = field(default_factory=Records)
    looked: dict[str, Looked] = field(default_factory=dict)  # by path of the shard
    bytes: int = 0  # of the manifest
    seconds: float = 0.0
    done: Repaired = field(default_factory=Repaired)
    opinion: SecondOpinion | None = None

    @property
    def shards(self) -> dict[str, ShardEntry]:
        return {} if self.manifest is None else {shard.path: shard for shard in self.manifest.shards}

    @property
    def damaged(self) -> list[str]:
        """Files that are missing, or whose bytes are not the manifest's."""
        return list(dict.fromkeys(finding.path for finding in self.findings if finding.altered))

    def verified(self) -> Verified:
        whole = {path: looked for path, looked in self.looked.items() if looked.whole}
        seen = {} if self.checksums else {path: self.shards[path] for path in whole}
        cut = any(shard.windows is not None for shard in seen.values())
        left = [shard for path, shard in self.shards.items() if path not in self.looked or not self.looked[path].whole]
        return Verified(
            dataset=str(self.folder),
            digest=None if self.manifest is None else self.manifest.dataset,
            findings=tuple(self.findings),
            notes=tuple(self.notes),
            checksums=self.checksums,
            shards=len(whole),
            rows=sum(shard.rows - shard.skipped if cut else whole[path].rows for path, shard in seen.items()),
            windows=sum(looked.rows for looked in whole.values()) if cut else None,
            tokens=sum(looked.tokens for looked in whole.values()),
            entries=sum(looked.entries for looked in whole.values()),
            files=self.records.files + 1,
            bytes=self.bytes + self.records.bytes + sum(looked.bytes for looked in self.looked.values()),
            unchecked_shards=len(left),
            unchecked_rows=sum(shard.rows - shard.skipped for shard in left),
            unchecked_files=self.records.unread,
            seconds=self.seconds,
            mended=tuple(self.done.mended),
            refused=tuple(self.done.refused),
            teacher=self.opinion,
            merged=self.manifest is not None and bool(self.manifest.sources),
        )


def _check(folder: Folder, workers: int | None, progress: str, *, checksums: bool) -> _Found:
    start = time.perf_counter()
    try:
        data = folder.read(MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        read_manifest(folder)  # says what is there instead
        raise
    manifest, findings = read_checked(data)
    found = _Found(folder=folder, manifest=manifest, findings=findings, checksums=checksums, bytes=len(data))
    if manifest is None:
        found.seconds = time.perf_counter() - start
        return found
    records = found.records = check_records(folder, manifest, folder.files())
    found.findings += records.findings
    found.notes += records.notes
    entries = [FileEntry(path=s.path, bytes=s.bytes, sha256=s.sha256) for s in manifest.shards]
    workers = workers or (_cpus() if isinstance(folder, LocalFolder) else STORE_WORKERS)
    look = partial(_look, folder, manifest, records, inside=not checksums)
    with TransferProgress(progress) as shown, ThreadPoolExecutor(workers, "check") as threads:
        shown.start(entries, entries)
        for entry, looked in zip(entries, threads.map(look, manifest.shards), strict=True):
            found.looked[entry.path] = looked
            found.findings += looked.findings
            shown.done(entry)
    found.seconds = time.perf_counter() - start
    return found


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _repaired(found: _Found, places: From, progress: str) -> None:
    """Make damaged files again, and look at them, and at what is beside the shards, once more."""
    folder, manifest = found.folder, found.manifest
    assert manifest is not None
    done = found.done = make_again(folder, manifest, found.records, found.damaged, places, Progress(progress))
    mended = set(done.mended)
    if not mended:
        return
    records = check_records(folder, manifest, folder.files())
    shards = found.shards
    left = [finding for finding in found.findings if finding.path in shards and finding.path not in mended]
    again = {path: _look(folder, manifest, records, shards[path]) for path in done.mended if path in shards}
    wrong = [finding for looked in again.values() for finding in looked.findings]
    found.looked |= again
    found.records, found.findings, found.notes = records, [*records.findings, *left, *wrong], records.notes


def _look(folder: Folder, manifest: Manifest, records: Records, entry: ShardEntry, *, inside: bool = True) -> Looked:
    """What is wrong with a shard, wherever it lies."""
    try:
        if isinstance(folder, LocalFolder):
            place: Path | bytes = folder.path / entry.path
        elif folder.read_only:
            place = folder.local(entry.path, size=entry.bytes, sha256=entry.sha256)
        else:
            place = folder.read(entry.path)
        return check_shard(place, entry, manifest, records.promised(entry) if inside else None, inside=inside)
    except FileNotFoundError:
        wrong = missing(entry.path)
    except DatasetError as error:
        wrong = Finding(path=entry.path, what=str(error).partition(";")[0].removeprefix(f"{entry.path} "), altered=True)
    except OSError as error:
        wrong = unreadable(entry.path, error)
    except SENSELESS as error:
        wrong = Finding(path=entry.path, what=f"does not fit what plan and receipts say of it: {first_line(error)}")
    return Looked(findings=(wrong,))
