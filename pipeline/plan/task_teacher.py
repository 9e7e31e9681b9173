"""Identify the task teacher of a run, and check that it fits the corpus and the teacher."""

from dataclasses import replace
from typing import TYPE_CHECKING

from textsmooth.pipeline.plan.inputs import Model, model_config
from textsmooth.schemas.errors import TeacherError, UsageError
from textsmooth.schemas.plan import CorpusIdentity, TaskTeacherIdentity, TeacherIdentity
from textsmooth.schemas.task_kinds import CLASS, SPAN, VALUE, task_kind
from textsmooth.stages.corpus.folder import folder_license

if TYPE_CHECKING:
    from textsmooth.schemas.config import GenerationConfig


def identify(model: Model, identity: CorpusIdentity, teacher: TeacherIdentity, config: "GenerationConfig") -> TaskTeacherIdentity:
    """The identity of a task teacher. UsageError or TeacherError if it cannot be used with this corpus and teacher.

    It may have its own tokenizer if it gives logits per row of text, but not if it gives them per token or window.
    """
    from textsmooth.stages.models.load import check_room, position_limit, teacher_digest
    from textsmooth.stages.tokens.load import load_tokenizer
    from textsmooth.stages.tokens.tokenize import tokenizer_digest

    facts = model_config(model.folder)
    tokenizer = load_tokenizer(model.folder)
    digest = tokenizer_digest(tokenizer)
    has_answers = task_kind(identity.label_kind).has_answers
    if digest != teacher.tokenizer_digest and config.windows:
        what = "positions of answers" if has_answers else "windows of long rows"
        raise UsageError(
            f"the task teacher in {model.folder} has another tokenizer than the teacher: {what} would not fit; give one that shares it"
        )
    limit = position_limit(facts, tokenizer)
    check_room(limit, tokenizer.num_special_tokens_to_add(pair=len(identity.text_columns) == 2), "task teacher")
    if digest == teacher.tokenizer_digest and config.max_length > limit:
        raise UsageError(f"max-length {config.max_length} is more than the task teacher's {limit} positions; give --max-length {limit}")
    wanted, description = (
        ("ForQuestionAnswering", "a span model") if has_answers else ("ForSequenceClassification", "a sequence classifier")
    )
    heads = [str(name) for name in facts.get("architectures") or []]
    if heads and not any(name.endswith(wanted) for name in heads):
        raise TeacherError(f"the task teacher in {model.folder} is a {heads[0]}, {description} is needed for this corpus ({wanted})")
    names = facts.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers leaves out what is the default
    if not isinstance(names, dict) or not all(str(i) in {str(k) for k in names} for i in range(len(names))):
        raise TeacherError(f"{model.folder}/config.json has id2label {names!r}: names of classes 0, 1, … are needed")
    by_number = {int(k): str(v) for k, v in names.items()}
    kind = SPAN if has_answers else VALUE if len(by_number) == 1 else CLASS
    return TaskTeacherIdentity(
        name=model.name,
        digest=teacher_digest(model.folder),
        tokenizer_digest=digest,
        kind=str(kind.name),
        width=kind.logits_width or len(by_number),
        max_length=limit,
        names=tuple(by_number[i] for i in range(len(by_number))) if kind.has_classes else None,
        model_type=str(facts.get("model_type", "unknown")),
        license=folder_license(model.folder),
        revision=model.revision,
    )


def matched(task_teacher: TaskTeacherIdentity | None, identity: CorpusIdentity, *, ordered: bool) -> TaskTeacherIdentity | None:
    """The task teacher with its classes in the corpus's order, once the corpus's labels are known. UsageError if they do not fit.

    ordered: the corpus itself numbers its classes. Where they were strings, textsmooth numbers them, and no model can know that order.
    """
    from textsmooth.stages.models.task_teacher import class_order

    labels = task_kind(identity.label_kind)
    if task_teacher is None or not labels.has_label_column:
        return task_teacher
    if identity.label_kind != task_teacher.kind:
        teacher_gives = "a number" if task_kind(task_teacher.kind) is VALUE else f"{task_teacher.width} classes"
        corpus_has = "numbers" if labels is VALUE else "classes"
        raise UsageError(
            f"the task teacher {task_teacher.name} gives {teacher_gives}, the corpus's labels are {corpus_has}; give one for this task"
        )
    if task_teacher.names is None or identity.label_names is None:
        return task_teacher
    order = class_order(task_teacher.names, identity.label_names, task_teacher.name, ordered=ordered)
    return replace(task_teacher, order=order)
