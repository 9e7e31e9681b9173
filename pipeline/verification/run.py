"""Check a dataset: every file against the manifest, every shard against the format, plan and receipts: `textsmooth verify`."""

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
from textsmooth.pipeline.verification.repair import Origins, Repaired, can_make, make_again
from textsmooth.pipeline.verification.teacher_sample import SecondOpinion, second_opinion
from textsmooth.schemas.errors import DatasetError, UsageError, first_line
from textsmooth.schemas.manifest import MANIFEST, SHARD, FileEntry, Manifest, ShardEntry
from textsmooth.schemas.printable import printable
from textsmooth.stages.checks.shard import Finding, Looked, check_shard, missing, unreadable
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder

SHOWN = 20  # findings printed
STORE_WORKERS = 8  # threads for a store, where waiting takes longer than checking


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The result of a verification."""

    dataset: str  # path or URI
    digest: str | None  # of the dataset; None if its manifest cannot be read
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()  # remarks that are not damage
    checksums: bool = False  # only bytes were compared, so rows, tokens and entries are 0
    shards: int = 0  # checked to their end, like the following counts
    rows: int = 0  # of the corpus
    windows: int | None = None  # rows of the shards, if long rows were cut
    tokens: int = 0
    entries: int = 0
    files: int = 0  # other files read, including manifest.json
    bytes: int = 0  # compared with the sha256
    unchecked_shards: int = 0  # missing, or not readable to their end
    unchecked_rows: int = 0  # of those shards, by the manifest
    unchecked_files: int = 0  # other files missing or unreadable
    seconds: float = 0.0  # without repair and teacher
    mended: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()  # files that were not repaired, with the reason
    teacher: SecondOpinion | None = None
    merged: bool = False  # the dataset was merged from others

    @property
    def ok(self) -> bool:
        """Whether there are no findings, or none left after a repair."""
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
        """The output of the command."""
        lines = [str(finding) for finding in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            lines.append(f"and {len(self.findings) - SHOWN:,} more (--json lists them all)")
        lines += [f"repaired: {path}" for path in self.mended]
        lines += [f"not repaired: {reason}" for reason in self.refused]
        result = f"{counted(len(self.findings), 'finding')} in {counted(len(self.damaged), 'file')}" if self.findings else "no findings"
        lines.append(f"{self.dataset}{f' (dataset {self.digest[:12]})' if self.digest else ''}: {result}")
        lines += map("  {}".format, self._checked())
        if self.teacher is not None:
            lines += self.teacher.summary().splitlines()
        lines += [f"  note: {note}" for note in self.notes]
        advice = self.advice() if self.findings else None
        return "\n".join(map(printable, [*lines, *([f"  {advice}"] if advice else [])]))

    def _checked(self) -> Iterator[str]:
        """The amounts that were checked and not checked."""
        if self.digest is None:
            return
        speed = size(self.bytes / max(self.seconds, 1e-9))
        windows = "" if self.windows is None else f", {counted(self.windows, 'window')}"
        what = f"with {counted(self.rows, 'row')}{windows}, {self.tokens:,} tokens, {self.entries:,} entries"
        yield (
            f"{counted(self.shards, 'shard')} {'by their bytes, contents not checked' if self.checksums else what}; "
            f"{counted(self.files, 'other file')}; {size(self.bytes)} in {self.seconds:.2f} s, {speed}/s"
        )
        left = [f"{counted(self.unchecked_shards, 'shard')} with {counted(self.unchecked_rows, 'row')}"] if self.unchecked_shards else []
        left += [counted(self.unchecked_files, "other file")] if self.unchecked_files else []
        if left:
            yield f"not checked: {', '.join(left)}, missing or unreadable"

    def advice(self) -> str | None:
        """What to do about the findings; None if each of them says so itself."""
        if self.digest is None:
            return f"nothing else was checked, because {MANIFEST} lists the files"
        if self.dataset.startswith("hf://"):
            return "report this to the publisher of the dataset"
        left = [finding for finding in self.findings if not finding.remedy]
        if not left:
            return None
        altered = dict.fromkeys(finding.path for finding in left if finding.altered)
        if self.merged and any(SHARD.fullmatch(path) or not can_make(path) for path in altered):
            end = "restores damaged files" if all(map(can_make, altered)) else "--overwrite makes it again"
            again = f"textsmooth merge SOURCE SOURCE… --out {self.dataset}"
            return f"the dataset was merged: verify and repair its sources, then {again} {end}; or download it again"
        if self.refused or self.mended:
            return "download the remaining files again, or make the dataset again with --overwrite"
        if not any(map(can_make, altered)):
            if {finding.path for finding in left} == altered.keys():
                return "none of these files can be made again: download them again"
            return "--repair cannot fix this: the dataset contradicts itself or its teacher; download it again from its publisher"
        return f"textsmooth verify {self.dataset} --repair makes damaged files again from corpus and teacher; or download them again"


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
    """Check a smoothed dataset: `textsmooth verify`. Damage is returned as findings and raises nothing.

    checksums: compare only the bytes of shards with their sha256: two to three times as fast. against_teacher: number of rows, drawn
    with `seed`, to run through the teacher again. repair: make files with wrong bytes again from corpus and teacher. teacher, corpus,
    task_teacher: paths or names, by default those of the manifest. workers: threads. device, dtype: for the teacher, by default those
    of the plan.
    Raises UsageError if dataset, corpus or teacher are not state, DatasetError if the dataset is not finished, TeacherError for a
    different teacher, StorageError.
    """
    if against_teacher < 0 or (workers is not None and workers < 1):
        raise UsageError(f"against-teacher {against_teacher}, workers {workers}: expected at least 0 and at least 1")
    _check_used(against_teacher, {"teacher": teacher, "device": device}, "--against-teacher N or --repair", used=repair)
    _check_used(against_teacher, {"dtype": dtype}, "--against-teacher N")
    _check_used(0, {"corpus": corpus, "task-teacher": task_teacher}, "--repair", used=repair)
    folder = open_folder(str(dataset), reading=True)
    if repair and folder.read_only:
        raise UsageError(f"{folder} is read-only: --repair needs a folder on this machine or in an object store; pull the dataset first")
    state = _check(folder, workers, progress, checksums=checksums)
    if repair and state.damaged:
        _repaired(state, Origins(corpus=corpus, teacher=teacher, task_teacher=task_teacher, device=device), progress)
    if against_teacher and state.manifest is not None:
        if any(finding.path in state.shards for finding in state.findings):
            state.notes.append("not compared with the teacher, because shards are damaged: repair them first")
        else:
            state.opinion, wrong = second_opinion(
                folder, state.manifest, against_teacher, teacher=teacher, device=device, dtype=dtype, seed=seed
            )
            state.findings += wrong
    return state.verified()


def _check_used(against_teacher: int, given: dict[str, str | None], needs: str, *, used: bool = False) -> None:
    """UsageError for an option that would have no effect."""
    idle = next((name for name, value in given.items() if value is not None), None)
    if idle is not None and not (used or against_teacher):
        raise UsageError(f"--{idle} {given[idle]} has no effect without {needs}: remove it, or add that")


@dataclass(kw_only=True)
class _State:
    """Results collected during a verification."""

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
        """Files that are missing, or whose bytes differ from the manifest."""
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


def _check(folder: Folder, workers: int | None, progress: str, *, checksums: bool) -> _State:
    start = time.perf_counter()
    try:
        data = folder.read(MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        read_manifest(folder)  # raises an error that says what the folder holds
        raise
    manifest, findings = read_checked(data)
    state = _State(folder=folder, manifest=manifest, findings=findings, checksums=checksums, bytes=len(data))
    if manifest is None:
        state.seconds = time.perf_counter() - start
        return state
    records = state.records = check_records(folder, manifest, folder.files())
    state.findings += records.findings
    state.notes += records.notes
    entries = [FileEntry(path=s.path, bytes=s.bytes, sha256=s.sha256) for s in manifest.shards]
    workers = workers or (_cpus() if isinstance(folder, LocalFolder) else STORE_WORKERS)
    look = partial(_look, folder, manifest, records, inside=not checksums)
    with TransferProgress(progress) as shown, ThreadPoolExecutor(workers, "check") as threads:
        shown.start(entries, entries)
        for entry, looked in zip(entries, threads.map(look, manifest.shards), strict=True):
            state.looked[entry.path] = looked
            state.findings += looked.findings
            shown.done(entry)
    state.seconds = time.perf_counter() - start
    return state


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _repaired(state: _State, origins: Origins, progress: str) -> None:
    """Make damaged files again, then check them, and all other files except shards, once more."""
    folder, manifest = state.folder, state.manifest
    assert manifest is not None
    done = state.done = make_again(folder, manifest, state.records, state.damaged, origins, Progress(progress))
    mended = set(done.mended)
    if not mended:
        return
    records = check_records(folder, manifest, folder.files())
    shards = state.shards
    left = [finding for finding in state.findings if finding.path in shards and finding.path not in mended]
    again = {path: _look(folder, manifest, records, shards[path]) for path in done.mended if path in shards}
    wrong = [finding for looked in again.values() for finding in looked.findings]
    state.looked |= again
    state.records, state.findings, state.notes = records, [*records.findings, *left, *wrong], records.notes


def _look(folder: Folder, manifest: Manifest, records: Records, entry: ShardEntry, *, inside: bool = True) -> Looked:
    """Check one shard in any kind of folder."""
    try:
        if isinstance(folder, LocalFolder):
            shard: Path | bytes = folder.path / entry.path
        elif folder.read_only:
            shard = folder.local(entry.path, size=entry.bytes, sha256=entry.sha256)
        else:
            shard = folder.read(entry.path)
        return check_shard(shard, entry, manifest, records.promised(entry) if inside else None, inside=inside)
    except FileNotFoundError:
        wrong = missing(entry.path)
    except DatasetError as error:
        wrong = Finding(path=entry.path, what=str(error).partition(";")[0].removeprefix(f"{entry.path} "), altered=True)
    except OSError as error:
        wrong = unreadable(entry.path, error)
    except SENSELESS as error:
        wrong = Finding(path=entry.path, what=f"does not fit plan and receipts: {first_line(error)}")
    return Looked(findings=(wrong,))
