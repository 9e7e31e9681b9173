"""How long the rows of a model may be, from its configuration and its tokenizer; weights that its configuration does not count."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers_families import PAD, POSITIONS, VOCAB, make, soft_ids

from textsmooth.schemas.errors import TeacherError
from textsmooth.stages.models.load import check_room, position_limit
from textsmooth.stages.models.teacher import Teacher
from textsmooth.stages.tokens.tokenize import NO_LIMIT, TokenRows

LIMITLESS = SimpleNamespace(model_max_length=int(1e30))  # as transformers has it where a tokenizer names no limit
FROM_PADDING = [
    "roberta",
    "xlm-roberta",
    "camembert",
    "mpnet",
    "longformer",
    "esm",
    "xlm-roberta-xl",
    "xmod",
    "data2vec-text",
    "ibert",
    "luke",
]


@pytest.mark.parametrize("name", [*FROM_PADDING, "bert", "distilbert", "deberta-v2", "modernbert", "nystromformer"])
def test_rows_may_be_as_long_as_the_model_has_positions_for(name: str, tmp_path: Path) -> None:
    config = make(name, tmp_path)
    limit = position_limit(json.loads((tmp_path / "config.json").read_text()), LIMITLESS)
    assert limit == POSITIONS - (PAD + 1 if name in FROM_PADDING else 0)
    teacher = Teacher(tmp_path, vocab_size=VOCAB, pad_id=PAD)
    assert longest(teacher, limit)
    if name in FROM_PADDING or name == "bert":
        assert not longest(teacher, limit + 1)
    assert config.max_position_embeddings == POSITIONS


def longest(teacher: Teacher, length: int) -> bool:
    """Whether a row of that length goes through."""
    ids = np.full(length, 7, np.uint16)
    rows = TokenRows(row_offsets=np.array([0, length]), input_ids=ids, token_type_ids=None, special=np.zeros(length, np.bool_), truncated=0)
    try:
        return len(soft_ids(teacher, rows, ~rows.special)) == length
    except TeacherError:
        return False


@pytest.mark.parametrize("absent", [{}, {"max_position_embeddings": -1}, {"max_position_embeddings": 0}, {"max_position_embeddings": None}])
def test_where_nobody_knows_a_limit_there_is_none(absent: dict[str, Any]) -> None:
    assert position_limit({"model_type": "funnel", **absent}, LIMITLESS) == NO_LIMIT
    assert position_limit({"model_type": "nonsense", **absent}, LIMITLESS) == NO_LIMIT
    assert position_limit({"model_type": "nonsense", **absent, "max_position_embeddings": 77}, LIMITLESS) == 77
    assert position_limit({"model_type": "deberta-v2", "position_biased_input": False, **absent}, LIMITLESS) in (512, NO_LIMIT)


def test_the_tokenizer_may_set_a_lower_limit() -> None:
    config = {"model_type": "roberta", "max_position_embeddings": 514}
    assert [position_limit(config, SimpleNamespace(model_max_length=n)) for n in (128, 512, 514)] == [128, 512, 512]


@pytest.mark.parametrize("value", [float("inf"), -1, 0, -0.5, float("nan"), 10**400, 1e30, NO_LIMIT + 1])
def test_a_tokenizer_without_a_limit_sets_none(value: float) -> None:
    assert position_limit({"model_type": "nonsense", "max_position_embeddings": 77}, SimpleNamespace(model_max_length=value)) == 77
    assert position_limit({"model_type": "nonsense"}, SimpleNamespace(model_max_length=value)) == NO_LIMIT


@pytest.mark.parametrize("value", ["512", [512], True, {"tokens": 9}])
def test_a_limit_that_is_no_number_is_named(value: object) -> None:
    with pytest.raises(TeacherError, match=r"tokenizer_config\.json has model_max_length .*: a number of tokens is needed"):
        position_limit({"model_type": "nonsense"}, SimpleNamespace(model_max_length=value))


def test_a_model_without_room_for_text_is_named() -> None:
    check_room(3, 2, "teacher")
    with pytest.raises(TeacherError, match=r"the teacher reads at most 2 tokens .*tokenizer_config\.json.*: 3 is the least"):
        check_room(2, 2, "teacher")


@pytest.mark.parametrize(("name", "count"), [("bert", "num_hidden_layers"), ("distilbert", "n_layers"), ("roberta", "num_hidden_layers")])
def test_weights_of_more_layers_than_the_configuration_has_are_refused(name: str, count: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, count: 1}))
    with pytest.raises(
        TeacherError, match=r"layers that its config\.json does not count \(.*1\..*\): without them it would be another model"
    ):
        Teacher(tmp_path, vocab_size=VOCAB, pad_id=PAD)
