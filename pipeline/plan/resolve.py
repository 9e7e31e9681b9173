"""Resolve the options of a run: corpus, columns, teacher, lengths, device and number format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsmooth.pipeline.plan.columns import find_columns
from textsmooth.pipeline.plan.inputs import Model, Sources, find_model, hub_corpus_name, model_config, open_corpus, teacher_name
from textsmooth.pipeline.plan.machine import Machine, this_machine
from textsmooth.pipeline.plan.task_teacher import identify
from textsmooth.schemas.config import GenerateOptions, GenerationConfig, check_stride
from textsmooth.schemas.errors import TeacherError, UsageError
from textsmooth.schemas.manifest import RECEIPTS_FOLDER, TOKENIZER_FOLDER
from textsmooth.schemas.plan import CorpusIdentity, Plan, TaskTeacherIdentity, TeacherIdentity, check_split
from textsmooth.schemas.task_kinds import task_kind
from textsmooth.schemas.tasks import Task
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.folder import folder_license
from textsmooth.stages.corpus.source_file import LateColumns

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

NO_TASK_LENGTH = 512  # tokens, where neither a task nor the teacher has a lower limit
RESERVED = (RECEIPTS_FOLDER, TOKENIZER_FOLDER)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of a run, resolved: a plan without its units, and where its inputs are."""

    corpus: Corpus
    identity: CorpusIdentity  # label kind and names are still open where they depend on the rows
    teacher: TeacherIdentity
    tokenizer: "PreTrainedTokenizerFast"
    rebuilt_tokenizer: "Tokenizer | None"  # AutoTokenizer's, where it differs from the teacher's tokenizer.json
    config: GenerationConfig
    runtime: dict[str, Any]
    versions: dict[str, str]  # of the machine where units will run
    sources: Sources
    task_teacher: TaskTeacherIdentity | None = None
    late: LateColumns = ()  # as late_columns of corpus/column_types.py
    notes: tuple[str, ...] = ()  # remarks on the choice of columns, for the user


FindMachine = Callable[..., Machine]


def resolve_request(
    options: GenerateOptions, existing: Plan | None = None, *, finished: bool = False, find_machine: FindMachine = this_machine
) -> Request:
    """Resolve every option; what was left open is taken from the plan that is already in the folder (`existing`).

    finished: the dataset of that plan is finished. find_machine: `this_machine`, called on a machine where units will run.
    Raises UsageError, CorpusError or TeacherError in one line for whatever cannot work.
    """
    corpus = open_corpus(
        options.corpus,
        revision=options.corpus_revision or _pinned(existing.corpus if existing else None, hub_corpus_name(options.corpus)),
        streaming=options.streaming,
    ).select(options.splits)
    for split in corpus.splits:
        check_split(split)
        if split in RESERVED:
            raise UsageError(f"corpus {corpus.name} has a split {split!r}, and a dataset a folder of that name for itself; rename it")
    columns = find_columns(corpus, options)
    corpus, text, label, task = columns.corpus, columns.text, columns.label, columns.task
    identity = CorpusIdentity(
        name=corpus.name,
        files={split: [f.name for f in files] for split, files in corpus.splits.items()},
        text_columns=text,
        label_column=label,
        label_kind=task.label_kind if task and task_kind(task.label_kind).has_answers else None,
        label_names=None,
        keep_columns=options.keep_columns,
        limit=options.limit,
        license=corpus.license,
        revision=corpus.revision,
        task=task.name if task else None,
        about=corpus.about,
    )
    name = teacher_name(options)
    model = find_model(name, options.teacher_revision or _pinned(existing.teacher if existing else None, name), option="--teacher")
    teacher, tokenizer, rebuilt_tokenizer = _teacher(model, options)
    machine, settings = _machine(options, existing, finished=finished, vocab_size=teacher.vocab_size, find_machine=find_machine)
    config = GenerationConfig(
        topk=options.topk,
        mass=options.mass,
        temperatures=options.temperatures,
        context=options.context,
        specials=options.specials,
        codec=options.codec,
        rows_per_shard=options.rows_per_shard,
        **_lengths(
            options, existing, task, _position_limit(options, existing, model, tokenizer, finished=finished), specials(tokenizer, text)
        ),
        **settings,
    )
    task_model = None
    if options.task_teacher is not None:
        revision = options.task_teacher_revision or _pinned(existing.task_teacher if existing else None, options.task_teacher)
        task_model = find_model(options.task_teacher, revision, option="--task-teacher")
    return Request(
        corpus=corpus,
        late=columns.late,
        notes=columns.notes,
        identity=identity,
        teacher=teacher,
        tokenizer=tokenizer,
        rebuilt_tokenizer=rebuilt_tokenizer,
        config=config,
        runtime={
            "threads": machine.threads,
            **({"skip_bad_rows": True} if options.skip_bad_rows else {}),
            **({} if options.unit_timeout_s is None else {"unit_timeout_s": options.unit_timeout_s}),
        },
        versions=machine.versions,
        sources=Sources(
            files={f.name: f for f in corpus.files},
            teacher=model.folder,
            device=machine.device,
            task_teacher=task_model.folder if task_model else None,
        ),
        task_teacher=identify(task_model, identity, teacher, config) if task_model else None,
    )


def _pinned(existing: CorpusIdentity | TeacherIdentity | TaskTeacherIdentity | None, name: str) -> str | None:
    """The Hub commit in the plan of the folder, if the options give the same name again."""
    return existing.revision if existing is not None and existing.name == name and not Path(name.partition(":")[0]).exists() else None


def _teacher(model: Model, options: GenerateOptions) -> tuple[TeacherIdentity, "PreTrainedTokenizerFast", "Tokenizer | None"]:
    """The identity of the teacher, and its tokenizer as load_both gives it.

    TeacherError or UsageError if they cannot do what the options need.
    """
    from textsmooth.stages.models.load import teacher_digest
    from textsmooth.stages.tokens.load import load_both
    from textsmooth.stages.tokens.tokenize import tokenizer_digest, vocab_digest

    model_facts = model_config(model.folder)
    digest = teacher_digest(model.folder)
    tokenizer, rebuilt = load_both(model.folder)
    highest = max(tokenizer.get_vocab().values())
    if highest >= int(model_facts["vocab_size"]):
        raise TeacherError(
            f"the tokenizer in {model.folder} has token ids up to {highest}, the model {model_facts['vocab_size']} of them: "
            "they do not belong together"
        )
    vocab_size = highest + 1  # the model's logits may be wider: a padded vocabulary
    if options.topk > vocab_size:
        raise UsageError(f"topk {options.topk} is more than the teacher's vocabulary of {vocab_size}")
    if options.context != "unmasked" and tokenizer.mask_token_id is None:
        raise UsageError(f"--context {options.context} needs a mask token, and the tokenizer in {model.folder} has none")
    identity = TeacherIdentity(
        name=model.name,
        digest=digest,
        tokenizer_digest=tokenizer_digest(tokenizer),
        vocab_digest=vocab_digest(tokenizer),
        vocab_size=vocab_size,
        model_type=str(model_facts.get("model_type", "unknown")),
        license=folder_license(model.folder),
        revision=model.revision,
    )
    return identity, tokenizer, rebuilt


def _position_limit(
    options: GenerateOptions, existing: Plan | None, model: Model, tokenizer: "PreTrainedTokenizerFast", *, finished: bool
) -> int:
    """The most tokens of a row that the teacher reads."""
    from textsmooth.stages.models.load import position_limit

    known = existing.config.max_length if existing and finished else 0  # loading the model would take seconds
    return known if known and (options.max_length or 0) <= known else position_limit(model_config(model.folder), tokenizer)


def specials(tokenizer: "PreTrainedTokenizerFast", text: tuple[str, ...]) -> int:
    """Number of special tokens of a row."""
    return int(tokenizer.num_special_tokens_to_add(pair=len(text) == 2))


def _lengths(options: GenerateOptions, existing: Plan | None, task: Task | None, limit: int, specials: int) -> dict[str, Any]:
    """max_length, long and stride. UsageError for a length above the teacher's limit, or with no room for text."""
    from textsmooth.stages.models.load import check_room

    before = existing.config if existing else None
    check_room(limit, specials, "teacher")
    if options.max_length is not None and options.max_length > limit:
        raise UsageError(f"max-length {options.max_length} is more than the teacher's {limit} positions")
    if options.max_length is not None and options.max_length < specials + 1:
        raise UsageError(f"max-length {options.max_length} leaves no room for text: {specials + 1} is the least")
    max_length = options.max_length or (before.max_length if before else min(limit, task.max_length if task else NO_TASK_LENGTH))
    long = options.long or (before.long if before else task.long if task else "truncate")
    if task is not None and task.long != "truncate" and long != task.long:
        raise UsageError(f"{task.name} looks for answers in long contexts: --long {long} would cut them off, omit it")
    if long == "truncate":
        if options.stride is not None:
            raise UsageError("--stride is what the windows of a long row share: it needs --long window")
        return {"max_length": max_length, "long": long}
    same_windows = before and before.windows and before.max_length == max_length
    stride = options.stride or (before.stride if before and same_windows else None) or max(max_length // 3, 1)
    check_stride(stride, max_length - 2 * specials)
    return {"max_length": max_length, "long": long, "stride": stride}


def _machine(
    options: GenerateOptions, existing: Plan | None, *, finished: bool, vocab_size: int, find_machine: FindMachine
) -> tuple[Machine, dict[str, Any]]:
    """The machine, and the settings that depend on it. A finished run needs no device: it counts as run on the one in its plan."""
    if finished and existing:
        device = (options.device or existing.config.device).partition(":")[0]
        machine = this_machine(options, device=device, dtype=options.dtype or existing.config.dtype)
    else:
        machine = find_machine(options)
    kind = machine.device.partition(":")[0]
    before = existing.config if existing is not None and existing.config.device == kind else None
    on_gpu = kind == "cuda"
    return machine, {
        "device": kind,
        "dtype": options.dtype or (before.dtype if before else machine.dtype),
        "max_batch_tokens": options.max_batch_tokens or (before.max_batch_tokens if before else 65536 if on_gpu else 1024),
        "chunk_tokens": before.chunk_tokens if before else chunk_tokens(vocab_size, on_gpu=on_gpu),
    }


def chunk_tokens(vocab_size: int, *, on_gpu: bool) -> int:
    """Tokens of one vocabulary projection: fewer for a large vocabulary, whose logits would not fit into the cache."""
    most = 4096 if on_gpu else 256
    return most if vocab_size <= 65536 else most // 4
