"""A corpus in an object store: files, a glob, or a folder; each file is downloaded into the cache, or read in place."""

import hashlib
import io
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from textsmooth.schemas.errors import CorpusError, UsageError
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.folder import folder_corpus
from textsmooth.stages.corpus.formats import FORMATS, source_file
from textsmooth.stages.corpus.source_file import SourceFile
from textsmooth.stages.hub.file import RANGE_BYTES, Ranges
from textsmooth.stages.storage import cache, object_store
from textsmooth.stages.storage.object_store import ByteRange, ObjectChanged, ObjectInfo
from textsmooth.stages.storage.registry import open_store

STREAM_BYTES = 2_000_000_000  # `auto` reads files in place if more than this would have to be downloaded
MOST_FILES = 100_000  # of a folder
METADATA_FILES = ("README.md", ".huggingface.yaml", "dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True, kw_only=True)
class StoreFile:
    """An object of a store, as it was when it was listed."""

    url: str
    size: int  # bytes
    tag: str  # changes with the content: ETag, generation

    @property
    def _key(self) -> str:
        return "corpus-" + hashlib.sha256(f"{self.url}\n{self.size}\n{self.tag}".encode()).hexdigest()

    @property
    def cached(self) -> Path | None:
        """The whole file in the cache; None if it is not there."""
        return cache.kept(self._key, self.size)

    def local(self) -> Path:
        """The file in the cache, downloaded if needed. CorpusError if the object has changed, StorageError if the download fails."""
        store, path = open_store(self.url)

        def fill(file: BinaryIO) -> None:
            object_store.download(store, self.url, path, ObjectInfo(size=self.size, tag=self.tag), file.write)

        try:
            return cache.local_copy(self._key, size=self.size, sha256=None, fill=fill)
        except (ObjectChanged, FileNotFoundError, cache.Damaged):
            raise self._changed() from None

    def open(self) -> BinaryIO:
        """The file's bytes, requested in ranges; from the cache if the file is there."""
        cached = self.cached
        return cached.open("rb") if cached is not None else io.BufferedReader(Ranges(self), RANGE_BYTES)

    def stat(self) -> list[int]:
        """[bytes, 60 bits of the tag's sha256]."""
        return [self.size, int(hashlib.sha256(self.tag.encode()).hexdigest()[:15], 16)]

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop. CorpusError if the object has changed, StorageError if the download fails."""
        store, path = open_store(self.url)
        (data,) = object_store.read_ranges(store, self.url, [ByteRange(path, start, stop, self.tag or None)])
        if not isinstance(data, bytes) or len(data) != stop - start:
            raise self._changed()
        return data

    def _changed(self) -> CorpusError:
        return CorpusError(f"{self.url} was changed or removed since it was listed; restore it, or give another --out")


def store_corpus(uri: str, *, streaming: str = "auto") -> Corpus:
    """The corpus at a URI of a store: a file, the files of a glob, or a folder laid out as a Hub dataset (`URI` or `URI:config`).

    streaming: `never` downloads a file when it is first needed, `always` reads it in place, `auto` reads in place if more than
    STREAM_BYTES would have to be downloaded. Raises UsageError for what does not exist, CorpusError or StorageError for what is not
    accessible.
    """
    store, path = open_store(uri)
    prefix = uri.rstrip("/")[: -len(path.lstrip("/"))]  # s3://

    def files(objects: dict[str, ObjectInfo]) -> dict[str, StoreFile]:
        return {name: StoreFile(url=f"{prefix}{name.lstrip('/')}", size=f.size, tag=f.tag) for name, f in objects.items()}

    if any(char in path for char in object_store.GLOB):
        matches = files(object_store.request(store, "list", uri, partial(_glob, store, path)))
        if not matches:
            raise UsageError(f"no corpus {uri!r}: no file matches; check the path, and quote a glob")
        return _files_corpus(uri, matches, streaming)
    single = object_store.request(store, "read", uri, lambda: store.head(path))
    if single is not None:
        return _files_corpus(uri, files({path: single}), streaming)
    before, _, config = path.rpartition(":")
    for root, root_config in ((path, None), *([(before, config)] if ":" in path else [])):
        objects = object_store.list_objects(store, uri, root)
        if objects:
            below = {name[len(root) + 1 :]: file for name, file in files(objects).items()}
            return _store_folder_corpus(f"{prefix}{root.lstrip('/')}", root_config, below, streaming)
    raise UsageError(f"no corpus {uri!r}: there is no such file or folder; check the path")


def _glob(store: object_store.Store, pattern: str) -> dict[str, ObjectInfo]:
    try:
        return store.glob(pattern)
    except FileNotFoundError as error:
        if store.explain(error, store.scheme + "://" + pattern) is not None:
            raise
        return {}


def _read_in_place(files: dict[str, StoreFile], streaming: str) -> bool:
    if streaming == "auto":
        return sum(file.size for file in files.values() if file.cached is None) > STREAM_BYTES
    return streaming == "always"


def _files_corpus(uri: str, files: dict[str, StoreFile], streaming: str) -> Corpus:
    """Files as split `train`, named by their paths below their common folder."""
    parents = [PurePosixPath(name).parent for name in files]
    root = next(up for up in (parents[0], *parents[0].parents) if all(parent.is_relative_to(up) for parent in parents))
    streamed = _read_in_place(files, streaming)
    sources = (source_file(PurePosixPath(n).relative_to(root).as_posix(), remote=f, streamed=streamed) for n, f in sorted(files.items()))
    return Corpus(name=object_store.last_part(uri), splits={"train": tuple(sources)})


def _store_folder_corpus(uri: str, config: str | None, files: dict[str, StoreFile], streaming: str) -> Corpus:
    """A folder, resolved by `datasets` like one on this machine: on a local image of it whose data files are empty."""
    if len(files) > MOST_FILES:
        raise UsageError(f"{uri} holds {len(files):,} files, a folder may have {MOST_FILES:,}: name its files with a glob")
    data = {name: file for name, file in files.items() if PurePosixPath(name).name not in METADATA_FILES}
    if not data:
        raise UsageError(f"no data files in {uri}; expected {', '.join(FORMATS)}")

    def source(name: str, *, path: Path, **options: Any) -> SourceFile:
        file = files[path.resolve().relative_to(image.resolve()).as_posix()]
        return source_file(name, remote=file, streamed=streamed and file.cached is None, **options)

    streamed = _read_in_place(data, streaming)
    with tempfile.TemporaryDirectory() as temporary:
        image = Path(temporary) / (object_store.last_part(uri) or "corpus")
        for name, file in files.items():
            path = image / name
            if not path.resolve().is_relative_to(image.resolve()):
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.local().read_bytes() if path.name in METADATA_FILES else b"")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise UsageError(f"{uri} has {name} as a file and as a folder: name its files with a glob") from None
        try:
            return folder_corpus(image, config, source)
        except (UsageError, CorpusError) as error:
            raise type(error)(str(error).replace(str(image.resolve()), uri).replace(str(image), uri)) from error
