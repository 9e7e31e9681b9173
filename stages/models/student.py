"""Load a student with the head that an objective needs, and save its weights."""

from pathlib import Path
from typing import Any

from textsmooth.schemas.errors import TeacherError, UsageError, first_line
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.models.load import load_checked, meta_model
from textsmooth.stages.tokens.load import load_tokenizer
from textsmooth.stages.tokens.tokenize import vocab_digest

# The class of transformers with the head for labels of a kind, or for masked tokens.
HEADS = {
    "class": "AutoModelForSequenceClassification",
    "value": "AutoModelForSequenceClassification",
    "span": "AutoModelForQuestionAnswering",
    "mlm": "AutoModelForMaskedLM",
}


def weight_bytes(model: Any) -> int:
    """Size of the model's weights when saved, in bytes."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def save_model(model: Any, folder: Path) -> None:
    """`save_pretrained` as safetensors, without progress bars."""
    from transformers.utils import logging as hf

    bar = hf.is_progress_bar_enabled()
    hf.disable_progress_bar()
    try:
        model.save_pretrained(str(folder))
        for file in folder.glob("*.safetensors"):  # safetensors writes files that only the owner can read
            file.chmod((folder / "config.json").stat().st_mode & 0o777)
    finally:
        if bar:
            hf.enable_progress_bar()


def check_token_map(folder: Path, manifest: Manifest) -> None:
    """Raise TeacherError unless the student's tokenizer has the token -> id map of the dataset."""
    student_digest = vocab_digest(load_tokenizer(folder))
    if student_digest != manifest.teacher["vocab_digest"]:
        raise TeacherError(
            f"the student in {folder} has another token -> id map than the dataset's teacher {manifest.teacher['name']} "
            f"(digest {student_digest[:12]}, expected {manifest.teacher['vocab_digest'][:12]}); choose a student with the same vocabulary, "
            "or make one with `textsmooth student`"
        )


def load_student(
    folder: Path, *, head: str | None = None, label_names: tuple[str, ...] = (), label_kind: str | None = None, dropout: float | None = None
) -> Any:
    """Load a model from a local folder of safetensors, in float32, with the head that an objective needs.

    head, or label_kind: `class` (one logit per name), `value` (one logit), `span` (start and end of an answer) or `mlm`. dropout: replaces
    every dropout of the configuration. A saved classifier head with as many classes is kept; if it has the same names in another
    order, its outputs are reordered to label_names. Any other head is new and drawn from torch's generator: seed it first. Raises
    TeacherError if anything but the head would be new, or if the family has no such head.
    """
    import torch
    import transformers
    from transformers import AutoConfig

    kind = head or label_kind
    assert kind in HEADS, kind
    auto_class = getattr(transformers, HEADS[kind])
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        saved = _saved_names(config)
        _set_labels(config, kind, label_names)
        for name, value in config.to_dict().items():
            if dropout is not None and "dropout" in name and isinstance(value, float | int) and not isinstance(value, bool):
                setattr(config, name, dropout)
        new = _head_weights(meta_model(auto_class, config))
    except Exception as error:
        raise TeacherError(f"cannot use the model in {folder} as a student: {first_line(error)}") from error
    student = load_checked(auto_class, folder, allow_new=new, dtype=torch.float32, config=config)
    if kind == "class":
        _reorder(student, saved, label_names, folder)
    return student


def _saved_names(config: Any) -> tuple[str, ...]:
    """The class names of a saved classifier; none for any other model."""
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return ()
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))


def _set_labels(config: Any, kind: str, names: tuple[str, ...]) -> None:
    if kind == "mlm":
        return
    names = {"class": names, "value": ("value",), "span": ("start", "end")}[kind]
    config.num_labels = len(names)
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    if kind != "span":
        config.problem_type = "single_label_classification" if kind == "class" else "regression"


def _head_weights(shell: Any) -> tuple[str, ...]:
    """Names of the weights of a head, and of the encoder's pooler, which a masked LM does not have."""
    base = f"{shell.base_model_prefix}."
    return tuple(name for name in shell.state_dict() if not name.startswith(base) or name.startswith(f"{base}pooler."))


def _reorder(student: Any, saved: tuple[str, ...], names: tuple[str, ...], folder: Path) -> None:
    """Put the outputs of a saved classifier in the order of the dataset's classes, if the names are the same."""
    import torch

    of_student, of_dataset = ([name.casefold() for name in group] for group in (saved, names))
    if of_student == of_dataset or sorted(of_student) != sorted(of_dataset) or len(set(of_student)) < len(of_student):
        return
    base = f"{student.base_model_prefix}."
    last = [m for name, m in student.named_modules() if isinstance(m, torch.nn.Linear) and not name.startswith(base)]
    last = [m for m in last if m.out_features == len(names)]
    if len(last) != 1:
        raise UsageError(
            f"the student in {folder} has the dataset's classes in another order ({', '.join(saved)}; {', '.join(names)}), and its outputs "
            "cannot be reordered: choose a student without a classifier"
        )
    order = [of_student.index(name) for name in of_dataset]
    with torch.no_grad():
        for values in last[0].parameters():
            values.copy_(values[order].clone())


def positions(student: Any) -> int | None:
    """The longest row that the student accepts, in tokens; None without a limit."""
    from torch.nn import Embedding

    for name, module in student.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, Embedding):
            # RoBERTa and its kin count positions from padding_idx + 1
            return int(module.num_embeddings) - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(student.config, "max_position_embeddings", None)
    return None if limit is None or limit < 1 else int(limit)
