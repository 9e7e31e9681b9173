"""From a teacher's folder to the shard and to a student: the ids are tokenizer.json's, and what does not fit is reported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers_families import make
from helpers_gen import Ran, write_jsonl
from helpers_tokenizers import BERT, word_pieces
from tokenizers import Tokenizer
from transformers import AutoTokenizer

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
