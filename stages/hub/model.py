"""Download a model from the Hugging Face Hub, or find it in the cache."""

import fnmatch
import json
from functools import partial
from pathlib import Path

from textsmooth.stages.hub.errors import Repo, Unreachable, ask
from textsmooth.stages.hub.file import DOWNLOAD_FIRST
from textsmooth.stages.hub.listing import Listing, listing, repo_tree

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


def fetch_model(name: str, *, revision: str | None = None, option: str = "--teacher") -> tuple[Path, str]:
    """The folder of a model on the Hub, downloaded if it is not in the cache, and its commit. Only safetensors, no code.

    option: the option that names the model, for messages. Raises UsageError for what does not exist, TeacherError for what is not
    accessible or not usable.
    """
    repo = Repo(kind="model", name=name, revision=revision, option=option)
    listed = listing(repo, None, partial(_list_model, repo), partial(_cached_model, repo))
    files = list(listed.hub_files("model").values())
    missing = [file for file in files if file.cached is None]
    if missing:
        from huggingface_hub import snapshot_download

        patterns = [file.path for file in missing]
        try:
            ask(repo, lambda: snapshot_download(listed.repo, revision=listed.commit, allow_patterns=patterns))
        except Unreachable as error:
            raise repo.error_type(f"{error}, and {missing[0].url} is not in the cache: {DOWNLOAD_FIRST}") from None
    folders = {file.local().parent for file in files}  # downloads what is still missing or damaged, or raises an error
    return folders.pop(), listed.commit


def _is_model_file(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def _list_model(repo: Repo, name: str, commit: str) -> Listing:
    tree = repo_tree(repo, name, commit, recursive=False)
    files = {path: tree[path] for path in tree if _is_model_file(path)}
    if "model.safetensors" in files:
        files = {path: entry for path, entry in files.items() if not fnmatch.fnmatchcase(path, WEIGHTS[1])}
    if "config.json" not in files:
        raise repo.error_type(f"{repo} has no config.json: it is not a masked language model of transformers")
    if not any(fnmatch.fnmatchcase(path, pattern) for path in files for pattern in WEIGHTS):
        others = [path for path in tree if path.endswith((".bin", ".h5", ".msgpack", ".pt", ".ckpt"))]
        raise repo.error_type(
            f"{repo} has no model.safetensors ({f'only {others[0]}, which is not read' if others else 'no weights at all'}): try "
            f"{repo.option}-revision refs/pr/N if its page offers them, or save it with save_pretrained and give the folder"
        )
    return Listing(repo=name, commit=commit, files=files)


def _cached_model(repo: Repo) -> Listing | None:
    """A model that another program downloaded into the cache of huggingface_hub, if no file that a teacher needs is missing."""
    from huggingface_hub import constants, try_to_load_from_cache

    config = try_to_load_from_cache(repo.name, "config.json", revision=repo.revision, repo_type="model", cache_dir=constants.HF_HUB_CACHE)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    paths = {path.name: path for path in folder.iterdir() if _is_model_file(path.name)}
    weights = {"model.safetensors"}
    if "model.safetensors.index.json" in paths:
        try:
            weights = set(json.loads(paths["model.safetensors.index.json"].read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, RecursionError):
            return None
    if not {"tokenizer.json", "tokenizer_config.json", *weights} <= set(paths):
        return None
    files = {name: (path.stat().st_size, path.resolve().name) for name, path in paths.items()}
    return Listing(repo=repo.name, commit=folder.name, files=files)
