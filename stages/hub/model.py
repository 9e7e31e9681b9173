"""Models on the Hugging Face Hub: list, fetch, find in the cache."""

import fnmatch
import json
from functools import partial
from pathlib import Path

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.hub.errors import Repo, Unreachable, ask
from textsmooth.stages.hub.file import FETCH_AGAIN, HubFile
from textsmooth.stages.hub.listing import Listing, is_name, listing, repo_tree

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


def model(name: str, *, revision: str | None = None, option: str = "--teacher") -> tuple[Path, str]:
    """The folder of a model on the Hub, fetched if it is not in the cache, and its commit. Weights are safetensors, code is never fetched.

    option: by which it was named, for messages. Raises UsageError for what is not there, TeacherError for what cannot be had or used.
    """
    if not is_name(name, parts=1) and not is_name(name, parts=2):
        raise UsageError(f"no folder {name} here: check the path (a model on the Hub is owner/name)")
    asked = Repo(kind="model", name=name, revision=revision, option=option)
    found = listing(asked, None, partial(_list_model, asked), partial(_cached_model, asked))
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


def _list_model(asked: Repo, repo: str, commit: str) -> Listing:
    tree = repo_tree(asked, repo, commit, recursive=False)
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
