"""The teacher gives the logits of the whole model, token by token, however rows are batched, ordered and cut into chunks."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_gen import POSITIONS, VOCAB, make_model, make_tokenizer, rows
from numpy.typing import NDArray

from textsmooth.schemas.errors import TeacherError
from textsmooth.stages.models.load import teacher_digest
from textsmooth.stages.models.teacher import Teacher, chunks
from textsmooth.stages.tokens.padding import PaddedRows, batches
from textsmooth.stages.tokens.tokenize import TokenRows, tokenize

PAD = 0


@pytest.fixture(scope="module")
def loaded(teacher: Path) -> Teacher:
    return Teacher(teacher)


@pytest.fixture(scope="module")
def token_rows() -> TokenRows:
    texts = [row["text"] for row in rows(23, 9)] + ["", "cat", "cat"]
    return tokenize(make_tokenizer(), texts, None, max_length=POSITIONS, vocab_size=len(VOCAB))


@pytest.fixture(scope="module")
def dense(teacher: Path, token_rows: TokenRows) -> NDArray[np.float32]:
    """[N, V] logits of every token by the plain model, one row at a time, no padding."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(teacher).eval()
    parts = []
    for start, stop in zip(token_rows.row_offsets[:-1], token_rows.row_offsets[1:], strict=True):
        ids = torch.from_numpy(token_rows.input_ids[start:stop].astype(np.int64))[None]
        with torch.no_grad():
            parts.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy())
    return np.concatenate(parts)


def score(
    teacher: Teacher, tokens: TokenRows, wanted: NDArray[np.bool_], *, max_batch_tokens: int = 256, chunk_tokens: int = 16
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits of the wanted tokens and their positions; checks the shape of every chunk."""
    source = batches(tokens, wanted, max_batch_tokens=max_batch_tokens, pad_id=PAD)
    logits, positions = [], []
    for chunk, where in chunks(teacher, source, chunk_tokens=chunk_tokens):
        assert chunk.shape == (chunk_tokens, len(VOCAB))
        logits.append(chunk[: len(where)].numpy().copy())
        positions.append(where)
    assert all(len(where) == chunk_tokens for where in positions[:-1])  # only the last one has filler
    return np.concatenate(logits), np.concatenate(positions)


def assert_parity(dense: NDArray[np.float32], wanted: NDArray[np.bool_], logits: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
    assert sorted(positions.tolist()) == np.flatnonzero(wanted).tolist()
    np.testing.assert_allclose(logits, dense[positions], rtol=0, atol=3e-5)  # sums in another order: 1.7e-5 at most on AVX512 of AMD


@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 1000])
@pytest.mark.parametrize("max_batch_tokens", [1, 30, 100, 4096])
def test_logits_are_those_of_the_whole_model(
    max_batch_tokens: int, chunk_tokens: int, loaded: Teacher, token_rows: TokenRows, dense: NDArray[np.float32]
) -> None:
    for wanted in (~token_rows.special, np.ones_like(token_rows.special), np.arange(len(dense)) % 3 == 0):
        found = score(loaded, token_rows, wanted, max_batch_tokens=max_batch_tokens, chunk_tokens=chunk_tokens)
        assert_parity(dense, wanted, *found)


def test_the_order_of_rows_does_not_matter(loaded: Teacher, token_rows: TokenRows, dense: NDArray[np.float32]) -> None:
    order = np.random.default_rng(0).permutation(len(token_rows))
    tokens = np.concatenate([np.arange(token_rows.row_offsets[r], token_rows.row_offsets[r + 1]) for r in order])
    lengths = np.diff(token_rows.row_offsets)[order]
    shuffled = TokenRows(
        row_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        input_ids=token_rows.input_ids[tokens],
        token_type_ids=None if token_rows.token_type_ids is None else token_rows.token_type_ids[tokens],
        special=token_rows.special[tokens],
        truncated=0,
    )
    wanted = ~shuffled.special
    assert_parity(dense[tokens], wanted, *score(loaded, shuffled, wanted))


def test_pairs_are_scored_with_their_token_types(teacher: Path, loaded: Teacher) -> None:
    from transformers import AutoModelForMaskedLM

    pairs = rows(6, 2, pair=True)
    tokenizer = make_tokenizer()
    tokens = tokenize(
        tokenizer, [p["question"] for p in pairs], [p["sentence"] for p in pairs], max_length=POSITIONS, vocab_size=len(VOCAB)
    )
    model = AutoModelForMaskedLM.from_pretrained(teacher).eval()
    exact = []
    for pair in pairs:
        given = tokenizer(pair["question"], pair["sentence"], truncation="longest_first", max_length=POSITIONS, return_tensors="pt")
        assert given["token_type_ids"].max() == 1
        with torch.no_grad():
            exact.append(model(**given).logits[0].numpy())
    wanted = np.ones_like(tokens.special)
    assert_parity(np.concatenate(exact), wanted, *score(loaded, tokens, wanted))


def test_batches_keep_to_the_budget_and_hold_every_row_once(token_rows: TokenRows) -> None:
    lengths = np.diff(token_rows.row_offsets)
    for budget in (1, 24, 50, 10_000):
        found = list(batches(token_rows, ~token_rows.special, max_batch_tokens=budget, pad_id=PAD))
        assert sorted(np.concatenate([b.rows for b in found])) == list(range(len(token_rows)))
        for batch in found:
            assert batch.input_ids.numel() <= budget or len(batch.rows) == 1
            assert batch.input_ids.shape[1] == lengths[batch.rows].max()
            assert batch.attention_mask.sum(1).tolist() == lengths[batch.rows].tolist()
            assert (batch.input_ids[batch.attention_mask == 0] == PAD).all()


@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_a_batch_without_room_is_halved_and_nothing_else_changes(
    room: int, loaded: Teacher, token_rows: TokenRows, dense: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ~token_rows.special
    whole = score(loaded, token_rows, wanted)
    real, seen, refused = Teacher.encode, [], []

    def encode(self: Teacher, batch: PaddedRows) -> Any:
        if len(batch.rows) > room:
            refused.append(len(batch.rows))
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(batch.rows))
        return real(self, batch)

    monkeypatch.setattr(Teacher, "encode", encode)
    logits, positions = score(loaded, token_rows, wanted)
    assert refused
    assert max(seen) <= room
    assert sum(seen) == len(token_rows)
    np.testing.assert_array_equal(positions, whole[1])
    assert_parity(dense, wanted, logits, positions)


def test_a_single_row_without_room_is_an_error(loaded: Teacher, token_rows: TokenRows, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(self: Teacher, batch: PaddedRows) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Teacher, "encode", encode)
    with pytest.raises(TeacherError, match="a single row of 24 tokens does not fit on cpu; lower --max-length"):
        score(loaded, token_rows, ~token_rows.special)


def test_no_wanted_tokens_give_no_chunks(loaded: Teacher, token_rows: TokenRows) -> None:
    source = batches(token_rows, np.zeros_like(token_rows.special), max_batch_tokens=100, pad_id=PAD)
    assert list(chunks(loaded, source, chunk_tokens=8)) == []


def test_every_batch_is_told(loaded: Teacher, token_rows: TokenRows) -> None:
    told: list[PaddedRows] = []
    source = batches(token_rows, ~token_rows.special, max_batch_tokens=60, pad_id=PAD)
    list(chunks(loaded, source, chunk_tokens=1000, done=told.append))
    assert sum(int(b.attention_mask.sum()) for b in told) == len(token_rows.input_ids)


def test_bfloat16_is_close(teacher: Path, token_rows: TokenRows, dense: NDArray[np.float32]) -> None:
    half = Teacher(teacher, dtype=torch.bfloat16)
    source = batches(token_rows, ~token_rows.special, max_batch_tokens=100, pad_id=PAD)
    for chunk, where in chunks(half, source, chunk_tokens=16):
        assert chunk.dtype == torch.bfloat16
        assert np.abs(chunk[: len(where)].float().numpy() - dense[where]).mean() < 0.1


def test_dropout_is_off(teacher: Path, token_rows: TokenRows) -> None:
    assert not Teacher(teacher).model.training


def _save_encoder(folder: Path) -> None:
    make_model().bert.save_pretrained(folder)


def _save_pickle(folder: Path) -> None:
    model = make_model()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _save_other_width(folder: Path) -> None:
    make_model(vocab_size=len(VOCAB) + 5).save_pretrained(folder)
    make_model().config.save_pretrained(folder)


def _save_without_decoder_bias(folder: Path) -> None:
    model = make_model()
    weights = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("cls.predictions.transform")}
    model.save_pretrained(folder, state_dict=weights)


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (_save_encoder, "is missing weights that BertForMaskedLM needs"),
        (_save_without_decoder_bias, "is missing weights that BertForMaskedLM needs .cls.predictions.transform.* and 3 more"),
        (_save_pickle, "cannot load the model"),
        (_save_other_width, "cannot load the model|is missing weights"),
        (lambda folder: folder.mkdir(), "cannot load the model"),
    ],
)
def test_a_checkpoint_that_would_be_random_somewhere_is_an_error(save: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    save(tmp_path / "model")
    with pytest.raises(TeacherError, match=words) as error:
        Teacher(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_the_digest_is_over_weights_and_configuration_alone(teacher: Path, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "same")
    assert teacher_digest(tmp_path / "same") == teacher_digest(teacher)
    (tmp_path / "same/notes.txt").write_text("x")
    assert teacher_digest(tmp_path / "same") == teacher_digest(teacher)
    model = make_model()
    with torch.no_grad():
        model.cls.predictions.bias[0] += 1e-3
    model.save_pretrained(tmp_path / "other")
    assert teacher_digest(tmp_path / "other") != teacher_digest(teacher)
    with pytest.raises(TeacherError, match=r"no config\.json"):
        teacher_digest(tmp_path)


def test_packed_weights_give_the_logits_of_the_plain_layer(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Teacher(teacher)
    assert type(packed._head.get_output_embeddings()).__name__ == "_PackedLinear"
    monkeypatch.setattr(Teacher, "_pack_projection", lambda self: None)
    plain = Teacher(teacher)
    assert type(plain._head.get_output_embeddings()) is torch.nn.Linear
    hidden = torch.randn(256, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(packed.project(hidden), plain.project(hidden), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 0.99), (torch.bfloat16, 0.7)])
def test_a_head_that_is_not_what_the_whole_model_does_is_not_used(
    dtype: torch.dtype, factor: float, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family whose logits are more than head(hidden states) must not be read wrong in silence."""
    from transformers import BertForMaskedLM

    real = BertForMaskedLM.forward

    @functools.wraps(real)
    def forward(self: Any, input_ids: Any = None, **given: Any) -> Any:
        made = real(self, input_ids=input_ids, **given)
        if input_ids is not None:
            made.logits = made.logits * factor
        return made

    monkeypatch.setattr(BertForMaskedLM, "forward", forward)
    assert not Teacher(teacher, dtype=dtype).apart


def test_a_head_that_looks_at_neighbours_is_not_used(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertForMaskedLM

    real = BertForMaskedLM.forward

    @functools.wraps(real)
    def forward(self: Any, **given: Any) -> Any:
        made = real(self, **given)
        made.logits = made.logits + made.logits.roll(1, dims=1)
        return made

    monkeypatch.setattr(BertForMaskedLM, "forward", forward)
    assert not Teacher(teacher).apart


def test_a_model_that_is_not_the_same_twice_is_told(
    teacher: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import BertForMaskedLM

    real = BertForMaskedLM.forward

    @functools.wraps(real)
    def forward(self: Any, **given: Any) -> Any:
        made = real(self, **given)
        made.logits = made.logits + torch.rand(()) * 1e-3
        return made

    monkeypatch.setattr(BertForMaskedLM, "forward", forward)
    Teacher(teacher)
    assert "BertForMaskedLM gives different logits each time" in caplog.text


def test_rows_of_one_length_need_no_padding(token_rows: TokenRows) -> None:
    found = list(batches(token_rows, ~token_rows.special, max_batch_tokens=100, pad_id=PAD, equal_lengths=True))
    assert all(batch.attention_mask.all() for batch in found)
    assert sorted(np.concatenate([b.rows for b in found])) == list(range(len(token_rows)))
    assert max(len(b.rows) for b in found) > 1


def test_only_the_rows_asked_for_are_run(token_rows: TokenRows) -> None:
    asked = np.array([2, 5, 6, 20])
    found = list(batches(token_rows, ~token_rows.special, max_batch_tokens=100, pad_id=PAD, only=asked))
    assert sorted(np.concatenate([b.rows for b in found])) == asked.tolist()
    inside = np.isin(np.repeat(np.arange(len(token_rows)), np.diff(token_rows.row_offsets)), asked)
    assert sorted(np.concatenate([b.positions for b in found])) == np.flatnonzero(~token_rows.special & inside).tolist()
