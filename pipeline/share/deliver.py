"""Deliver a dataset to a folder, store or repository: keep files that are already complete, and write manifest.json last.

Nothing of another dataset is touched without `overwrite`.
"""

from dataclasses import dataclass
from pathlib import Path

from textsmooth.pipeline.progress import TransferProgress
from textsmooth.schemas.errors import ConflictError, DatasetError, UsageError
from textsmooth.schemas.manifest import MANIFEST, OWN, PLAN, SHARD, FileEntry, Manifest
from textsmooth.schemas.printable import printable
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage.atomic import parse_json
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder, overlap
from textsmooth.stages.storage.transfer import FolderTarget, Reader, Target

NAMED = 3  # files named in a message


@dataclass(frozen=True, kw_only=True)
class DatasetFiles:
    """The files of a dataset and where to read them."""

    reader: Reader
    manifest: Manifest
    data: bytes  # of manifest.json

    @property
    def entries(self) -> list[FileEntry]:
        """All files except manifest.json, the shards last."""
        return files_of(self.manifest)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What a delivery sent."""

    files: int  # sent, without manifest.json
    bytes: int  # sent
    kept_files: int  # already complete at the target
    already: bool = False  # the whole dataset was complete


def files_of(manifest: Manifest) -> list[FileEntry]:
    """All files that a manifest lists, the shards last."""
    return [*manifest.files, *(FileEntry(path=s.path, bytes=s.bytes, sha256=s.sha256) for s in manifest.shards)]


def read_dataset(source: Folder) -> DatasetFiles:
    """A finished dataset. UsageError or DatasetError if the folder has none."""
    manifest = read_manifest(source)
    return DatasetFiles(reader=Reader(source=source), manifest=manifest, data=source.read(MANIFEST))


def whole_digest(manifest: Manifest) -> str:
    """The digest of the whole dataset, also for a part of it."""
    return manifest.partial_of or manifest.dataset


def check_apart(source: Folder, target: str, folder: Folder | None) -> None:
    """UsageError if source and target overlap, or the target is inside a smoothed dataset on this machine."""
    if folder is not None:
        inside = overlap(source, folder)
    else:
        a, b = f"{source.where.rstrip('/')}/", f"{target.rstrip('/')}/"
        inside = a.startswith(b) or b.startswith(a)
    if inside:
        raise UsageError(f"{target} and {source.where} overlap: one contains the other; choose another target")
    if isinstance(folder, LocalFolder):
        for above in folder.path.resolve().parents:
            if (above / MANIFEST).is_file() and _is_dataset(above):
                raise UsageError(f"{target} is inside the smoothed dataset {above}; choose another target")


def _is_dataset(path: Path) -> bool:
    try:
        Manifest.from_json(parse_json((path / MANIFEST).read_bytes(), ""), "")
    except (DatasetError, OSError):
        return False
    return True


def deliver(dataset: DatasetFiles, target: Target, progress: TransferProgress, *, overwrite: bool = False) -> Delivered:
    """Send a dataset to a target, or the files that it has not yet. overwrite: replace another dataset.

    Raises ConflictError if the target holds something else, DatasetError if a file differs from the manifest, StorageError.
    """
    entries = dataset.entries
    before = target.manifest()
    old = None if before is None else _parsed(before, target, overwrite=overwrite)
    progress.looking(target.where)
    same = old is not None and old.dataset == dataset.manifest.dataset
    missing = target.lacks(entries, dataset.reader)
    # the same dataset from another run has the same shards, but other times in its records
    if same and (not missing if before == dataset.data else old is not None and not target.lacks(files_of(old), None)):
        target.tidy()
        return _delivered(entries, [], already=True)
    stale = _stale(dataset, target, before, old, missing, overwrite=overwrite)
    if before is not None and before != dataset.data:
        target.remove([MANIFEST])  # readers refuse the folder from here on
    if stale:
        target.remove(stale)
    progress.start(entries, missing)
    target.send(missing, dataset.reader, progress.done)
    target.tidy()
    target.publish(dataset.data, entries, dataset.reader)
    return _delivered(entries, missing)


def existing_part(manifest: bytes, where: str, whole: Manifest) -> Manifest | None:
    """The manifest of a folder that holds a part of the dataset `whole`; None if it holds something else. manifest: its manifest.json."""
    try:
        part = Manifest.from_json(parse_json(manifest, where), where)
    except DatasetError:
        return None
    return part if whole_digest(part) == whole_digest(whole) and set(part.shards) <= set(whole.shards) else None


def grow(dataset: DatasetFiles, target: FolderTarget, before: bytes, progress: TransferProgress) -> Delivered:
    """Add shards to a folder that holds a part of the dataset; it stays a valid dataset until all files have arrived.

    before: its manifest.json. Raises ConflictError if another process changed the folder, DatasetError, StorageError.
    """
    progress.looking(target.where)
    entries, reader = dataset.entries, dataset.reader
    missing = target.lacks(entries, reader)
    local = isinstance(target.folder, LocalFolder)  # a store has no temporary names: there only shards, whose names are unique, go first
    late = [entry for entry in missing if not SHARD.fullmatch(entry.path) and (entry.path in reader.made or not local)]
    early = [entry for entry in missing if entry not in late]
    staged = set(target.staged(early))
    unstaged = [entry for entry in early if entry not in staged]
    progress.start(entries, [*unstaged, *late])
    target.send(unstaged, reader, progress.done, staged=True)
    conflict = ConflictError(f"another process changed {target.where} at the same time: run the same command again to continue")
    if target.manifest() not in (before, dataset.data):
        raise conflict
    target.unstage(early)
    files = target.files()
    if any(files.get(entry.path) != entry.bytes for entry in entries if entry not in late):
        raise conflict
    target.send(late, reader, progress.done)
    target.folder.put(MANIFEST, dataset.data)
    expected = {entry.path for entry in entries}
    target.remove([name for name in target.files() if SHARD.fullmatch(name) and name not in expected])  # of a killed run
    target.tidy()
    return _delivered(entries, [*unstaged, *late])


def _delivered(entries: list[FileEntry], sent: list[FileEntry], *, already: bool = False) -> Delivered:
    size = sum(entry.bytes for entry in sent)
    return Delivered(files=len(sent), bytes=size, kept_files=len(entries) - len(sent), already=already)


def _parsed(data: bytes, target: Target, *, overwrite: bool) -> Manifest | None:
    where = f"{target.where}/{MANIFEST}"
    try:
        return Manifest.from_json(parse_json(data, where), where)
    except DatasetError as error:
        if overwrite:
            return None
        raise ConflictError(f"{error}; or replace it with --overwrite") from None


def _stale(
    dataset: DatasetFiles,
    target: Target,
    before: bytes | None,
    old: Manifest | None,
    missing: list[FileEntry],
    *,
    overwrite: bool,
) -> list[str]:
    """Files of another dataset to remove. ConflictError if the target holds files that may not be removed or replaced.

    before, old: manifest.json of the target, as bytes and parsed. missing: files that the target does not have.
    """
    expected = {entry.path for entry in dataset.entries} | {MANIFEST}
    files = target.files()
    if old is not None:
        listed = {entry.path for entry in files_of(old)}
        same = old.dataset == dataset.manifest.dataset
        if not (same or overwrite):
            raise ConflictError(_other_dataset(dataset, target, old))
        return sorted(name for name in files if name not in expected and (name in listed or SHARD.fullmatch(name)))
    others = sorted(name for name in files if name not in expected and name not in target.spared)
    foreign = [name for name in others if not OWN.fullmatch(name)]
    if foreign and not (overwrite and (before is not None or PLAN in files)):
        raise ConflictError(f"{target.where} contains other files ({_named(foreign)}): choose an empty target, or one with a dataset")
    if len(others) > len(foreign) and not overwrite:
        own = [name for name in others if name not in foreign]
        raise ConflictError(
            f"{target.where} contains a part of another dataset ({_named(own)}): replace it with --overwrite, or choose another target"
        )
    # An interrupted delivery left files that are equal byte for byte; a growing part has its shards, and files to replace.
    # Compared again, because another process that delivers the same dataset may have added some meanwhile.
    altered = sorted(entry.path for entry in target.lacks([entry for entry in missing if entry.path in files], dataset.reader))
    begun = {entry.path for entry in dataset.entries if SHARD.fullmatch(entry.path)} & files.keys() - set(altered)
    if altered and not (begun or overwrite):
        raise ConflictError(
            f"{target.where} contains different files with the same names ({_named(altered)}): replace them with --overwrite, or choose "
            "another target"
        )
    return [name for name in others if OWN.fullmatch(name)]


def _other_dataset(dataset: DatasetFiles, target: Target, old: Manifest) -> str:
    if whole_digest(old) == whole_digest(dataset.manifest):
        return f"{target.where} has other shards of this dataset: replace them with --overwrite, or choose another target"
    digests = f"{old.dataset[:12]}, not {dataset.manifest.dataset[:12]}"
    return f"{target.where} has another dataset ({digests}): replace it with --overwrite, or choose another target"


def _named(names: list[str]) -> str:
    return ", ".join(map(printable, names[:NAMED])) + (f" … {len(names):,} in all" if len(names) > NAMED else "")
