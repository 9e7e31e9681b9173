"""Fetch a shared dataset, or some of its shards as a dataset of their own: `textsmooth pull`."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from textsmooth.pipeline.commit.card import card
from textsmooth.pipeline.formatting import counted, size
from textsmooth.pipeline.progress import TransferProgress
from textsmooth.pipeline.share.deliver import DatasetFiles, check_apart, deliver, existing_part, grow, read_dataset
from textsmooth.pipeline.share.subset import chosen, either, part
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import CARD, MANIFEST
from textsmooth.schemas.printable import printable
from textsmooth.stages.dataset.open import dataset_name, hub_uri, open_folder
from textsmooth.stages.storage.folder import is_uri
from textsmooth.stages.storage.local import LocalFolder
from textsmooth.stages.storage.transfer import FolderTarget

DEFAULT_FOLDER = "smoothed"


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """The result of a pull."""

    source: str
    out: str
    dataset: str  # digest
    partial_of: str | None  # digest of the whole dataset, if this is a part
    splits: dict[str, dict[str, int]]  # shards, rows and tokens of each
    files: int  # fetched, without manifest.json
    bytes: int
    kept_files: int  # already complete
    already: bool  # nothing had to be fetched
    seconds: float

    def summary(self) -> str:
        """The result as lines of text."""
        there = f"; {self.kept_files:,} already there" if self.kept_files else ""
        fetched = f"{counted(self.files, 'file')}, {size(self.bytes)} fetched{there}"
        by_name = is_uri(self.out) and self.kept_files  # in a store
        compared = "existing shards compared by name and size, the rest by sha256" if by_name else "every sha256 compared"
        what = f"{'nothing to do: it is already there' if self.already else fetched}, {compared}"
        part_of = f", a part of {self.partial_of[:12]}" if self.partial_of else ""
        counts = ", ".join(
            f"{name} {counted(split['rows'], 'row')} in {counted(split['shards'], 'shard')}" for name, split in self.splits.items()
        )
        lines = (
            f"pulled   {self.out}  (dataset {self.dataset[:12]}{part_of})",
            f"         {what}",
            f"         {counts}",
            f"next     textsmooth inspect {self.out}  |  textsmooth train {self.out} --student STUDENT",
        )
        return "\n".join(map(printable, lines))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def pull(
    source: str | Path,
    out: str | Path | None = None,
    *,
    splits: str | Sequence[str] = (),
    shards: str | Sequence[int] | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: str = "none",
) -> Pulled:
    """Fetch a smoothed dataset, or the files of it that are missing: `textsmooth pull`.

    source: owner/name or hf://datasets/owner/name[@revision][/folder] on the Hub, s3://bucket/folder, gs://bucket/folder, a folder.
    out: a folder or store; smoothed/<name of the source> if None. splits: only these. shards: only these shards of each split, counted
    from 0, as text like 0-9 or 0-3,7, or as numbers; the result is a dataset of its own whose manifest names the whole one.
    revision: branch, tag or commit on the Hub. overwrite: replace the content of `out`; otherwise shards are added to a part there.
    Raises UsageError, DatasetError (a file differs from the manifest), ConflictError (`out` holds something else), StorageError.
    """
    began = time.perf_counter()
    folder = open_folder(_at(source, revision), reading=True)
    whole = _with_card(read_dataset(folder))
    numbers = shards if shards is None or isinstance(shards, str) else ",".join(map(str, shards))
    wanted = chosen(whole.manifest, (splits,) if isinstance(splits, str) else splits, numbers)
    target_folder = open_folder(_out(source, f"{DEFAULT_FOLDER}/{dataset_name(folder.where)}" if out is None else out))
    check_apart(folder, target_folder.where, target_folder)
    if isinstance(target_folder, LocalFolder):
        for path in (target_folder.path, *target_folder.path.parents):
            if path.is_symlink() and not path.exists():
                raise UsageError(f"{path} is a broken link: create or mount its target, or choose another folder")
    target = FolderTarget(target_folder)
    with TransferProgress(progress) as shown, target.alone(shown.waiting):
        before = None if overwrite else target.manifest()
        existing = None if before is None else existing_part(before, target_folder.at(MANIFEST), whole.manifest)
        files = part(whole, wanted if existing is None else either(whole.manifest, wanted, existing.shards))
        manifest = files.manifest
        if before is None or existing is None or existing.dataset == manifest.dataset:
            delivered = deliver(files, target, shown, overwrite=overwrite)
        else:
            delivered = grow(files, target, before, shown)
        pulled = Pulled(
            source=folder.where,
            out=target_folder.where,
            dataset=manifest.dataset,
            partial_of=manifest.partial_of,
            splits={
                split: {
                    "shards": len(manifest.split(split)),
                    "rows": sum(shard.rows - shard.skipped for shard in manifest.split(split)),
                    "tokens": sum(shard.tokens for shard in manifest.split(split)),
                }
                for split in manifest.splits
            },
            files=delivered.files,
            bytes=delivered.bytes,
            kept_files=delivered.kept_files,
            already=delivered.already,
            seconds=round(time.perf_counter() - began, 3),
        )
        shown.emit("finished", **pulled.to_json())
    return pulled


def _with_card(files: DatasetFiles) -> DatasetFiles:
    """With the card made from the manifest, if that gives the listed bytes: the publisher may have edited the card."""
    made = card(files.manifest).encode()
    if not any(file.path == CARD and file.sha256 == hashlib.sha256(made).hexdigest() for file in files.manifest.files):
        return files  # of another version
    return replace(files, reader=replace(files.reader, made={**files.reader.made, CARD: made}))


def _out(source: str | Path, out: str | Path) -> str | Path:
    """The target. UsageError for the Hub, and for a folder that would hide the Hub name of the source."""
    if str(out).startswith("hf://"):
        raise UsageError(f"pull cannot write to the Hub ({out}): use textsmooth push")
    owner = Path(out).parts[:1]
    if hub_uri(source) is not None and not is_uri(str(source)) and Path(source).parts[:1] == owner and not Path(*owner).exists():
        raise UsageError(
            f"{out} would create a folder {owner[0]}, and {source} would then mean that folder, not the Hub: choose another folder"
        )
    return out


def _at(source: str | Path, revision: str | None) -> str | Path:
    """A source at a revision."""
    if revision is None:
        return source
    uri = str(source) if str(source).startswith("hf://") else hub_uri(source)
    if uri is None:
        raise UsageError(f"--revision {revision} works only with a repository on the Hub, given as owner/name; {source} is not one")
    if "@" in uri:
        raise UsageError(f"--revision {revision}: {source} already names a revision; remove one of them")
    head, _, folder = uri.removeprefix("hf://datasets/").partition("/")
    name, _, below = folder.partition("/")
    quoted = revision if revision.startswith("refs/") else quote(revision, safe="")
    return f"hf://datasets/{head}/{name}@{quoted}{f'/{below}' if below else ''}"
