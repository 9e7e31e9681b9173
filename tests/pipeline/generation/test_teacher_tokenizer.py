"""From a teacher's folder to the shard and to a student: the ids are tokenizer.json's, and what does not fit is reported."""

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
from helpers_tokenizers import BERT, word_pieces
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

from textsmooth.pipeline import train
from textsmooth.pipeline.plan.cut import WARNINGS
from textsmooth.schemas.manifest import PLAN
from textsmooth.stages.models.student_init import fresh_student, make_student
from textsmooth.stages.tokens.load import load_tokenizer

TEXTS = ["The url is http://host.example/x", "in 2023 the capital", "a capital IS"]
ENGLISH = [
    "Engineers measured the vibration of the bridge during yesterday's heavy thunderstorm.",
    "Her grandmother preserved strawberries every summer and labelled each jar carefully.",
    "Without adequate funding the laboratory cannot continue its research on vaccines.",
    "Passengers waited patiently while mechanics replaced the damaged engine component.",
    "Students complained that the examination contained questions nobody had practised.",
    "A delicious breakfast consists of fresh bread, butter, honey and strong coffee.",
    "The archaeologists discovered fragments of pottery underneath the ancient temple.",
]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A BERT whose tokenizer.json has what transformers' BertTokenizer drops."""
    folder = tmp_path / "bert"
    make("bert", folder, vocab_size=400, pad_token_id=0)
    word_pieces().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", **{f"{name}_token": token for name, token in BERT.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def corpus(tmp_path: Path, texts: list[str]) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in texts])


def test_a_shard_has_the_ids_of_tokenizer_json(bert: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    ran = gen("--corpus", corpus(tmp_path, TEXTS), "--teacher", bert, "--out", tmp_path / "out", "--topk", 3)
    assert ran.code == 0, ran.err
    expected = [Tokenizer.from_file(str(bert / "tokenizer.json")).encode(text).ids for text in TEXTS]
    (shard,) = (tmp_path / "out").glob("train/*.arrow")
    assert pa.ipc.open_file(shard).read_all()["input_ids"].to_pylist() == expected
    assert [AutoTokenizer.from_pretrained(tmp_path / "out/tokenizer")(text)["input_ids"] for text in TEXTS] == expected
    assert [AutoTokenizer.from_pretrained(bert)(text)["input_ids"] for text in TEXTS] != expected
    assert "warning: AutoTokenizer gives other ids than the teacher's tokenizer.json" in " ".join(ran.out.split())


@pytest.mark.parametrize("fresh", [False, True])
def test_a_student_has_the_ids_of_tokenizer_json(fresh: bool, bert: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"num_layers": 1, "hidden_size": 16, "num_heads": 2}
    out = fresh_student(bert, tmp_path / "s", **sizes) if fresh else make_student(bert, (1,), tmp_path / "s")
    expected = [Tokenizer.from_file(str(bert / "tokenizer.json")).encode(text).ids for text in TEXTS]
    assert [load_tokenizer(out).backend_tokenizer.encode(text).ids for text in TEXTS] == expected
    assert [AutoTokenizer.from_pretrained(out)(text)["input_ids"] for text in TEXTS] == expected


def labelled(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "labelled.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(TEXTS * 4)])


def test_a_task_teacher_reads_the_ids_of_its_tokenizer_json(bert: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    """Its class, another one than the teacher's, would read letters."""
    second = tmp_path / "second"
    model = BertForSequenceClassification(AutoConfig.from_pretrained(bert)).eval()
    model.save_pretrained(second)
    (second / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    settings = json.loads((bert / "tokenizer_config.json").read_text())
    (second / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "RobertaTokenizer"}))
    ran = gen("--corpus", labelled(tmp_path), "--teacher", bert, "--task-teacher", second, "--out", tmp_path / "out", "--topk", 3)
    assert ran.code == 0, ran.err
    (shard,) = (tmp_path / "out").glob("train/*.arrow")
    backend = Tokenizer.from_file(str(bert / "tokenizer.json"))
    with torch.no_grad():
        logits = [model(torch.tensor([backend.encode(text).ids])).logits[0].tolist() for text in TEXTS]
    np.testing.assert_allclose(pa.ipc.open_file(shard).read_all()["teacher_logits"].to_pylist()[: len(TEXTS)], logits, atol=1e-4)


def test_a_trained_student_has_the_ids_of_its_dataset(bert: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    assert gen("--corpus", labelled(tmp_path), "--teacher", bert, "--out", tmp_path / "out", "--topk", 3).code == 0
    make_student(bert, (0,), tmp_path / "start")
    train(tmp_path / "out", student=str(tmp_path / "start"), out=str(tmp_path / "trained"), epochs=1)
    (shard,) = (tmp_path / "out").glob("train/*.arrow")
    stored = pa.ipc.open_file(shard).read_all()["input_ids"].to_pylist()[: len(TEXTS)]
    assert [AutoTokenizer.from_pretrained(tmp_path / "trained")(text)["input_ids"] for text in TEXTS] == stored
    assert [load_tokenizer(tmp_path / "trained").backend_tokenizer.encode(text).ids for text in TEXTS] == stored


def test_a_teacher_that_does_not_know_the_language_is_reported(gen: Callable[..., Ran], tmp_path: Path) -> None:
    options = ("--corpus", corpus(tmp_path, ENGLISH), "--teacher", "demo", "--out", tmp_path / "out")
    dry = gen(*options, "--dry-run")
    ran = gen(*options)
    again = gen(*options)
    for text in (dry.out, ran.out, again.out):
        assert "  warning: words of four letters and more are cut into 4." in text
        assert "  warning: p(original) is low: 0." in text
        assert max(map(len, (line for line in text.splitlines() if str(tmp_path) not in line))) <= 100
    assert json.loads((tmp_path / "out" / PLAN).read_text())["runtime"][WARNINGS][0].startswith("words of four letters")


def test_the_demo_gives_no_warning(gen: Callable[..., Ran], tmp_path: Path) -> None:
    ran = gen("--corpus", "demo", "--teacher", "demo", "--limit", 60, "--out", tmp_path / "out")
    assert (ran.code, "warning:" in ran.out + ran.err) == (0, False)
