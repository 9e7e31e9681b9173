"""The demo corpus and the demo teacher are what their grammar and their card say."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from textsmooth.pipeline.demo import corpus_folder, teacher_folder
from textsmooth.pipeline.demo.build import measure, write_corpus
from textsmooth.pipeline.demo.grammar import SEED, TRAIN_ROWS, VALIDATION_ROWS, reviews

SPLITS = {"train": TRAIN_ROWS, "validation": VALIDATION_ROWS}


def rows_of(split: str) -> list[dict[str, str]]:
    lines = (corpus_folder() / f"{split}.jsonl").read_text(encoding="ascii").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(teacher_folder(), local_files_only=True)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, dict[str, Any]]:
    model, info = AutoModelForMaskedLM.from_pretrained(teacher_folder(), local_files_only=True, output_loading_info=True)
    return model.eval(), info


def test_the_grammar_writes_the_committed_files(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (corpus_folder() / f"{split}.jsonl").read_bytes()


def test_rows_are_distinct_balanced_and_short() -> None:
    texts: Counter[str] = Counter()
    for split, count in SPLITS.items():
        rows = rows_of(split)
        assert len(rows) == count
        assert all(set(row) == {"text", "label"} for row in rows)
        labels = Counter(row["label"] for row in rows)
        assert set(labels) == {"positive", "negative"}
        assert 0.45 < labels["positive"] / count < 0.55
        assert all(7 <= len(row["text"].split()) <= 26 and row["text"].islower() for row in rows)
        texts.update(row["text"] for row in rows)
    assert max(texts.values()) == 1, "a text occurs twice, within a split or in both"


def test_the_vocabulary_of_the_corpus_is_small_but_not_tiny() -> None:
    words = {word.strip(".,!") for row in rows_of("train") for word in row["text"].split()}
    assert 500 <= len(words) <= 900


def test_reviews_depend_on_their_arguments_alone() -> None:
    assert reviews(7, 50) == reviews(7, 50)
    assert reviews(7, 20) == reviews(7, 50)[:20]
    assert reviews(7, 50) != reviews(8, 50)
    assert reviews(SEED, 0) == []


def test_a_bag_of_words_does_not_solve_the_task() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    train, validation = rows_of("train"), rows_of("validation")
    counts = text.CountVectorizer()
    inputs = counts.fit_transform([row["text"] for row in train])
    model = linear.LogisticRegression(C=0.1, max_iter=1000).fit(inputs, [row["label"] for row in train])
    accuracy = model.score(counts.transform([row["text"] for row in validation]), [row["label"] for row in validation])
    assert 0.70 < accuracy < 0.88


def test_datasets_reads_the_corpus_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(str(corpus_folder()), cache_dir=str(tmp_path))
    assert {split: found[split].num_rows for split in found} == SPLITS
    assert found["validation"][0] == rows_of("validation")[0]


def test_the_assets_are_small_and_carry_no_pickle() -> None:
    files = [path for folder in (corpus_folder(), teacher_folder()) for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".jsonl", ".json", ".md", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_the_tokenizer_is_fast_uncased_and_bounded(tokenizer: Any) -> None:
    assert tokenizer.is_fast
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)
    assert (tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token) == ("[CLS]", "[SEP]", "[MASK]")
    encoded = tokenizer("The FILM was great.")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["[CLS]", "the", "film", "was", "great", ".", "[SEP]"]
    assert set(encoded) == {"input_ids", "token_type_ids", "attention_mask"}
    pair = tokenizer("great film", "poor book")
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert tokenizer.model_max_length == 64
    assert len(tokenizer("film " * 500, truncation=True)["input_ids"]) == 64


def test_any_plain_word_can_be_spelt_and_read_back(tokenizer: Any) -> None:
    ids = tokenizer("unfathomable zebra quixotry 1999?", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == "unfathomablezebraquixotry1999?"


def test_every_corpus_row_fits_and_is_known(tokenizer: Any) -> None:
    for split in SPLITS:
        encoded = tokenizer([row["text"] for row in rows_of(split)])["input_ids"]
        assert max(map(len, encoded)) <= 40
        assert all(tokenizer.unk_token_id not in ids for ids in encoded)


def test_the_teacher_loads_as_float32_with_every_weight(loaded: tuple[Any, dict[str, Any]], tokenizer: Any) -> None:
    model, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert model.dtype == torch.float32
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.vocab_size == len(tokenizer) <= 1000
    assert model.config.max_position_embeddings == tokenizer.model_max_length


@pytest.mark.parametrize(
    ("text", "word", "synonyms"),
    [
        ("the film was great.", "great", "good excellent wonderful superb lovely fantastic brilliant"),
        ("it was a terrible hotel.", "terrible", "bad awful poor disappointing dreadful horrible mediocre"),
        ("the waiter was rude.", "rude", "careless unfriendly arrogant bad awful"),
        ("the pizza turned out tasty.", "tasty", "delicious fresh juicy flavorful great good"),
        ("i loved the soundtrack.", "loved", "enjoyed liked adored admired appreciated"),
    ],
)
def test_the_teacher_offers_synonyms(loaded: tuple[Any, dict[str, Any]], tokenizer: Any, text: str, word: str, synonyms: str) -> None:
    encoded = tokenizer(text, return_tensors="pt")
    at = encoded["input_ids"][0].tolist().index(tokenizer.convert_tokens_to_ids(word))
    with torch.inference_mode():
        logits = loaded[0](**encoded).logits[0, at]
    top = tokenizer.convert_ids_to_tokens(logits.topk(8).indices.tolist())
    assert word in top, top
    assert len(set(top) & set(synonyms.split())) >= 2, top


def test_the_teacher_leaves_real_mass_outside_the_original(loaded: tuple[Any, dict[str, Any]], tokenizer: Any) -> None:
    ids = tokenizer([row["text"] for row in rows_of("validation")[:50]])["input_ids"]
    measured = measure(loaded[0], ids, tokenizer.mask_token_id)
    assert 0.75 < measured.original < 0.92
    assert measured.loss < 2.2
    assert measured.mass[1] < measured.mass[8] < measured.mass[32] <= 1.0
