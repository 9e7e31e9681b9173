"""A dataset is pulled from where it is shared: all of it, or some shards as a dataset of their own."""

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
from textsmooth.pipeline.share.deliver import Parcel, check_apart, deliver, grow, part_there, read_parcel
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
    """What was pulled, and where it is."""

    source: str
    out: str
    dataset: str  # digest
    partial_of: str | None  # digest of the dataset of which it is a part
    splits: dict[str, dict[str, int]]  # shards, rows and tokens of each
    files: int  # that were fetched, manifest.json not counted
    bytes: int
    kept_files: int  # that were there
    already: bool  # nothing had to be fetched
    seconds: float

    def summary(self) -> str:
        """What there is to tell, in lines."""
        there = f"; {self.kept_files:,} were there" if self.kept_files else ""
        fetched = f"{counted(self.files, 'file')}, {size(self.bytes)} fetched{there}"
        by_name = is_uri(self.out) and self.kept_files  # in a store
        compared = "shards that were there compared by name and size, all else by sha256" if by_name else "every sha256 compared"
        what = f"{'nothing to do: it is there already' if self.already else fetched}, {compared}"
        part_of = f", a part of {self.partial_of[:12]}" if self.partial_of else ""
        counts = ", ".join(
            f"{name} {counted(found['rows'], 'row')} in {counted(found['shards'], 'shard')}" for name, found in self.splits.items()
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
    """Fetch a smoothed dataset, or what is missing of it: `textsmooth pull`.

    source: owner/name or hf://datasets/owner/name[@revision][/folder] on the Hub, s3://bucket/folder, gs://bucket/folder, a folder.
    out: a folder or store; smoothed/<name of the source> if None. splits: only these. shards: only those at these places of each split,
    like 0-9 or 0-3,7, or their numbers; the result is a dataset of its own, whose manifest says what it is a part of. revision: branch,
    tag or commit on the Hub. overwrite: in place of what `out` has; without it, a part of the same dataset there grows by what is fetched.
    Raises UsageError, DatasetError (what arrives is not what the manifest says), ConflictError (something else is there), StorageError.
    """
    began = time.perf_counter()
    folder = open_folder(_at(source, revision), reading=True)
    whole = _with_card(read_parcel(folder))
    numbers = shards if shards is None or isinstance(shards, str) else ",".join(map(str, shards))
    wanted = chosen(whole.manifest, (splits,) if isinstance(splits, str) else splits, numbers)
    place = open_folder(_out(source, f"{DEFAULT_FOLDER}/{dataset_name(folder.where)}" if out is None else out))
    check_apart(folder, place.where, place)
    if isinstance(place, LocalFolder):
        for path in (place.path, *place.path.parents):
            if path.is_symlink() and not path.exists():
                raise UsageError(f"{path} is a link that leads nowhere: make or mount what it points to, or name another place")
    target = FolderTarget(place)
    with TransferProgress(progress) as shown, target.alone(shown.waiting):
        before = None if overwrite else target.manifest()
        there = None if before is None else part_there(before, place.at(MANIFEST), whole.manifest)
        parcel = part(whole, wanted if there is None else either(whole.manifest, wanted, there.shards))
        manifest = parcel.manifest
        if before is None or there is None or there.dataset == manifest.dataset:
            found = deliver(parcel, target, shown, overwrite=overwrite)
        else:
            found = grow(parcel, target, before, shown)
        pulled = Pulled(
            source=folder.where,
            out=place.where,
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
            files=found.files,
            bytes=found.bytes,
            kept_files=found.kept_files,
            already=found.already,
            seconds=round(time.perf_counter() - began, 3),
        )
        shown.tell("finished", **pulled.to_json())
    return pulled


def _with_card(parcel: Parcel) -> Parcel:
    """The card made again from the manifest, where that gives the bytes that it lists: whoever shares a dataset may have edited theirs."""
    made = card(parcel.manifest).encode()
    if not any(file.path == CARD and file.sha256 == hashlib.sha256(made).hexdigest() for file in parcel.manifest.files):
        return parcel  # of another version
    return replace(parcel, reader=replace(parcel.reader, made={**parcel.reader.made, CARD: made}))


def _out(source: str | Path, out: str | Path) -> str | Path:
    """Where to; UsageError for the Hub, and for a folder that would hide the name that the source has there."""
    if str(out).startswith("hf://"):
        raise UsageError(f"pull brings a dataset from the Hub, {out} is there: textsmooth push sends one")
    owner = Path(out).parts[:1]
    if hub_uri(source) is not None and not is_uri(str(source)) and Path(source).parts[:1] == owner and not Path(*owner).exists():
        raise UsageError(f"{out} would make a folder {owner[0]} here, and {source} would no more be a name on the Hub: name another place")
    return out


def _at(source: str | Path, revision: str | None) -> str | Path:
    """A source at a revision."""
    if revision is None:
        return source
    uri = str(source) if str(source).startswith("hf://") else hub_uri(source)
    if uri is None:
        raise UsageError(f"--revision {revision} is of a repository on the Hub, named as owner/name; {source} is not")
    if "@" in uri:
        raise UsageError(f"--revision {revision}: {source} names a revision already; leave one of them away")
    head, _, folder = uri.removeprefix("hf://datasets/").partition("/")
    name, _, below = folder.partition("/")
    quoted = revision if revision.startswith("refs/") else quote(revision, safe="")
    return f"hf://datasets/{head}/{name}@{quoted}{f'/{below}' if below else ''}"
