"""From corpus to dataset and to the screen with tokenizers and models other than BERT's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers_families import make
from helpers_gen import Ran, write_jsonl
from rich.cells import cell_len

from textsmooth.pipeline.cli.app import run, textsmooth
from textsmooth.pipeline.inspect.token_text import TokenNames
from textsmooth.pipeline.units.worker import UnitWorker
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.tokens.load import load_tokenizer

TEXTS = ["the cat sat on the mat", "naïve café 日本語 😀", "Привет, мир!", "עברית and العربية", "a\tb\n c  d", "the mat", ""]


def word_pieces(folder: Path) -> None:
    """vocab.txt alone."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*specials, *"abcdefghijklmnopqrstuvwxyz日本語", "the", "cat", "##at"]), encoding="utf-8")


def byte_pairs(folder: Path) -> None:
    """vocab.json and merges.txt of a byte-level BPE that has seen no emoji: they come out as single bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bytes_ = Tokenizer(models.BPE())
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    bytes_.train_from_iterator(["the cat sat on the mat", "Привет, мир!", "日本語"] * 9, trainer)
    bytes_.model.save(str(folder))


def pieces(folder: Path) -> None:
    """tokenizer.json of a Unigram model with sentencepiece's spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["▁the", "▁cat", "▁", "at", "日本", *"abcdehimnorstПриветм,!"]
    vocab = (
        [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
        + [(word, -1.0 - n / 9) for n, word in enumerate(words)]
        + [("<mask>", 0.0)]
    )
    unigram = Tokenizer(models.Unigram(vocab, unk_id=3))
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    tokens = {f"{name}_token": value for name, value in names.items()}
    PreTrainedTokenizerFast(tokenizer_object=unigram, model_input_names=["input_ids", "attention_mask"], **tokens).save_pretrained(folder)


KINDS = {"bert": word_pieces, "roberta": byte_pairs, "xlm-roberta": pieces, "modernbert": pieces, "fnet": word_pieces}


@pytest.fixture(scope="module", params=list(KINDS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](folder)
    if request.param == "fnet":  # transformers knows no tokenizer.json of its own for it
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    word_level = KINDS[request.param] is word_pieces
    make(request.param, folder, vocab_size=400, max_position_embeddings=120, pad_token_id=0 if word_level else 1)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [{"text": text, "other": TEXTS[-number % len(TEXTS)]} for number, text in enumerate(TEXTS * 2)]
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "many.jsonl", lines)


def stored_rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("*/*.arrow")) for row in pa.ipc.open_file(path).read_all().to_pylist()]


def exact_rows(folder: Path, texts: list[tuple[str, ...]], count: int = 1) -> list[dict[str, Any]]:
    """Rows as they should be, by transformers alone: the tokenizer called on each, the model in float64, one mask class at a time."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    vocab = max(tokenizer.get_vocab().values()) + 1
    found = []
    for text in texts:
        batch = tokenizer(*([part] for part in text), return_special_tokens_mask=True)  # given alone, an empty second text is none to it
        tokens = {name: values[0] for name, values in batch.items()}
        special = np.array(tokens.pop("special_tokens_mask"), bool)
        logprobs = np.zeros((len(special), vocab))
        for turn in range(count):
            given = {k: torch.tensor([v]) for k, v in tokens.items() if k != "attention_mask"}
            places = np.flatnonzero(~special)[turn::count]
            if count > 1:
                given["input_ids"][0, places] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(**given).logits[0, :, :vocab].double().numpy()
            logprobs[places] = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[places]
        found.append({"ids": tokens["input_ids"], "special": special, "logprobs": logprobs})
    return found


def assert_rows(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    for row, right in zip(found, wanted, strict=True):
        assert row["input_ids"] == right["ids"]
        for n, logprobs in enumerate(right["logprobs"]):
            if right["special"][n]:
                assert row["soft_ids"][n] == []
                continue
            best = np.sort(logprobs)[::-1]
            assert max(row["soft_ids"][n]) < len(logprobs)
            for values, exact in (
                (row["soft_logprobs"][n], best[: len(row["soft_ids"][n])]),
                (row["soft_logprobs"][n], logprobs[row["soft_ids"][n]]),
                ([row["original_logprob"][n]], logprobs[[right["ids"][n]]]),
                ([row["log_tail"][n]], [np.logaddexp.reduce(best[len(row["soft_ids"][n]) :])]),
            ):
                np.testing.assert_allclose(values, exact, atol=1e-4, rtol=2.0**-11)


@pytest.mark.parametrize("context", ["unmasked", "masked:3"])
@pytest.mark.parametrize("columns", [("text",), ("text", "other")], ids=["single", "pair"])
def test_stored_rows_are_those_of_a_dense_float64_reference(
    columns: tuple[str, ...], context: str, model: Path, corpus: Path, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    named = [word for column in columns for word in ("--text-column", column)]
    ran = gen("--corpus", corpus, "--teacher", model, "--out", tmp_path / "out", "--topk", 5, "--context", context, *named)
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    count = 1 if context == "unmasked" else 3
    assert_rows(stored_rows(tmp_path / "out"), exact_rows(model, [tuple(line[c] for c in columns) for line in lines], count))
    manifest = read_manifest(tmp_path / "out")
    assert manifest.config["context"] == context
    assert 0 <= manifest.statistics["padding"] < 0.8
    assert manifest.teacher["vocab_size"] == max(load_tokenizer(model).get_vocab().values()) + 1 < 400


def test_masked_context_interrupted_or_not_is_the_same(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--corpus", corpus, "--text-column", "text", "--topk", 3, "--context", "masked:4", "--rows-per-shard", 3)
    assert gen(*options, "--out", tmp_path / "one").code == 0
    real, scored = UnitWorker.score, []

    def score(self: UnitWorker, ready: Any) -> Any:
        scored.append(ready)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return real(self, ready)

    monkeypatch.setattr(UnitWorker, "score", score)
    assert gen(*options, "--out", tmp_path / "two").code == 130
    assert gen(*options, "--out", tmp_path / "two").code == 0
    one, two = (read_manifest(tmp_path / name) for name in ("one", "two"))
    assert (one.dataset, one.statistics) == (two.dataset, two.statistics)


def test_progress_counts_a_row_once(
    teacher: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    from textsmooth.pipeline.progress import Progress

    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(Progress, "batch", lambda self, tokens, padded, rows: told.append((tokens, padded, rows)))
    ran = gen(
        "--corpus", corpus, "--text-column", "text", "--topk", 3, "--context", "masked:5", "--out", tmp_path / "out", "--rows-per-shard", 4
    )
    assert ran.code == 0, ran.err
    assert sum(rows for _, _, rows in told) == 2 * len(TEXTS)
    manifest = read_manifest(tmp_path / "out")
    assert sum(tokens for tokens, _, _ in told) > manifest.statistics["tokens"]
    assert manifest.statistics["padding"] == pytest.approx(1 - sum(t for t, _, _ in told) / sum(p for _, p, _ in told))


def shown(capsys: pytest.CaptureFixture[str], out: Path, row: int) -> list[str]:
    capsys.readouterr()
    assert run(textsmooth, "textsmooth", ["inspect", str(out), "--row", str(row)]) == 0
    return capsys.readouterr().out.splitlines()


def test_byte_level_tokens_are_shown_as_text(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    byte_pairs(tmp_path)
    make("roberta", tmp_path, vocab_size=400)
    assert gen("--corpus", corpus, "--text-column", "text", "--teacher", tmp_path, "--out", tmp_path / "out", "--topk", 3).code == 0
    words = {row: [line[2:].split(" ")[0] for line in shown(capsys, tmp_path / "out", row)[1:]] for row in range(len(TEXTS))}
    assert words[0] == ["<s>", "the", "▁cat", "▁sat", "▁on", "▁the", "▁mat", "</s>"]
    assert words[2] == ["<s>", "Привет", ",", "▁мир", "!", "</s>"]
    assert words[1][-6:-1] == ["▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert words[4][1:-1] == ["a", "\\t", "b", "\\n", "▁", "c", "▁", "▁", "d"]
    for row, text in enumerate(TEXTS):
        joined = "".join(words[row][1:-1]).replace("▁", " ").replace("\\t", "\t").replace("\\n", "\n")
        assert decoded(joined) == text


def decoded(text: str) -> str:
    """The text that <0xE2> and other characters stand for."""
    import re

    data = re.sub(rb"<0x([0-9A-F]{2})>", lambda found: bytes([int(found[1], 16)]), text.encode())
    return data.decode()


def test_every_name_of_a_token_is_printable(tmp_path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer

    for number, kind in enumerate(dict.fromkeys(KINDS.values())):
        folder = tmp_path / str(number)
        folder.mkdir()
        kind(folder)
        (folder / "config.json").write_text('{"model_type": "%s"}' % ("bert" if kind is word_pieces else "roberta"))
        backend: Tokenizer = load_tokenizer(folder).backend_tokenizer
        backend.add_tokens([AddedToken("é\x1b[31m\u200b ok", normalized=False)])
        name = TokenNames(backend).name
        names = [name(i) for i in range(backend.get_vocab_size())]
        assert all(text.isprintable() and text for text in names)
        assert names[-1] == "é\\x1b[31m\\u200b ok"
        if kind is not word_pieces:
            assert "<mask>" in names
        else:
            assert names[-2:-1] == ["##at"]


def test_columns_stand_below_each_other_also_with_wide_characters(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces(tmp_path)
    make("xlm-roberta", tmp_path, vocab_size=60)
    text = write_jsonl(tmp_path / "wide.jsonl", [{"text": "日本 the cat"}])
    assert gen("--corpus", text, "--teacher", tmp_path, "--out", tmp_path / "out", "--topk", 3).code == 0
    lines = shown(capsys, tmp_path / "out", 0)[1:]
    starts = {cell_len(line[: line.index("(plain)") if "(plain)" in line else line.index("0.")]) for line in lines}
    assert any("日本" in line for line in lines)
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "it has no tokenizer.json, nor vocab.txt, vocab.json with merges.txt, or a sentencepiece [*].model"),
        ({"vocab.json": "{}"}, "it has vocab.json, but no merges.txt beside it"),
        ({"spm.model": "x"}, "to read its spm.model, pip install sentencepiece; or save its tokenizer.json there"),
    ],
)
def test_a_teacher_without_tokenizer_is_told_what_is_missing(
    files: dict[str, str], words: str, corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    from textsmooth.stages.tokens import load

    monkeypatch.setattr(load, "_importable", lambda module: module != "sentencepiece")
    make("deberta-v2", tmp_path / "model")
    for name, text in files.items():
        (tmp_path / "model" / name).write_text(text)
    ran = gen("--corpus", corpus, "--text-column", "text", "--teacher", tmp_path / "model", "--out", tmp_path / "out")
    assert ran.code == 1
    assert re.search(words, ran.err), ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_row_is_as_long_as_a_roberta_takes(gen: Callable[..., Ran], tmp_path: Path) -> None:
    """40 positions, of which the first two are never used."""
    byte_pairs(tmp_path)
    make("roberta", tmp_path, vocab_size=400)
    text = write_jsonl(tmp_path / "long.jsonl", [{"text": "the cat " * 40}, {"text": "the"}])
    options = ("--corpus", text, "--teacher", tmp_path, "--topk", 2)
    ran = gen(*options, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert len(stored_rows(tmp_path / "out")[0]["input_ids"]) == 38
    ran = gen(*options, "--out", tmp_path / "more", "--max-length", 39)
    assert (ran.code, "max-length 39 is more than the teacher's 38 positions" in ran.err) == (2, True)
