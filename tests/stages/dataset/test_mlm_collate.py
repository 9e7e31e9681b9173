"""Masks of training are those of generation; a row goes through all its passes, whatever batch it is in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_families import MASK, PAD, TOPK, VOCAB, make, random_rows, soft_ids
from helpers_train import TEMPERATURES, write_dataset
from helpers_train import random_rows as smoothed_rows

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.mlm_collate import MaskedCollator
from textsmooth.stages.dataset.row_gather import concatenate
from textsmooth.stages.models.teacher import Teacher
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.tokens.masked_context import passes


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, TokenBlock, dict[int, np.ndarray], object]:
    """Rows with the soft ids of a real teacher's three passes."""
    make("bert", folder := tmp_path_factory.mktemp("bert"))
    teacher = Teacher(folder, vocab_size=VOCAB, pad_id=PAD)
    rows = random_rows(types=True)
    soft = soft_ids(teacher, rows, ~rows.special, count=3)
    block = TokenBlock(
        row=np.arange(len(rows)),
        row_offsets=rows.row_offsets,
        input_ids=rows.input_ids,
        token_type_ids=rows.token_type_ids,
        soft=soft,
        label=None,
    )
    return teacher, block, rows


def collator(**changes: object) -> MaskedCollator:
    return MaskedCollator(**{"pad_id": PAD, "mask_id": MASK, "context_n": 3, "temperatures": (2.0,), **changes})


@pytest.mark.parametrize("number", range(3))
def test_the_masks_are_those_of_the_teachers_passes(generated: object, number: int) -> None:
    _, block, rows = generated
    run = list(passes(rows, ~rows.special, count=3, mask_id=MASK))[number]
    batch = collator().masked(block, np.full(len(block), number))
    flat = batch.attention_mask.flatten().bool()
    np.testing.assert_array_equal(batch.input_ids.flatten()[flat], run.tokens.input_ids)
    assert (batch.input_ids.flatten()[~flat] == PAD).all()
    np.testing.assert_array_equal(batch.token_type_ids.flatten()[flat], rows.token_type_ids)
    masked = torch.zeros(flat.shape, dtype=torch.bool)
    masked[batch.masked.places] = True
    np.testing.assert_array_equal(masked[flat].numpy(), run.wanted)
    np.testing.assert_array_equal(batch.masked.original, rows.input_ids[run.wanted])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_targets_are_what_the_teacher_says_of_this_very_batch(generated: object, temperature: float) -> None:
    """A student that is the teacher itself, given the batch, has the targets' distribution: nothing of the masks is other."""
    teacher, block, _ = generated
    batch = collator(smoothing=Smoothing(temperature=temperature))(block)
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "token_type_ids": batch.token_type_ids}
    with torch.no_grad():
        p = (teacher.model(**given).logits.flatten(0, 1)[batch.masked.places, :VOCAB].double() / temperature).softmax(1)
    targets = batch.masked
    assert len(targets.places) and (targets.offsets.diff() == TOPK).all()
    owner = torch.arange(len(targets.places)).repeat_interleave(TOPK)
    torch.testing.assert_close(targets.probs.double(), p[owner, targets.ids], rtol=1e-3, atol=1e-5)
    entries = torch.zeros(len(p), dtype=torch.float64).index_add(0, owner, p[owner, targets.ids])
    torch.testing.assert_close(targets.tail.double(), 1 - entries, rtol=1e-3, atol=1e-4)


def test_a_row_goes_through_all_its_passes_before_one_comes_again(generated: object) -> None:
    _, block, rows = generated
    seen = np.zeros((len(block), 24), int)
    collate = collator()
    for epoch in range(3):
        collate.set_epoch(epoch)
        batch = collate(block)
        np.add.at(seen.reshape(-1), batch.masked.places.numpy(), 1)
    text = np.zeros((len(block), 24), bool)
    for row, (low, high) in enumerate(zip(rows.row_offsets[:-1], rows.row_offsets[1:], strict=True)):
        text[row, : high - low] = ~rows.special[low:high]
    runs = np.minimum(text.sum(1), 3)
    long = runs == 3
    np.testing.assert_array_equal(seen[long], text[long])  # each token once
    assert (seen[runs == 1].sum(1) == 3).all() and not seen[~text].any()  # a row of one word has but one pass


def test_the_pass_of_a_row_does_not_depend_on_its_batch(generated: object, tmp_path: Path) -> None:
    dataset = SmoothedDataset(write_dataset(tmp_path, {"train": [smoothed_rows(1, 40).block]}), "train")
    collate = MaskedCollator(pad_id=0, mask_id=4, context_n=3, seed=5)

    def masked(rows: list[int], **changes: int) -> dict[int, list[int]]:
        batch = collate(dataset.batch(np.array(rows)))
        width = batch.input_ids.shape[1]
        places = batch.masked.places.numpy()
        return {int(row): (places[places // width == i] % width).tolist() for i, row in enumerate(batch.rows)}

    together = masked(list(range(40)))
    assert masked([7, 3, 39]) == {row: together[row] for row in (7, 3, 39)}
    collate.seed = 6
    assert masked(list(range(40))) != together


def test_rows_of_special_tokens_alone_have_no_targets() -> None:
    whole = smoothed_rows(1, 4).block
    soft = whole.soft
    none = np.zeros(0)
    plain = type(soft)(
        offsets=np.zeros_like(soft.offsets),
        ids=soft.ids[:0],
        logprobs=none,
        log_tail=soft.log_tail,
        original_logprob=soft.original_logprob,
        log_partition=soft.log_partition,
    )
    import dataclasses

    bare = dataclasses.replace(whole, soft=plain)
    batch = MaskedCollator(pad_id=0, mask_id=4, context_n=3)(bare)
    assert len(batch.masked.places) == 0 and batch.masked.offsets.tolist() == [0] and not (batch.input_ids == 4).any()
    both = MaskedCollator(pad_id=0, mask_id=4, context_n=3)(concatenate([bare, whole]))
    assert (both.masked.places // both.input_ids.shape[1] >= 4).all() and len(both.masked.places)


def test_targets_can_be_cut(generated: object) -> None:
    _, block, _ = generated
    batch = collator(smoothing=Smoothing(topk=2))(block)
    targets = batch.masked
    assert (targets.offsets.diff() == 2).all()
    torch.testing.assert_close(targets.probs.view(-1, 2).sum(1) + targets.tail, torch.ones(len(targets.places)))


def test_an_unmasked_dataset_is_refused(tmp_path: Path) -> None:
    dataset = SmoothedDataset(write_dataset(tmp_path, {"train": [smoothed_rows(1, 4).block]}), "train")
    with pytest.raises(UsageError, match="this dataset's are unmasked; generate with --context masked:8"):
        MaskedCollator.for_dataset(dataset)
    assert dataset.temperatures == TEMPERATURES
