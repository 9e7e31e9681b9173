"""One file of a repository on the Hub at one commit: in the cache of huggingface_hub, downloaded into it, or read in place."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from textsmooth.stages.hub.errors import Repo, Unreachable, ask

RANGE_BYTES = 4 << 20  # of one request, at least
DOWNLOAD_FIRST = "run once with a connection"


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a repository at one commit."""

    kind: str  # dataset, model
    repo: str
    commit: str
    path: str
    size: int  # bytes
    blob: str  # id of the content in hexadecimal

    @property
    def url(self) -> str:
        return f"hf://{self.kind}s/{self.repo}@{self.commit}/{self.path}"

    @property
    def _repo(self) -> Repo:
        return Repo(kind=self.kind, name=self.repo, revision=self.commit)

    @property
    def cached(self) -> Path | None:
        """The whole file in the cache of huggingface_hub; None if it is not there."""
        path = self._in_cache()
        return path if path is not None and path.stat().st_size == self.size else None

    def _in_cache(self) -> Path | None:
        """The file in the cache of huggingface_hub, damaged or not."""
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.repo, self.path, revision=self.commit, repo_type=self.kind)
        return Path(path) if isinstance(path, str) else None

    def local(self) -> Path:
        """The file in the cache of huggingface_hub, downloaded if needed. CorpusError or TeacherError if that fails."""
        cached = self.cached
        if cached is not None:
            return cached
        from huggingface_hub import hf_hub_download

        damaged = self._in_cache() is not None
        try:
            ask(
                self._repo,
                lambda: hf_hub_download(self.repo, self.path, revision=self.commit, repo_type=self.kind, force_download=damaged),
            )
        except Unreachable as error:
            raise self._repo.error_type(f"{error}, and {self.url} is not in the cache: {DOWNLOAD_FIRST}") from None
        cached = self.cached
        if cached is None:
            raise self._repo.error_type(f"{self.url} does not have the {self.size:,} bytes that the Hub lists: try again")
        return cached

    def open(self) -> BinaryIO:
        """The file's bytes, requested in ranges; from the cache if the file is there."""
        cached = self.cached
        return cached.open("rb") if cached is not None else io.BufferedReader(Ranges(self), RANGE_BYTES)

    def stat(self) -> list[int]:
        """[bytes, the first 60 bits of the content's id]."""
        return [self.size, int(self.blob[:15], 16)]

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop. CorpusError for any other answer."""
        from huggingface_hub import constants, get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        url = hf_hub_url(self.repo, self.path, revision=self.commit, repo_type=self.kind)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}

        def get() -> bytes:
            with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
                hf_raise_for_status(response)
                if response.status_code != 206:
                    raise self._repo.error_type(
                        f"{self.url} cannot be read by ranges (HTTP {response.status_code}): download it with --streaming never"
                    )
                data: bytes = response.read()
            if len(data) != stop - start:
                raise OSError(f"the answer has {len(data)} bytes instead of {stop - start}")  # retried
            return data

        try:
            return ask(self._repo, get)
        except Unreachable as error:
            raise self._repo.error_type(f"{error}, and {self.url} is read in place: {DOWNLOAD_FIRST} and --streaming never") from None


class RangedFile(Protocol):
    """A file of known size whose bytes can be requested in ranges."""

    @property
    def size(self) -> int: ...

    def read_range(self, start: int, stop: int) -> bytes: ...


class Ranges(io.RawIOBase):
    """A remote file as a stream of ranges. HfFileSystem is not used: it accepts a short or a whole body for the range it requested."""

    def __init__(self, file: RangedFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(offset + (0, self._position, self._file.size)[whence], 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._read(RANGE_BYTES), b""))

    def _read(self, most: int) -> bytes:
        stop = min(self._position + most, self._file.size)
        if stop <= self._position:
            return b""
        data = self._file.read_range(self._position, stop)
        self._position = stop
        return data
