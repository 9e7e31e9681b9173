"""Which rows come when: a pure function of (dataset digest, seed, epoch, ORDER_VERSION, batching), never of ranks or loader workers.

    shards 0 1 2 3        as in the manifest
           2 0 3 1        permuted as a whole: the sequence of rows
    |--window--|--window--|…    the sequence is cut every WINDOW_ROWS rows, each window is shuffled in itself

so that position p of an epoch is found by shuffling one window, and a window touches few shards. Global batches are stretches of that
order; or, with a budget of tokens, batches of rows of like length, made inside a window:

    |--bucket--|--bucket--|…    a shuffled window is cut every BUCKET_ROWS rows, or in four; each bucket is sorted by length
    |b b b b b b|b b b b b|…    and cut where a batch would pass the budget; then the window's batches are shuffled

Legend: R rows of the split that are used, B rows of a global batch.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import UsageError
from textsmooth.stages.soft_ids.counter_rng import shuffled

ORDER_VERSION = 1  # raised when the same inputs would give another order
WINDOW_ROWS = 65_536
BUCKET_ROWS = 2_048
LEAST_BUCKETS = 4  # of a window: in one alone, rows of like length would meet again in every epoch


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """The order in which an epoch visits the rows of a split, as global row indices. Every row comes exactly once."""

    shard_rows: tuple[int, ...]  # rows of each shard, in the manifest's order
    dataset: str  # digest
    seed: int
    epoch: int
    window_rows: int = WINDOW_ROWS
    shuffle: bool = True  # False: as they lie in the split

    def __len__(self) -> int:
        return sum(self.shard_rows)

    @property
    def windows(self) -> int:
        return -(-len(self) // self.window_rows)

    @cached_property
    def key(self) -> str:
        """What everything random in the epoch's order hangs on."""
        return digest({"dataset": self.dataset, "seed": self.seed, "epoch": self.epoch, "version": ORDER_VERSION})

    @cached_property
    def _shards(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the permuted shards: positions [shards + 1] where each begins in the sequence; global index of its first row."""
        sizes = np.array(self.shard_rows, np.int64)
        permuted = shuffled(len(sizes), f"{self.key}/shards") if self.shuffle else np.arange(len(sizes))
        first = np.cumsum(sizes) - sizes
        return np.concatenate([[0], np.cumsum(sizes[permuted])]), first[permuted]

    def window(self, number: int) -> NDArray[np.int64]:
        """The rows of window `number` in order: [at most window_rows] int64 global row indices."""
        start = number * self.window_rows
        count = min(self.window_rows, len(self) - start)
        position = start + (shuffled(count, f"{self.key}/window/{number}") if self.shuffle else np.arange(count))
        begins, first = self._shards
        shard = np.searchsorted(begins, position, side="right") - 1
        return first[shard] + position - begins[shard]

    def window_shards(self, number: int) -> NDArray[np.int64]:
        """The shards that a window has rows of, each by the global index of its first row; none for a window past the end."""
        start, stop = number * self.window_rows, min((number + 1) * self.window_rows, len(self))
        begins, first = self._shards
        return first[np.searchsorted(begins, start, side="right") - 1 : np.searchsorted(begins, stop, side="left")]


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """The rows of one step, before they are shared out."""

    step: int  # number in the epoch, from 0
    begin: int  # rows of the epoch that come before it
    rows: NDArray[np.int64]  # [B] global row indices

    @property
    def end(self) -> int:
        """Rows of the epoch that are consumed once it is."""
        return self.begin + len(self.rows)


@dataclass(frozen=True, kw_only=True)
class GlobalBatches:
    """The global batches of an epoch: rows batch_size at a time, or, with batch_tokens, as many of like length as fit.

    batch_tokens: what rows times the longest of them may come to; a longer row is alone. usable: [R] global indices of the rows that the
    order numbers, rising; None: all. lengths_of: tokens of rows by global indices, [R] -> [R]; asked for the rows of one window at a time.
    """

    order: SampleOrder
    batch_size: int
    batch_tokens: int | None
    usable: NDArray[np.int64] | None
    lengths_of: Callable[[NDArray[np.int64]], NDArray[np.int64]]

    def after(self, step: int, samples: int, entering: Callable[[int], object] = lambda window: None) -> Iterator[GlobalBatch]:
        """The batches that follow once `step` of them with `samples` rows were consumed; the first of them is found in one window.

        entering is told the number of each window before its rows are looked at. UsageError if no batch begins there.
        """
        if self.batch_tokens is None:
            return self._by_size(step, samples, entering)
        return self._by_tokens(step, samples, entering)

    def sizes(self) -> NDArray[np.int64]:
        """Rows of each global batch of the epoch. With batch_tokens the lengths of all rows are read."""
        if self.batch_tokens is not None:
            windows = [[len(rows) for rows in self._cut(number)] for number in range(self.order.windows)]
            return np.array([size for sizes in windows for size in sizes], np.int64)
        full, rest = divmod(len(self.order), self.batch_size)
        return np.append(np.full(full, self.batch_size), [rest] * (rest > 0)).astype(np.int64)

    def _rows(self, window: int) -> NDArray[np.int64]:
        rows = self.order.window(window)
        return rows if self.usable is None else self.usable[rows]

    def _by_size(self, step: int, samples: int, entering: Callable[[int], object]) -> Iterator[GlobalBatch]:
        if samples != min(step * self.batch_size, len(self.order)):
            raise _no_batch(step, samples)
        first, skip = divmod(samples, self.order.window_rows)
        left = np.zeros(0, np.int64)
        for window in range(first, self.order.windows):
            entering(window)
            rows = np.concatenate([left, self._rows(window)[skip:]])
            skip, last = 0, window == self.order.windows - 1
            stop = len(rows) if last else len(rows) // self.batch_size * self.batch_size
            for start in range(0, stop, self.batch_size):
                batch = GlobalBatch(step=step, begin=samples, rows=rows[start : start + self.batch_size])
                yield batch
                step, samples = step + 1, batch.end
            left = rows[stop:]

    def _by_tokens(self, step: int, samples: int, entering: Callable[[int], object]) -> Iterator[GlobalBatch]:
        first = samples // self.order.window_rows
        begin = first * self.order.window_rows
        for window in range(first, self.order.windows):
            entering(window)
            for rows in self._cut(window):
                if begin < samples < begin + len(rows):
                    raise _no_batch(step, samples)
                if begin >= samples:
                    yield GlobalBatch(step=step, begin=begin, rows=rows)
                    step += 1
                begin += len(rows)

    def _cut(self, window: int) -> list[NDArray[np.int64]]:
        """The batches of a window in order."""
        assert self.batch_tokens is not None
        rows = self._rows(window)
        lengths = self.lengths_of(rows)
        batches = []
        bucket = min(BUCKET_ROWS, -(-len(rows) // LEAST_BUCKETS))
        for first in range(0, len(rows), bucket):
            some = slice(first, first + bucket)
            by_length = np.argsort(lengths[some], kind="stable")
            ends = fit(lengths[some][by_length], self.batch_tokens)
            batches += np.split(rows[some][by_length], ends[:-1])
        if not self.order.shuffle:
            return batches
        return [batches[number] for number in shuffled(len(batches), f"{self.order.key}/batches/{window}").tolist()]


def fit(lengths: NDArray[np.int64], budget: int) -> list[int]:
    """Where to cut rows of rising length so that rows times the longest stays within the budget: the end of each batch, greedily."""
    rising: list[int] = lengths.tolist()
    ends = [0]
    while (start := ends[-1]) < len(rising):

        def padded(last: int, start: int = start) -> int:
            return (last - start + 1) * rising[last]

        ends.append(max(bisect_right(range(len(rising)), budget, lo=start, key=padded), start + 1))
    return ends[1:]


def _no_batch(step: int, samples: int) -> UsageError:
    return UsageError(
        f"no global batch begins after {samples:,} rows in {step:,} steps: this state is not of this order; start the epoch again"
    )
