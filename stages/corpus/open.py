"""Open a corpus: a folder, files, a glob, an object store, or a dataset of the Hub."""

import glob
import os
import re
from pathlib import Path

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.tasks import TASKS
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.folder import folder_corpus
from textsmooth.stages.corpus.source_file import COMPRESSIONS, FORMATS, source_file
from textsmooth.stages.storage.registry import KINDS, SCHEMES

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<config>[^/]+))?")


def open_corpus(spec: str, *, revision: str | None = None, streaming: str = "auto") -> Corpus:
    """The corpus that a name stands for. UsageError says what else would do.

    spec: a folder, `FOLDER:config`, a file or a glob, if there is one of that name; the same at a URI of an object store; a task of
    schemas/tasks.py; `owner/name[:config]` on the Hub. revision, streaming: of a corpus on the Hub, as stages/hub/listing.py has them;
    streaming also of one in an object store.
    """
    if URI.match(spec) and not Path(spec).exists():
        if spec.partition("://")[0] in KINDS:
            if revision is not None:
                raise UsageError(f"corpus {spec!r} is in an object store, only one on the Hub has revisions: leave --corpus-revision away")
            from textsmooth.stages.corpus import object_store as store_files

            return store_files.corpus(spec, streaming=streaming)
        raise UsageError(
            f"corpus {spec!r} is a URI, which is not read: give a path on this machine, {' or '.join(SCHEMES)}, "
            "or owner/name[:config] of the Hub"
        )
    here = _local_corpus(spec)
    if here is not None:
        if revision is not None:
            raise UsageError(f"corpus {spec!r} is on this machine, only one on the Hub has revisions: leave --corpus-revision away")
        return here
    from textsmooth.stages.corpus import hub

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
