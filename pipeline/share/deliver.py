"""A dataset arrives somewhere: what is there already stays, nothing else is touched unasked, and manifest.json comes last."""

from dataclasses import dataclass
from pathlib import Path

from textsmooth.pipeline.progress import TransferProgress
from textsmooth.schemas.errors import ConflictError, DatasetError, UsageError
from textsmooth.schemas.manifest import MANIFEST, OWN, PLAN, SHARD, FileEntry, Manifest
from textsmooth.schemas.printable import printable
from textsmooth.stages.storage.atomic import parse_json
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder, overlap
from textsmooth.stages.storage.transfer import FolderTarget, Reader, Target

NAMED = 3  # files that a message names


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What is to arrive."""

    reader: Reader
    manifest: Manifest
    data: bytes  # of manifest.json

    @property
    def entries(self) -> list[FileEntry]:
        """All files but manifest.json, the shards last."""
        return files_of(self.manifest)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What it took."""

    files: int  # that were sent, manifest.json not counted
    bytes: int
    kept_files: int  # that were there
    kept_bytes: int
    already: bool = False  # the dataset was there


def files_of(manifest: Manifest) -> list[FileEntry]:
    """All files that a manifest lists, the shards last."""
    return [*manifest.files, *(FileEntry(path=s.path, bytes=s.bytes, sha256=s.sha256) for s in manifest.shards)]


def read_parcel(source: Folder) -> Parcel:
    """A whole dataset. UsageError or DatasetError if there is none."""
    from textsmooth.stages.dataset.open import read_manifest

    manifest = read_manifest(source)
    return Parcel(reader=Reader(source=source), manifest=manifest, data=source.read(MANIFEST))


def origin(manifest: Manifest) -> str:
    """The digest of the whole dataset."""
    return manifest.partial_of or manifest.dataset


def check_apart(source: Folder, target: str, folder: Folder | None) -> None:
    """UsageError if one of two folders lies in the other, or the target in a smoothed dataset on this machine."""
    if folder is not None:
        inside = overlap(source, folder)
    else:
        a, b = f"{source.where.rstrip('/')}/", f"{target.rstrip('/')}/"
        inside = a.startswith(b) or b.startswith(a)
    if inside:
        raise UsageError(f"{target} and {source.where} are not apart: one is the other, or lies in it; name another place")
    if isinstance(folder, LocalFolder):
        for above in folder.path.resolve().parents:
            if (above / MANIFEST).is_file() and _is_dataset(above):
                raise UsageError(f"{target} lies in the smoothed dataset {above}: name another place")


def _is_dataset(path: Path) -> bool:
    try:
        Manifest.from_json(parse_json((path / MANIFEST).read_bytes(), ""), "")
    except (DatasetError, OSError):
        return False
    return True


def deliver(parcel: Parcel, target: Target, shown: TransferProgress, *, overwrite: bool = False) -> Delivered:
    """Bring a dataset to a place, or the rest of it. overwrite: in place of another one there.

    Raises ConflictError if something else is there, DatasetError if a file is not what the manifest says, StorageError.
    """
    entries = parcel.entries
    before = target.manifest()
    there = None if before is None else _parsed(before, target, overwrite=overwrite)
    shown.looking(target.where)
    same = there is not None and there.dataset == parcel.manifest.dataset
    lacking = target.lacks(entries, parcel.reader)
    # one made in another run has the same shards, and other times in its files
    if same and (not lacking if before == parcel.data else there is not None and not target.lacks(files_of(there), None)):
        target.tidy()
        return _delivered(entries, [], already=True)
    stale = _stale(parcel, target, before, there, lacking, overwrite=overwrite)
    if before is not None and before != parcel.data:
        target.remove([MANIFEST])  # from here on it is no dataset
    if stale:
        target.remove(stale)
    shown.start(entries, lacking)
    target.send(lacking, parcel.reader, shown.done)
    target.tidy()
    target.publish(parcel.data, entries, parcel.reader)
    return _delivered(entries, lacking)


def part_there(manifest: bytes, where: str, whole: Manifest) -> Manifest | None:
    """What a place with this manifest.json has of a dataset: shards that are all among those of `whole`. None if it has something else."""
    try:
        found = Manifest.from_json(parse_json(manifest, where), where)
    except DatasetError:
        return None
    return found if origin(found) == origin(whole) and set(found.shards) <= set(whole.shards) else None


def grow(parcel: Parcel, target: FolderTarget, before: bytes, shown: TransferProgress) -> Delivered:
    """Bring more of a dataset to a place that has a part of it, whose manifest.json is `before`. Until all has arrived it stays as it is.

    Raises ConflictError if something else arrives there at the same time, which a lock does not let happen, DatasetError, StorageError.
    """
    shown.looking(target.where)
    entries, reader = parcel.entries, parcel.reader
    lacking = target.lacks(entries, reader)
    local = isinstance(target.folder, LocalFolder)  # a store has no temporary names: only shards, which have names of their own, go before
    late = [entry for entry in lacking if not SHARD.fullmatch(entry.path) and (entry.path in reader.made or not local)]
    early = [entry for entry in lacking if entry not in late]
    here = set(target.staged(early))
    missing = [entry for entry in early if entry not in here]
    shown.start(entries, [*missing, *late])
    target.send(missing, reader, shown.done, staged=True)
    other = ConflictError(f"something else arrived in {target.where} at the same time: run the same command again, it goes on")
    if target.manifest() not in (before, parcel.data):
        raise other
    target.unstage(early)
    files = target.files()
    if any(files.get(entry.path) != entry.bytes for entry in entries if entry not in late):
        raise other
    target.send(late, reader, shown.done)
    target.folder.put(MANIFEST, parcel.data)
    mine = {entry.path for entry in entries}
    target.remove([name for name in target.files() if SHARD.fullmatch(name) and name not in mine])  # of a run that was killed
    target.tidy()
    return _delivered(entries, [*missing, *late])


def _delivered(entries: list[FileEntry], sent: list[FileEntry], *, already: bool = False) -> Delivered:
    size = sum(entry.bytes for entry in sent)
    return Delivered(
        files=len(sent),
        bytes=size,
        kept_files=len(entries) - len(sent),
        kept_bytes=sum(entry.bytes for entry in entries) - size,
        already=already,
    )


def _parsed(data: bytes, target: Target, *, overwrite: bool) -> Manifest | None:
    where = f"{target.where}/{MANIFEST}"
    try:
        return Manifest.from_json(parse_json(data, where), where)
    except DatasetError as error:
        if overwrite:
            return None
        raise ConflictError(f"{error}; or replace it with --overwrite") from None


def _stale(
    parcel: Parcel,
    target: Target,
    before: bytes | None,
    there: Manifest | None,
    lacking: list[FileEntry],
    *,
    overwrite: bool,
) -> list[str]:
    """Files of another dataset that have to go; ConflictError if that, or to replace what is not ours, was not asked for."""
    mine = {entry.path for entry in parcel.entries} | {MANIFEST}
    files = target.files()
    if there is not None:
        listed = {entry.path for entry in files_of(there)}
        same = there.dataset == parcel.manifest.dataset
        if not (same or overwrite):
            raise ConflictError(_told(parcel, target, there))
        return sorted(name for name in files if name not in mine and (name in listed or SHARD.fullmatch(name)))
    others = sorted(name for name in files if name not in mine and name not in target.spared)
    strange = [name for name in others if not OWN.fullmatch(name)]
    if strange and not (overwrite and (before is not None or PLAN in files)):
        raise ConflictError(f"{target.where} holds other files ({_named(strange)}): name a place that is empty, or has a dataset")
    if len(others) > len(strange) and not overwrite:
        own = [name for name in others if name not in strange]
        raise ConflictError(f"{target.where} holds a part of another dataset ({_named(own)}): replace it with --overwrite, or name another")
    # What an arrival has left is ours byte for byte; a part that was growing has its shards, and files that have to be replaced.
    # Looked at again: another process that brings the same dataset may have put one in place meanwhile.
    altered = sorted(entry.path for entry in target.lacks([entry for entry in lacking if entry.path in files], parcel.reader))
    begun = {entry.path for entry in parcel.entries if SHARD.fullmatch(entry.path)} & files.keys() - set(altered)
    if altered and not (begun or overwrite):
        raise ConflictError(
            f"{target.where} holds other files of the same names ({_named(altered)}): replace them with --overwrite, or name another place"
        )
    return [name for name in others if OWN.fullmatch(name)]


def _told(parcel: Parcel, target: Target, there: Manifest) -> str:
    ours, theirs = parcel.manifest.dataset[:12], there.dataset[:12]
    if origin(there) == origin(parcel.manifest):
        return f"{target.where} has other shards of this dataset: replace them with --overwrite, or name another place"
    return f"{target.where} has another dataset ({theirs}, not {ours}): replace it with --overwrite, or name another place"


def _named(names: list[str]) -> str:
    return ", ".join(map(printable, names[:NAMED])) + (f" … {len(names):,} in all" if len(names) > NAMED else "")
