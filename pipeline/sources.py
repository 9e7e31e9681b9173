"""Where the corpus and the models that a command names are: on this machine, or on the Hub."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textsmooth.pipeline import demo
from textsmooth.schemas.config import DEFAULT_TEACHER, GenerateOptions
from textsmooth.schemas.errors import TeacherError, UsageError
from textsmooth.schemas.tasks import TASKS
from textsmooth.stages import corpus as corpora
from textsmooth.stages.corpus import Corpus
from textsmooth.stages.folder import is_uri
from textsmooth.stages.source import SourceFile, source_file
from textsmooth.stages.store import last_part

HUB_MODEL = re.compile(r"[\w.-]+(/[\w.-]+)?")


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's folder on this machine, and what it is called."""

    folder: Path
    name: str
    revision: str | None = None  # commit, of a model on the Hub


def find_model(name: str, revision: str | None, *, option: str) -> Model:
    """The model that an option names: `demo`, a folder, or owner/name on the Hub. UsageError if nothing answers to it."""
    folder = Path(name).expanduser()
    if name == "demo" or folder.is_dir():
        if revision is not None:
            raise UsageError(f"{option} {name!r} is on this machine, only a model on the Hub has revisions: leave {option}-revision away")
        return Model(folder=demo.teacher_folder(), name="demo") if name == "demo" else Model(folder=folder, name=folder.resolve().name)
    if folder.exists():
        raise UsageError(f"{option} {name!r} is a file: give the folder with config.json and *.safetensors")
    if HUB_MODEL.fullmatch(name):
        from textsmooth.stages import hub

        found, commit = hub.model(name, revision=revision, option=option)
        return Model(folder=found, name=name, revision=commit)
    demo_too = "" if option == "--task-teacher" else ", or `demo`"
    raise UsageError(f"no model at {name!r}: give {option} a folder with config.json and *.safetensors, owner/name of the Hub{demo_too}")


def open_corpus(name: str, *, revision: str | None = None, streaming: str = "auto") -> Corpus:
    """The corpus that --corpus names; UsageError if nothing answers to it."""
    if name == "demo":
        if revision is not None:
            raise UsageError("the demo corpus has no revisions: leave --corpus-revision away")
        folder = demo.corpus_folder()
        files = {s: folder / f"{s}.jsonl" for s in ("train", "validation")}
        splits: dict[str, tuple[SourceFile, ...]] = {s: (source_file(p.name, place=p),) for s, p in files.items()}
        return Corpus(name="demo", splits=splits, license="apache-2.0")
    if name not in TASKS and re.fullmatch(r"(?i)glue([/:].*)?|squad\S*", name) and not Path(name.rpartition(":")[0] or name).exists():
        raise UsageError(f"no task {name!r}: there are {', '.join(TASKS)}")
    return corpora.open_corpus(name, revision=revision, streaming=streaming)


def hub_corpus_name(spec: str) -> str:
    """What a corpus of the Hub calls itself: owner/name, or owner/name:config."""
    task = TASKS.get(spec)
    return spec if task is None else f"{task.repo}:{task.config}"


def teacher_name(options: GenerateOptions) -> str:
    """The teacher as named, or the one that is taken where none is."""
    return options.teacher or ("demo" if options.corpus == "demo" else DEFAULT_TEACHER)


def default_out(options: GenerateOptions) -> Path:
    """smoothed/<corpus>-<teacher>-k<topk>."""
    corpus, teacher = options.corpus, teacher_name(options)
    if is_uri(corpus):
        corpus = last_part(corpus)
    elif corpus != "demo" and corpus not in TASKS:
        corpus = Path(corpus).expanduser().resolve().name
    teacher = teacher if teacher == "demo" else Path(teacher).expanduser().resolve().name
    return Path("smoothed") / f"{slug(corpus)}-{slug(teacher)}-k{options.topk}"


def model_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model's folder. TeacherError if there is none, or it is not one of a language model."""
    try:
        value = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise TeacherError(f"{folder} is not a model folder: it has no config.json") from None
    except OSError as error:
        raise TeacherError(f"cannot read {folder}/config.json: {error.strerror}") from None
    except ValueError as error:
        raise TeacherError(f"{folder}/config.json is not JSON: {error}") from None
    if not isinstance(value, dict) or "vocab_size" not in value:
        raise TeacherError(f"{folder}/config.json names no vocab_size: not a masked language model")
    for name, least in (("vocab_size", 1), ("max_position_embeddings", -1)):  # 0 or -1: positions are relative
        number = value.get(name)
        if (number is not None or name == "vocab_size") and (not isinstance(number, int) or number < least):
            raise TeacherError(f"{folder}/config.json has {name} {number!r}: not a masked language model")
    return value
