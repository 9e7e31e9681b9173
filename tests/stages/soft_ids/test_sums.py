"""What a shard stores of a token adds up to 1, within the rounding that its codec states: at T = 1, and at every stored temperature."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.schemas.shard import ShardMeta
from textsmooth.stages.soft_ids.codec import TokenBlock, decode, encode, find_codec
from textsmooth.stages.soft_ids.shard import shard_schema
from textsmooth.stages.soft_ids.topk import Sparsifier, gather_soft_ids

NOISE = 2e-6  # of float32 sums


@given(
    seed=st.integers(0, 10**6),
    vocab=st.integers(2, 400),
    scale=st.sampled_from([0.0, 0.3, 4.0, 40.0]),
    mass=st.sampled_from([1.0, 0.99, 0.5]),
    temperatures=st.lists(st.sampled_from([0.25, 0.5, 2.0, 8.0]), unique=True, max_size=3).map(tuple),
    impossible=st.sampled_from([0.0, 0.3]),
    codec=st.sampled_from(["plain", "compact", "compact:0.0005", "compact:0.02"]),
    data=st.data(),
)
def test_entries_and_the_rest_are_1(
    seed: int, vocab: int, scale: float, mass: float, temperatures: tuple[float, ...], impossible: float, codec: str, data: st.DataObject
) -> None:
    topk, tokens = data.draw(st.sampled_from(sorted({1, min(4, vocab), vocab - 1, vocab}))), 6
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, vocab, generator=generator) * scale
    logits[:, 1:][torch.rand(tokens, vocab - 1, generator=generator) < impossible] = -torch.inf  # masked out, or padding of the vocabulary
    original = torch.zeros(tokens, dtype=torch.int64)
    chunk = Sparsifier(topk=topk, mass=mass, temperatures=temperatures)(logits, original)
    soft = gather_soft_ids([chunk], np.arange(tokens), tokens=tokens, vocab_size=vocab, temperatures=len(temperatures))
    meta = ShardMeta(
        codec=codec, topk=topk, mass=mass, temperatures=temperatures, context="unmasked", vocab_size=vocab,
        teacher="t", tokenizer="k", vocab="v", split="train", unit="u",
    )  # fmt: skip
    block = TokenBlock(
        row=np.arange(1),
        row_offsets=np.array([0, tokens]),
        input_ids=original.numpy().astype(soft.ids.dtype),
        token_type_ids=None,
        soft=soft,
        label=None,
    )
    stored = decode(encode(block, shard_schema(meta, token_types=False, label_kind=None), {})).soft

    logprobs, log_tail = stored.logprobs.astype(np.float64), stored.log_tail.astype(np.float64)
    error = find_codec(codec).log_error
    token = np.repeat(np.arange(tokens), np.diff(stored.offsets))
    p, tail = np.exp(logprobs), np.exp(log_tail)
    off = np.bincount(token, p * np.expm1(error(-logprobs)), tokens) + tail * np.expm1(error(-log_tail))
    assert (np.abs(np.bincount(token, p, tokens) + tail - 1) <= off + NOISE).all()

    dense = logits.double().numpy()
    dense -= np.logaddexp.reduce(dense, axis=1, keepdims=True)
    for column, temperature in enumerate(temperatures):
        partition = stored.log_partition[:, column].astype(np.float64)
        np.testing.assert_allclose(partition, np.logaddexp.reduce(dense / temperature, axis=1), atol=1e-4, rtol=1e-5)
        inside = np.bincount(token, np.exp(logprobs / temperature - partition[token]), tokens)
        counts = np.diff(stored.offsets)
        outside = [np.exp(np.sort(row / temperature)[: vocab - int(count)]).sum() for row, count in zip(dense, counts, strict=True)]
        rest = np.array(outside) / np.exp(partition)  # of the logits themselves
        off = np.bincount(token, np.exp(logprobs / temperature - partition[token]) * np.expm1(error(-logprobs) / temperature), tokens)
        assert (np.abs(inside + rest - 1) <= off + 1e-4).all()
