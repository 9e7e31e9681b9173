"""A dataset is pushed to where others find it: the Hub, an object store, a folder."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from textsmooth.pipeline.formatting import counted, size
from textsmooth.pipeline.progress import TransferProgress
from textsmooth.pipeline.share.deliver import Parcel, check_apart, deliver, read_parcel
from textsmooth.schemas.errors import StorageError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.schemas.printable import printable
from textsmooth.stages.dataset.open import HUB_NAME, hub_uri, open_folder
from textsmooth.stages.hub.errors import Unreachable
from textsmooth.stages.storage.folder import is_uri
from textsmooth.stages.storage.transfer import FolderTarget, Target

OTHERS_MAY = (  # what licences begin with under which text may be passed on, also changed
    *("apache", "mit", "bsd", "cc0", "cc-by-1", "cc-by-2", "cc-by-3", "cc-by-4", "cc-by-sa", "odc-by", "odbl", "pddl", "cdla", "c-uda"),
    *("gpl", "lgpl", "agpl", "gfdl", "mpl", "isc", "zlib", "unlicense", "wtfpl", "etalab", "eupl", "artistic", "afl", "epl", "ecl"),
    *("bsl-1.0", "postgresql", "ofl", "ncsa", "osl", "ms-pl", "lppl"),
)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was pushed, and where it is."""

    source: str
    where: str  # path or URI
    dataset: str  # digest
    page: str | None  # on the Hub
    public: bool | None  # None: not on the Hub
    made_public: bool  # it was private before
    files: int  # that were sent, manifest.json not counted
    bytes: int
    kept_files: int  # that were there
    already: bool  # nothing had to be sent
    notes: tuple[str, ...]  # what whoever shares it should know
    seconds: float

    def summary(self, *, notes: bool = True) -> str:
        """What there is to tell, in lines; without the notes where `say` has told them."""
        name = self.where.removeprefix("hf://datasets/")
        seen = "" if self.public is None else "  (public)" if self.public else "  (private)"
        there = f"; {self.kept_files:,} were there" if self.kept_files else ""
        what = f"{counted(self.files, 'file')}, {size(self.bytes)} sent{there}"
        if self.already:
            what = "all files were there" if self.made_public else "nothing to do: it is there already"
        if self.made_public:
            what = f"made public, all can read it now; {what}"
        lines = [f"pushed   {self.page or self.where}{seen}", f"         {what}; dataset {self.dataset[:12]}"]
        lines += [f"note     {note}" for note in self.notes if notes]
        lines.append(f"next     textsmooth train {name} --student STUDENT  |  textsmooth pull {name}")
        return "\n".join(map(printable, lines))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def push(
    dataset: str | Path,
    to: str | Path,
    *,
    public: bool = False,
    overwrite: bool = False,
    progress: str = "none",
    say: Callable[[str], object] = lambda line: None,
) -> Pushed:
    """Send a smoothed dataset to a place, or what is missing there: `textsmooth push`.

    dataset: where one can be read. to: owner/name or hf://datasets/owner/name on the Hub, s3://bucket/folder, gs://bucket/folder, a folder.
    public: make the repository readable for all; it is private otherwise. overwrite: in place of another dataset there.
    say: is told the notes before anything is sent. manifest.json comes last: until then readers refuse what is there.
    Raises UsageError, DatasetError (a file is not what the manifest says), ConflictError (something else is there, or would become
    public), StorageError.
    """
    began = time.perf_counter()
    source = open_folder(dataset, reading=True)
    parcel = read_parcel(source)
    uri = _hub_place(to)
    if uri is None:
        if public:
            raise UsageError(f"--public is for the Hub, and {to} is not on it: who may read there is set there")
        folder = open_folder(to)
        target: Target = FolderTarget(folder)
        check_apart(source, folder.where, folder)
        notes = tuple(map(printable, _notes(parcel.manifest, folder.where, None)))
    else:
        try:
            target = _repository(uri, parcel, public=public)
        except StorageError as error:
            if isinstance(error.__cause__, Unreachable) and not is_uri(to):
                raise StorageError(f"{error}; for a folder write ./{to}") from None
            raise
        check_apart(source, target.where, None)
        notes = tuple(map(printable, _notes(parcel.manifest, target.where, public)))
    for note in notes:
        say(note)
    with TransferProgress(progress) as shown, target.alone(shown.waiting):
        found = deliver(parcel, target, shown, overwrite=overwrite)
        made_public = target.finish(public=public)
        pushed = Pushed(
            source=source.where,
            where=target.where,
            dataset=parcel.manifest.dataset,
            page=getattr(target, "page", None),
            public=public if uri else None,
            made_public=made_public,
            files=found.files,
            bytes=found.bytes,
            kept_files=found.kept_files,
            already=found.already,
            notes=notes,
            seconds=round(time.perf_counter() - began, 3),
        )
        shown.tell("finished", **pushed.to_json())
    return pushed


def _hub_place(to: str | Path) -> str | None:
    """The URI of a repository on the Hub; None for another place. UsageError where a name could be either."""
    text = str(to)
    if text.startswith("hf://"):
        return text
    if is_uri(text):
        return hub_uri(text)
    name, at, revision = text.rpartition("@")
    if at and hub_uri(name) is not None and not Path(text).exists():
        raise UsageError(f"push goes to branch main: leave @{revision} away, or write ./{text} for a folder")
    above = Path(text).parent
    if isinstance(to, str) and text.count("/") == 1 and not HUB_NAME.fullmatch(text) and not above.exists():
        raise UsageError(f"{text!r} cannot be a name on the Hub, and there is no folder {above} here: write './{text}' for a folder")
    try:
        return hub_uri(to)
    except UsageError:
        folder, uri = Path(text).parent, f"hf://datasets/{text}"
        raise UsageError(f"{text} may be a folder in {folder}, or a dataset on the Hub: write ./{text}, or {uri}") from None


def _repository(uri: str, parcel: Parcel, *, public: bool) -> Target:
    from textsmooth.stages.hub.upload import HubTarget

    target = HubTarget(uri, public=public)
    target.open()
    if public:
        target.check_history(parcel.manifest.dataset, parcel.data, parcel.entries, parcel.reader)
    return target


def _notes(manifest: Manifest, where: str, public: bool | None) -> Iterator[str]:
    """What whoever shares a dataset should know; the first is always said."""
    texts = ["the corpus text is inside, as token ids"]
    if manifest.corpus.get("label_kind") == "span":
        texts.append("the contexts and answers in full")
    if kept := manifest.corpus.get("keep_columns"):
        texts.append(f"column{'s' * (len(kept) > 1)} {', '.join(kept)}")
    who = {None: f"whoever may read {where} can read it", True: "all can read it", False: "private; --public lets all read it"}[public]
    yield f"{' and '.join([', '.join(texts[:-1]), texts[-1]] if texts[1:] else texts)}: {who}"
    for called, licence in _licences(manifest):
        if licence in (None, "", "unknown", "other"):
            yield f"the licence of the {called} is {licence or 'unknown'}: see that you may pass it on"
        elif not all(part.strip().lower().startswith(OTHERS_MAY) for part in licence.split(",")):
            yield f"the licence of the {called} is {licence}: see that it allows what you are about to do"
    folder, count = Counter(shard.path.rpartition("/")[0] for shard in manifest.shards).most_common(1)[0]
    if public is not None:
        from textsmooth.stages.hub.upload import FOLDER_FILES

        if count >= FOLDER_FILES:
            yield f"{folder}/ has {count:,} files, and the Hub wants fewer than {FOLDER_FILES:,} in a folder: take more --rows-per-shard"


def _licences(manifest: Manifest) -> Iterator[tuple[str, str | None]]:
    corpora = [source["corpus"] for source in manifest.sources] or [manifest.corpus]
    for corpus in corpora:
        yield (f"corpus {corpus['name']}", corpus.get("license"))
    for called, identity in (("teacher", manifest.teacher), ("task teacher", manifest.task_teacher)):
        if identity:
            yield (f"{called} {identity['name']}", identity.get("license"))
