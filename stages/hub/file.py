"""One file of a repository on the Hub, at one commit: from the cache of huggingface_hub, fetched into it, or read in place."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from textsmooth.stages.hub.errors import Repo, Unreachable, ask

RANGE_BYTES = 4 << 20  # of one request, at least
FETCH_AGAIN = "run once with a connection"


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
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, self.path, revision=self.commit, repo_type=self.kind)
        return Path(found) if isinstance(found, str) and Path(found).stat().st_size == self.size else None

    def local(self) -> Path:
        """The file in the cache of huggingface_hub, fetched if it is not there. CorpusError or TeacherError if it cannot be."""
        found = self.cached
        if found is not None:
            return found
        from huggingface_hub import hf_hub_download

        try:
            ask(
                self._repo,
                lambda: hf_hub_download(self.repo, self.path, revision=self.commit, repo_type=self.kind, force_download=self._damaged()),
            )
        except Unreachable as error:
            raise self._repo.trouble(f"{error}, and {self.url} is not in the cache: {FETCH_AGAIN}") from None
        found = self.cached
        if found is None:
            raise self._repo.trouble(f"{self.url} came with another size than the {self.size:,} bytes the Hub lists: try again")
        return found

    def _damaged(self) -> bool:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repo, self.path, revision=self.commit, repo_type=self.kind), str)

    def open(self) -> BinaryIO:
        """The file's bytes, by requests for ranges; from the cache if it is there."""
        found = self.cached
        return found.open("rb") if found is not None else io.BufferedReader(Ranges(self), RANGE_BYTES)

    def stat(self) -> list[int]:
        """[bytes, the first 60 bits of the content's id]."""
        return [self.size, int(self.blob[:15], 16)]

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes start .. stop. CorpusError for anything but exactly these."""
        from huggingface_hub import constants, get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        url = hf_hub_url(self.repo, self.path, revision=self.commit, repo_type=self.kind)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}

        def get() -> bytes:
            with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
                hf_raise_for_status(response)
                if response.status_code != 206:
                    raise self._repo.trouble(
                        f"no part of {self.url} can be had on its own (HTTP {response.status_code}): --streaming never"
                    )
                data: bytes = response.read()
            if len(data) != stop - start:
                raise OSError(f"{len(data)} bytes came of {stop - start}")  # tried again
            return data

        try:
            return ask(self._repo, get)
        except Unreachable as error:
            raise self._repo.trouble(f"{error}, and {self.url} is read in place: {FETCH_AGAIN} and --streaming never") from None


class Ranged(Protocol):
    """A file of known size whose bytes can be asked for by ranges."""

    @property
    def size(self) -> int: ...

    def read_range(self, start: int, stop: int) -> bytes: ...


class Ranges(io.RawIOBase):
    """A file elsewhere, read as it is asked for. HfFileSystem is not used: it takes a short or a whole body for the range it asked for."""

    def __init__(self, file: Ranged) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(offset + (0, self._at, self._file.size)[whence], 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._file.size)
        if stop <= self._at:
            return 0
        data = self._file.read_range(self._at, stop)
        buffer[: len(data)] = data
        self._at = stop
        return len(data)

    def readall(self) -> bytes:
        parts = []
        while self._at < self._file.size:
            stop = min(self._at + RANGE_BYTES, self._file.size)
            parts.append(self._file.read_range(self._at, stop))
            self._at = stop
        return b"".join(parts)
