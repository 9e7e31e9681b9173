"""A corpus in a folder: laid out as a Hub dataset, or written by `save_to_disk` of `datasets`; and the YAML head of its README.md."""

import dataclasses
import glob
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textsmooth.schemas.errors import CorpusError, StorageError, UsageError
from textsmooth.schemas.plan import check_split
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.formats import FORMATS, has_known_suffix, source_file
from textsmooth.stages.corpus.source_file import SourceFile

CARD_HEAD = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
METADATA_NAMES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
ABOUT = ("changelog", "citation", "copying", "licence", "license", "notice", "readme", "requirements")  # text files about a folder
CARD_TEXTS = ("pretty_name", "license_name", "license_link")
CARD_LISTS = ("language", "task_categories")

# Options of a builder of `datasets` that change how it reads, not which rows it reads.
HARMLESS_OPTIONS = ("features", "columns", "batch_size", "chunksize", "block_size", "use_threads", "engine", "memory_map", "verbose")
UTF_8 = ("utf-8", "utf8", "utf-8-sig", "utf_8")


def card_head(folder: Path) -> dict[str, Any]:
    """The YAML head of a README.md; empty if there is none."""
    import yaml

    readme = folder / "README.md"
    match = CARD_HEAD.match(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    try:
        head = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError):
        return {}
    return head if isinstance(head, dict) else {}


def folder_license(folder: Path) -> str | None:
    """The license in the YAML head of a README.md."""
    license = card_head(folder).get("license")
    return ", ".join(map(str, license)) if isinstance(license, list) else str(license) if license else None


def card_facts(folder: Path) -> dict[str, Any]:
    """The entries CARD_TEXTS and CARD_LISTS in the YAML head of a README.md, if they are text."""
    head = card_head(folder)
    facts: dict[str, Any] = {name: head[name] for name in CARD_TEXTS if isinstance(head.get(name), str)}
    for name in CARD_LISTS:
        value = head.get(name)
        texts = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
        facts |= {name: texts} if texts else {}
    return facts


def folder_corpus(folder: Path, config: str | None, source: Callable[..., SourceFile] = source_file) -> Corpus:
    """The corpus in a folder; `datasets` resolves README configs, file patterns and splits.

    source: makes its files, if the folder is a local image of a folder elsewhere. UsageError if the folder is not a corpus, StorageError if
    the cache of `datasets` cannot be used.
    """
    saved = saved_splits(folder)
    if saved is not None:
        return _saved_corpus(folder, saved, config, source)
    root = folder.resolve()
    if glob.has_magic(str(root)) or "::" in str(root):
        raise UsageError(f"{folder} has [, ], *, ? or :: in its path, which `datasets` takes for a pattern: rename it")
    builder = _folder_builder(folder, config)
    paths = split_files(builder)
    for path in (path for listed in paths.values() for path in listed):
        if not Path(path).is_absolute() or not Path(os.path.normpath(path)).is_relative_to(root):
            raise UsageError(f"the README.md in {folder} names a file outside the folder, {path!r}: it is not read")
    delimiter = check_builder(builder)
    splits = {
        split: tuple(source(str(p.relative_to(root)), path=p, delimiter=delimiter) for p in map(Path, map(os.path.normpath, listed)))
        for split, listed in paths.items()
    }
    if not splits:
        raise UsageError(f"no data files in {folder}; expected {', '.join(FORMATS)}")
    for file in (file for files in splits.values() for file in files):
        check_delimiter(builder, file, f"{folder} cannot be read{f' with config {config!r}' if config else ''}; give the file itself")
    if config is None and "configs" not in card_head(root):
        _check_all_read(folder, {file for listed in paths.values() for file in map(os.path.normpath, listed)})
    name = root.name if config is None else f"{root.name}:{config}"
    return Corpus(name=name, splits=splits, class_names=class_names(builder), license=folder_license(root), about=card_facts(root))


def _check_all_read(folder: Path, read: set[str]) -> None:
    """UsageError for data files that no split reads, hidden ones apart: `datasets` takes one format, and the names that say a split."""
    root = folder.resolve()
    names = sorted(
        path.relative_to(root) for path in root.rglob("*") if path.suffix and has_known_suffix(path.name) and str(path) not in read
    )
    left = [
        str(name)
        for name in names
        if not any(part[0] in "._" for part in name.parts) and name.name not in METADATA_NAMES and name.stem.lower() not in ABOUT
    ]
    if left:
        raise UsageError(
            f"{folder} has data files that no split reads: {', '.join(left[:5])}{' …' if len(left) > 5 else ''}; move them away, list the "
            "files in `configs` of a README.md, or give a glob"
        )


def _folder_builder(folder: Path, config: str | None) -> Any:
    """The builder of `datasets` for a folder."""
    try:
        import datasets
    except ImportError:
        raise UsageError("reading a folder laid out as a Hub dataset needs the package `datasets`: pip install datasets") from None

    try:
        return datasets.load_dataset_builder(str(folder.resolve()), config)
    except Exception as error:
        if isinstance(error, OSError) and error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(folder.resolve()):
            raise StorageError(
                f"cannot use the cache of `datasets` in {datasets.config.HF_DATASETS_CACHE} ({error.strerror}: {error.filename}); "
                "set HF_HOME or HF_DATASETS_CACHE to a folder that you may write to"
            ) from error
        try:
            configs = list(datasets.get_dataset_config_names(str(folder.resolve())))
        except Exception:
            configs = []
        if configs and config not in configs:
            raise UsageError(
                f"{folder} has {'no config ' + repr(config) if config else 'several configs'}; give one of "
                f"{', '.join(configs)}: --corpus {folder}:{configs[0]}"
            ) from error
        message = " ".join(str(error).split())
        raise UsageError(f"cannot read {folder} as a dataset{f' with config {config!r}' if config else ''}: {message}") from error


def saved_splits(folder: Path) -> dict[str, Path] | None:
    """The splits of a folder written by `save_to_disk` of `datasets`, each in a folder; None if it is not such a folder."""
    if (folder / "dataset_dict.json").is_file():
        names = _read_json(folder / "dataset_dict.json").get("splits", [])
        try:
            for name in names:
                check_split(name)
        except UsageError:  # the name is in a file, not on the command line
            raise CorpusError(f"{folder}/dataset_dict.json names splits that are no folders: {names}") from None
        return {name: folder / name for name in names}
    if (folder / "state.json").is_file():
        split = _read_json(folder / "state.json").get("_split")
        return {split if isinstance(split, str) and split.isidentifier() else "train": folder}
    return None


def _saved_corpus(folder: Path, splits: dict[str, Path], config: str | None, source: Callable[..., SourceFile]) -> Corpus:
    """A folder written by `save_to_disk`: Arrow files, as the state.json of each split lists them."""
    if config is not None:
        raise UsageError(f"{folder} was saved by `datasets`, it has no configs: --corpus {folder}, and --split for {', '.join(splits)}")
    files: dict[str, tuple[SourceFile, ...]] = {}
    for split, split_folder in splits.items():
        listed = _read_json(split_folder / "state.json").get("_data_files", [])
        names = [str(file.get("filename")) if isinstance(file, dict) else str(file) for file in listed]
        for name in names:
            if Path(name).name != name or not (split_folder / name).is_file():
                raise CorpusError(f"{split_folder}/state.json lists {name!r}, which is not a file in that folder: save the dataset again")
        paths = [split_folder / name for name in names]
        files[split] = tuple(source(path.relative_to(folder).as_posix(), path=path) for path in paths)
    if not any(files.values()):
        raise CorpusError(f"{folder} lists no data files: save the dataset again")
    split = next(split for split in splits if files[split])
    info = splits[split] / "dataset_info.json"
    license = folder_license(folder) or (str(_read_json(info).get("license") or "") or None if info.is_file() else None)
    return Corpus(name=folder.resolve().name, splits=files, license=license, about=card_facts(folder))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise CorpusError(f"{path} is not a JSON object: save the dataset again")
    return value


def split_files(builder: Any) -> dict[str, list[str]]:
    """The data files of each split of a `datasets` builder, as the builder names them: paths, or hf://… of the Hub."""
    files = {str(split): list(dict.fromkeys(map(str, paths))) for split, paths in (builder.config.data_files or {}).items()}
    return {split: paths for split, paths in files.items() if paths}


def class_names(builder: Any) -> dict[str, tuple[str, ...]]:
    """Names of integer classes by column, as a `datasets` builder declares them."""
    declared = {name: kind for name, kind in (builder.info.features or {}).items() if type(kind).__name__ == "ClassLabel"}
    return {name: tuple(map(str, kind.names)) for name, kind in declared.items() if kind.names}


def check_builder(builder: Any) -> str | None:
    """The delimiter that a `datasets` builder declares for its files; None if it is a comma or not declared.

    UsageError for any other option that would make other rows of the files.
    """
    config = builder.config
    options = [f for f in dataclasses.fields(config) if f.name not in ("name", "version", "data_dir", "data_files", "description")]
    for option in options:
        value = getattr(config, option.name)
        harmless = option.name in (*HARMLESS_OPTIONS, "sep", "delimiter") or (option.name == "encoding" and str(value).lower() in UTF_8)
        if not harmless and option.default is not dataclasses.MISSING and value != option.default:
            raise UsageError(
                f"the README.md of {builder.dataset_name} sets {option.name}: {value!r} for its files, which is not supported; "
                "give plain UTF-8 files (CSV with a header row), or Parquet"
            )
    delimiter = getattr(config, "sep", ",")
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '\r\n"':
        raise UsageError(f"the README.md of {builder.dataset_name} has the delimiter {delimiter!r}: one character is needed")
    return None if delimiter == "," else delimiter


def check_delimiter(builder: Any, file: SourceFile, advice: str) -> None:
    """UsageError for a file of cells in a folder whose configs `datasets` reads as another format, which drops their delimiter."""
    if file.format.cells_are_text and not hasattr(builder.config, "sep"):
        raise UsageError(f"{file} is CSV, and `datasets` uses one format for all configs, here another one: {advice}")
