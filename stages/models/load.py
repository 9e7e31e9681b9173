"""Load a model from a local folder, strictly: safetensors only, no code from the folder, no newly initialized weights.

Also its digest, its longest row, and the inputs that it accepts.
"""

import inspect
import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from textsmooth.schemas.canonical import digest, file_sha256
from textsmooth.schemas.errors import TeacherError, first_line
from textsmooth.schemas.pointers import POINTER_BYTES, pointer
from textsmooth.stages.tokens.tokenize import NO_LIMIT

# How much other padding may change logits, as a share of the largest one: kernels round differently.
PADDING_NOISE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}


def teacher_digest(folder: Path) -> str:
    """sha256 over the configuration and the safetensors weights of a model's folder. TeacherError if either is missing."""
    weights = _weights(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise TeacherError(f"{folder} is not a model folder: it has no config.json")
    if not weights:
        raise TeacherError(f"{folder} has no *.safetensors weights; save the model as safetensors (pickled weights are not read)")
    for file in weights:
        if file.stat().st_size <= POINTER_BYTES and (what := pointer(file.read_bytes())):
            raise TeacherError(f"{file} is {what}")
    others = [file for name in ("model.safetensors.index.json", "adapter_config.json") if (file := folder / name).is_file()]
    return digest({file.name: file_sha256(file) for file in [config, *others, *weights]})


def _weights(folder: Path) -> list[Path]:
    """The weight files that transformers loads; other files beside them (another precision) do not count."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TeacherError(f"{index} is damaged: fetch or save the model again") from None
    missing = next((name for name in names if Path(name).name != name or not (folder / name).is_file()), None)
    if missing is not None:
        raise TeacherError(f"{folder} has no {missing}, which its index of weights names: fetch or save the model again")
    return [folder / name for name in names]


def check_masked_lm(folder: Path) -> None:
    """Raise TeacherError unless transformers has a masked language model for the folder's config.json."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise TeacherError(f"cannot load the model in {folder}: {first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder with a decoder"
    elif type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        what = "not a masked language model in transformers"
    else:
        return
    raise TeacherError(
        f"the model in {folder} cannot be a teacher: {config.model_type!r} is {what}; choose one like BERT, RoBERTa or DeBERTa"
    )


def position_limit(model_config: dict[str, Any], tokenizer: Any) -> int:
    """The longest row that a model and its tokenizer accept, in tokens with specials; NO_LIMIT if neither has a limit.

    model_config: config.json.
    """
    return min(_positions(model_config), _tokenizer_limit(tokenizer.model_max_length), NO_LIMIT)


def check_room(limit: int, specials: int, model: str) -> None:
    """Raise TeacherError if rows of at most `limit` tokens, `specials` of them special, hold no text."""
    if limit < specials + 1:
        raise TeacherError(
            f"the {model} reads at most {limit} tokens (max_position_embeddings in its config.json, model_max_length in its "
            f"tokenizer_config.json), which leaves no room for text: {specials + 1} is the least; correct the file"
        )


def _tokenizer_limit(value: Any) -> int:
    """model_max_length of tokenizer_config.json in tokens; NO_LIMIT for what is written where there is none: 0, -1, 1e30, Infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TeacherError(f"tokenizer_config.json has model_max_length {value!r}: a number of tokens is needed; correct or remove it")
    return int(value) if 1 <= value < NO_LIMIT else NO_LIMIT


def _positions(model_config: dict[str, Any]) -> int:
    """From a model without weights: families that count positions from padding_idx + 1 (RoBERTa) accept fewer than the table holds."""
    from transformers import MODEL_MAPPING
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    limit = model_config.get("max_position_embeddings")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = CONFIG_MAPPING[model_config["model_type"]].from_dict(dict(model_config))
            limit = getattr(config, "max_position_embeddings", limit)
            with torch.device("meta"):
                tables = [m for name, m in MODEL_MAPPING[type(config)](config).named_modules() if name.endswith(".position_embeddings")]
        except Exception:  # reported when the model is loaded
            tables = []
    limits = [int(limit)] if limit and int(limit) > 0 else []
    for table in tables:
        if isinstance(padding := getattr(table, "padding_idx", None), int):
            limits.append(len(table.weight) - padding - 1)
    return min(limits, default=NO_LIMIT)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports: load_checked checks and reports the same facts."""
    from transformers.utils import logging as hf

    before, bar = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.CRITICAL)
    hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(before)
        if bar:
            hf.enable_progress_bar()


def accepted_inputs(model: Any) -> set[str]:
    """Which of `attention_mask` and `token_type_ids` to pass to a model: those it accepts; token types only if it has more than one."""
    types = getattr(model.config, "type_vocab_size", None)
    return {"attention_mask", "token_type_ids"} & set(inspect.signature(model.forward).parameters) - (
        {"token_type_ids"} if types in (0, 1) else set()
    )


def load_checked(auto_class: Any, folder: Path, *, allow_new: tuple[str, ...] = (), **kwargs: Any) -> Any:
    """`from_pretrained` from a local folder, safetensors only, where newly initialized weights are an error.

    allow_new: prefixes of weights that may be missing. Raises TeacherError in one line.
    """
    with quiet():
        try:
            model, info = auto_class.from_pretrained(
                str(folder),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, in one line
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                **kwargs,
            )
        except Exception as error:
            raise TeacherError(f"cannot load the model in {folder}: {first_line(error)}") from error
    _check_layers(model, info["unexpected_keys"], folder)
    absent = {*info["missing_keys"], *(mismatch[0] for mismatch in info["mismatched_keys"])}
    missing = sorted(key for key in absent if not (allow_new and key.startswith(allow_new)))
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TeacherError(
            f"the model in {folder} is missing weights that {type(model).__name__} needs ({missing[0]}{others}): "
            "they would be random; use a checkpoint that has them"
        )
    return model


def _check_layers(model: Any, unused: Iterable[str], folder: Path) -> None:
    """Raise TeacherError if a checkpoint has more layers than config.json says: without them it is another model."""

    def without_numbers(name: str) -> str:
        return re.sub(r"\d+", "N", name.removeprefix(f"{model.base_model_prefix}."))

    used = {without_numbers(name) for name in model.state_dict() if re.search(r"\.\d+\.", name)}
    if more := sorted(name for name in unused if without_numbers(name) in used):
        raise TeacherError(
            f"the weights in {folder} have layers that its config.json does not count ({more[0]}): without them it would be another model; "
            "use the config.json that belongs to the weights"
        )


def meta_model(auto_class: Any, config: Any) -> Any:
    """A model of this configuration on the meta device: no memory for weights."""
    with quiet(), torch.device("meta"):
        return auto_class.from_config(config)
