"""The file formats of a corpus, by file name suffix. A new format is a module with a FileFormat, and one line in FORMATS."""

from pathlib import Path

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.corpus.arrow import ArrowIpc, Parquet
from textsmooth.stages.corpus.csv import Csv
from textsmooth.stages.corpus.jsonl import JsonLines, TextLines
from textsmooth.stages.corpus.source_file import FileFormat, RemoteFile, SourceFile

FORMATS: dict[str, FileFormat] = {
    ".parquet": Parquet(),
    ".arrow": ArrowIpc(),
    ".jsonl": JsonLines(),
    ".ndjson": JsonLines(),
    ".json": JsonLines(),
    ".csv": Csv(delimiter=","),
    ".tsv": Csv(delimiter="\t"),
    ".txt": TextLines(),
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}  # of line-based formats


def has_known_suffix(name: str) -> bool:
    """Whether a name ends like a data file."""
    return Path(name).suffix.lower() in {**FORMATS, **COMPRESSIONS}


def source_file(
    name: str, *, path: Path | None = None, remote: RemoteFile | None = None, streamed: bool = False, delimiter: str | None = None
) -> SourceFile:
    """A source file, its format and compression read off its name. UsageError for an unknown format.

    delimiter: of CSV files, if it is not that of the suffix.
    """
    full_name = str(path) if remote is None else remote.url
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"cannot read {full_name}: its name is not UTF-8, rename it") from None
    suffixes = [suffix.lower() for suffix in Path(full_name).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    suffix = ("", "", *suffixes)[-2 if compression else -1]
    file_format = FORMATS.get(suffix)
    if file_format is None:
        raise UsageError(f"cannot read {full_name}: its format is not one of {', '.join(FORMATS)}, the line formats also with .gz or .zst")
    if compression and not file_format.line_based:
        raise UsageError(
            f"cannot read {full_name}: {suffix} files are compressed inside, remove {suffixes[-1]}; only .jsonl, .csv, .tsv and .txt "
            "files may have it"
        )
    if delimiter is not None:
        file_format = file_format.with_delimiter(delimiter)
    return SourceFile(name=name, format=file_format, compression=compression, path=path, remote=remote, streamed=streamed)
