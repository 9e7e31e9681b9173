"""Corpora in object stores: files, globs, and folders laid out as on this machine; each file fetched into the cache, or read in place."""

import hashlib
import io
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from textsmooth.schemas.errors import CorpusError, UsageError
from textsmooth.stages.corpus import folder as corpora
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.source_file import FORMATS, SourceFile, source_file
from textsmooth.stages.hub.file import RANGE_BYTES, Ranges
from textsmooth.stages.storage import cache
from textsmooth.stages.storage import object_store as store
from textsmooth.stages.storage.object_store import ByteRange, ObjectChanged, ObjectInfo
from textsmooth.stages.storage.registry import open_store

STREAM_BYTES = 2_000_000_000  # `auto` reads files in place where those to be fetched are together larger
MOST_FILES = 100_000  # of a folder
SAYS = ("README.md", ".huggingface.yaml", "dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True, kw_only=True)
class StoreFile:
    """An object of a store as it was when it was listed."""

    url: str
    size: int  # bytes
    tag: str  # changes with the content: ETag, generation

    @property
    def _key(self) -> str:
        return "corpus-" + hashlib.sha256(f"{self.url}\n{self.size}\n{self.tag}".encode()).hexdigest()

    @property
    def _found(self) -> ObjectInfo:
        return ObjectInfo(size=self.size, tag=self.tag)

    @property
    def cached(self) -> Path | None:
        """The whole file in the cache; None if it is not there."""
        return cache.kept(self._key, self.size)

    def local(self) -> Path:
        """The file in the cache, fetched if it is not there. CorpusError if it is another one by now, StorageError if it cannot be had."""
        where, path = open_store(self.url)

        def fill(file: BinaryIO) -> None:
            store.download(where, self.url, path, self._found, file.write)

        try:
            return cache.local_copy(self._key, size=self.size, sha256=None, fill=fill)
        except (ObjectChanged, FileNotFoundError, cache.Damaged):
            raise self._changed() from None

    def open(self) -> BinaryIO:
        """The file's bytes, by requests for ranges; from the cache if it is there."""
        found = self.cached
        return found.open("rb") if found is not None else io.BufferedReader(Ranges(self), RANGE_BYTES)

    def stat(self) -> list[int]:
        """[bytes, 60 bits of the tag's sha256]."""
        return [self.size, int(hashlib.sha256(self.tag.encode()).hexdigest()[:15], 16)]

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop. CorpusError if the file is another one by now, StorageError if they cannot be had."""
        where, path = open_store(self.url)
        (data,) = store.read_ranges(where, self.url, [ByteRange(path, start, stop, self.tag or None)])
        if not isinstance(data, bytes) or len(data) != stop - start:
            raise self._changed()
        return data

    def _changed(self) -> CorpusError:
        return CorpusError(f"{self.url} was changed or removed since it was listed; restore it, or give another --out")


def corpus(uri: str, *, streaming: str = "auto") -> Corpus:
    """The corpus at a URI of a store: a file, the files of a glob, or a folder laid out as a Hub dataset (`URI` or `URI:config`).

    streaming: `never` fetches a file when it is first needed, `always` reads it in place, `auto` reads in place where more than
    STREAM_BYTES would have to be fetched. Raises UsageError for what is not there, CorpusError or StorageError for what cannot be had.
    """
    where, path = open_store(uri)
    start = uri.rstrip("/")[: -len(path.lstrip("/"))]  # s3://

    def files(found: dict[str, ObjectInfo]) -> dict[str, StoreFile]:
        return {name: StoreFile(url=f"{start}{name.lstrip('/')}", size=f.size, tag=f.tag) for name, f in found.items()}

    if any(char in path for char in store.GLOB):
        found = files(store.request(where, "list", uri, partial(_glob, where, path)))
        if not found:
            raise UsageError(f"no corpus {uri!r}: no file there matches; check the path, and quote a glob")
        return _files(uri, found, streaming)
    one = store.request(where, "read", uri, lambda: where.head(path))
    if one is not None:
        return _files(uri, files({path: one}), streaming)
    for root, config in ((path, None), *([(path.rpartition(":")[0], path.rpartition(":")[2])] if ":" in path else [])):
        inside = store.list_objects(where, uri, root)
        if inside:
            return _folder(f"{start}{root.lstrip('/')}", config, {n[len(root) + 1 :]: f for n, f in files(inside).items()}, streaming)
    raise UsageError(f"no corpus {uri!r}: there is no such file or folder; check the path")


def _glob(where: store.Store, pattern: str) -> dict[str, ObjectInfo]:
    try:
        return where.glob(pattern)
    except FileNotFoundError as error:
        if where.explain(error, where.scheme + "://" + pattern) is not None:
            raise
        return {}


def _streamed(files: dict[str, StoreFile], streaming: str) -> bool:
    if streaming == "auto":
        return sum(file.size for file in files.values() if file.cached is None) > STREAM_BYTES
    return streaming == "always"


def _files(uri: str, files: dict[str, StoreFile], streaming: str) -> Corpus:
    """Files as split `train`, called by their paths below the folder that they share."""
    parents = [PurePosixPath(name).parent for name in files]
    root = next(up for up in (parents[0], *parents[0].parents) if all(parent.is_relative_to(up) for parent in parents))
    streamed = _streamed(files, streaming)
    found = (source_file(PurePosixPath(n).relative_to(root).as_posix(), remote=f, streamed=streamed) for n, f in sorted(files.items()))
    return Corpus(name=store.last_part(uri), splits={"train": tuple(found)})


def _folder(uri: str, config: str | None, files: dict[str, StoreFile], streaming: str) -> Corpus:
    """A folder, resolved by `datasets` itself as one on this machine: on an image of it in which data files are empty."""
    if len(files) > MOST_FILES:
        raise UsageError(f"{uri} holds {len(files):,} files, {MOST_FILES:,} are the most of a folder: name its files with a glob")
    data = {name: file for name, file in files.items() if PurePosixPath(name).name not in SAYS}
    if not data:
        raise UsageError(f"no data files in {uri}; expected {', '.join(FORMATS)}")

    def source(name: str, *, place: Path, **options: Any) -> SourceFile:
        file = files[place.resolve().relative_to(image.resolve()).as_posix()]
        return source_file(name, remote=file, streamed=streamed and file.cached is None, **options)

    streamed = _streamed(data, streaming)
    with tempfile.TemporaryDirectory() as temporary:
        image = Path(temporary) / (store.last_part(uri) or "corpus")
        for name, file in files.items():
            place = image / name
            if not place.resolve().is_relative_to(image.resolve()):
                continue
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.local().read_bytes() if place.name in SAYS else b"")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise UsageError(f"{uri} has {name} as a file and as a folder: name its files with a glob") from None
        try:
            return corpora.folder_corpus(image, config, source)
        except (UsageError, CorpusError) as error:
            raise type(error)(str(error).replace(str(image.resolve()), uri).replace(str(image), uri)) from error
