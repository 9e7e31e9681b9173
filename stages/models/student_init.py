"""Create a student: from some of a teacher's layers, or of the teacher's family in other sizes with random weights."""

from pathlib import Path
from typing import Any

import torch

from textsmooth.schemas.errors import TeacherError, UsageError, first_line
from textsmooth.stages.models.load import accepted_inputs, check_masked_lm, load_checked, meta_model, quiet
from textsmooth.stages.models.model_folder import check_out, new_model_folder
from textsmooth.stages.models.student import save_model, weight_bytes
from textsmooth.stages.tokens.load import load_tokenizer, save_tokenizer
from textsmooth.stages.tokens.padding import probe

# Settings that follow from others, or belong to a trained head.
_DERIVED = ("layer_types", "head_dim", "architectures", "id2label", "label2id", "problem_type", "transformers_version")
_WIDTHS = ("embedding_size", "pooler_hidden_size")  # as wide as the hidden states, or narrower
_INNER = ("intermediate_size", "hidden_dim", "d_inner")  # of the feed-forward layers


def fresh_student(
    teacher: Path,
    out: Path,
    *,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    intermediate_size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Create a masked LM of the teacher's family with random weights; save it with the teacher's tokenizer. Returns the folder.

    All other settings are the teacher's. intermediate_size: None for the teacher's proportion to hidden_size. Raises UsageError for
    impossible sizes, TeacherError for a family that does not accept them.
    """
    from transformers import AutoModelForMaskedLM

    sizes = {"num-layers": num_layers, "hidden-size": hidden_size, "num-heads": num_heads, "intermediate-size": intermediate_size}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise UsageError(f"{name} must be a whole number of at least 1, not {size}")
    if hidden_size % num_heads:
        raise UsageError(f"hidden-size {hidden_size} is not a multiple of num-heads {num_heads}; change one of them")
    _check_out(teacher, out, overwrite=overwrite)
    check_masked_lm(teacher)
    tokenizer = load_tokenizer(teacher)
    try:
        config = _config(teacher, num_layers, hidden_size, num_heads, intermediate_size)
        with torch.random.fork_rng(), quiet(), torch.no_grad():
            torch.manual_seed(seed)
            model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
            rows = probe(int(config.vocab_size), int(config.pad_token_id or 0))
            model.eval()(**rows.inputs(accepted_inputs(model), torch.device("cpu")))
    except Exception as error:
        raise TeacherError(f"cannot make a fresh student of the family of {teacher}: {first_line(error)}; use --layers instead") from error
    return _save(model, tokenizer, out, overwrite=overwrite)


def _config(teacher: Path, num_layers: int, hidden_size: int, num_heads: int, intermediate_size: int | None) -> Any:
    """The teacher's configuration with other sizes. ValueError if its family does not accept them."""
    from transformers import AutoConfig

    old = AutoConfig.from_pretrained(str(teacher), trust_remote_code=False, local_files_only=True)
    values = {name: value for name, value in old.to_dict().items() if name not in _DERIVED}
    wanted = {"num_hidden_layers": num_layers, "hidden_size": hidden_size, "num_attention_heads": num_heads}
    values |= {old.attribute_map.get(name, name): value for name, value in wanted.items()}
    for name in _INNER:
        if isinstance(values.get(name), int):
            values[name] = intermediate_size or max(round(values[name] * hidden_size / old.hidden_size), 1)
    for name in _WIDTHS:
        if isinstance(values.get(name), int):
            values[name] = hidden_size if values[name] == old.hidden_size else min(values[name], hidden_size)
    if values.get("num_key_value_heads") is not None:
        values["num_key_value_heads"] = num_heads
    new = type(old).from_dict(values)
    for name, value in wanted.items():
        if getattr(new, name, None) != value:
            raise ValueError(f"{old.model_type} does not accept {name} {value}")
    return new


def _stack(model: Any) -> tuple[str, Any]:
    """Name and modules of the list of layers of a BERT-like encoder. TeacherError if it has none."""
    from torch.nn import ModuleList

    family, count = model.config.model_type, getattr(model.config, "num_hidden_layers", None)
    if hasattr(model.config, "num_hidden_groups"):  # ALBERT
        raise TeacherError(f"the layers of {family} share their weights, so none can be chosen: make a student of it with --fresh")
    for name, module in model.base_model.named_modules():
        if isinstance(module, ModuleList) and len(module) == count:
            return name, module
    raise TeacherError(
        f"{family} has no plain stack of layers to choose from: make a student of it with --fresh, or use a BERT-like teacher"
    )


def make_student(teacher: Path, layers: tuple[int, ...], out: Path, *, overwrite: bool = False) -> Path:
    """Create a student from a masked LM's embeddings, head and some encoder layers; save it with the tokenizer. Returns the folder.

    layers: indexes from 0, in the student's order. The new folder is independent of the teacher. Raises UsageError for a layer that does
    not exist or is given twice, TeacherError for a teacher that is not a masked LM with a stack of layers.
    """
    from transformers import AutoModelForMaskedLM

    _check_out(teacher, out, overwrite=overwrite)
    tokenizer = load_tokenizer(teacher)
    model = load_checked(AutoModelForMaskedLM, teacher, dtype=torch.float32)
    name, stack = _stack(model)
    if not layers:
        raise UsageError("a student needs at least one layer: for example --layers 0")
    for layer in layers:
        if not 0 <= layer < len(stack):
            raise UsageError(f"layer {layer} is not in the teacher: it has layers 0 to {len(stack) - 1}")
    if len(set(layers)) < len(layers):
        raise UsageError(f"layers {','.join(map(str, layers))}: a layer is given twice")
    model.base_model.set_submodule(name, torch.nn.ModuleList(stack[layer] for layer in layers))
    for setting in ("layer_types", "attention_window"):  # one for each layer
        if isinstance(values := getattr(model.config, setting, None), list) and len(values) == len(stack):
            setattr(model.config, setting, [values[layer] for layer in layers])
    model.config.num_hidden_layers = len(layers)
    _check_first_layer(model, layers)
    return _save(model, tokenizer, out, overwrite=overwrite)


def _check_first_layer(model: Any, layers: tuple[int, ...]) -> None:
    """Raise UsageError if a layer has no weights that its new position needs: ModernBERT's first layer has no norm in front."""
    from transformers import AutoModelForMaskedLM

    available = model.state_dict()
    missing = sorted(name for name in meta_model(AutoModelForMaskedLM, model.config).state_dict() if name not in available)
    if missing:
        raise UsageError(
            f"layers {','.join(map(str, layers))}: the student would have no {missing[0]}: the first layer of {model.config.model_type} "
            "differs; put layer 0 first, or omit it"
        )


def _check_out(teacher: Path, out: Path, *, overwrite: bool) -> None:
    """Raise UsageError or ConflictError unless a student may be saved at `out`."""
    if Path(out).resolve() == Path(teacher).resolve():
        raise UsageError(f"--out {out} is the teacher itself; choose another folder")
    check_out(Path(out), overwrite=overwrite)


def _save(model: Any, tokenizer: Any, out: Path, *, overwrite: bool) -> Path:
    with new_model_folder(Path(out), overwrite=overwrite, needed_bytes=weight_bytes(model)) as folder:
        save_model(model, folder)
        save_tokenizer(tokenizer, folder)
    return Path(out)
