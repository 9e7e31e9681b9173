"""Compare the soft ids of rows that two datasets share."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.inspect.row_numbers import sample_positions
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.divergence import divergence

SAMPLE_SHARDS = 32  # of dataset A, from which rows are sampled; each is read and checked as a whole
SEARCH_BYTES = 4_000_000_000  # of a split of dataset B; in a larger one, rows are looked up only by their own number


@dataclass(frozen=True, kw_only=True)
class SharedRows:
    """Soft ids of sampled rows of A and of the rows of B with the same tokens, at temperature 1 (see stages/soft_ids/divergence.py)."""

    sampled: int  # rows of A
    found: int  # of these, also in B
    searched: bool  # all of B was searched; otherwise only the same row numbers
    tokens: int  # smoothed in both
    in_one: int  # tokens smoothed in one, plain in the other
    kl: float  # mean over the tokens, nats, KL(A || B)
    kl_max: float
    tv: float  # mean over the tokens
    tv_max: float
    tv_max_at: str | None  # split, row and token of A
    same_top: float  # share of tokens with the same most probable entry
    p_original: float  # mean absolute difference of p(original)

    def lines(self) -> Iterator[str]:
        """The comparison as lines of text."""
        where = "also in B" if self.searched else "also in B under the same numbers"
        yield f"rows  {self.found:,} of {self.sampled:,} sampled rows of A are {where}: {self.tokens:,} tokens smoothed in both"
        if self.in_one:
            yield f"  {self.in_one:,} tokens are smoothed in one dataset and plain in the other"
        if not self.tokens:
            return
        if not self.kl_max and not self.tv_max and not self.p_original:
            yield "  their soft ids are equal"
            return
        at = f" at {self.tv_max_at}" if self.tv_max_at else ""
        yield f"  KL(A || B)           mean {self.kl:.2g} nats, at most {self.kl_max:.2g}"
        yield f"  total variation      mean {self.tv:.2g}, at most {self.tv_max:.2g}{at}"
        yield f"  most probable entry  the same for {self.same_top:.2%} of the tokens"
        yield f"  p(original)          mean difference {self.p_original:.2g}"
        yield "  compared over the entries that both have, and the rest as one entry; lower bounds of the values for full distributions"


def _sample(datasets: list[SmoothedDataset], rows: int) -> list[NDArray[np.int64]]:
    """Positions of sampled rows of each split, evenly spread over at most SAMPLE_SHARDS shards."""
    shards = [(number, *span) for number, dataset in enumerate(datasets) for span in _spans(dataset)]
    chosen = [shards[i] for i in np.unique(np.linspace(0, len(shards) - 1, min(SAMPLE_SHARDS, len(shards))).round().astype(int))]
    ends = np.cumsum([stop - start for _, start, stop in chosen])
    wanted = np.unique(np.linspace(0, ends[-1] - 1, min(rows, int(ends[-1]))).round().astype(np.int64))
    which = np.searchsorted(ends, wanted, side="right")
    first = np.array([start for _, start, _ in chosen]) - np.concatenate([[0], ends[:-1]])
    of_split = np.array([number for number, _, _ in chosen])[which]
    return [(wanted + first[which])[of_split == number] for number in range(len(datasets))]


def _spans(dataset: SmoothedDataset) -> Iterator[tuple[int, int]]:
    """First sample and last + 1 of each shard that has any."""
    start = 0
    for shard in dataset.shards:
        if shard.samples:
            yield start, start + shard.samples
        start += shard.samples


def _texts(block: TokenBlock) -> list[bytes]:
    """The token ids of each row as bytes."""
    ids, offsets = np.ascontiguousarray(block.input_ids), block.row_offsets.tolist()
    return [ids[start:stop].tobytes() for start, stop in pairwise(offsets)]


def _in_other(block: TokenBlock, other: SmoothedDataset, *, search: bool) -> NDArray[np.int64]:
    """Positions [R] in the other dataset of rows with the same tokens: first by row number, then anywhere if search; -1 if none."""
    texts = _texts(block)
    positions = sample_positions(other, block.row, np.zeros(len(block), np.int64) if block.window is None else block.window)
    known = np.flatnonzero(positions >= 0)
    if len(known):
        positions[known[[text != texts[i] for i, text in zip(known.tolist(), _texts(other.batch(positions[known])), strict=True)]]] = -1
    missing = np.flatnonzero(positions < 0)
    wanted = {texts[i]: i for i in missing.tolist()}
    if wanted and search:
        begin = 0
        for batch in other.record_batches():
            column = batch.column("input_ids")
            ids, offsets = column.flatten().to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)
            ends = (offsets - offsets[0]).tolist()
            for row, (start, stop) in enumerate(pairwise(ends)):
                i = wanted.get(ids[start:stop].tobytes())
                if i is not None and positions[i] < 0:
                    positions[i] = begin + row
            begin += batch.num_rows
        positions[missing] = [positions[wanted[texts[i]]] for i in missing.tolist()]  # several may have the same tokens
    return positions


def _searchable(other: SmoothedDataset) -> bool:
    return other.is_local and sum(shard.bytes for shard in other.shards) <= SEARCH_BYTES


def shared_rows(pairs: list[tuple[SmoothedDataset, SmoothedDataset]], rows: int) -> SharedRows:
    """Compare the splits that both have. pairs: of A and B. rows: number of rows of A to look up in B."""
    kl, tv, tops, original_shift = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    sampled = shared = in_one = 0
    worst: tuple[float, str | None] = (0.0, None)
    for (one, other), at in zip(pairs, _sample([one for one, _ in pairs], rows), strict=True):
        if not len(at):
            continue
        sampled += len(at)
        positions = _in_other(one.batch(at), other, search=_searchable(other))
        if not (positions >= 0).any():
            continue
        shared += int((positions >= 0).sum())
        rows_a, rows_b = one.batch(at[positions >= 0]), other.batch(positions[positions >= 0])
        distance = divergence(rows_a.soft, rows_b.soft, int(one.manifest.teacher["vocab_size"]))
        in_one += int(((np.diff(rows_a.soft.offsets) > 0) != (np.diff(rows_b.soft.offsets) > 0)).sum())
        original = [np.exp(soft.original_logprob[distance.tokens].astype(np.float64)) for soft in (rows_a.soft, rows_b.soft)]
        for values, more in (
            (kl, distance.kl),
            (tv, distance.tv),
            (tops, distance.same_top),
            (original_shift, np.abs(original[0] - original[1])),
        ):
            values.append(more.astype(np.float64))
        if len(distance.tv) and distance.tv.max() > worst[0]:
            token = int(distance.tokens[distance.tv.argmax()])
            row = int(np.searchsorted(rows_a.row_offsets, token, side="right")) - 1
            worst = float(distance.tv.max()), f"{one.name} row {rows_a.row[row]}, token {token - rows_a.row_offsets[row]}"
    means = [float(np.concatenate(values).mean()) if sum(map(len, values)) else 0.0 for values in (kl, tv, tops, original_shift)]
    return SharedRows(
        sampled=sampled,
        found=shared,
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
