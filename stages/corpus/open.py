"""Open a corpus by name: a folder, files, a glob, an object store, a task, or a dataset of the Hub."""

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.tasks import TASKS
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.folder import folder_corpus
from textsmooth.stages.corpus.formats import FORMATS, has_known_suffix, source_file
from textsmooth.stages.hub.names import OWNED_NAME
from textsmooth.stages.storage.local import closest
from textsmooth.stages.storage.registry import KINDS as STORES
from textsmooth.stages.storage.registry import SCHEMES

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
HUB_DATASET = re.compile(rf"(?P<repo>{OWNED_NAME})(?::(?P<config>[^/]+))?")
TASK_LIKE = re.compile(r"glue([/:].*)?|squad[^\s/]*", re.IGNORECASE)


def open_corpus(spec: str, *, revision: str | None = None, streaming: str = "auto") -> Corpus:
    """The corpus with a name. UsageError if there is none, with what a name can be.

    spec: a folder, `FOLDER:config`, a file or a glob, if there is one on this machine; the same at a URI of an object store; a task of
    schemas/tasks.py; `owner/name[:config]` on the Hub. revision: of a corpus on the Hub. streaming: `never`, `always` or `auto`, of a
    corpus on the Hub or in an object store.
    """
    spec = os.path.expanduser(spec) if spec.startswith("~") else spec  # noqa: PTH111 (an unknown ~user stays as it is)
    for kind in KINDS:
        corpus = kind(spec, revision, streaming)
        if corpus is not None:
            return corpus
    near = "" if glob.has_magic(spec) else closest(spec, files=True)
    if glob.has_magic(spec) or has_known_suffix(spec):
        raise UsageError(f"no corpus {spec!r}: there is no such file here{near}; check the path, and quote a glob")
    raise UsageError(
        f"no corpus {spec!r}{near}: give `demo`, a task (glue/qnli, squad …), owner/name[:config] of the Hub, a folder laid out as a Hub "
        f"dataset (FOLDER or FOLDER:config), or files ({', '.join(FORMATS)})"
    )


def refuse_revision(spec: str, revision: str | None, where: str) -> None:
    """UsageError if a revision is given for a corpus that has none. where: `on this machine`, `in an object store`."""
    if revision is not None:
        raise UsageError(f"corpus {spec!r} is {where}, only a corpus on the Hub has revisions: remove --corpus-revision")


def _in_store(spec: str, revision: str | None, streaming: str) -> Corpus | None:
    if not URI.match(spec) or Path(spec).exists():
        return None
    if spec.partition("://")[0] not in STORES:
        raise UsageError(
            f"corpus {spec!r} is a URI of another kind: give a path on this machine, {' or '.join(SCHEMES)}, "
            "or owner/name[:config] of the Hub"
        )
    refuse_revision(spec, revision, "in an object store")
    from textsmooth.stages.corpus.object_store import store_corpus

    return store_corpus(spec, streaming=streaming)


def _on_this_machine(spec: str, revision: str | None, streaming: str) -> Corpus | None:
    folder, _, config = spec.rpartition(":")
    if Path(spec).is_dir():
        corpus = folder_corpus(Path(spec), None)
    elif folder and Path(folder).is_dir():
        corpus = folder_corpus(Path(folder), config)
    else:
        paths = [Path(spec)] if Path(spec).is_file() else _glob(spec)
        if not paths:
            return None
        root = Path(os.path.commonpath([path.parent for path in paths]))
        files = tuple(source_file(str(path.relative_to(root)), path=path) for path in paths)
        corpus = Corpus(name=Path(spec).name, splits={"train": files})
    refuse_revision(spec, revision, "on this machine")
    return corpus


def _glob(pattern: str) -> list[Path]:
    """The files that match a pattern, each once, in the order of their names."""
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207 (absolute ones too)
    return sorted({path.resolve(): path for path in reversed(paths)}.values())


def _task(spec: str, revision: str | None, streaming: str) -> Corpus | None:
    task = TASKS.get(spec)
    if task is None:
        if TASK_LIKE.fullmatch(spec) and not has_known_suffix(spec):
            raise UsageError(f"no task {spec!r}: there are {', '.join(TASKS)}")
        return None
    from textsmooth.stages.corpus.hub import hub_corpus

    return hub_corpus(task.repo, task.config, revision=revision, streaming=streaming)


def _on_hub(spec: str, revision: str | None, streaming: str) -> Corpus | None:
    name = HUB_DATASET.fullmatch(spec)
    if name is None or has_known_suffix(name["repo"]):
        return None
    from textsmooth.stages.corpus.hub import hub_corpus

    return hub_corpus(name["repo"], name["config"], revision=revision, streaming=streaming)


# What a name can be, in this order. Each returns None for a name of another kind. A new kind is a function in a module of its own, and
# an entry here.
KINDS: tuple[Callable[[str, str | None, str], Corpus | None], ...] = (_in_store, _on_this_machine, _task, _on_hub)
