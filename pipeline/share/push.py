"""Send a dataset to the Hub, an object store or a folder: `textsmooth push`."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from textsmooth.pipeline.formatting import counted, size
from textsmooth.pipeline.progress import TransferProgress
from textsmooth.pipeline.share.deliver import DatasetFiles, check_apart, deliver, read_dataset
from textsmooth.schemas.errors import StorageError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.schemas.printable import printable
from textsmooth.stages.dataset.open import hub_uri, open_folder
from textsmooth.stages.hub.errors import Unreachable
from textsmooth.stages.hub.names import DATASET_NAME
from textsmooth.stages.storage.folder import is_uri
from textsmooth.stages.storage.transfer import FolderTarget, Target

FREE_LICENCES = (  # prefixes of licences that allow to redistribute modified text
    *("apache", "mit", "bsd", "cc0", "cc-by-1", "cc-by-2", "cc-by-3", "cc-by-4", "cc-by-sa", "odc-by", "odbl", "pddl", "cdla", "c-uda"),
    *("gpl", "lgpl", "agpl", "gfdl", "mpl", "isc", "zlib", "unlicense", "wtfpl", "etalab", "eupl", "artistic", "afl", "epl", "ecl"),
    *("bsl-1.0", "postgresql", "ofl", "ncsa", "osl", "ms-pl", "lppl"),
)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The result of a push."""

    source: str
    where: str  # path or URI
    dataset: str  # digest
    page: str | None  # on the Hub
    public: bool | None  # None: not on the Hub
    made_public: bool  # it was private before
    files: int  # sent, without manifest.json
    bytes: int
    kept_files: int  # already complete at the target
    already: bool  # nothing had to be sent
    notes: tuple[str, ...]  # what to know before sharing
    seconds: float

    def summary(self, *, notes: bool = True) -> str:
        """The result as lines of text. notes: False if `say` already printed them."""
        name = self.where.removeprefix("hf://datasets/")
        seen = "" if self.public is None else "  (public)" if self.public else "  (private)"
        there = f"; {self.kept_files:,} already there" if self.kept_files else ""
        what = f"{counted(self.files, 'file')}, {size(self.bytes)} sent{there}"
        if self.already:
            what = "all files were already there" if self.made_public else "nothing to do: it is already there"
        if self.made_public:
            what = f"made public: everyone can read it now; {what}"
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
    codec: str | None = None,
    progress: str = "none",
    say: Callable[[str], object] = lambda line: None,
) -> Pushed:
    """Send a smoothed dataset to a target, or the files that are missing there: `textsmooth push`.

    dataset: path, URI or name on the Hub. to: owner/name or hf://datasets/owner/name on the Hub, s3://bucket/folder,
    gs://bucket/folder, or a folder.
    public: make the repository public instead of private. overwrite: replace another dataset at the target. codec: convert to it first, in
    the folder for temporary files.
    say: called with each note before anything is sent. manifest.json is sent last: until then readers refuse the dataset.
    Raises UsageError, DatasetError (a file differs from the manifest), ConflictError (the target holds something else, or other files
    would become public), StorageError.
    """
    if codec is not None:
        from textsmooth.pipeline.share.convert import convert

        with TemporaryDirectory(prefix="textsmooth-") as room:
            convert(dataset, Path(room) / "converted", codec=codec)
            return push(Path(room) / "converted", to, public=public, overwrite=overwrite, progress=progress, say=say)
    began = time.perf_counter()
    source = open_folder(dataset, reading=True)
    files = read_dataset(source)
    uri = _hub_place(to)
    if uri is None:
        if public:
            raise UsageError(f"--public works only on the Hub, and {to} is not there: set its access rights at that store")
        folder = open_folder(to)
        target: Target = FolderTarget(folder)
        check_apart(source, folder.where, folder)
        notes = tuple(map(printable, _notes(files.manifest, folder.where, None)))
    else:
        try:
            target = _repository(uri, files, public=public)
        except StorageError as error:
            if isinstance(error.__cause__, Unreachable) and not is_uri(to):
                raise StorageError(f"{error}; for a folder write ./{to}") from None
            raise
        check_apart(source, target.where, None)
        notes = tuple(map(printable, _notes(files.manifest, target.where, public)))
    for note in notes:
        say(note)
    with TransferProgress(progress) as shown, target.alone(shown.waiting):
        delivered = deliver(files, target, shown, overwrite=overwrite)
        made_public = target.finish(public=public)
        pushed = Pushed(
            source=source.where,
            where=target.where,
            dataset=files.manifest.dataset,
            page=getattr(target, "page", None),
            public=public if uri else None,
            made_public=made_public,
            files=delivered.files,
            bytes=delivered.bytes,
            kept_files=delivered.kept_files,
            already=delivered.already,
            notes=notes,
            seconds=round(time.perf_counter() - began, 3),
        )
        shown.emit("finished", **pushed.to_json())
    return pushed


def _hub_place(to: str | Path) -> str | None:
    """The URI of a repository on the Hub; None for another target. UsageError if the name is ambiguous."""
    text = str(to)
    if text.startswith("hf://"):
        return text
    if is_uri(text):
        return hub_uri(text)
    name, at, revision = text.rpartition("@")
    if at and hub_uri(name) is not None and not Path(text).exists():
        raise UsageError(f"push always writes branch main: remove @{revision}, or write ./{text} for a folder")
    above = Path(text).parent
    if isinstance(to, str) and text.count("/") == 1 and not DATASET_NAME.fullmatch(text) and not above.exists():
        raise UsageError(f"{text!r} is not a valid name on the Hub, and there is no folder {above}: write './{text}' for a folder")
    try:
        return hub_uri(to)
    except UsageError:
        folder, uri = Path(text).parent, f"hf://datasets/{text}"
        raise UsageError(f"{text} is ambiguous, a folder in {folder} or a dataset on the Hub: write ./{text} or {uri}") from None


def _repository(uri: str, files: DatasetFiles, *, public: bool) -> Target:
    from textsmooth.stages.hub.upload import HubTarget

    target = HubTarget(uri, public=public)
    target.open()
    if public:
        target.check_history(files.manifest.dataset, files.data, files.entries, files.reader)
    return target


def _notes(manifest: Manifest, where: str, public: bool | None) -> Iterator[str]:
    """What to know before sharing a dataset; the first note is always given."""
    texts = ["the dataset contains the corpus text as token ids"]
    if manifest.corpus.get("label_kind") == "span":
        texts.append("the contexts and answers in full")
    if kept := manifest.corpus.get("keep_columns"):
        texts.append(f"column{'s' * (len(kept) > 1)} {', '.join(kept)}")
    who = {None: f"everyone with access to {where} can read it", True: "everyone can read it", False: "private; --public makes it public"}[
        public
    ]
    yield f"{' and '.join([', '.join(texts[:-1]), texts[-1]] if texts[1:] else texts)}: {who}"
    for called, licence in _licences(manifest):
        if licence in (None, "", "unknown", "other"):
            yield f"the licence of the {called} is {licence or 'unknown'}: make sure that you may share it"
        elif not all(part.strip().lower().startswith(FREE_LICENCES) for part in licence.split(",")):
            yield f"the licence of the {called} is {licence}: make sure that it allows sharing"
    folder, count = Counter(shard.path.rpartition("/")[0] for shard in manifest.shards).most_common(1)[0]
    if public is not None:
        from textsmooth.stages.hub.upload import FOLDER_FILES

        if count >= FOLDER_FILES:
            yield f"{folder}/ has {count:,} files, and the Hub allows fewer than {FOLDER_FILES:,} in a folder: increase --rows-per-shard"


def _licences(manifest: Manifest) -> Iterator[tuple[str, str | None]]:
    corpora = [source["corpus"] for source in manifest.sources] or [manifest.corpus]
    for corpus in corpora:
        yield (f"corpus {corpus['name']}", corpus.get("license"))
    for called, identity in (("teacher", manifest.teacher), ("task teacher", manifest.task_teacher)):
        if identity:
            yield (f"{called} {identity['name']}", identity.get("license"))
