"""Rows that two datasets both have, and how far apart their soft ids are."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.inspect.row_numbers import sample_positions
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.divergence import divergence

SAMPLE_SHARDS = 32  # of the first dataset, from which rows are sampled: each is read and checked as a whole
SEARCH_BYTES = 4_000_000_000  # of shards of a split of the second: beyond, rows are looked for only under their own number


@dataclass(frozen=True, kw_only=True)
class SharedRows:
    """The soft ids of sampled rows of A that B has, too: the same tokens. T = 1; stages/soft_ids/divergence.py says what is compared."""

    sampled: int  # rows of A
    found: int  # of these in B
    searched: bool  # B was read as a whole for them; else only their own numbers in it
    tokens: int  # smoothed in both
    in_one: int  # tokens smoothed in one, plain in the other
    kl: float  # mean over the tokens, nats, KL(A || B)
    kl_max: float
    tv: float  # mean over the tokens
    tv_max: float
    tv_max_at: str | None  # split, row and token of A
    same_top: float  # share of the tokens whose most probable entry is the same
    p_original: float  # mean distance of p(original)

    def lines(self) -> Iterator[str]:
        """What a person reads."""
        where = "in B, too" if self.searched else "in B under their own numbers, too"
        yield f"rows  {self.found:,} of {self.sampled:,} sampled rows of A are {where}: {self.tokens:,} tokens smoothed in both"
        if self.in_one:
            yield f"  {self.in_one:,} tokens are smoothed in one and plain in the other"
        if not self.tokens:
            return
        if not self.kl_max and not self.tv_max and not self.p_original:
            yield "  their soft ids are the same"
            return
        at = f" at {self.tv_max_at}" if self.tv_max_at else ""
        yield f"  KL(A || B)           mean {self.kl:.2g} nats, at most {self.kl_max:.2g}"
        yield f"  total variation      mean {self.tv:.2g}, at most {self.tv_max:.2g}{at}"
        yield f"  most probable entry  the same for {self.same_top:.2%} of the tokens"
        yield f"  p(original)          {self.p_original:.2g} apart in the mean"
        yield "  compared: the entries that both have, and all the rest as one; lower bounds of the full distributions' figures"


def _sample(datasets: list[SmoothedDataset], rows: int) -> list[NDArray[np.int64]]:
    """Rows of each split, evenly over at most SAMPLE_SHARDS of the shards."""
    shards = [(number, *span) for number, dataset in enumerate(datasets) for span in _spans(dataset)]
    chosen = [shards[i] for i in np.unique(np.linspace(0, len(shards) - 1, min(SAMPLE_SHARDS, len(shards))).round().astype(int))]
    ends = np.cumsum([stop - start for _, start, stop in chosen])
    wanted = np.unique(np.linspace(0, ends[-1] - 1, min(rows, int(ends[-1]))).round().astype(np.int64))
    which = np.searchsorted(ends, wanted, side="right")
    first = np.array([start for _, start, _ in chosen]) - np.concatenate([[0], ends[:-1]])
    of_split = np.array([number for number, _, _ in chosen])[which]
    return [(wanted + first[which])[of_split == number] for number in range(len(datasets))]


def _spans(dataset: SmoothedDataset) -> Iterator[tuple[int, int]]:
    """Where the rows of each shard begin and end."""
    start = 0
    for shard in dataset.shards:
        if shard.samples:
            yield start, start + shard.samples
        start += shard.samples


def _texts(block: TokenBlock) -> list[bytes]:
    """The tokens of each row as bytes."""
    ids, offsets = np.ascontiguousarray(block.input_ids), block.row_offsets.tolist()
    return [ids[start:stop].tobytes() for start, stop in pairwise(offsets)]


def _in_other(block: TokenBlock, other: SmoothedDataset, *, search: bool) -> NDArray[np.int64]:
    """[R] where the other dataset has rows with the tokens of these: under the same number, else anywhere; -1 where it has none."""
    texts = _texts(block)
    found = sample_positions(other, block.row, np.zeros(len(block), np.int64) if block.window is None else block.window)
    there = np.flatnonzero(found >= 0)
    if len(there):
        found[there[[text != texts[i] for i, text in zip(there.tolist(), _texts(other.batch(found[there])), strict=True)]]] = -1
    missing = np.flatnonzero(found < 0)
    wanted = {texts[i]: i for i in missing.tolist()}
    if wanted and search:
        begin = 0
        for batch in other.record_batches():
            column = batch.column("input_ids")
            ids, offsets = column.flatten().to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)
            places = (offsets - offsets[0]).tolist()
            for row, (start, stop) in enumerate(pairwise(places)):
                i = wanted.get(ids[start:stop].tobytes())
                if i is not None and found[i] < 0:
                    found[i] = begin + row
            begin += batch.num_rows
        found[missing] = [found[wanted[texts[i]]] for i in missing.tolist()]  # several may have the same tokens
    return found


def _searchable(other: SmoothedDataset) -> bool:
    return other.is_local and sum(shard.bytes for shard in other.shards) <= SEARCH_BYTES


def shared_rows(pairs: list[tuple[SmoothedDataset, SmoothedDataset]], rows: int) -> SharedRows:
    """Of the splits that both have, as pairs; rows: how many of the first are looked for in the second."""
    kl, tv, tops, moved = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    sampled = there = in_one = 0
    worst: tuple[float, str | None] = (0.0, None)
    for (one, other), at in zip(pairs, _sample([one for one, _ in pairs], rows), strict=True):
        if not len(at):
            continue
        sampled += len(at)
        places = _in_other(one.batch(at), other, search=_searchable(other))
        if not (places >= 0).any():
            continue
        there += int((places >= 0).sum())
        mine, theirs = one.batch(at[places >= 0]), other.batch(places[places >= 0])
        found = divergence(mine.soft, theirs.soft, int(one.manifest.teacher["vocab_size"]))
        in_one += int(((np.diff(mine.soft.offsets) > 0) != (np.diff(theirs.soft.offsets) > 0)).sum())
        original = [np.exp(soft.original_logprob[found.tokens].astype(np.float64)) for soft in (mine.soft, theirs.soft)]
        for values, more in ((kl, found.kl), (tv, found.tv), (tops, found.same_top), (moved, np.abs(original[0] - original[1]))):
            values.append(more.astype(np.float64))
        if len(found.tv) and found.tv.max() > worst[0]:
            token = int(found.tokens[found.tv.argmax()])
            row = int(np.searchsorted(mine.row_offsets, token, side="right")) - 1
            worst = float(found.tv.max()), f"{one.name} row {mine.row[row]}, token {token - mine.row_offsets[row]}"
    means = [float(np.concatenate(values).mean()) if sum(map(len, values)) else 0.0 for values in (kl, tv, tops, moved)]
    return SharedRows(
        sampled=sampled,
        found=there,
        searched=all(_searchable(other) for _, other in pairs),
        tokens=sum(map(len, kl)),
        in_one=in_one,
        kl=means[0],
        kl_max=float(max((v.max() for v in kl if len(v)), default=0.0)),
        tv=means[1],
        tv_max=worst[0],
        tv_max_at=worst[1],
        same_top=means[2],
        p_original=means[3],
    )
