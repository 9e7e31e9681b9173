"""Load the tokenizer in a model's folder, so that tokenizer.json decides the token ids; save it so that others load the same.

transformers builds many tokenizers anew from their class and takes only the vocabulary and the template from tokenizer.json: a normalizer,
a pre-tokenizer or a kind of model that the class does not have is lost, and the ids are not those that the model was trained with. Here
the class gives what tokenizer.json does not hold (names of the special tokens, whether there are token types); the file gives the rest.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsmooth.schemas.errors import TeacherError, first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
ANY_TOKENIZER = "PreTrainedTokenizerFast"  # the class, in transformers 4 and 5, that takes tokenizer.json as it is
# Settings of tokenizer_config.json by which a class of transformers changes how text is split.
SPLITTING = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
# Short texts that are split in another way as soon as a normalizer, a pre-tokenizer or an added token differs.
PROBES = (
    "The Capital of FRANCE is Paris, isn't it?",
    " the leading and  double   spaces ",
    "In 2023 it cost 1,234.50 (or 15%).",
    "See https://example.org/a_b?c=d#e or write to name@example.org.",
    "naïve café Zürich Ångström, cafe\u0301",
    "東京で日本語を話す。 中文测试 한국어",
    "Привет, мир! Γειά σου. مرحبا بالعالم שלום",
    "🙂 👩‍👩‍👧 ﬁne ½ Ⅷ ™ \u200bzero-width\u00a0space",
    "tabs\tand\r\nnew lines",
    "snake_case camelCase x=y+1; don't—“quoted”…",
    "[CLS] [MASK] [SEP] [UNK] [PAD] <s> <mask> </s> <unk> <pad>",
    "antidisestablishmentarianism pneumonoultramicroscopic",
)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer in a model's folder: tokenizer.json as it is, or else what transformers makes of older files.

    Raises TeacherError, which names what is missing, or the first text that tokenizer.json and tokenizer_config.json split differently.
    """
    return load_both(folder)[0]


def load_both(folder: Path) -> "tuple[PreTrainedTokenizerFast, Tokenizer | None]":
    """The tokenizer of load_tokenizer, and what AutoTokenizer makes of the same folder where that is different; else None."""
    if missing := _missing(folder):
        raise TeacherError(f"cannot load a tokenizer from {folder}: {missing}")
    try:
        tokenizer: Any = _auto(folder)
        reason = None if getattr(tokenizer, "is_fast", False) else "it is no fast tokenizer"
    except Exception as error:
        tokenizer, reason = None, first_line(error).rstrip(": ")
    rebuilt, failed = None, reason is not None
    if (folder / TOKENIZER).is_file():
        file = _from_file(folder)
        if reason is not None or _definition(tokenizer.backend_tokenizer) != _definition(file):
            rebuilt = None if reason is not None else tokenizer.backend_tokenizer
            tokenizer, reason = _as_in_file(folder, file, tokenizer), None
            if _definition(tokenizer.backend_tokenizer) == _definition(rebuilt):  # both add a special token of tokenizer_config.json
                rebuilt = None
    if reason is not None:
        raise TeacherError(f"cannot load a tokenizer from {folder}: {reason}; save its tokenizer.json there")
    if len(tokenizer) < 10 or (tokenizer.cls_token_id is None and tokenizer.bos_token_id is None):
        raise TeacherError(f"{folder} has no usable tokenizer; save the model's tokenizer there (tokenizer.json)")
    if rebuilt is not None:
        _check_settings(folder, tokenizer.backend_tokenizer, rebuilt)
    settings = _settings(folder)
    if "model_input_names" not in settings and (failed or settings.get("tokenizer_class") == ANY_TOKENIZER):
        # transformers 4 gave a model the token types of the template unless the folder said otherwise; transformers 5 does not
        types = tokenizer.backend_tokenizer.encode("a", "b").type_ids
        tokenizer.model_input_names = ["input_ids", *(["token_type_ids"] if any(types) else []), "attention_mask"]
    return tokenizer, rebuilt


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, which a tokenizer was loaded with."""
    config = folder / TOKENIZER_CONFIG
    return dict(json.loads(config.read_bytes())) if config.is_file() else {}


def _auto(folder: Path, **settings: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **settings)


def _uncut(backend: "Tokenizer") -> "Tokenizer":
    """The same tokenizer, with truncation and padding switched off: they are set per call."""
    backend.no_truncation()
    backend.no_padding()
    return backend


def _from_file(folder: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises nothing narrower
        raise TeacherError(f"{folder / TOKENIZER} is damaged ({first_line(error)}): fetch or save the tokenizer again") from None


def _definition(backend: "Tokenizer | None") -> str | None:
    """Everything that turns text into ids, as text."""
    return None if backend is None else str(_uncut(backend).to_str())


def _as_in_file(folder: Path, file: "Tokenizer", made: Any) -> Any:
    """tokenizer.json as it is, with the special tokens that its folder names. made: AutoTokenizer's, for names that are the class's."""
    from transformers import PreTrainedTokenizerFast

    def load(**more: Any) -> Any:
        try:
            return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True, **more)
        except Exception as error:
            raise TeacherError(f"cannot load a tokenizer from {folder}: {first_line(error).rstrip(': ')}") from error

    tokenizer = load()
    if made is None:
        return tokenizer
    names = {name: str(token) for name, token in made.special_tokens_map.items() if isinstance(token, str)}
    known = {name: token for name, token in names.items() if getattr(tokenizer, name, "") is None and file.token_to_id(token) is not None}
    return load(model_input_names=list(made.model_input_names), **known)


def first_difference(one: "Tokenizer", other: "Tokenizer", texts: Sequence[str]) -> tuple[str, str, str] | None:
    """The first word that two tokenizers split differently, in the first such text, and its pieces by each; None if there is none.

    The whole text, if its words alone are split the same.
    """
    for specials in (False, True):

        def pieces(backend: "Tokenizer", text: str) -> list[str]:
            return list(backend.encode(text, add_special_tokens=specials).tokens)  # noqa: B023 - called in this round

        for text in texts:
            for part in (*text.split(), text) if pieces(one, text) != pieces(other, text) else ():
                if pieces(one, part) != pieces(other, part):
                    return part, " ".join(pieces(one, part)), " ".join(pieces(other, part))
    return None


def _agreed(one: "Tokenizer", other: "Tokenizer") -> list[str]:
    """The probes to which both give the same ids."""
    return [text for text in PROBES if one.encode(text).ids == other.encode(text).ids]


def _check_settings(folder: Path, tokenizer: "Tokenizer", rebuilt: "Tokenizer") -> None:
    """Raise TeacherError if a setting written in tokenizer_config.json contradicts tokenizer.json.

    Earlier versions of transformers followed the setting, plain `tokenizers` the file: the model may have been trained with either.
    """
    agreed = _agreed(tokenizer, rebuilt)
    settings = _settings(folder) if len(agreed) < len(PROBES) else {}
    for name in SPLITTING:
        if isinstance(value := settings.get(name), bool):
            other = _uncut(_auto(folder, **{name: not value}).backend_tokenizer)
            if len(others := _agreed(tokenizer, other)) > len(agreed):
                word, of_file, of_class = first_difference(tokenizer, rebuilt, others) or ("", "", "")
                raise TeacherError(
                    f"{folder}: tokenizer.json splits {word!r} into {of_file!r}, {name}: {json.dumps(value)} in tokenizer_config.json into "
                    f"{of_class!r}: which one is the model's? Make the two files agree"
                )


def save_tokenizer(tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Save a tokenizer so that `tokenizers` and AutoTokenizer give its ids, without truncation and padding.

    Where AutoTokenizer would change it, or would ask for code that is not in the folder, or the name of its class is new in transformers 5,
    tokenizer_config.json names a class that keeps tokenizer.json.
    """
    definition = _definition(tokenizer.backend_tokenizer)
    tokenizer.save_pretrained(str(folder))
    config = folder / TOKENIZER_CONFIG
    settings = _settings(folder)
    own_code = settings.pop("auto_map", None) is not None
    if own_code or settings["tokenizer_class"] == "TokenizersBackend" or _definition(_auto(folder).backend_tokenizer) != definition:
        settings |= {"tokenizer_class": ANY_TOKENIZER, "model_input_names": list(tokenizer.model_input_names)}
        config.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    if _definition(_auto(folder).backend_tokenizer) != definition:
        raise TeacherError(f"the tokenizer of {folder} cannot be saved so that AutoTokenizer gives the same ids")


def _missing(folder: Path) -> str | None:
    """What a folder without tokenizer.json is missing; None if transformers can build a tokenizer from its files."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if TOKENIZER in names:
        return None
    pieces = sorted(name for name in names if name.endswith(".model"))
    packages = [name for name, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")) if not _importable(module)]
    if pieces and packages:
        return f"to read its {pieces[0]}, pip install {' '.join(packages)}; or save its tokenizer.json there"
    if "vocab.json" in names and "merges.txt" not in names:
        return "it has vocab.json, but no merges.txt beside it"
    if not pieces and not names & {"vocab.json", "vocab.txt"}:
        return "it has no tokenizer.json, nor vocab.txt, vocab.json with merges.txt, or a sentencepiece *.model"
    return None


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent
        return False
