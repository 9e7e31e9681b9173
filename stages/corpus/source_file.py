"""One input file of a corpus: where its bytes are, and the format that turns them into rows."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.pointers import POINTER_BYTES, pointer

SCAN_ROWS = 1024  # rows that decide the columns of a format without a schema; the most rows of a block

LateColumns = tuple[tuple[str, ...], ...]  # groups of columns: see FileFormat.blocks


class RemoteFile(Protocol):
    """A file that is not on this machine."""

    @property
    def url(self) -> str:
        """For messages: hf://datasets/owner/name@commit/path."""

    def local(self) -> Path:
        """Its copy on this machine, downloaded if needed. CorpusError if that fails."""

    def open(self) -> BinaryIO:
        """Its bytes, requested in ranges as they are read; seekable."""

    def stat(self) -> list[int]:
        """[bytes, a number that changes with the content], without a download."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One input file of a corpus, on this machine (`path`) or elsewhere (`remote`)."""

    name: str  # relative to the corpus
    format: "FileFormat"
    compression: str | None = None  # gzip, zstd; of line-based formats
    path: Path | None = None
    remote: RemoteFile | None = None
    streamed: bool = False  # read a remote file in place, without a download
    class_numbers: tuple[tuple[str, tuple[int, ...]], ...] = ()  # column -> the corpus's number of each class of this file, if it differs

    def __str__(self) -> str:
        return str(self.path) if self.remote is None else self.remote.url

    def local(self) -> Path:
        """The file on this machine; a remote one is downloaded first."""
        if self.remote is not None:
            return self.remote.local()
        assert self.path is not None
        return self.path

    def open(self) -> BinaryIO:
        """The stored bytes, still compressed; seekable. CorpusError if the file cannot be opened."""
        try:
            opened = self.remote.open() if self.remote is not None and self.streamed else self.local().open("rb")
            if self.stat()[0] < POINTER_BYTES:
                start = opened.read(POINTER_BYTES)
                opened.seek(0)
                self._check_pointer(opened, start)
        except OSError as error:
            raise CorpusError(f"cannot read {self}: {error.strerror}") from None
        return opened

    def _check_pointer(self, opened: BinaryIO, content: bytes) -> None:
        """CorpusError for the small file that Git LFS or git-annex leaves in place of one that was not downloaded."""
        if what := pointer(content):
            opened.close()
            raise CorpusError(f"{self} is {what}")

    def stat(self) -> list[int]:
        """[bytes, mtime in ns], the cheap identity; of a remote file, [bytes, a number that changes with the content]."""
        if self.remote is not None:
            return self.remote.stat()
        status = self.local().stat()
        return [status.st_size, status.st_mtime_ns]

    def columns(self) -> dict[str, bool]:
        """The columns of the file, and whether each holds text. CorpusError if the file is unreadable."""
        return self.format.columns(self)

    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Names of integer classes by column, from the metadata of the file. CorpusError if the metadata is damaged."""
        return self.format.class_names(self)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A few consecutive rows of a file."""

    offsets: list[int] | None  # byte offset of each row, of a line-based format; behind any compression
    columns: list[list[Any]]  # values, in the order of the requested columns
    count: int  # rows


@dataclass(frozen=True)
class FileFormat(ABC):
    """How to read files of one format. formats.py lists them by file name suffix."""

    line_based: ClassVar[bool] = False  # reading can start at the byte offset of a row, and files may be compressed
    cells_are_text: ClassVar[bool] = False  # every value is a string under a header row; the plan finds the type of each column

    @abstractmethod
    def columns(self, file: SourceFile) -> dict[str, bool]:
        """The columns of a file, and whether each holds text; without a schema, the first SCAN_ROWS rows decide."""

    @abstractmethod
    def blocks(self, file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: LateColumns) -> Generator[Block, None, None]:
        """The values of columns, from row number `row` on, which begins at byte `offset` in a line-based format.

        late: groups of columns that `columns` did not find. CorpusError for a row that has all columns of a group.
        """

    def class_names(self, file: SourceFile) -> dict[str, tuple[str, ...]]:
        """Names of integer classes by column."""
        return {}

    def with_delimiter(self, delimiter: str) -> "FileFormat":
        """This format with another delimiter between cells; unchanged if it has no cells."""
        return self
