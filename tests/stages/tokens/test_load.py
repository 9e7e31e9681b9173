"""tokenizer.json decides the ids, whatever class transformers has for the folder; a saved tokenizer gives the same ids everywhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_families import FAMILIES, FUNNEL, SMALL
from helpers_tokenizers import BERT, LETTERS, ROBERTA, byte_pairs, pieces, word_pieces
from tokenizers import Tokenizer, normalizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from textsmooth.schemas.errors import TeacherError
from textsmooth.stages.tokens.load import PROBES, load_both, load_tokenizer, save_tokenizer

TEXTS = [*PROBES, "Order 66 came on 2024-05-04", "go to http://host.example/x NOW", "a ticket #[UNK] [NEW] x", "", " "]

KINDS: dict[str, tuple[Callable[[], Tokenizer], dict[str, str]]] = {
    "word_pieces": (word_pieces, BERT),
    "byte_pairs": (byte_pairs, ROBERTA),
    "pieces": (pieces, ROBERTA),
}


def write(folder: Path, backend: Tokenizer, names: dict[str, str] = BERT, **settings: Any) -> Tokenizer:
    """tokenizer.json and tokenizer_config.json, as they lie in a model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {**{f"{name}_token": token for name, token in names.items()}, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return backend


def all_ids(backend: Any) -> list[list[int]]:
    return [backend.encode(text).ids for text in TEXTS] + [backend.encode(text, "The 2nd").ids for text in TEXTS]


def auto_ids(folder: Path) -> list[list[int]]:
    """By transformers alone."""
    auto = AutoTokenizer.from_pretrained(folder)
    return [auto(text)["input_ids"] for text in TEXTS] + [auto(text, "The 2nd")["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_ids_are_those_of_tokenizer_json_in_every_family(family: str, kind: str, tmp_path: Path) -> None:
    make, names = KINDS[kind]
    changes = {**(FUNNEL if family == "funnel" else SMALL), **FAMILIES[family]}
    AutoConfig.for_model(family, **changes).save_pretrained(tmp_path / "model")
    expected = all_ids(write(tmp_path / "model", make(), names))
    tokenizer = load_tokenizer(tmp_path / "model")
    assert all_ids(tokenizer.backend_tokenizer) == expected
    assert {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in names} == {f"{n}_token": t for n, t in names.items()}
    for place in ("alone", "student"):
        (tmp_path / place).mkdir()
        if place == "student":
            (tmp_path / place / "config.json").write_bytes((tmp_path / "model/config.json").read_bytes())
        save_tokenizer(tokenizer, tmp_path / place)
        assert all_ids(Tokenizer.from_file(str(tmp_path / place / "tokenizer.json"))) == expected
        assert auto_ids(tmp_path / place) == expected
        assert all_ids(load_tokenizer(tmp_path / place).backend_tokenizer) == expected


@pytest.mark.parametrize("name", ["BertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer", "DebertaV2Tokenizer", "CamembertTokenizer"])
def test_another_class_of_transformers_changes_no_id(name: str, tmp_path: Path) -> None:
    expected = all_ids(write(tmp_path, word_pieces(), tokenizer_class=name))
    tokenizer, rebuilt = load_both(tmp_path)
    assert all_ids(tokenizer.backend_tokenizer) == expected
    assert rebuilt is None or all_ids(rebuilt) != expected
    assert tokenizer.mask_token == "[MASK]"


def test_names_of_special_tokens_and_token_types_are_those_of_the_class(tmp_path: Path) -> None:
    """A folder that names no special tokens: its class knows them."""
    write(tmp_path, word_pieces(), {}, tokenizer_class="BertTokenizer", model_max_length=77)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.mask_token, tokenizer.pad_token_id, tokenizer.model_max_length) == ("[MASK]", 0, 77)
    assert tokenizer.model_input_names == ["input_ids", "token_type_ids", "attention_mask"]
    assert tokenizer("a", "b")["token_type_ids"][-1] == 1


@pytest.mark.parametrize(
    ("settings", "types"),
    [
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, True),  # saved by transformers 4, which gave them to the model
        ({"tokenizer_class": "TokenizersBackend"}, False),  # by transformers 5, which does not
        ({"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}, False),
        ({"tokenizer_class": "AlbertTokenizer"}, True),  # a class that cannot be made of this tokenizer.json
        ({"tokenizer_class": "RobertaTokenizer"}, False),
    ],
)
def test_token_types_are_those_that_the_model_was_trained_with(settings: dict[str, Any], types: bool, tmp_path: Path) -> None:
    write(tmp_path / "in", word_pieces(), **settings)
    tokenizer = load_tokenizer(tmp_path / "in")
    save_tokenizer(tokenizer, tmp_path / "out")
    for made in (tokenizer, load_tokenizer(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")):
        assert ("token_type_ids" in made.model_input_names) is types
        assert ("token_type_ids" in made("a", "b")) is types


def test_padding_and_truncation_of_the_file_do_not_count(tmp_path: Path) -> None:
    plain = word_pieces()
    expected = all_ids(plain)
    plain.enable_padding(length=50)
    plain.enable_truncation(4)
    write(tmp_path / "in", plain, tokenizer_class="BertTokenizer")
    tokenizer = load_tokenizer(tmp_path / "in")
    save_tokenizer(tokenizer, tmp_path / "out")
    assert all_ids(Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))) == expected
    assert auto_ids(tmp_path / "out") == expected


def test_a_tokenizer_that_transformers_keeps_is_loaded_with_its_class(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT.values(), *LETTERS, "##s", "the"]), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    tokenizer, rebuilt = load_both(tmp_path / "saved")
    assert (type(tokenizer).__name__, rebuilt) == ("BertTokenizer", None)


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [("do_lower_case", False, "The"), ("tokenize_chinese_chars", False, "東京で日本語を話す。"), ("strip_accents", False, "naïve")],
)
def test_files_that_contradict_each_other_are_refused(setting: str, value: bool, word: str, tmp_path: Path) -> None:
    """Earlier versions of transformers followed tokenizer_config.json, so either may be what the model was trained with."""
    plain = word_pieces()
    plain.normalizer = normalizers.BertNormalizer()
    write(tmp_path, plain, tokenizer_class="BertTokenizer", **{setting: value})
    with pytest.raises(TeacherError) as error:
        load_tokenizer(tmp_path)
    assert f"tokenizer.json splits {word!r} into " in str(error.value)
    assert f"{setting}: {json.dumps(value)} in tokenizer_config.json" in str(error.value)
    assert "\n" not in str(error.value)
    write(tmp_path, plain, tokenizer_class="BertTokenizer", **{setting: not value})
    assert all_ids(load_tokenizer(tmp_path).backend_tokenizer) == all_ids(plain)


def test_a_setting_that_agrees_is_no_contradiction(tmp_path: Path) -> None:
    for lowercase in (False, True):
        expected = all_ids(write(tmp_path, word_pieces(lowercase=lowercase), tokenizer_class="BertTokenizer", do_lower_case=lowercase))
        assert all_ids(load_tokenizer(tmp_path).backend_tokenizer) == expected


@pytest.mark.parametrize("text", ["", "{}", '{"model": 3}', "[" * 99_999])
def test_a_damaged_tokenizer_json_is_one_line(text: str, tmp_path: Path) -> None:
    write(tmp_path, word_pieces(), tokenizer_class="BertTokenizer")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TeacherError, match=r"tokenizer\.json is damaged .*: fetch or save the tokenizer again") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 99_999, '{"added_tokens_decoder": {"5": "x"}}'])
def test_a_damaged_tokenizer_config_is_one_line(text: str, tmp_path: Path) -> None:
    write(tmp_path, word_pieces())
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(TeacherError, match="cannot load a tokenizer from") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_no_code_is_asked_for_that_is_not_saved(tmp_path: Path) -> None:
    expected = all_ids(write(tmp_path / "in", word_pieces(), tokenizer_class="Own", auto_map={"AutoTokenizer": ["code.Own", None]}))
    save_tokenizer(load_tokenizer(tmp_path / "in"), tmp_path / "out")
    assert auto_ids(tmp_path / "out") == expected
    assert "auto_map" not in json.loads((tmp_path / "out/tokenizer_config.json").read_text())


def test_a_wrapped_tokenizer_loads_in_transformers_4_too(tmp_path: Path) -> None:
    """The class that transformers 5 writes for a tokenizer of its own is unknown there."""
    save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=word_pieces(), cls_token="[CLS]"), tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
