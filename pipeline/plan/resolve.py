"""What was asked, resolved: which corpus, columns, teacher, device and number format a run will use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsmooth.pipeline.plan import machine
from textsmooth.pipeline.plan.inputs import Sources, find_model, hub_corpus_name, model_config, open_corpus, teacher_name
from textsmooth.pipeline.plan.machine import Machine, look
from textsmooth.pipeline.plan.task_teacher import identify
from textsmooth.schemas.config import GenerateOptions, GenerationConfig, check_stride
from textsmooth.schemas.errors import CorpusError, TeacherError, UsageError
from textsmooth.schemas.manifest import RECEIPTS_FOLDER, TOKENIZER_FOLDER
from textsmooth.schemas.plan import CorpusIdentity, Plan, TaskTeacherIdentity, TeacherIdentity, check_split
from textsmooth.schemas.shard import reserved_columns
from textsmooth.schemas.tasks import TEXT_COLUMNS, Task, find_task
from textsmooth.stages.corpus.column_types import choose_columns, late_columns
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.folder import folder_license

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


NO_TASK_LENGTH = 512  # tokens, where neither a task nor the teacher says less
RESERVED = (RECEIPTS_FOLDER, TOKENIZER_FOLDER)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A resolved request: a plan but for its units, and where things lie."""

    corpus: Corpus
    identity: CorpusIdentity  # label kind and names still open where they must be read from the rows
    teacher: TeacherIdentity
    tokenizer: "PreTrainedTokenizerFast"
    config: GenerationConfig
    runtime: dict[str, Any]
    versions: dict[str, str]  # of the machine where units will run
    sources: Sources
    task_teacher: TaskTeacherIdentity | None = None
    late: tuple[tuple[str, ...], ...] = ()  # as corpus.late_columns


Look = Callable[..., Machine]


def draft(options: GenerateOptions, before: Plan | None = None, *, finished: bool = False, look: Look = look) -> Draft:
    """Resolve what was asked; where it was left open, as the plan that is already there (`before`) has it.

    look: machine.look, of a machine where units will run.
    Raises UsageError, CorpusError or TeacherError in one line for whatever cannot work.
    """
    from textsmooth.stages.models import load
    from textsmooth.stages.tokens import tokenize as tokenizers

    corpus = open_corpus(
        options.corpus,
        revision=options.corpus_revision or _pinned(before.corpus if before else None, hub_corpus_name(options.corpus)),
        streaming=options.streaming,
    ).select(options.splits)
    for split in corpus.splits:
        check_split(split)
        if split in RESERVED:
            raise UsageError(f"corpus {corpus.name} has a split {split!r}, and a dataset a folder of that name for itself; rename it")
    text, label, task, late = _columns(corpus, options)
    name = teacher_name(options)
    found = find_model(name, options.teacher_revision or _pinned(before.teacher if before else None, name), option="--teacher")
    model = model_config(found.folder)
    identity_of_weights = load.teacher_digest(found.folder)
    tokenizer = tokenizers.load_tokenizer(found.folder)
    highest = max(tokenizer.get_vocab().values())
    if highest >= int(model["vocab_size"]):
        raise TeacherError(
            f"the tokenizer in {found.folder} has token ids up to {highest}, the model {model['vocab_size']} of them: "
            "they do not belong together"
        )
    vocab_size = highest + 1  # the model's logits may be wider: a padded vocabulary
    if options.topk > vocab_size:
        raise UsageError(f"topk {options.topk} is more than the teacher's vocabulary of {vocab_size}")
    if options.context != "unmasked" and tokenizer.mask_token_id is None:
        raise UsageError(f"--context {options.context} needs a mask token, and the tokenizer in {found.folder} has none")
    found_there, settings = _auto(options, before, finished=finished, vocab_size=vocab_size, look=look)
    identity = CorpusIdentity(
        name=corpus.name,
        files={split: [f.name for f in files] for split, files in corpus.splits.items()},
        text_columns=text,
        label_column=label,
        label_kind="span" if task and task.label_kind == "span" else None,
        label_names=None,
        keep_columns=options.keep_columns,
        limit=options.limit,
        license=corpus.license,
        revision=corpus.revision,
        task=task.name if task else None,
        about=corpus.about,
    )
    teacher = TeacherIdentity(
        name=found.name,
        digest=identity_of_weights,
        tokenizer_digest=tokenizers.tokenizer_digest(tokenizer),
        vocab_digest=tokenizers.vocab_digest(tokenizer),
        vocab_size=vocab_size,
        model_type=str(model.get("model_type", "unknown")),
        license=folder_license(found.folder),
        revision=found.revision,
    )
    known = before.config.max_length if before and finished else 0  # of a finished run: asking the model would take seconds
    limit = known if known and (options.max_length or 0) <= known else load.position_limit(model, tokenizer)
    config = GenerationConfig(
        topk=options.topk,
        mass=options.mass,
        temperatures=options.temperatures,
        context=options.context,
        specials=options.specials,
        codec=options.codec,
        rows_per_shard=options.rows_per_shard,
        **_lengths(options, before, task, limit, specials(tokenizer, text)),
        **settings,
    )
    second = None
    if options.task_teacher is not None:
        pinned = _pinned(before.task_teacher if before else None, options.task_teacher)
        second = find_model(options.task_teacher, options.task_teacher_revision or pinned, option="--task-teacher")
    return Draft(
        corpus=corpus,
        late=late,
        identity=identity,
        teacher=teacher,
        tokenizer=tokenizer,
        config=config,
        runtime={
            "threads": found_there.threads,
            **({"skip_bad_rows": True} if options.skip_bad_rows else {}),
            **({} if options.unit_timeout_s is None else {"unit_timeout_s": options.unit_timeout_s}),
        },
        versions=found_there.versions,
        sources=Sources(
            files={f.name: f for f in corpus.files},
            teacher=found.folder,
            device=found_there.device,
            task_teacher=second.folder if second else None,
        ),
        task_teacher=identify(second, identity, teacher, config) if second else None,
    )


def _pinned(before: CorpusIdentity | TeacherIdentity | TaskTeacherIdentity | None, name: str) -> str | None:
    """The commit that the plan in the folder has, where the same name of the Hub is asked for again."""
    return before.revision if before is not None and before.name == name and not Path(name.partition(":")[0]).exists() else None


def specials(tokenizer: "PreTrainedTokenizerFast", text: tuple[str, ...]) -> int:
    """Special tokens that a row gets."""
    return int(tokenizer.num_special_tokens_to_add(pair=len(text) == 2))


def _lengths(options: GenerateOptions, before: Plan | None, task: Task | None, limit: int, specials: int) -> dict[str, Any]:
    """max_length, long and stride. UsageError for a length that the teacher cannot have, or that leaves no room for text."""
    asked = options.max_length
    if asked is not None and asked > limit:
        raise UsageError(f"max-length {asked} is more than the teacher's {limit} positions")
    if asked is not None and asked < specials + 1:
        raise UsageError(f"max-length {asked} leaves no room for text: {specials + 1} is the least")
    max_length = asked or (before.config.max_length if before else min(limit, task.max_length if task else NO_TASK_LENGTH))
    long = options.long or (before.config.long if before else task.long if task else "truncate")
    if task is not None and task.label_kind == "span" and long != "window":
        raise UsageError(f"{task.name} looks for answers in long contexts: --long {long} would cut them off, leave it away")
    if long != "window":
        if options.stride is not None:
            raise UsageError("--stride is what the windows of a long row share: it needs --long window")
        return {"max_length": max_length, "long": long}
    was = before.config.stride if before and before.config.long == "window" and before.config.max_length == max_length else None
    stride = options.stride or was or max(max_length // 3, 1)
    check_stride(stride, max_length - 2 * specials)
    return {"max_length": max_length, "long": long, "stride": stride}


def _columns(corpus: Corpus, options: GenerateOptions) -> tuple[tuple[str, ...], str | None, Task | None, tuple[tuple[str, ...], ...]]:
    """The text and label columns, chosen among those of all files, each file must have them; the task; corpus.late_columns."""
    found = {file: columns for file in corpus.files if (columns := file.columns())}  # an empty file has no rows to lose
    if not found:
        raise CorpusError(f"corpus {corpus.name} is empty: no rows in {', '.join(f.name for f in corpus.files)}")
    for column in options.keep_columns:
        if column in reserved_columns():
            raise UsageError(f"cannot keep column {column!r}: a shard has a column of that name; rename it in the corpus")
    union: dict[str, bool] = {}
    for columns in found.values():
        union.update(columns)
    task = find_task(corpus.name, union)
    told = (options.text_columns or None, options.label_column)
    if task is not None and (told[0] not in (None, task.text_columns) or told[1] not in (None, task.label_column)):
        task = None  # other columns, another task
    if task is not None and task.label_kind == "span" and told[0] is not None and told[1] is None:
        task = None  # the texts alone
    chosen = (task.text_columns, task.label_column) if task else (options.text_columns, options.label_column)
    text, label = choose_columns(union, text=chosen[0], label=chosen[1], keep=options.keep_columns, where=corpus.name)
    header_file = next((str(file) for file in found if file.format.cells_are_text), None)
    if header_file and not options.text_columns and task is None and text not in TEXT_COLUMNS:
        raise UsageError(
            f"is {text[0]!r} the header of {header_file}, or its first row? Name the column of the text with --text-column, or add a header"
        )
    for file, columns in found.items():
        missing = [c for c in (*text, *options.keep_columns, *([label] if label else [])) if c not in columns]
        if missing:
            raise UsageError(
                f"{file} has no column {missing[0]!r} (it has {', '.join(columns)}), other files have; "
                f"{'leave such splits out with --split, or ' if len(corpus.splits) > 1 else ''}add the column, or leave the file out"
            )
    return text, label, task, () if task else late_columns(union, text, label, named=bool(options.text_columns))


def _auto(options: GenerateOptions, before: Plan | None, *, finished: bool, vocab_size: int, look: Look) -> tuple[Machine, dict[str, Any]]:
    """The machine, and the settings that depend on it. A finished run needs no device: where it was made on one, that is the answer."""
    if finished and before:
        asked = (options.device or before.config.device).partition(":")[0]
        found = machine.look(options, device=asked, dtype=options.dtype or before.config.dtype)
    else:
        found = look(options)
    kind = found.device.partition(":")[0]
    same = before.config if before is not None and before.config.device == kind else None
    on_gpu = kind == "cuda"
    return found, {
        "device": kind,
        "dtype": options.dtype or (same.dtype if same else found.dtype),
        "max_batch_tokens": options.max_batch_tokens or (same.max_batch_tokens if same else 65536 if on_gpu else 1024),
        "chunk_tokens": same.chunk_tokens if same else chunk_tokens(vocab_size, on_gpu=on_gpu),
    }


def chunk_tokens(vocab_size: int, *, on_gpu: bool) -> int:
    """Tokens of one vocabulary projection: fewer for a large vocabulary, whose logits would leave the cache."""
    most = 4096 if on_gpu else 256
    return most if vocab_size <= 65536 else most // 4
