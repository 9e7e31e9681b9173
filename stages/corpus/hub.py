"""A corpus on the Hugging Face Hub: a dataset repository at one commit."""

import re
import tempfile
from functools import partial
from typing import Any

from textsmooth.schemas.errors import TextsmoothError, UsageError, first_line
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.folder import card_facts, check_builder, check_delimiter, class_names, folder_license, split_files
from textsmooth.stages.corpus.formats import source_file
from textsmooth.stages.corpus.source_file import SourceFile
from textsmooth.stages.hub.errors import Repo, Unreachable, ask
from textsmooth.stages.hub.file import HubFile
from textsmooth.stages.hub.listing import Listing, api, listing, repo_tree, size_and_id

STREAM_BYTES = 2_000_000_000  # `auto` reads files in place if more than this would have to be downloaded
PATHS_PER_REQUEST = 100
CARD_FILES = ("README.md", ".huggingface.yaml")
PARQUET_COPY = re.compile(r"(?P<config>[^/]+)/(?P<split>[^/]+)/[0-9]{4}\.parquet")  # refs/convert/parquet
TRY_PARQUET_COPY = "--corpus-revision refs/convert/parquet"


def hub_corpus(name: str, config: str | None, *, revision: str | None = None, streaming: str = "auto") -> Corpus:
    """The dataset owner/name on the Hub, at one commit. Only its metadata is downloaded.

    revision: branch, tag, commit, refs/pr/N, refs/convert/parquet. streaming: `never` downloads a file when it is first needed,
    `always` reads it in place, `auto` reads in place if more than STREAM_BYTES would have to be downloaded.
    Raises UsageError for what does not exist, CorpusError for what is not accessible.
    """
    repo = Repo(kind="dataset", name=name, revision=revision)
    listed = listing(repo, config, partial(_list_dataset, repo, config))
    files = listed.hub_files("dataset")
    missing = {path for path, file in files.items() if file.cached is None}
    streamed = streaming == "always" or (streaming == "auto" and sum(files[path].size for path in missing) > STREAM_BYTES)

    def source(path: str) -> SourceFile:
        return source_file(path, remote=files[path], streamed=streamed and path in missing, **listed.csv)

    return Corpus(
        name=name if config is None else f"{name}:{config}",
        splits={split: tuple(map(source, paths)) for split, paths in listed.splits.items()},
        class_names=listed.class_names,
        license=listed.license,
        revision=listed.commit,
        about=listed.about,
    )


def _list_dataset(repo: Repo, config: str | None, name: str, commit: str) -> Listing:
    """What a dataset repository declares at a commit. name: as the Hub spells it."""
    import datasets

    script = f"{name.rpartition('/')[2]}.py"
    declarations = _sizes(repo, name, commit, [*CARD_FILES, "dataset_infos.json", script])
    if declarations.pop(script, None):
        raise UsageError(f"{repo} is a Python script, which is never run: use the Parquet copy that the Hub made, {TRY_PARQUET_COPY}")

    def hub_file(path: str, size_id: tuple[int, str]) -> HubFile:
        return HubFile(kind="dataset", repo=name, commit=commit, path=path, size=size_id[0], blob=size_id[1])

    # Downloaded before `datasets` looks: it takes a file that cannot be downloaded for one that does not exist.
    local = {path: hub_file(path, size_id).local() for path, size_id in declarations.items()}
    copy = {} if set(CARD_FILES) & set(local) else _parquet_copy(repo, name, commit, config)
    with tempfile.TemporaryDirectory() as empty:  # the cache of `datasets` would answer with something older
        options: dict[str, Any] = {"revision": commit, "data_files": copy or None, "cache_dir": empty}
        try:
            builder = ask(repo, lambda: datasets.load_dataset_builder(name, None if copy else config, **options))
        except (TextsmoothError, Unreachable):
            raise
        except Exception as error:
            raise _unreadable(repo, name, commit, config, error) from error
        paths = _paths(repo, builder, f"hf://datasets/{name}@{commit}/")
        files = _sizes(repo, name, commit, sorted({path for listed in paths.values() for path in listed}))
        if not paths:
            raise repo.error_type(f"{repo} has no data files: see its page")
        lost = next((path for listed in paths.values() for path in listed if path not in files), None)
        if lost:
            raise repo.error_type(f"{repo} has {lost}, and the Hub does not report its size: see its page")
        first = next(iter(paths.values()))[0]
        delimiter = check_builder(builder)
        try:
            file = source_file(first, remote=hub_file(first, files[first]), streamed=True, delimiter=delimiter)
        except UsageError as error:
            raise UsageError(f"{error}; the Hub may have a copy that can be read: {TRY_PARQUET_COPY}") from None
        check_delimiter(builder, file, f"{repo} cannot be read with config {config!r}")
    card = local["README.md"].parent if "README.md" in local else None
    return Listing(
        repo=name,
        commit=commit,
        files=files,
        splits=paths,
        class_names=class_names(builder),
        license=folder_license(card) if card else None,
        about=card_facts(card) if card else {},
        csv={} if delimiter is None else {"delimiter": delimiter},
    )


def _paths(repo: Repo, builder: Any, root: str) -> dict[str, tuple[str, ...]]:
    """The data files of each split, relative to the repository. UsageError for a file elsewhere."""
    urls = split_files(builder)
    for url in (url for listed in urls.values() for url in listed):
        if not url.startswith(root):
            raise UsageError(f"the README of {repo} names a file outside the repository, {url!r}: it is not read")
    return {split: tuple(url.removeprefix(root) for url in listed) for split, listed in urls.items()}


def _sizes(repo: Repo, name: str, commit: str, paths: list[str]) -> dict[str, tuple[int, str]]:
    """Sizes and ids of those of the paths that exist."""
    from huggingface_hub.hf_api import RepoFile

    entries: list[Any] = []
    for start in range(0, len(paths), PATHS_PER_REQUEST):
        part = paths[start : start + PATHS_PER_REQUEST]
        entries += ask(repo, partial(api().get_paths_info, name, part, revision=commit, repo_type="dataset"))
    return {entry.path: size_and_id(entry) for entry in entries if isinstance(entry, RepoFile)}


def _parquet_copy(repo: Repo, name: str, commit: str, config: str | None) -> dict[str, list[str]]:
    """The files of a config on the branch refs/convert/parquet, by split; none if the commit is not of such a branch."""
    tree = [path for path in repo_tree(repo, name, commit, recursive=True) if not path.startswith(".")]
    matches = [match for match in map(PARQUET_COPY.fullmatch, tree) if match]
    if not matches or len(matches) < len(tree):
        return {}
    configs = sorted({match["config"] for match in matches})
    if config is None and len(configs) == 1:
        config = configs[0]
    if config not in configs:
        raise _choose_config(repo, config, configs)
    splits: dict[str, list[str]] = {}
    for match in sorted((match for match in matches if match["config"] == config), key=lambda match: match[0]):
        splits.setdefault(match["split"], []).append(match[0])
    partial_split = next((split for split in splits if split.startswith("partial-")), None)
    if partial_split:
        raise repo.error_type(f"the Hub's Parquet copy of {repo} has only a part of its rows ({partial_split}): use another revision")
    return splits


def _choose_config(repo: Repo, config: str | None, configs: list[str]) -> UsageError:
    problem = f"{repo} has several configs" if config is None else f"{repo} has no config {config!r}"
    return UsageError(f"{problem}; give one of {', '.join(configs)}: --corpus {repo.name}:{configs[0]}")


def _unreadable(repo: Repo, name: str, commit: str, config: str | None, error: Exception) -> UsageError:
    """Why `datasets` cannot read a repository."""
    import datasets

    try:
        configs = list(ask(repo, lambda: datasets.get_dataset_config_names(name, revision=commit)))
    except (UsageError, ValueError, RuntimeError, FileNotFoundError):
        configs = []
    if len(configs) > 1 and config not in configs:
        return _choose_config(repo, config, configs)
    if configs and config is not None and config not in configs:
        return UsageError(f"{repo} has no config {config!r}, only {configs[0]!r}: --corpus {repo.name}")
    return UsageError(
        f"cannot read {repo}{f' with config {config!r}' if config else ''}: {first_line(error)}; see its page, or try {TRY_PARQUET_COPY}"
    )
