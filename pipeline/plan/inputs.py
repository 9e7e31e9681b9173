"""Where the corpus and the models that a command names are: on this machine, or on the Hub."""

import fnmatch
import glob
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from textsmooth.pipeline import demo
from textsmooth.schemas.config import DEFAULT_TEACHER, GenerateOptions
from textsmooth.schemas.errors import TeacherError, UsageError
from textsmooth.schemas.manifest import CARD, MANIFEST, PLAN, QUARANTINE, RECEIPTS, RECEIPTS_FOLDER, RUN, TOKENIZER_FOLDER
from textsmooth.schemas.tasks import TASKS
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.formats import source_file
from textsmooth.stages.corpus.open import open_corpus as open_named_corpus
from textsmooth.stages.corpus.open import refuse_revision
from textsmooth.stages.corpus.source_file import SourceFile
from textsmooth.stages.hub.names import HUB, MODEL_NAME
from textsmooth.stages.storage.folder import Folder, is_uri
from textsmooth.stages.storage.local import LocalFolder, closest, refuse_slip
from textsmooth.stages.storage.object_store import last_part

A_RUN = (  # files like those that a run over a glob makes in its folder
    *(MANIFEST, PLAN, CARD, RUN, RECEIPTS, QUARANTINE, f"{TOKENIZER_FOLDER}/tokenizer.json", f"{TOKENIZER_FOLDER}/tokenizer_config.json"),
    *(f"{RECEIPTS_FOLDER}/train-00000-000000000000.json", "train/00000-000000000000.arrow"),
)


def check_apart(options: GenerateOptions, out: Folder) -> None:
    """UsageError if what a run writes into its folder would become rows of its corpus, or the corpus is named as a folder inside it."""
    spec, local = options.corpus, isinstance(out, LocalFolder)
    if spec == "demo" or local == _in_store(spec):
        return
    called = f"--out {out}{' (the default)' if options.out is None else ''}"
    outs = _spellings(out)
    for name in _named_folders(spec):
        folders = _spellings(name)
        if outs & folders:
            raise UsageError(f"{called} is the corpus folder {name} itself; give another --out")
        if any(folder in place.parents for folder in folders for place in outs):
            raise UsageError(f"{called} lies in the corpus folder {name}, whose files it would become; give another --out")
        if any(place in folder.parents for folder in folders for place in outs):
            raise UsageError(f"the corpus {name} lies in {called}, which is for a run alone; give another --out")
    if any(_finds(spec, place / name) for place in outs for name in A_RUN):
        raise UsageError(f"the corpus {spec} would find files of {called} too; give another --out, or a glob without them")


def check_files_apart(corpus: Corpus, out: Folder) -> None:
    """UsageError if a file of the corpus lies in the folder of a run: --overwrite could remove it."""
    outs = _spellings(out)
    for file in corpus.files:
        if any(place in path.parents for path in _spellings(str(file)) for place in outs):
            raise UsageError(f"{file}, of the corpus, lies in --out {out}, which is for a run alone; give another --out")


def _in_store(spec: str) -> bool:
    return is_uri(spec) and not Path(spec).exists()


def _named_folders(spec: str) -> list[str]:
    """The folder that a corpus is named as, FOLDER or FOLDER:config; of a store, what may be one."""
    before = spec.rpartition(":")[0]
    if _in_store(spec):
        return [] if glob.has_magic(spec) else [spec, *([before] if is_uri(before) else [])]
    return [name for name in (spec, before) if name and Path(name).is_dir()][:1]


def _finds(pattern: str, file: PurePath) -> bool:
    """Whether a corpus that is a glob finds a file, by its path."""
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return False
    plain = re.split(r"[^/]*[*?[]", pattern, maxsplit=1)[0]  # the folder that it starts from
    rest, hidden = PurePosixPath(pattern[len(plain) :]).parts, _in_store(pattern)
    return any(file.is_relative_to(root) and _matches(rest, file.relative_to(root).parts, hidden=hidden) for root in _spellings(plain))


def _spellings(place: str | Folder) -> set[PurePath]:
    """A place as it is named, and where it is behind symbolic links."""
    if _in_store(str(place)):
        return {PurePosixPath(str(place))}
    return {Path(os.path.abspath(str(place))), Path(str(place)).resolve()}  # noqa: PTH100 (links as they are named)


def _matches(pattern: tuple[str, ...], path: tuple[str, ...], *, hidden: bool) -> bool:
    """Whether a recursive glob finds a file. hidden: also one whose name, or a folder's, begins with a dot."""
    if not pattern:
        return not path
    if pattern[0] == "**" and _matches(pattern[1:], path, hidden=hidden):
        return True
    if not path or (path[0].startswith(".") and not hidden and not pattern[0].startswith(".")):
        return False
    rest = pattern if pattern[0] == "**" else pattern[1:]
    return fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(rest, path[1:], hidden=hidden)


def slug(name: str) -> str:
    """A name as part of a file name: letters of any script, digits, dots and underscores."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's folder on this machine, and what it is called."""

    folder: Path
    name: str
    revision: str | None = None  # commit, of a model on the Hub


def find_model(name: str, revision: str | None, *, option: str) -> Model:
    """The model that an option names: `demo`, a folder, or owner/name on the Hub, also as hf://owner/name. UsageError if there is none."""
    folder = Path(name).expanduser()
    if name == "demo" or folder.is_dir():
        if revision is not None:
            raise UsageError(f"{option} {name!r} is on this machine, only a model on the Hub has revisions: leave {option}-revision away")
        return Model(folder=demo.teacher_folder(), name="demo") if name == "demo" else Model(folder=folder, name=folder.resolve().name)
    if folder.exists():
        raise UsageError(f"{option} {name!r} is a file: give the folder with config.json and *.safetensors")
    repository = name.removeprefix(HUB)
    if MODEL_NAME.fullmatch(repository):
        if repository == name:
            refuse_slip(name, f"{HUB}{name}")
        from textsmooth.stages.hub.model import fetch_model

        found, commit = fetch_model(repository, revision=revision, option=option)
        return Model(folder=found, name=repository, revision=commit)
    demo_too = "" if option == "--task-teacher" else ", or `demo`"
    wanted = f"a folder with config.json and *.safetensors, owner/name of the Hub{demo_too}"
    raise UsageError(f"no model at {name!r}{closest(name)}: give {option} {wanted}")


def open_corpus(name: str, *, revision: str | None = None, streaming: str = "auto") -> Corpus:
    """The corpus that --corpus names; UsageError if nothing answers to it."""
    if name == "demo":
        refuse_revision(name, revision, "part of textsmooth")
        paths = {split: demo.corpus_folder() / f"{split}.jsonl" for split in ("train", "validation")}
        splits: dict[str, tuple[SourceFile, ...]] = {split: (source_file(path.name, path=path),) for split, path in paths.items()}
        return Corpus(name="demo", splits=splits, license="apache-2.0")
    return open_named_corpus(name, revision=revision, streaming=streaming)


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
    return Path("smoothed") / f"{slug(corpus) or 'corpus'}-{slug(teacher) or 'teacher'}-k{options.topk}"


def model_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model's folder. TeacherError if there is none, or it is not one of a language model."""
    try:
        value = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise TeacherError(f"{folder} is not a model folder: it has no config.json") from None
    except OSError as error:
        raise TeacherError(f"cannot read {folder}/config.json: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        why = str(error).partition("; use sys.")[0]  # Python's advice on long numbers is for its programmers
        raise TeacherError(f"{folder}/config.json cannot be read as JSON ({why}): fetch or save the model again") from None
    if not isinstance(value, dict) or "vocab_size" not in value:
        raise TeacherError(f"{folder}/config.json names no vocab_size: not a masked language model")
    for name, least in (("vocab_size", 1), ("max_position_embeddings", -1)):  # 0 or -1: positions are relative
        number = value.get(name)
        if (number is not None or name == "vocab_size") and (not isinstance(number, int) or number < least):
            raise TeacherError(f"{folder}/config.json has {name} {number!r}: not a masked language model")
    return value


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a plan's corpus and teacher lie on this machine. Never published."""

    files: dict[str, SourceFile]  # CorpusIdentity's names -> files
    teacher: Path
    device: str
    task_teacher: Path | None = None
