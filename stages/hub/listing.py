"""The Hub: names and revisions resolved to one commit, files fetched or read in place, and what was read once again without a connection.

A listing is what was learnt of a repository at a commit: its files with sizes and ids, and what a dataset says of itself. It is kept
beside the cache of huggingface_hub, because a folder of that cache does not tell what it lacks.
"""

import contextlib
import fnmatch
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from textsmooth.schemas.errors import TextsmoothError, UsageError, first_line
from textsmooth.stages.corpus import folder as corpora
from textsmooth.stages.corpus.folder import Corpus
from textsmooth.stages.corpus.source_file import COMPRESSIONS, FORMATS, SourceFile, source_file
from textsmooth.stages.hub.errors import Repo, Unreachable, ask
from textsmooth.stages.hub.file import FETCH_AGAIN, HubFile

STREAM_BYTES = 2_000_000_000  # `auto` reads files in place where those to be fetched are together larger
PATHS_PER_REQUEST = 100
LISTING_FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
PARQUET_COPY = re.compile(r"(?P<config>[^/]+)/(?P<split>[^/]+)/[0-9]{4}\.parquet")  # refs/convert/parquet
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",  # sentencepiece: spm, spiece, sentencepiece.bpe
    "README.md",
)
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is known of a repository at one commit."""

    repo: str  # as the Hub calls it
    commit: str
    files: dict[str, tuple[int, str]]  # path -> bytes, id of the content in hexadecimal
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of a dataset: split -> paths
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    license: str | None = None
    about: dict[str, Any] = field(default_factory=dict)  # as corpus.card_facts has it
    csv: dict[str, Any] = field(default_factory=dict)


def corpus(repo: str, config: str | None, *, revision: str | None = None, streaming: str = "auto") -> Corpus:
    """The dataset of that name on the Hub, at one commit; nothing but what it says of itself is fetched.

    revision: branch, tag, commit, refs/pr/N, refs/convert/parquet. streaming: `never` fetches a file when it is first needed,
    `always` reads it in place, `auto` reads in place where more than STREAM_BYTES would have to be fetched.
    Raises UsageError for what is not there, CorpusError for what cannot be had.
    """
    asked = Repo(kind="dataset", name=repo, revision=revision)
    name = repo if config is None else f"{repo}:{config}"
    if _is_file_name(repo) or not _is_name(repo, parts=2):
        raise UsageError(f"no file or folder {name} here: check the path (a dataset on the Hub is owner/name or owner/name:config)")
    found = _listing(asked, config)
    files = {
        path: HubFile(kind="dataset", repo=found.repo, commit=found.commit, path=path, size=s, blob=b)
        for path, (s, b) in found.files.items()
    }
    missing = {path for path, file in files.items() if file.cached is None}
    streamed = streaming == "always" or (streaming == "auto" and sum(files[path].size for path in missing) > STREAM_BYTES)

    def source(path: str) -> SourceFile:
        return source_file(path, remote=files[path], streamed=streamed and path in missing, **found.csv)

    return Corpus(
        name=name,
        splits={split: tuple(map(source, paths)) for split, paths in found.splits.items()},
        class_names=found.class_names,
        license=found.license,
        revision=found.commit,
        about=found.about,
    )


def model(name: str, *, revision: str | None = None, option: str = "--teacher") -> tuple[Path, str]:
    """The folder of a model on the Hub, fetched if it is not in the cache, and its commit. Weights are safetensors, code is never fetched.

    option: by which it was named, for messages. Raises UsageError for what is not there, TeacherError for what cannot be had or used.
    """
    if not _is_name(name, parts=1) and not _is_name(name, parts=2):
        raise UsageError(f"no folder {name} here: check the path (a model on the Hub is owner/name)")
    asked = Repo(kind="model", name=name, revision=revision, option=option)
    found = _listing(asked, None)
    files = [HubFile(kind="model", repo=found.repo, commit=found.commit, path=path, size=s, blob=b) for path, (s, b) in found.files.items()]
    missing = [file for file in files if file.cached is None]
    if missing:
        from huggingface_hub import snapshot_download

        wanted = [file.path for file in missing]
        try:
            ask(asked, lambda: snapshot_download(found.repo, revision=found.commit, allow_patterns=wanted))
        except Unreachable as error:
            raise asked.trouble(f"{error}, and {missing[0].url} is not in the cache: {FETCH_AGAIN}") from None
    folders = {file.local().parent for file in files}  # what is still missing or damaged is fetched, or named
    return folders.pop(), found.commit


def _is_name(name: str, *, parts: int) -> bool:
    found = name.split("/")
    return len(found) == parts and all(NAME.fullmatch(part) for part in found)


def _is_file_name(name: str) -> bool:
    return Path(name).suffix.lower() in {**FORMATS, **COMPRESSIONS}


def _listing(asked: Repo, config: str | None) -> Listing:
    """What is known of a repository; asked of the Hub, or as it was last time where there is no connection."""
    before = _read_listing(asked, config)
    if before is not None and asked.revision is not None and COMMIT.fullmatch(asked.revision):
        return before
    try:
        found = _ask_hub(asked, config)
    except Unreachable as error:
        if before is not None:
            return before
        if asked.kind == "model" and (here := _cached_model(asked)) is not None:
            return here
        which = f"{asked} with config {config!r}" if config else str(asked)
        raise asked.trouble(
            f"{error}, and {which} is neither on this machine nor in the cache: {FETCH_AGAIN}, or use {asked.instead}"
        ) from None
    for revision in (asked.revision, found.commit):
        _write_listing(Repo(kind=asked.kind, name=asked.name, revision=revision), config, found)
    return found


def _listing_path(asked: Repo, config: str | None) -> Path:
    from huggingface_hub import constants

    def name(value: str | None) -> str:
        return "default" if value is None else "=" + quote(value, safe="")

    folder = f"{asked.kind}s--{asked.name.replace('/', '--')}"
    return Path(constants.HF_HOME) / "textsmooth" / folder / name(asked.revision) / f"{name(config)}.json"


def _read_listing(asked: Repo, config: str | None) -> Listing | None:
    try:
        value = json.loads(_listing_path(asked, config).read_bytes())
        if value.pop("format") != LISTING_FORMAT:
            return None
        value["files"] = {path: (size, blob) for path, (size, blob) in value["files"].items()}
        for name in ("splits", "class_names"):
            value[name] = {k: tuple(v) for k, v in value[name].items()}
        return Listing(**value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_listing(asked: Repo, config: str | None, listing: Listing) -> None:
    path = _listing_path(asked, config)
    with contextlib.suppress(OSError):  # a cache that cannot be written may still be read
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump({"format": LISTING_FORMAT, **asdict(listing)}, file, indent=1)
        Path(temporary).replace(path)


def _api() -> Any:
    from huggingface_hub import HfApi

    from textsmooth.schemas.version import VERSION

    return HfApi(library_name="textsmooth", library_version=VERSION)


def _ask_hub(asked: Repo, config: str | None) -> Listing:
    from huggingface_hub import constants

    timeout = float(constants.HF_HUB_ETAG_TIMEOUT)
    info = ask(asked, lambda: _api().repo_info(asked.name, repo_type=asked.kind, revision=asked.revision, timeout=timeout))
    repo, commit = str(info.id), str(info.sha)
    if asked.kind == "model":
        return _list_model(asked, repo, commit)
    same = _read_listing(Repo(kind=asked.kind, name=asked.name, revision=commit), config)
    return same or _list_dataset(asked, repo, commit, config)


def _entry(file: Any) -> tuple[int, str]:
    """Size and id of a RepoFile."""
    return (file.lfs.size, file.lfs.sha256) if file.lfs else (file.size, file.blob_id)


def _tree(asked: Repo, repo: str, commit: str, *, recursive: bool) -> dict[str, tuple[int, str]]:
    from huggingface_hub.hf_api import RepoFile

    tree = ask(asked, lambda: list(_api().list_repo_tree(repo, revision=commit, repo_type=asked.kind, recursive=recursive)))
    return {item.path: _entry(item) for item in tree if isinstance(item, RepoFile)}


def _list_model(asked: Repo, repo: str, commit: str) -> Listing:
    tree = _tree(asked, repo, commit, recursive=False)
    files = {path: tree[path] for path in tree if any(fnmatch.fnmatchcase(path, pattern) for pattern in MODEL_FILES)}
    if "model.safetensors" in files:
        files = {path: entry for path, entry in files.items() if not fnmatch.fnmatchcase(path, WEIGHTS[1])}
    if "config.json" not in files:
        raise asked.trouble(f"{asked} has no config.json: it is not a masked language model of transformers")
    if not any(fnmatch.fnmatchcase(path, pattern) for path in files for pattern in WEIGHTS):
        others = [path for path in tree if path.endswith((".bin", ".h5", ".msgpack", ".pt", ".ckpt"))]
        raise asked.trouble(
            f"{asked} has no model.safetensors ({f'only {others[0]}, which is not read' if others else 'no weights at all'}): try "
            f"{asked.option}-revision refs/pr/N where someone offers them on its page, or save it with save_pretrained and give the folder"
        )
    return Listing(repo=repo, commit=commit, files=files)


def _cached_model(asked: Repo) -> Listing | None:
    """A model that another program left in the cache of huggingface_hub, if nothing that a teacher needs is missing."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(asked.name, "config.json", revision=asked.revision, repo_type="model", cache_dir=constants.HF_HUB_CACHE)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    here = {path.name: path for path in folder.iterdir() if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in MODEL_FILES)}
    weights = {"model.safetensors"}
    if "model.safetensors.index.json" in here:
        try:
            weights = set(json.loads(here["model.safetensors.index.json"].read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return None
    if not {"tokenizer.json", "tokenizer_config.json", *weights} <= set(here):
        return None
    files = {name: (path.stat().st_size, path.resolve().name) for name, path in here.items()}
    return Listing(repo=asked.name, commit=folder.name, files=files)


def _list_dataset(asked: Repo, repo: str, commit: str, config: str | None) -> Listing:
    import datasets

    script = f"{repo.rpartition('/')[2]}.py"
    said = _sizes(asked, repo, commit, ["README.md", ".huggingface.yaml", "dataset_infos.json", script])
    if said.pop(script, None):
        raise UsageError(
            f"{asked} is a Python script, which is never run: take the Hub's copy of its rows, --corpus-revision refs/convert/parquet"
        )
    here = {}
    for path, (size, blob) in said.items():  # before `datasets` looks: it takes a file that cannot be had for one that is not there
        here[path] = HubFile(kind="dataset", repo=repo, commit=commit, path=path, size=size, blob=blob).local()
    copy = {} if {"README.md", ".huggingface.yaml"} & set(said) else _parquet_copy(asked, repo, commit, config)
    with tempfile.TemporaryDirectory() as empty:  # not the cache of `datasets`, which would answer with something older
        try:
            builder = ask(
                asked,
                lambda: datasets.load_dataset_builder(
                    repo, None if copy else config, revision=commit, data_files=copy or None, cache_dir=empty
                ),
            )
            splits = corpora.split_files(builder)
        except (TextsmoothError, Unreachable):
            raise
        except Exception as error:
            raise _unreadable(asked, repo, commit, config, error) from error
        start = f"hf://datasets/{repo}@{commit}/"
        for path in (path for paths in splits.values() for path in paths):
            if not path.startswith(start):
                raise UsageError(f"the README of {asked} names a file outside the repository, {path!r}: it is not read")
        paths = {split: tuple(path.removeprefix(start) for path in found) for split, found in splits.items()}
        files = _sizes(asked, repo, commit, sorted({path for found in paths.values() for path in found}))
        lost = next((path for found in paths.values() for path in found if path not in files), None)
        if lost or not paths:
            raise asked.trouble(f"{asked} has {f'{lost}, and the Hub does not tell its size' if lost else 'no data files'}: see its page")
        first = next(iter(paths.values()))[0]
        size, blob = files[first]
        csv: dict[str, Any] = corpora.csv_options(builder)
        try:
            head = source_file(
                first, remote=HubFile(kind="dataset", repo=repo, commit=commit, path=first, size=size, blob=blob), streamed=True, **csv
            )
        except UsageError as error:
            raise UsageError(f"{error}; perhaps the Hub has a copy that can be: --corpus-revision refs/convert/parquet") from None
        if head.format == "csv" and not hasattr(builder.config, "sep"):  # `datasets` has one format for all configs of a repository
            raise UsageError(
                f"{first} is CSV, and `datasets` takes its config for another format: {asked} cannot be read with config {config!r}"
            )
        classes = corpora.class_names(builder, head)
    return Listing(
        repo=repo,
        commit=commit,
        files=files,
        splits=paths,
        class_names=classes,
        license=corpora.folder_license(here["README.md"].parent) if "README.md" in here else None,
        about=corpora.card_facts(here["README.md"].parent) if "README.md" in here else {},
        csv=csv,
    )


def _sizes(asked: Repo, repo: str, commit: str, paths: list[str]) -> dict[str, tuple[int, str]]:
    """Those of the paths that are there, with sizes and ids."""
    from huggingface_hub.hf_api import RepoFile

    found: list[Any] = []
    for at in range(0, len(paths), PATHS_PER_REQUEST):
        part = paths[at : at + PATHS_PER_REQUEST]
        found += ask(asked, partial(_api().get_paths_info, repo, part, revision=commit, repo_type="dataset"))
    return {item.path: _entry(item) for item in found if isinstance(item, RepoFile)}


def _parquet_copy(asked: Repo, repo: str, commit: str, config: str | None) -> dict[str, list[str]]:
    """The files of a config on the branch refs/convert/parquet; none if the commit is not of such a branch."""
    tree = [path for path in _tree(asked, repo, commit, recursive=True) if not path.startswith(".")]
    found = [PARQUET_COPY.fullmatch(path) for path in tree]
    matches = [match for match in found if match]
    if not matches or len(matches) < len(tree):
        return {}
    configs = sorted({match["config"] for match in matches})
    if config is None and len(configs) == 1:
        config = configs[0]
    if config not in configs:
        raise UsageError(_which(asked, config, configs))
    splits: dict[str, list[str]] = {}
    for match in sorted((match for match in matches if match["config"] == config), key=lambda match: match[0]):
        splits.setdefault(match["split"], []).append(match[0])
    part = next((split for split in splits if split.startswith("partial-")), None)
    if part:
        raise asked.trouble(f"the Hub's Parquet copy of {asked} has only a part of its rows ({part}): take another revision")
    return splits


def _which(asked: Repo, config: str | None, configs: list[str]) -> str:
    wrong = f"{asked} has several configs" if config is None else f"{asked} has no config {config!r}"
    return f"{wrong}; give one of {', '.join(configs)}: --corpus {asked.name}:{configs[0]}"


def _unreadable(asked: Repo, repo: str, commit: str, config: str | None, error: Exception) -> UsageError:
    """Why `datasets` cannot make sense of a repository."""
    import datasets

    try:
        configs = list(ask(asked, lambda: datasets.get_dataset_config_names(repo, revision=commit)))
    except (UsageError, ValueError, RuntimeError, FileNotFoundError):
        configs = []
    if len(configs) > 1 and config not in configs:
        return UsageError(_which(asked, config, configs))
    if configs and config is not None and config not in configs:
        return UsageError(f"{asked} has no config {config!r}, only {configs[0]!r}: --corpus {asked.name}")
    return UsageError(
        f"cannot read {asked}{f' with config {config!r}' if config else ''}: {first_line(error)}; see its page, or try "
        "--corpus-revision refs/convert/parquet"
    )
