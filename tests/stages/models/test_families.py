"""Every family of masked language models: soft ids are those of a dense float64 reference, each row alone and unpadded."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers_families import FAMILIES, PAD, VOCAB, WIDE, assert_parity, dense, make, random_rows, soft_ids

from textsmooth.schemas.errors import TeacherError
from textsmooth.stages.models.teacher import Teacher, chunks
from textsmooth.stages.soft_ids.topk import Sparsifier, gather_soft_ids
from textsmooth.stages.tokens.padding import PaddedRows

NO_PADDING = {"convbert", "fnet", "funnel", "mobilebert", "nystromformer", "yoso"}  # padding changes their logits, in transformers too
SHORTEST = {"funnel": 3}  # tokens of a row: it fails at fewer, in transformers too


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny random model of a family, saved."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if request.param not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param, folder)
    return SimpleNamespace(name=request.param, folder=folder)


def test_soft_ids_are_those_of_each_row_alone(family: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    teacher = Teacher(family.folder, vocab_size=VOCAB, pad_id=PAD)
    rows = random_rows(shortest=SHORTEST.get(family.name, 1))
    wanted = ~rows.special
    assert_parity(soft_ids(teacher, rows, wanted), dense(family.folder, rows), rows, wanted)
    assert teacher.apart
    assert teacher.pads == (family.name not in NO_PADDING)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("textsmooth")] == (
        [] if teacher.pads else [f"the logits of {teacher.name} change with padding: only rows of equal length share a batch"]
    )


@pytest.mark.parametrize("name", ["bert", "electra", "nomic_bert"])
def test_token_types_are_given_to_models_that_tell_them_apart(name: str, tmp_path: Path) -> None:
    make(name, tmp_path, type_vocab_size=2)
    rows = random_rows(types=True)
    exact, plain = dense(tmp_path, rows, types=True), dense(tmp_path, rows)
    assert np.abs(exact - plain).max() > 0.1
    wanted = ~rows.special
    assert_parity(soft_ids(Teacher(tmp_path, vocab_size=VOCAB, pad_id=PAD), rows, wanted), exact, rows, wanted)


@pytest.mark.parametrize("name", ["distilbert", "roberta", "modernbert", "deberta-v2"])
def test_token_types_are_kept_from_models_that_do_not(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    rows = random_rows(types=True)
    wanted = ~rows.special
    assert_parity(soft_ids(Teacher(tmp_path, vocab_size=VOCAB, pad_id=PAD), rows, wanted), dense(tmp_path, rows), rows, wanted)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    make("bert", folder)
    return folder


def not_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """BERT with a head that needs the input ids."""
    from transformers import BertForMaskedLM

    real = BertForMaskedLM.forward

    @functools.wraps(real)
    def forward(self: Any, input_ids: Any = None, **given: Any) -> Any:
        made = real(self, input_ids=input_ids, **given)
        made.logits = made.logits + torch.nn.functional.one_hot(input_ids, VOCAB)
        return made

    monkeypatch.setattr(BertForMaskedLM, "forward", forward)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 30, 1000])
def test_where_head_and_encoder_cannot_be_taken_apart_the_whole_model_is_run(
    chunk_tokens: int, bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    not_apart(monkeypatch)
    teacher = Teacher(bert, vocab_size=VOCAB, pad_id=PAD)
    assert not teacher.apart
    (record,) = caplog.records
    assert record.getMessage() == ("the head of BertForMaskedLM needs more than hidden states: every token is projected, which is slower")
    rows = random_rows()
    exact = dense(bert, rows)
    shapes = []
    real = Teacher.encode

    def encode(self: Teacher, batch: PaddedRows) -> Any:
        shapes.append(tuple(batch.input_ids.shape))
        return real(self, batch)

    monkeypatch.setattr(Teacher, "encode", encode)
    wanted = ~rows.special
    assert_parity(soft_ids(teacher, rows, wanted, chunk_tokens=chunk_tokens), exact, rows, wanted)
    assert all(height == 1 or height * width <= chunk_tokens for height, width in shapes)  # [rows, L, V] is bounded
    assert sum(height for height, _ in shapes) == len(rows)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("whole", [False, True])
def test_out_of_memory_anywhere_halves_and_changes_nothing_else(
    whole: bool, bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if whole:
        not_apart(monkeypatch)
    teacher = Teacher(bert, vocab_size=VOCAB, pad_id=PAD)
    rows = random_rows()
    wanted, exact = ~rows.special, dense(bert, rows)
    rooms = {"encode": 2, "project": 9, "sparsify": 5}
    refused = dict.fromkeys(rooms, 0)

    def guard(owner: Any, name: str, label: str, size: Any) -> None:
        real = getattr(owner, name)

        def narrow(self: Any, given: Any, *others: Any) -> Any:
            if size(given) > rooms[label]:
                refused[label] += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(self, given, *others)

        monkeypatch.setattr(owner, name, narrow)

    guard(Teacher, "encode", "encode", lambda batch: len(batch.rows))
    guard(Teacher, "project", "project", len)
    guard(Sparsifier, "__call__", "sparsify", len)
    assert_parity(soft_ids(teacher, rows, wanted, chunk_tokens=100), exact, rows, wanted)
    assert all(refused.values())
    assert any("halving the chunk" in r.getMessage() for r in caplog.records)


def test_a_token_whose_logits_do_not_fit_is_an_error(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher(bert, vocab_size=VOCAB, pad_id=PAD)
    rows = random_rows()

    def project(self: Teacher, hidden: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Teacher, "project", project)
    with pytest.raises(TeacherError, match="the logits of a single token do not fit on cpu"):
        soft_ids(teacher, rows, ~rows.special)


def test_a_row_that_the_model_fails_at_is_told_in_one_line(tmp_path: Path) -> None:
    make("bert", tmp_path, max_position_embeddings=20)
    rows = random_rows()
    with pytest.raises(TeacherError, match="BertForMaskedLM failed at rows of 24 tokens: ") as error:
        soft_ids(Teacher(tmp_path, vocab_size=VOCAB, pad_id=PAD), rows, ~rows.special)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["modernbert", "deberta-v2"])
def test_logits_beyond_the_tokenizers_ids_never_show(name: str, tmp_path: Path) -> None:
    """Were they left in the softmax, those of a padded vocabulary would take mass, and places among the entries."""
    make(name, tmp_path)
    teacher = Teacher(tmp_path, vocab_size=VOCAB, pad_id=PAD)
    assert (teacher.vocab_size, Teacher(tmp_path).vocab_size) == (VOCAB, WIDE)
    rows = random_rows()
    soft = soft_ids(teacher, rows, ~rows.special)
    assert soft.ids.max() < VOCAB
    assert np.exp(soft.log_tail[~rows.special]).max() < 1


def test_fewer_logits_than_the_tokenizer_has_ids_are_an_error(bert: Path) -> None:
    with pytest.raises(TeacherError, match=f"the tokenizer has {VOCAB + 1} ids, the logits of BertForMaskedLM are {VOCAB} wide"):
        Teacher(bert, vocab_size=VOCAB + 1)


def test_a_vocabulary_of_more_than_65536_has_wide_ids(tmp_path: Path) -> None:
    from transformers import XLMRobertaForMaskedLM

    wide = 65_536 + 40
    make("xlm-roberta", tmp_path, vocab_size=wide, num_hidden_layers=1)
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    with torch.no_grad():
        model.lm_head.bias[-3:] = torch.tensor([90.0, 95.0, 100.0])
    model.save_pretrained(tmp_path)
    teacher, sparsify = Teacher(tmp_path, vocab_size=wide, pad_id=PAD), Sparsifier(topk=3)
    rows = random_rows()
    source = teacher.batches(rows, ~rows.special, max_batch_tokens=200)
    nothing = torch.zeros(32, dtype=torch.int64)
    found = list(chunks(teacher, source, chunk_tokens=32, use=lambda logits, where: sparsify(logits[: len(where)], nothing[: len(where)])))
    soft = gather_soft_ids([c for c, _ in found], np.concatenate([w for _, w in found]), tokens=len(rows.input_ids), vocab_size=wide)
    assert soft.ids.dtype == np.uint32
    assert set(soft.ids.tolist()) == {wide - 1, wide - 2, wide - 3}


@pytest.mark.parametrize("name", ["bart", "t5", "gpt2", "perceiver", "vit"])
def test_other_kinds_of_models_are_told_in_one_line(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(name).save_pretrained(tmp_path)
    what = {"bart": "an encoder with a decoder", "t5": "an encoder with a decoder"}.get(name, "not a masked language model in transformers")
    if name == "perceiver":
        from transformers import PerceiverConfig, PerceiverForMaskedLM

        small = {"d_model": 24, "d_latents": 24, "num_latents": 8, "num_self_attends_per_block": 1, "num_self_attention_heads": 2}
        PerceiverForMaskedLM(
            PerceiverConfig(**small, num_cross_attention_heads=2, qk_channels=24, v_channels=24, vocab_size=VOCAB)
        ).save_pretrained(tmp_path)
        what = "PerceiverForMaskedLM cannot be a teacher: it gives logits"
    with pytest.raises(TeacherError, match=what) as error:
        Teacher(tmp_path)
    assert "\n" not in str(error.value)


def test_a_model_of_an_unknown_kind_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense", "auto_map": {"AutoModelForMaskedLM": "x.Y"}, "vocab_size": 9}')
    with pytest.raises(TeacherError, match="cannot load the model") as error:
        Teacher(tmp_path)
    assert "\n" not in str(error.value)
