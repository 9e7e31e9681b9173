"""Corpora on the Hugging Face Hub."""

import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from textsmooth.schemas.errors import TextsmoothError, UsageError, first_line
from textsmooth.stages.corpus import folder as corpora
from textsmooth.stages.corpus.columns import card_facts, folder_license
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.source_file import COMPRESSIONS, FORMATS, SourceFile, source_file
from textsmooth.stages.hub.errors import Repo, Unreachable, ask
from textsmooth.stages.hub.file import HubFile
from textsmooth.stages.hub.listing import Listing, api, entry, is_name, listing, repo_tree

STREAM_BYTES = 2_000_000_000  # `auto` reads files in place where those to be fetched are together larger
PATHS_PER_REQUEST = 100
PARQUET_COPY = re.compile(r"(?P<config>[^/]+)/(?P<split>[^/]+)/[0-9]{4}\.parquet")  # refs/convert/parquet


def corpus(repo: str, config: str | None, *, revision: str | None = None, streaming: str = "auto") -> Corpus:
    """The dataset of that name on the Hub, at one commit; nothing but what it says of itself is fetched.

    revision: branch, tag, commit, refs/pr/N, refs/convert/parquet. streaming: `never` fetches a file when it is first needed,
    `always` reads it in place, `auto` reads in place where more than STREAM_BYTES would have to be fetched.
    Raises UsageError for what is not there, CorpusError for what cannot be had.
    """
    asked = Repo(kind="dataset", name=repo, revision=revision)
    name = repo if config is None else f"{repo}:{config}"
    if _is_file_name(repo) or not is_name(repo, parts=2):
        raise UsageError(f"no file or folder {name} here: check the path (a dataset on the Hub is owner/name or owner/name:config)")
    found = listing(asked, config, partial(_list_dataset, asked, config))
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


def _is_file_name(name: str) -> bool:
    return Path(name).suffix.lower() in {**FORMATS, **COMPRESSIONS}


def _list_dataset(asked: Repo, config: str | None, repo: str, commit: str) -> Listing:
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
        license=folder_license(here["README.md"].parent) if "README.md" in here else None,
        about=card_facts(here["README.md"].parent) if "README.md" in here else {},
        csv=csv,
    )


def _sizes(asked: Repo, repo: str, commit: str, paths: list[str]) -> dict[str, tuple[int, str]]:
    """Those of the paths that are there, with sizes and ids."""
    from huggingface_hub.hf_api import RepoFile

    found: list[Any] = []
    for at in range(0, len(paths), PATHS_PER_REQUEST):
        part = paths[at : at + PATHS_PER_REQUEST]
        found += ask(asked, partial(api().get_paths_info, repo, part, revision=commit, repo_type="dataset"))
    return {item.path: entry(item) for item in found if isinstance(item, RepoFile)}


def _parquet_copy(asked: Repo, repo: str, commit: str, config: str | None) -> dict[str, list[str]]:
    """The files of a config on the branch refs/convert/parquet; none if the commit is not of such a branch."""
    tree = [path for path in repo_tree(asked, repo, commit, recursive=True) if not path.startswith(".")]
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
