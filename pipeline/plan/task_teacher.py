"""The task teacher of a run: which it is, and whether it fits corpus and teacher."""

from dataclasses import replace
from typing import TYPE_CHECKING

from textsmooth.pipeline.plan.inputs import Model, model_config
from textsmooth.schemas.errors import TeacherError, UsageError
from textsmooth.schemas.plan import CorpusIdentity, TaskTeacherIdentity, TeacherIdentity
from textsmooth.stages.corpus.folder import folder_license

if TYPE_CHECKING:
    from textsmooth.schemas.config import GenerationConfig


def identify(found: Model, identity: CorpusIdentity, teacher: TeacherIdentity, config: "GenerationConfig") -> TaskTeacherIdentity:
    """The identity of a task teacher. UsageError if it cannot go with this corpus and teacher.

    A tokenizer of its own is fine where it gives logits per row of text; not per token or window.
    """
    from textsmooth.stages.models.load import position_limit, teacher_digest
    from textsmooth.stages.tokens.tokenize import load_tokenizer, tokenizer_digest

    model = model_config(found.folder)
    tokenizer = load_tokenizer(found.folder)
    mine = tokenizer_digest(tokenizer)
    span = identity.label_kind == "span"
    if mine != teacher.tokenizer_digest and config.long == "window":
        what = "positions of answers" if span else "windows of long rows"
        raise UsageError(
            f"the task teacher in {found.folder} has another tokenizer than the teacher: {what} would not fit; give one that shares it"
        )
    limit = position_limit(model, tokenizer)
    if mine == teacher.tokenizer_digest and config.max_length > limit:
        raise UsageError(f"max-length {config.max_length} is more than the task teacher's {limit} positions; give --max-length {limit}")
    wanted, kind = ("ForQuestionAnswering", "a span model") if span else ("ForSequenceClassification", "a sequence classifier")
    heads = [str(name) for name in model.get("architectures") or []]
    if heads and not any(name.endswith(wanted) for name in heads):
        raise TeacherError(f"the task teacher in {found.folder} is a {heads[0]}, {kind} is needed for this corpus ({wanted})")
    names = model.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers leaves out what is the default
    if not isinstance(names, dict) or not all(str(i) in {str(k) for k in names} for i in range(len(names))):
        raise TeacherError(f"{found.folder}/config.json has id2label {names!r}: names of classes 0, 1, … are needed")
    by_number = {int(k): str(v) for k, v in names.items()}
    width = 2 if span else len(by_number)
    return TaskTeacherIdentity(
        name=found.name,
        digest=teacher_digest(found.folder),
        tokenizer_digest=mine,
        kind="span" if span else "value" if width == 1 else "class",
        width=width,
        max_length=limit,
        names=None if span or width == 1 else tuple(by_number[i] for i in range(width)),
        model_type=str(model.get("model_type", "unknown")),
        license=folder_license(found.folder),
        revision=found.revision,
    )


def matched(task_teacher: TaskTeacherIdentity | None, identity: CorpusIdentity, *, ordered: bool) -> TaskTeacherIdentity | None:
    """The task teacher with its classes in the corpus's order, now that its labels are known. UsageError if they do not fit.

    ordered: the corpus itself numbers its classes; names that were strings are numbered by us, which no model can have known.
    """
    from textsmooth.stages.models.task_teacher import class_order

    if task_teacher is None or identity.label_kind in (None, "span"):
        return task_teacher
    if identity.label_kind != task_teacher.kind:
        there = "a number" if task_teacher.kind == "value" else f"{task_teacher.width} classes"
        here = "numbers" if identity.label_kind == "value" else "classes"
        raise UsageError(f"the task teacher {task_teacher.name} gives {there}, the corpus's labels are {here}; give one for this task")
    if task_teacher.names is None or identity.label_names is None:
        return task_teacher
    order = class_order(task_teacher.names, identity.label_names, task_teacher.name, ordered=ordered)
    return replace(task_teacher, order=order)
