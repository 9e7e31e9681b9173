"""What was asked, resolved: which corpus, columns, teacher, device and number format a run will use."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsmooth.pipeline import demo
from textsmooth.schemas.config import GenerateOptions, GenerationConfig
from textsmooth.schemas.errors import CorpusError, TeacherError, UsageError
from textsmooth.schemas.manifest import RECEIPTS_FOLDER, TOKENIZER_FOLDER
from textsmooth.schemas.plan import CorpusIdentity, Plan, TeacherIdentity
from textsmooth.schemas.shard import COLUMNS
from textsmooth.stages import corpus as corpora
from textsmooth.stages.corpus import Corpus, SourceFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RESERVED = (RECEIPTS_FOLDER, TOKENIZER_FOLDER)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a plan's corpus and teacher lie on this machine. Never published."""

    files: dict[str, SourceFile]  # CorpusIdentity's names -> files
    teacher: Path
    device: str


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A resolved request: a plan but for its units, and where things lie."""

    corpus: Corpus
    identity: CorpusIdentity  # label kind and names still open where they must be read from the rows
    teacher: TeacherIdentity
    tokenizer: "PreTrainedTokenizerFast"
    config: GenerationConfig
    runtime: dict[str, Any]
    sources: Sources


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")


def teacher_folder(name: str | None, corpus: str) -> Path:
    """The folder of a teacher, by `demo` or path. UsageError if there is none."""
    if name is None and corpus != "demo":
        raise UsageError("--teacher is needed: a folder with a masked language model (config.json, *.safetensors), or `demo`")
    if name is None or name == "demo":
        return demo.teacher_folder()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"no teacher at {name!r}: give --teacher a folder with a masked language model (config.json, *.safetensors), or `demo`"
        )
    return folder


def open_corpus(name: str) -> Corpus:
    """The corpus that --corpus names; UsageError if nothing answers to it."""
    if name == "demo":
        folder = demo.corpus_folder()
        files = {s: folder / f"{s}.jsonl" for s in ("train", "validation")}
        splits: dict[str, tuple[SourceFile, ...]] = {s: (SourceFile(name=p.name, path=p, format="jsonl"),) for s, p in files.items()}
        return Corpus(name="demo", splits=splits, license="apache-2.0")
    return corpora.open_corpus(name)


def default_out(options: GenerateOptions) -> Path:
    """smoothed/<corpus>-<teacher>-k<topk>."""
    teacher = options.teacher or "demo"
    corpus, teacher = (name if name == "demo" else Path(name).expanduser().resolve().name for name in (options.corpus, teacher))
    return Path("smoothed") / f"{slug(corpus)}-{slug(teacher)}-k{options.topk}"


def _model_config(folder: Path) -> dict[str, Any]:
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
    for name in ("vocab_size", "max_position_embeddings"):
        number = value.get(name)
        if (number is not None or name == "vocab_size") and (not isinstance(number, int) or number < 1):
            raise TeacherError(f"{folder}/config.json has {name} {number!r}: not a masked language model")
    return value


def draft(options: GenerateOptions, before: Plan | None = None, *, finished: bool = False) -> Draft:
    """Resolve what was asked; where it was left open, as the plan that is already there (`before`) has it.

    Raises UsageError, CorpusError or TeacherError in one line for whatever cannot work.
    """
    from textsmooth.stages import teacher as teachers
    from textsmooth.stages import tokenize as tokenizers

    corpus = open_corpus(options.corpus).select(options.splits)
    for split in corpus.splits:
        if split in RESERVED:
            raise UsageError(f"corpus {corpus.name} has a split {split!r}, and a dataset a folder of that name for itself; rename it")
    text, label = _columns(corpus, options)
    folder = teacher_folder(options.teacher, options.corpus)
    model = _model_config(folder)
    identity_of_weights = teachers.teacher_digest(folder)
    tokenizer = tokenizers.load_tokenizer(folder)
    vocab_size = int(model["vocab_size"])
    if options.topk > vocab_size:
        raise UsageError(f"topk {options.topk} is more than the teacher's vocabulary of {vocab_size}")
    highest = max(tokenizer.get_vocab().values())
    if highest >= vocab_size:
        raise TeacherError(
            f"the tokenizer in {folder} has token ids up to {highest}, the model {vocab_size} of them: they do not belong together"
        )
    limit = min(int(model.get("max_position_embeddings") or tokenizers.NO_LIMIT), int(tokenizer.model_max_length))
    if options.max_length is not None and options.max_length > limit:
        raise UsageError(f"max-length {options.max_length} is more than the teacher's {limit} positions")
    smallest = tokenizer.num_special_tokens_to_add(pair=len(text) == 2) + 1
    if options.max_length is not None and options.max_length < smallest:
        raise UsageError(f"max-length {options.max_length} leaves no room for text: {smallest} is the least")
    device, settings = _auto(options, before, finished=finished)
    return Draft(
        corpus=corpus,
        identity=CorpusIdentity(
            name=corpus.name,
            files={split: [f.name for f in files] for split, files in corpus.splits.items()},
            text_columns=text,
            label_column=label,
            label_kind=None,
            label_names=None,
            keep_columns=options.keep_columns,
            limit=options.limit,
            license=corpus.license,
        ),
        teacher=TeacherIdentity(
            name="demo" if folder == demo.teacher_folder() else folder.resolve().name,
            digest=identity_of_weights,
            tokenizer_digest=tokenizers.tokenizer_digest(tokenizer),
            vocab_digest=tokenizers.vocab_digest(tokenizer),
            vocab_size=vocab_size,
            model_type=str(model.get("model_type", "unknown")),
            license=corpora.folder_license(folder),
        ),
        tokenizer=tokenizer,
        config=GenerationConfig(
            topk=options.topk,
            mass=options.mass,
            temperatures=options.temperatures,
            specials=options.specials,
            max_length=options.max_length or min(limit, tokenizers.NO_LIMIT),
            rows_per_shard=options.rows_per_shard,
            **settings,
        ),
        runtime=_runtime(options),
        sources=Sources(files={f.name: f for f in corpus.files}, teacher=folder, device=device),
    )


def _columns(corpus: Corpus, options: GenerateOptions) -> tuple[tuple[str, ...], str | None]:
    """The text and label columns, chosen among those of all files; each file must have them."""
    found = {file: columns for file in corpus.files if (columns := corpora.columns(file))}  # an empty file has no rows to lose
    if not found:
        raise CorpusError(f"corpus {corpus.name} is empty: no rows in {', '.join(f.name for f in corpus.files)}")
    for column in options.keep_columns:
        if column in COLUMNS:
            raise UsageError(f"cannot keep column {column!r}: a shard has a column of that name; rename it in the corpus")
    union: dict[str, bool] = {}
    for columns in found.values():
        union.update(columns)
    text, label = corpora.choose_columns(
        union, text=options.text_columns, label=options.label_column, keep=options.keep_columns, where=corpus.name
    )
    for file, columns in found.items():
        missing = [c for c in (*text, *options.keep_columns, *([label] if label else [])) if c not in columns]
        if missing:
            raise UsageError(
                f"{file.path} has no column {missing[0]!r} (it has {', '.join(columns)}), other files have; "
                "leave such splits out with --split, or add the column"
            )
    return text, label


def _auto(options: GenerateOptions, before: Plan | None, *, finished: bool) -> tuple[str, dict[str, Any]]:
    """The device, and the settings that depend on it. A finished run needs no device: where it was made on one, that is the answer."""
    from textsmooth.stages.device import pick_device, pick_dtype

    device = before.config.device if finished and before and not options.device else pick_device(options.device)
    kind = device.partition(":")[0]
    same = before.config if before is not None and before.config.device == kind else None
    on_gpu = kind == "cuda"
    return device, {
        "device": kind,
        "dtype": options.dtype or (same.dtype if same else pick_dtype(device)),
        "max_batch_tokens": options.max_batch_tokens or (same.max_batch_tokens if same else 65536 if on_gpu else 1024),
        "chunk_tokens": same.chunk_tokens if same else 4096 if on_gpu else 256,
    }


def _runtime(options: GenerateOptions) -> dict[str, Any]:
    from textsmooth.stages.device import default_threads

    return {"threads": options.threads or default_threads()}
