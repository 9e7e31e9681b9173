"""Corpora: named input text, as splits of files.

A corpus is a folder laid out as a Hub dataset (`PATH` or `PATH:config`), or files.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from textsmooth.schemas.errors import CorpusError, StorageError, UsageError
from textsmooth.schemas.plan import check_split
from textsmooth.stages.corpus import reader as readers
from textsmooth.stages.corpus.columns import card_facts, folder_license
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.source_file import FORMATS, SourceFile, source_file


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
