"""One input file: where it is, what format it has, and how to get at its bytes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from textsmooth.schemas.errors import CorpusError, UsageError

FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
LINE_FORMATS = ("jsonl", "csv", "text")
SCAN_ROWS = 1024  # rows by which the columns of a line format are known; rows of a block, at most


class Remote(Protocol):
    """A file that lies elsewhere."""

    @property
    def url(self) -> str:
        """For messages: hf://datasets/owner/name@commit/path."""

    def local(self) -> Path:
        """Its copy on this machine, fetched if it is not there. CorpusError if it cannot be."""

    def open(self) -> BinaryIO:
        """Its bytes, read from there as they are asked for; seekable."""

    def stat(self) -> list[int]:
        """[bytes, number that changes with the content], without fetching it."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One input file of a corpus."""

    name: str  # relative to the corpus
    format: str  # a value of FORMATS
    compression: str | None = None  # a value of COMPRESSIONS, for line formats
    delimiter: str = ","  # of csv
    place: Path | None = None  # on this machine
    remote: Remote | None = None  # or elsewhere
    streamed: bool = False  # a remote file that is not fetched first

    def __str__(self) -> str:
        """What messages call it."""
        return str(self.place) if self.remote is None else self.remote.url

    @property
    def path(self) -> Path:
        """The file on this machine; a remote one is fetched first."""
        if self.remote is not None:
            return self.remote.local()
        assert self.place is not None
        return self.place

    def open(self) -> BinaryIO:
        """The bytes as they lie there, still compressed; seekable. CorpusError if it cannot be opened."""
        if self.remote is not None and self.streamed:
            return self.remote.open()
        try:
            return self.path.open("rb")
        except OSError as error:
            raise CorpusError(f"cannot read {self}: {error.strerror}") from None

    def stat(self) -> list[int]:
        """[bytes, mtime in ns]: the cheap identity. Of a remote file, whatever tells its content."""
        if self.remote is not None:
            return self.remote.stat()
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A few consecutive rows of a file: what its reader gives at a time."""

    where: list[int] | None  # byte offset of each row, for line formats
    columns: list[list[Any]]  # values, in the order of the columns asked for
    count: int


def format_of(name: str) -> dict[str, str | None]:
    """Format, compression and delimiter of a file, by its name, as SourceFile takes them. UsageError for one that cannot be read."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    suffix = (suffixes[-2] if len(suffixes) > 1 else "") if compression else (suffixes[-1] if suffixes else "")
    found = FORMATS.get(suffix)
    if found is None:
        raise UsageError(f"cannot read {name}: its format is not one of {', '.join(FORMATS)}, the line formats also with .gz or .zst")
    if compression and found not in LINE_FORMATS:
        raise UsageError(
            f"cannot read {name}: {suffix} is compressed inside, leave {suffixes[-1]} away; .jsonl, .csv, .tsv, .txt may have it"
        )
    return {"format": found, "compression": compression, "delimiter": "\t" if suffix == ".tsv" else ","}


def source_file(
    name: str, *, place: Path | None = None, remote: Remote | None = None, streamed: bool = False, delimiter: str | None = None
) -> SourceFile:
    """A source file whose format is told by its name. UsageError for a format that cannot be read.

    delimiter: of csv, where it is not what the name tells: a comma, of .tsv a tab.
    """
    found = format_of(str(place) if remote is None else remote.url)
    return SourceFile(
        name=name,
        format=str(found["format"]),
        compression=found["compression"],
        delimiter=delimiter or str(found["delimiter"]),
        place=place,
        remote=remote,
        streamed=streamed,
    )
