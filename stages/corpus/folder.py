"""Corpora: named input text, as splits of files.

A corpus is a folder laid out as a Hub dataset (`PATH` or `PATH:config`), or files.
"""

import dataclasses
import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from textsmooth.schemas.errors import CorpusError, StorageError, UsageError
from textsmooth.schemas.plan import check_split
from textsmooth.schemas.tasks import LABEL_COLUMN, TASKS, TEXT_COLUMNS
from textsmooth.stages.corpus import reader as readers
from textsmooth.stages.corpus.source_file import COMPRESSIONS, FORMATS, SourceFile, source_file
from textsmooth.stages.storage.folder import STORES


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Splits of input files, and what the corpus says of itself."""

    name: str
    splits: dict[str, tuple[SourceFile, ...]]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # column -> names of its integer classes
    license: str | None = None
    revision: str | None = None  # commit, of a corpus on the Hub
    about: dict[str, Any] = field(default_factory=dict)  # as card_facts has it

    def select(self, splits: tuple[str, ...]) -> "Corpus":
        """The corpus with these splits only, in the corpus's order; all if none is named. UsageError for an unknown one."""
        for split in splits:
            if split not in self.splits:
                raise UsageError(f"corpus {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        chosen = {k: v for k, v in self.splits.items() if not splits or k in splits}
        return replace(self, splits=chosen)

    @property
    def files(self) -> Iterator[SourceFile]:
        for files in self.splits.values():
            yield from files


URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<config>[^/]+))?")


def open_corpus(spec: str, *, revision: str | None = None, streaming: str = "auto") -> Corpus:
    """The corpus that a name stands for. UsageError says what else would do.

    spec: a folder, `FOLDER:config`, a file or a glob, if there is one of that name; the same at a URI of an object store; a task of
    schemas/tasks.py; `owner/name[:config]` on the Hub. revision, streaming: of a corpus on the Hub, as stages/hub/listing.py has them;
    streaming also of one in an object store.
    """
    if URI.match(spec) and not Path(spec).exists():
        if spec.partition("://")[0] in STORES:
            if revision is not None:
                raise UsageError(f"corpus {spec!r} is in an object store, only one on the Hub has revisions: leave --corpus-revision away")
            from textsmooth.stages.corpus import object_store as store_files

            return store_files.corpus(spec, streaming=streaming)
        raise UsageError(
            f"corpus {spec!r} is a URI, which is not read: give a path on this machine, s3:// or gs://, or owner/name[:config] of the Hub"
        )
    here = _local_corpus(spec)
    if here is not None:
        if revision is not None:
            raise UsageError(f"corpus {spec!r} is on this machine, only one on the Hub has revisions: leave --corpus-revision away")
        return here
    from textsmooth.stages.hub import listing as hub

    task = TASKS.get(spec)
    if task is not None:
        return hub.corpus(task.repo, task.config, revision=revision, streaming=streaming)
    named = HUB_NAME.fullmatch(spec)
    if named:
        return hub.corpus(named["repo"], named["config"], revision=revision, streaming=streaming)
    if glob.has_magic(spec) or Path(spec).suffix.lower() in {**FORMATS, **COMPRESSIONS}:
        raise UsageError(f"no corpus {spec!r}: there is no such file here; check the path, and quote a glob")
    raise UsageError(
        f"no corpus {spec!r}: give `demo`, a task (glue/qnli, squad …), owner/name[:config] of the Hub, a folder laid out as a Hub dataset "
        f"(FOLDER or FOLDER:config), or files ({', '.join(FORMATS)})"
    )


def _local_corpus(spec: str) -> Corpus | None:
    """The corpus of that name on this machine; None if there is none."""
    if Path(spec).is_dir():
        return folder_corpus(Path(spec), None)
    folder, _, config = spec.rpartition(":")
    if folder and Path(folder).is_dir():
        return folder_corpus(Path(folder), config)
    paths = [Path(spec)] if Path(spec).is_file() else _glob(spec)
    if paths:
        root = Path(os.path.commonpath([p.parent for p in paths]))
        return Corpus(name=Path(spec).name, splits={"train": tuple(source_file(str(p.relative_to(root)), place=p) for p in paths)})
    return None


def _glob(pattern: str) -> list[Path]:
    """The files a pattern finds, each once, in the order of their names."""
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207 (absolute ones too)
    return sorted({path.resolve(): path for path in reversed(found)}.values())


def folder_corpus(folder: Path, config: str | None, source: Callable[..., SourceFile] = source_file) -> Corpus:
    """A folder laid out as a Hub dataset, resolved by `datasets` itself: README configs, file patterns, splits; or one saved by it.

    source: makes its files, where the folder is an image of one elsewhere. UsageError if it cannot be read so, StorageError if the cache
    of `datasets` cannot be used.
    """
    saved = saved_splits(folder)
    if saved is not None:
        return _saved(folder, saved, config, source)
    try:
        import datasets
    except ImportError:
        raise UsageError("reading a folder laid out as a Hub dataset needs the package `datasets`: pip install datasets") from None

    try:
        builder = datasets.load_dataset_builder(str(folder.resolve()), config)
    except Exception as error:
        if isinstance(error, OSError) and error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(folder.resolve()):
            raise StorageError(
                f"cannot use the cache of `datasets` in {datasets.config.HF_DATASETS_CACHE} ({error.strerror}: {error.filename}); "
                "set HF_HOME or HF_DATASETS_CACHE to a folder that you may write to"
            ) from error
        configs = _configs(folder)
        if configs and config not in configs:
            raise UsageError(
                f"{folder} has {'no config ' + repr(config) if config else 'several configs'}; give one of "
                f"{', '.join(configs)}: --corpus {folder}:{configs[0]}"
            ) from error
        message = " ".join(str(error).split())
        raise UsageError(f"cannot read {folder} as a dataset{f' with config {config!r}' if config else ''}: {message}") from error
    files = split_files(builder)
    root = folder.resolve()
    for path in (path for paths in files.values() for path in paths):
        if not Path(path).is_absolute() or not Path(os.path.normpath(path)).is_relative_to(root):
            raise UsageError(f"the README.md in {folder} names a file outside the folder, {path!r}: it is not read")
    options = csv_options(builder)
    splits = {
        split: tuple(source(str(p.relative_to(root)), place=p, **options) for p in map(Path, map(os.path.normpath, paths)))
        for split, paths in files.items()
    }
    csv = next((file for files in splits.values() for file in files if file.format == "csv"), None)
    if csv and not hasattr(builder.config, "sep"):  # `datasets` has one format for all configs of a folder
        which = f"{folder} cannot be read{f' with config {config!r}' if config else ''}"
        raise UsageError(f"{csv} is CSV, and `datasets` takes its config for another format: {which}; give the file itself")
    if not splits:
        raise UsageError(f"no data files in {folder}; expected {', '.join(FORMATS)}")
    first = next(iter(splits.values()))[0]
    name = root.name if config is None else f"{root.name}:{config}"
    classes = class_names(builder, first)
    return Corpus(name=name, splits=splits, class_names=classes, license=folder_license(root), about=card_facts(root))


def saved_splits(folder: Path) -> dict[str, Path] | None:
    """The splits of a folder that `save_to_disk` of `datasets` wrote, each in a folder; None if it is no such folder."""
    if (folder / "dataset_dict.json").is_file():
        names = _read_json(folder / "dataset_dict.json").get("splits", [])
        try:
            for name in names:
                check_split(name)
        except UsageError:  # it stands in a file, not on the command line
            raise CorpusError(f"{folder}/dataset_dict.json names splits that are no folders: {names}") from None
        return {name: folder / name for name in names}
    if (folder / "state.json").is_file():
        split = _read_json(folder / "state.json").get("_split")
        return {split if isinstance(split, str) and split.isidentifier() else "train": folder}
    return None


def _saved(folder: Path, splits: dict[str, Path], config: str | None, source: Callable[..., SourceFile]) -> Corpus:
    """A folder that `save_to_disk` wrote: Arrow files, as each split's state.json lists them."""
    if config is not None:
        raise UsageError(f"{folder} was saved by `datasets`, it has no configs: --corpus {folder}, and --split for {', '.join(splits)}")
    found: dict[str, tuple[SourceFile, ...]] = {}
    for split, place in splits.items():
        listed = _read_json(place / "state.json").get("_data_files", [])
        names = [str(file.get("filename")) if isinstance(file, dict) else str(file) for file in listed]
        for name in names:
            if Path(name).name != name or not (place / name).is_file():
                raise CorpusError(f"{place}/state.json lists {name!r}, which is no file there: save the dataset again")
        found[split] = tuple(source((place / name).relative_to(folder).as_posix(), place=place / name) for name in names)
    if not any(found.values()):
        raise CorpusError(f"{folder} lists no data files: save the dataset again")
    first = next(file for files in found.values() for file in files)
    info = next(place for split, place in splits.items() if found[split]) / "dataset_info.json"
    license = folder_license(folder) or (str(_read_json(info).get("license") or "") or None if info.is_file() else None)
    classes = readers.class_names(_head(first))
    return Corpus(name=folder.resolve().name, splits=found, class_names=classes, license=license, about=card_facts(folder))


def _head(file: SourceFile) -> SourceFile:
    """A file of which only its metadata is wanted: one elsewhere is not fetched for it."""
    return replace(file, streamed=file.remote is not None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise CorpusError(f"{path} is not a JSON object: save the dataset again")
    return value


def _configs(folder: Path) -> list[str]:
    """The configs of a folder laid out as a Hub dataset; none if it cannot be told."""
    import datasets

    try:
        return list(datasets.get_dataset_config_names(str(folder.resolve())))
    except Exception:
        return []


def split_files(builder: Any) -> dict[str, list[str]]:
    """The data files of each split of a `datasets` builder, as the builder names them: paths, or hf://… of the Hub."""
    found = {str(split): list(dict.fromkeys(map(str, paths))) for split, paths in (builder.config.data_files or {}).items()}
    return {split: paths for split, paths in found.items() if paths}


def class_names(builder: Any, first: SourceFile) -> dict[str, tuple[str, ...]]:
    """Names of integer classes by column: as the builder's features have them, else as the metadata of its first file."""
    declared = {name: kind for name, kind in (builder.info.features or {}).items() if type(kind).__name__ == "ClassLabel"}
    return {name: tuple(map(str, kind.names)) for name, kind in declared.items() if kind.names} or readers.class_names(_head(first))


# Options of a builder that change how it reads, not which rows come out.
READ_ALIKE = ("features", "columns", "batch_size", "chunksize", "block_size", "use_threads", "engine", "memory_map", "verbose")
UTF_8 = ("utf-8", "utf8", "utf-8-sig", "utf_8")


def csv_options(builder: Any) -> dict[str, Any]:
    """How a builder reads its files, as `source_file` takes it: {"delimiter": …} where it is not a comma, else {}.

    UsageError for any other option that would make other rows of the files.
    """
    config = builder.config
    own = [f for f in dataclasses.fields(config) if f.name not in ("name", "version", "data_dir", "data_files", "description")]
    for option in own:
        value = getattr(config, option.name)
        alike = option.name in (*READ_ALIKE, "sep", "delimiter") or (option.name == "encoding" and str(value).lower() in UTF_8)
        if not alike and option.default is not dataclasses.MISSING and value != option.default:
            raise UsageError(
                f"the README.md of {builder.dataset_name} asks for {option.name}: {value!r} of its files, which is not supported; "
                "give plain UTF-8 files (CSV with a header row), or Parquet"
            )
    sep = getattr(config, "sep", ",")
    if not isinstance(sep, str) or len(sep) != 1 or sep in '\r\n"':
        raise UsageError(f"the README.md of {builder.dataset_name} has the delimiter {sep!r}: one character is needed")
    return {} if sep == "," else {"delimiter": sep}


CARD_HEAD = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
FACTS = ("pretty_name", "license_name", "license_link", "language", "task_categories")  # of a card: the last two are lists


def card_head(folder: Path) -> dict[str, Any]:
    """The YAML head of a README.md; empty if there is none."""
    import yaml

    readme = folder / "README.md"
    found = CARD_HEAD.match(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    try:
        head = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError):
        return {}
    return head if isinstance(head, dict) else {}


def folder_license(folder: Path) -> str | None:
    """The licence named in the YAML head of a README.md."""
    found = card_head(folder).get("license")
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found) if found else None


def card_facts(folder: Path) -> dict[str, Any]:
    """What the YAML head of a README.md says of a corpus, as far as it is text: those of FACTS that are there."""
    head = card_head(folder)
    found: dict[str, Any] = {name: head[name] for name in FACTS[:3] if isinstance(head.get(name), str)}
    for name in FACTS[3:]:
        values = head.get(name)
        listed = [value for value in (values if isinstance(values, list) else [values]) if isinstance(value, str)]
        found |= {name: listed} if listed else {}
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


def late_columns(found: Iterable[str], text: tuple[str, ...], label: str | None, *, named: bool) -> tuple[tuple[str, ...], ...]:
    """Groups of columns that were not found, and would have changed what choose_columns gave: text and label. named: the text was."""
    before = TEXT_COLUMNS[: TEXT_COLUMNS.index(text)] if text in TEXT_COLUMNS else TEXT_COLUMNS
    known = [*(() if named else before), *(() if label else [(LABEL_COLUMN,)])]
    groups = (tuple(column for column in columns if column not in found) for columns in known)
    return tuple(group for group in groups if group)
