"""Corpora: named input text, read by row ranges. Files are never loaded whole.

A corpus is a folder laid out as a Hub dataset (`PATH` or `PATH:config`), or files: .parquet, .jsonl, .txt.
"""

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import CorpusError, UsageError
from textsmooth.schemas.tasks import LABEL_COLUMN, TEXT_COLUMNS

FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "text"}
SCAN_ROWS = 1024

Rows = dict[str, list[Any]]  # column -> values


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One input file of a corpus."""

    name: str  # relative to the corpus
    path: Path
    format: str  # parquet, jsonl, text

    def stat(self) -> list[int]:
        """[bytes, mtime in ns]: the cheap identity."""
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Splits of input files, and what the corpus says of itself."""

    name: str
    splits: dict[str, tuple[SourceFile, ...]]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # column -> names of its integer classes
    license: str | None = None

    def select(self, splits: tuple[str, ...]) -> "Corpus":
        """The corpus with these splits only, in the corpus's order; all if none is named. UsageError for an unknown one."""
        for split in splits:
            if split not in self.splits:
                raise UsageError(f"corpus {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        chosen = {k: v for k, v in self.splits.items() if not splits or k in splits}
        return Corpus(name=self.name, splits=chosen, class_names=self.class_names, license=self.license)

    @property
    def files(self) -> Iterator[SourceFile]:
        for files in self.splits.values():
            yield from files


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """Consecutive rows of one file, with where they start."""

    start: int
    offset: int | None  # byte offset of the first row, for line formats
    rows: Rows
    count: int


def open_corpus(spec: str) -> Corpus:
    """The corpus that a name stands for: a folder, `FOLDER:config`, a file or a glob. UsageError says what else would do."""
    if Path(spec).is_dir():
        return _folder(Path(spec), None)
    folder, _, config = spec.rpartition(":")
    if folder and Path(folder).is_dir():
        return _folder(Path(folder), config)
    paths = [Path(spec)] if Path(spec).is_file() else _glob(spec)
    if paths:
        root = Path(os.path.commonpath([p.parent for p in paths]))
        return Corpus(name=Path(spec).name, splits={"train": tuple(_source(p, str(p.relative_to(root))) for p in paths)})
    raise UsageError(
        f"no corpus {spec!r}: give `demo`, a folder laid out as a Hub dataset (FOLDER or FOLDER:config), or .jsonl, .txt, .parquet files"
    )


def _glob(pattern: str) -> list[Path]:
    """The files a pattern finds, in the order of their names."""
    return sorted(Path(found) for found in glob.glob(pattern, recursive=True) if Path(found).is_file())  # noqa: PTH207 (absolute ones too)


def _source(path: Path, name: str) -> SourceFile:
    if path.suffix not in FORMATS:
        raise UsageError(f"cannot read {path}: its format is not one of {', '.join(FORMATS)}")
    return SourceFile(name=name, path=path, format=FORMATS[path.suffix])


def _folder(folder: Path, config: str | None) -> Corpus:
    """A folder laid out as a Hub dataset, resolved by `datasets` itself: README configs, file patterns, splits."""
    try:
        import datasets
    except ImportError:
        raise UsageError("reading a folder laid out as a Hub dataset needs the package `datasets`: pip install datasets") from None

    try:
        builder = datasets.load_dataset_builder(str(folder.resolve()), config)
    except Exception as error:
        configs = _configs(folder)
        if configs and config not in configs:
            raise UsageError(
                f"{folder} has {'no config ' + repr(config) if config else 'several configs'}; give one of "
                f"{', '.join(configs)}: --corpus {folder}:{configs[0]}"
            ) from error
        message = " ".join(str(error).split())
        raise UsageError(f"cannot read {folder} as a dataset{f' with config {config!r}' if config else ''}: {message}") from error
    files = builder.config.data_files or {}
    root = folder.resolve()
    for path in (str(path) for paths in files.values() for path in paths):
        if not Path(path).is_absolute() or not Path(os.path.normpath(path)).is_relative_to(root):
            raise UsageError(f"the README.md in {folder} names a file outside the folder, {path!r}: it is not read")
    splits = {
        str(split): tuple(_source(p, str(p.relative_to(root))) for p in (Path(os.path.normpath(str(path))) for path in paths))
        for split, paths in files.items()
    }
    if not splits:
        raise UsageError(f"no data files in {folder}; expected {', '.join(FORMATS)}")
    first = next(iter(splits.values()))[0]
    name = root.name if config is None else f"{root.name}:{config}"
    return Corpus(name=name, splits=splits, class_names=_class_names(first), license=folder_license(root))


def _configs(folder: Path) -> list[str]:
    """The configs of a folder laid out as a Hub dataset; none if it cannot be told."""
    import datasets

    try:
        return list(datasets.get_dataset_config_names(str(folder.resolve())))
    except Exception:
        return []


def _class_names(file: SourceFile) -> dict[str, tuple[str, ...]]:
    """Names of integer classes, from the feature types that `datasets` leaves in Parquet metadata."""
    if file.format != "parquet":
        return {}
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(file.path).metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (ValueError, OSError) as error:
        raise CorpusError(f"cannot read {file.path}: {error}") from None
    return {k: tuple(v["names"]) for k, v in features.items() if isinstance(v, dict) and v.get("_type") == "ClassLabel"}


def folder_license(folder: Path) -> str | None:
    """The licence named in the YAML head of a README.md."""
    import yaml

    readme = folder / "README.md"
    if not readme.is_file():
        return None
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    found = head.get("license") if isinstance(head, dict) else None
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found) if found else None


def columns(file: SourceFile) -> dict[str, bool]:
    """The columns of a file, and whether each holds text; for line formats, by the first SCAN_ROWS rows."""
    if file.format == "text":
        return {"text": True}
    if file.format == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            schema = pq.read_schema(file.path)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"cannot read {file.path}: {str(error).splitlines()[0]}") from None
        kinds = {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema}
        return {name: pa.types.is_string(kind) or pa.types.is_large_string(kind) for name, kind in kinds.items()}
    found: dict[str, bool] = {}
    for row, _, line in _lines(file, 0, 0, SCAN_ROWS):
        value = _parse(file, row, line)
        if not value:
            raise CorpusError(f"row {row} of {file.path} is an empty object: it has no columns")
        found.update({k: isinstance(v, str) or found.get(k, False) for k, v in value.items()})
    return found


def choose_columns(
    found: dict[str, bool], *, text: tuple[str, ...], label: str | None, keep: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], str | None]:
    """The text columns (one, or a pair) and the label column of a corpus. UsageError names the columns there are."""
    listing = ", ".join(found) or "none"
    for column in (*text, *keep, *([label] if label else [])):
        if column not in found:
            raise UsageError(f"{where} has no column {column!r}; it has {listing}")
    if not text:
        text = next((known for known in TEXT_COLUMNS if all(found.get(c) for c in known)), ())
    if not text:
        strings = [c for c, is_text in found.items() if is_text]
        if len(strings) != 1:
            raise UsageError(f"which column of {where} is the text? It has {listing}; name one or two with --text-column")
        text = (strings[0],)
    if label is None and LABEL_COLUMN in found and LABEL_COLUMN not in text:
        label = LABEL_COLUMN
    return text, label


def _parse(file: SourceFile, row: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"row {row} of {file.path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorpusError(f"row {row} of {file.path} is not a JSON object but {type(value).__name__}")
    return value


def _lines(file: SourceFile, row: int, offset: int, stop: int | None) -> Iterator[tuple[int, int, bytes]]:
    """(row, byte offset, line without its end) from a row that starts at a byte offset; blank lines are no rows in JSON lines."""
    try:
        lines = file.path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read {file.path}: {error.strerror}") from None
    with lines:
        lines.seek(offset)
        while stop is None or row < stop:
            at = lines.tell()
            line = lines.readline()
            if not line:
                return
            line = line.rstrip(b"\r\n")
            if file.format == "jsonl" and not line.strip():
                continue
            yield row, at, line
            row += 1


def _column_values(file: SourceFile, row: int, line: bytes, names: tuple[str, ...]) -> list[Any]:
    if file.format == "text":
        try:
            return [line.decode("utf-8")]
        except UnicodeDecodeError as error:
            raise CorpusError(f"row {row} of {file.path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    value = _parse(file, row, line)
    missing = [n for n in names if n not in value]
    if missing:
        raise CorpusError(f"row {row} of {file.path} has no column {missing[0]!r}; it has {', '.join(value) or 'none'}")
    found = [value[n] for n in names]
    for name, item in zip(names, found, strict=True):
        if isinstance(item, str) and not _is_unicode(item):
            raise CorpusError(f"row {row} of {file.path}: column {name!r} has half of a surrogate pair, which is no character")
    return found


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read(file: SourceFile, names: tuple[str, ...], start: int, stop: int, offset: int | None) -> Rows:
    """Rows start .. stop of a file. CorpusError if it ends before."""
    found = next(scan(file, names, rows=stop - start, limit=stop, start=start, offset=offset or 0), None)
    if found is None or found.count != stop - start:
        raise CorpusError(f"{file.path} ends before row {stop}: it changed since the run was planned; run again with another --out")
    return found.rows


def scan(
    file: SourceFile, names: tuple[str, ...], *, rows: int, limit: int | None = None, start: int = 0, offset: int = 0
) -> Iterator[RowRange]:
    """The file's rows up to row `limit`, in ranges of `rows`, the last one shorter; beginning at row `start`, byte `offset`."""
    source = _scan_parquet(file, names, start, limit) if file.format == "parquet" else _scan_lines(file, names, start, offset, limit)
    pending: Rows = {n: [] for n in names}
    first, at, count = start, offset if file.format != "parquet" else None, 0
    for where, values in source:
        taken = 0
        size = len(values[names[0]])
        while taken < size:
            if not count and where is not None:
                at = where[taken]
            piece = min(rows - count, size - taken)
            for n in names:
                pending[n] += values[n][taken : taken + piece]
            count, taken = count + piece, taken + piece
            if count == rows:
                yield RowRange(start=first, offset=at, rows=pending, count=count)
                pending, first, count = {n: [] for n in names}, first + count, 0
    if count:
        yield RowRange(start=first, offset=at, rows=pending, count=count)


def _scan_lines(
    file: SourceFile, names: tuple[str, ...], start: int, offset: int, limit: int | None
) -> Iterator[tuple[list[int] | None, Rows]]:
    where: list[int] = []
    values: list[list[Any]] = []

    def block() -> tuple[list[int], Rows]:
        return where, {n: [v[i] for v in values] for i, n in enumerate(names)}

    for row, at, line in _lines(file, start, offset, limit):
        where.append(at)
        values.append(_column_values(file, row, line, names))
        if len(where) == SCAN_ROWS:
            yield block()
            where, values = [], []
    if where:
        yield block()


def _scan_parquet(file: SourceFile, names: tuple[str, ...], start: int, limit: int | None) -> Iterator[tuple[list[int] | None, Rows]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as parquet:
            groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            skipped = 0
            while groups and skipped + groups[0] <= start:
                skipped += groups.pop(0)
            row = skipped
            wanted = range(parquet.num_row_groups - len(groups), parquet.num_row_groups)
            for batch in parquet.iter_batches(SCAN_ROWS, row_groups=wanted, columns=list(names)):
                low, high = max(start - row, 0), batch.num_rows if limit is None else min(batch.num_rows, limit - row)
                row += batch.num_rows
                if low < high:
                    part = batch.slice(low, high - low)
                    yield None, {n: part.column(n).to_pylist() for n in names}
                if limit is not None and row >= limit:
                    return
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {file.path}: {str(error).splitlines()[0]}") from None


def rows_sha256(rows: Rows) -> str:
    """sha256 over the content of rows; values that JSON has no exact form for count by type and repr."""

    def exact(value: Any) -> Any:
        return value if value is None or isinstance(value, str | int) else [type(value).__name__, repr(value)]

    return digest({column: [exact(value) for value in values] for column, values in rows.items()})
