"""KL and total variation of stored soft ids: what a plain dense computation gives, and never above those of the full distributions."""

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.soft_ids.divergence import divergence


def soft_ids(tokens: list[tuple[Mapping[int, float], float]]) -> SoftIds:
    """Of (id -> probability, tail) of each token."""
    counts = [len(entries) for entries, _ in tokens]
    flat = [pair for entries, _ in tokens for pair in entries.items()]
    with np.errstate(divide="ignore"):
        return SoftIds(
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            ids=np.array([i for i, _ in flat], np.uint16),
            logprobs=np.log(np.array([p for _, p in flat])),
            log_tail=np.log(np.array([tail for _, tail in tokens])),
            original_logprob=np.zeros(len(tokens)),
            log_partition=np.zeros((len(tokens), 0), np.float32),
        )


def test_entries_that_both_have_and_all_the_rest_as_one() -> None:
    p = soft_ids([({3: 0.5, 7: 0.3}, 0.2), ({1: 1.0}, 0.0), ({}, 0.0)])
    q = soft_ids([({7: 0.6, 3: 0.1, 9: 0.1}, 0.2), ({1: 0.5}, 0.5), ({2: 1.0}, 0.0)])
    found = divergence(p, q, 10)
    assert found.tokens.tolist() == [0, 1]  # the last is plain in p
    expected = 0.5 * np.log(0.5 / 0.1) + 0.3 * np.log(0.3 / 0.6) + 0.2 * np.log(0.2 / 0.3)
    assert found.kl == pytest.approx([expected, np.log(2)])
    assert found.tv == pytest.approx([0.4, 0.5])
    assert found.same_top.tolist() == [False, True]


def test_nothing_apart_is_nothing() -> None:
    p = soft_ids([({3: 0.5, 7: 0.3}, 0.2), ({1: 1.0}, 0.0), ({4: 0.25, 5: 0.25}, 0.5)])
    found = divergence(p, p, 10)
    assert found.kl.tolist() == found.tv.tolist() == [0, 0, 0] and found.same_top.all()


def test_no_id_in_common_is_all_the_rest_against_all_the_rest() -> None:
    found = divergence(soft_ids([({3: 0.9}, 0.1)]), soft_ids([({4: 0.9}, 0.1)]), 10)
    assert (found.kl.tolist(), found.tv.tolist(), found.same_top.tolist()) == ([0], [0], [False])  # the least that it can be


def test_entries_without_probability_add_nothing() -> None:
    p, q = soft_ids([({3: 1.0, 4: 0.0}, 0.0)]), soft_ids([({3: 0.5, 4: 0.5}, 0.0)])
    found = divergence(p, q, 10)
    assert found.kl == pytest.approx([np.log(2)]) and found.tv == pytest.approx([0.5])
    assert divergence(p, p, 10).kl.tolist() == [0]
    found = divergence(q, p, 10)
    assert np.isfinite(found.kl).all() and found.kl[0] > 40 and found.tv == pytest.approx([0.5])


def test_a_rest_against_none_is_finite() -> None:
    found = divergence(soft_ids([({3: 0.9}, 0.1)]), soft_ids([({3: 1.0}, 0.0)]), 10)
    assert np.isfinite(found.kl).all() and found.kl[0] > 8 and found.tv == pytest.approx([0.1])


def test_both_figures_are_at_most_those_of_the_full_distributions(kit: ModuleType) -> None:
    one, other = (kit.random_rows(seed, 40) for seed in (1, 1))
    logits = one.logits + np.random.default_rng(5).normal(0, 0.7, one.logits.shape)
    moved = _cut(kit, other, logits)
    found = divergence(one.block.soft, moved, kit.VOCAB)
    p, q = (np.exp(kit.log_softmax(x))[found.tokens] for x in (one.logits, logits))
    kl, tv = (p * np.log(p / q)).sum(1), np.abs(p - q).sum(1) / 2
    assert len(found.tokens) > 100
    assert (found.kl <= kl + 1e-9).all() and (found.tv <= tv + 1e-9).all()
    assert found.kl.mean() > 0.5 * kl.mean() and found.tv.mean() > 0.7 * tv.mean()  # most of it
    assert (found.same_top == (p.argmax(1) == q.argmax(1))).all()


def _cut(kit: ModuleType, dense: Any, logits: Any) -> SoftIds:
    """Soft ids of other logits, cut to the 8 most probable."""
    logprobs = kit.log_softmax(logits)
    order = np.argsort(-logprobs, kind="stable")[:, : kit.TOPK]
    top = np.take_along_axis(logprobs, order, 1)
    keep = np.repeat(~dense.plain[:, None], kit.TOPK, 1)
    return replace(
        dense.block.soft,
        offsets=np.concatenate([[0], np.cumsum(keep.sum(1))]),
        ids=order[keep].astype(np.uint16),
        logprobs=top[keep],
        log_tail=np.where(dense.plain, -np.inf, np.log(1 - np.exp(top).sum(1))),
    )
