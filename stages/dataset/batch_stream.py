"""The batches of an epoch as a stream: the same global batches for any number of ranks, parts and loader workers; resumable at each.

    global batch g       rows 0 1 2 3 4 5 6 7 …      order.py: a function of dataset, seed, epoch, batching and rows alone
    rank r, part a       rows [(r * parts + a) :: (world_size * parts)] of it
    loader worker w      the (w + n * i)-th batch of its rank; PyTorch pulls from its n workers in turn, so the order stays

Legend: R rows of the split, B rows of a batch.
"""

import hashlib
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.dataset.collate import Batch
from textsmooth.stages.dataset.order import ORDER_VERSION, GlobalBatch, GlobalBatches
from textsmooth.stages.dataset.row_source import RowSource
from textsmooth.stages.soft_ids.codec import TokenBlock

Collate = Callable[[TokenBlock], Batch]

_MANY = 2**31  # epochs and steps stay below
_POSITION = {"epoch": _MANY, "step": _MANY, "samples": _MANY}


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The settings that, beside dataset, seed and epoch, decide the global batches. UsageError for invalid values."""

    size: int | None  # rows
    tokens: int | None  # number of rows times the longest one; replaces `size`
    shuffle: bool
    rows: str | None  # digest of the mask of rows; None: all

    @classmethod
    def of(cls, *, batch_size: int | None, batch_tokens: int | None, shuffle: bool, rows: NDArray[np.bool_] | None) -> Self:
        for name, value in (("batch_size", batch_size), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if batch_size is None and batch_tokens is None:
            raise UsageError("neither batch_size nor batch_tokens is given: one of them is needed")
        digest = None if rows is None else hashlib.sha256(np.packbits(rows).tobytes() + str(len(rows)).encode()).hexdigest()
        return cls(size=batch_size if batch_tokens is None else None, tokens=batch_tokens, shuffle=shuffle, rows=digest)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which rows of a global batch a rank gets. UsageError for an invalid rank or number of parts."""

    rank: int
    world_size: int
    parts: int  # batches that a rank splits its rows into, for gradient accumulation
    pad: bool  # fill up, so that all parts of all ranks have equally many rows

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.world_size and self.parts >= 1):
            raise UsageError(f"rank {self.rank} of {self.world_size} in {self.parts} parts: rank is 0 .. world_size - 1, parts at least 1")

    def count(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of batches that the rank makes of global batches. rows: their numbers of rows."""
        return np.full(len(rows), self.parts) if self.pad else np.clip(rows - self.rank * self.parts, 0, self.parts)

    def of(self, rows: NDArray[np.int64], part: int) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """The rows of a part, and their weights if some of them only fill it up (weight 0)."""
        shares = self.world_size * self.parts
        positions = np.arange(self.rank * self.parts + part, -(-len(rows) // shares) * shares if self.pad else len(rows), shares)
        filler = positions >= len(rows)
        return rows[positions % len(rows)], np.where(filler, 0.0, 1.0).astype(np.float32) if filler.any() else None


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """Progress of a stream: global batches that are finished, and which batches of the next one this process has already made."""

    epoch: int
    step: int = 0
    samples: int = 0
    item: int = 0  # number of the rank's first batch of the next global batch; batches are numbered from where the stream began
    done: int = 0  # this process has already made its batches below this number


class BatchStream(IterableDataset[Batch]):
    """The collated batches of one epoch for one rank; iterate over it, or use DataLoader(stream, batch_size=None, num_workers=…).

    collate: makes a Batch of a block; if it has set_epoch(epoch), that is called first. batching, rows ([R] bool, the rows to use): decide
    the global batches. share: with pad False each row comes exactly once, and a rank without rows of a global batch yields nothing; with
    pad True, for DDP, every share of a global batch has equally many rows, at least one, filled up with rows of that batch at weight 0.
    A batch's step and samples are those of its global batch. UsageError if there is no row to read.
    """

    def __init__(
        self,
        dataset: RowSource,
        collate: Collate,
        *,
        batching: Batching,
        share: Share,
        seed: int = 0,
        epoch: int = 0,
        rows: NDArray[np.bool_] | None = None,
    ) -> None:
        if rows is not None and (rows.shape != (len(dataset),) or rows.dtype != np.bool_):
            raise UsageError(
                f"rows {rows.dtype} {rows.shape}: one bool is needed for each of the {len(dataset):,} rows of {dataset.name!r}"
            )
        self.dataset, self.collate, self.batching, self.share, self.seed = dataset, collate, batching, share, seed
        self._used = rows
        self._usable = None if rows is None else np.flatnonzero(rows)
        self.samples = len(dataset) if self._usable is None else len(self._usable)
        if not self.samples:
            raise UsageError(f"no row of split {dataset.name!r} in {dataset.folder} is left to read; choose other rows, or another split")
        # in shared memory, so that persistent loader workers see the next epoch
        self._start = torch.tensor(astuple(StreamState(epoch=epoch))).share_memory_()
        self._given: StreamState | None = None  # loaded in a loader worker, for its next iterator
        self._now: StreamState | None = None  # of the newest iterator
        self._reading: int | None = None  # epoch of the newest iterator
        self._sizes: tuple[int, NDArray[np.int64]] | None = None

    @property
    def epoch(self) -> int:
        """The epoch to read next."""
        return int(self._start[0])

    def set_epoch(self, epoch: int) -> None:
        """Read this epoch next: from its beginning, or from the loaded state if that is within this epoch."""
        self._reading = None
        if epoch != self.epoch:
            self._begin(StreamState(epoch=epoch))

    @property
    def steps(self) -> int:
        """The number of global batches in the epoch. With batch_tokens this reads the lengths of all rows."""
        return len(self._all_sizes())

    def __len__(self) -> int:
        """The number of batches that this rank yields in the epoch. With batch_tokens this reads the lengths of all rows."""
        return int(self.share.count(self._all_sizes()).sum())

    def __iter__(self) -> Iterator[Batch]:
        start, self._given = self._given or self._first(), None
        self._now, self._reading = start, start.epoch
        return self._batches(start)

    def state_dict(self) -> dict[str, Any]:
        """The state after the newest iterator's last batch, as JSON.

        After the last batch it is the end of the epoch: an iterator that starts there yields nothing. Once the iterator has ended, it is
        the start of the next epoch. Between the parts of a step it also holds the share and the number of parts made. In a loader worker
        it is that worker's own, for torchdata's StatefulDataLoader; with a plain DataLoader use state_after(batch).
        """
        now, worker = self._now or self._first(), get_worker_info()
        state = self._state(now)
        if worker is not None:
            own = {"id": worker.id, "of": worker.num_workers, "item": now.item, "done": now.done}
            return {**state, "share": asdict(self.share), "worker": own}
        return {**state, "share": asdict(self.share), "parts_made": now.done - now.item} if now.done > now.item else state

    def state_after(self, batch: Batch) -> dict[str, Any]:
        """The state after the whole global batch of this batch, in the current epoch, in whichever process it was made."""
        epoch = self.epoch if self._reading is None else self._reading
        if batch.samples >= self.samples:
            return self._state(StreamState(epoch=epoch + 1))
        return self._state(StreamState(epoch=epoch, step=batch.step + 1, samples=batch.samples))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state. Between global batches, world size, parts and the number of loader workers may differ.

        UsageError for a state of another dataset, seed, batching or order; for a damaged one; and, between the parts of a global batch or
        from a loader worker, for another share or number of workers.
        """
        expected, worker = self._state(StreamState(epoch=0)), get_worker_info()
        if not isinstance(state, dict) or not expected.keys() <= state.keys():
            raise UsageError("this is not the state of a stream of batches: give what its state_dict or state_after returned")
        own, parts = state.get("worker"), self.share.parts
        if own is not None or "parts_made" in state:
            expected["share"] = asdict(self.share)
        for name in [name for name in expected if name not in _POSITION]:
            if state.get(name) != expected[name]:
                saved, current = reprlib.repr(state.get(name)), reprlib.repr(expected[name])
                raise UsageError(f"this state is of {name} {saved}, and the stream has {current}: resume with the same, or start afresh")
        position = StreamState(**{name: _whole(state, name, most) for name, most in {**_POSITION, "samples": self.samples}.items()})
        if not self._begins_batch(position):
            raise UsageError(
                f"no global batch begins after {position.samples:,} rows in {position.step:,} steps: this state is damaged; start afresh"
            )
        if own is not None:
            number, workers = _whole(own, "id", _MANY), _whole(own, "of", _MANY)
            if worker is None or (worker.id, worker.num_workers) != (number, workers):
                raise UsageError(
                    f"this state is that of loader worker {number} of {workers} alone: load it through StatefulDataLoader with "
                    "as many workers, or save what state_after(batch) returns"
                )
            item = _whole(own, "item", position.step * parts, least=1 - parts)
            position = replace(position, item=item, done=_whole(own, "done", item + parts, least=item))
        elif "parts_made" in state:
            # the parts that are left are numbered from 0: the first one comes from the first loader worker
            position = replace(position, item=-_whole(state, "parts_made", parts - 1))
        if worker is None:
            self._begin(position)
        else:
            self._given = position

    def _begins_batch(self, position: StreamState) -> bool:
        """Whether a global batch can begin at a position; with batch_tokens only iterating finds out."""
        size = self.batching.size
        if size is None:
            return (position.step == 0) == (position.samples == 0) and position.step <= position.samples
        return position.step == -(-position.samples // size) and position.samples == min(position.step * size, self.samples)

    def _state(self, state: StreamState) -> dict[str, Any]:
        return {
            "version": ORDER_VERSION,
            "dataset": self.dataset.manifest.dataset,
            "seed": self.seed,
            "epoch": state.epoch,
            "step": state.step,
            "samples": state.samples,
            "batching": asdict(self.batching),
        }

    def _first(self) -> StreamState:
        return StreamState(**dict(zip(("epoch", "step", "samples", "item", "done"), self._start.tolist(), strict=True)))

    def _begin(self, state: StreamState) -> None:
        self._start.copy_(torch.tensor(astuple(state)))
        self._now = self._reading = None

    def global_batches(self, epoch: int) -> GlobalBatches:
        """The global batches of an epoch, before ranks and parts split them."""
        return GlobalBatches(
            order=self.dataset.order(seed=self.seed, epoch=epoch, rows=self._used, shuffle=self.batching.shuffle),
            batch_size=self.batching.size or 1,
            batch_tokens=self.batching.tokens,
            usable=self._usable,
            lengths_of=self.dataset.lengths_of,
        )

    def _all_sizes(self) -> NDArray[np.int64]:
        if self._sizes is None or self._sizes[0] != self.epoch:
            if self.batching.tokens is not None:
                used = np.arange(len(self.dataset.shards)) if self._usable is None else np.unique(self.dataset.shards_of(self._usable))
                self.dataset.keep_lengths(used.tolist())
            self._sizes = self.epoch, self.global_batches(self.epoch).sizes()
        return self._sizes[1]

    def _batches(self, start: StreamState) -> Iterator[Batch]:
        """This process's batches from a state on."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if hasattr(self.collate, "set_epoch"):
            self.collate.set_epoch(start.epoch)
        batches = self.global_batches(start.epoch)
        step, samples, item = start.step, start.samples, start.item
        with self.dataset.touching() as prefetch:

            def entering(window: int) -> None:
                for number in (window, window + 1):
                    first = batches.order.window_shards(number)
                    shards = self.dataset.shards_of(first if self._usable is None else self._usable[first])
                    prefetch.begin(
                        self.dataset.cold(np.roll(shards, -(worker * len(shards) // workers)))
                    )  # workers start at different ones

            for batch in batches.after(step, samples, entering):
                count = int(self.share.count(np.array([len(batch.rows)]))[0])
                for part in range(count):
                    number = item + part
                    if number >= start.done and number % workers == worker:
                        collated = self._make(batch, part)
                        if part < count - 1:
                            self._now = StreamState(epoch=start.epoch, step=batch.step, samples=batch.begin, item=item, done=number + 1)
                        else:
                            self._now = StreamState(
                                epoch=start.epoch, step=batch.step + 1, samples=batch.end, item=number + 1, done=number + 1
                            )
                        yield collated
                step, samples, item = batch.step + 1, batch.end, item + count
        if info is None:
            self._begin(StreamState(epoch=start.epoch + 1))
            self._reading = start.epoch
        else:
            self._now = StreamState(epoch=start.epoch, step=step, samples=samples, item=item, done=item)

    def _make(self, batch: GlobalBatch, part: int) -> Batch:
        rows, weight = self.share.of(batch.rows, part)
        collated = self.collate(self.dataset.batch(rows))
        return replace(collated, weight=None if weight is None else torch.from_numpy(weight), step=batch.step, samples=batch.end)


def _whole(state: object, name: str, most: int, least: int = 0) -> int:
    """A whole number from a state, which may come from anywhere. UsageError if it is none from least to most."""
    value = state.get(name) if isinstance(state, dict) else state
    if type(value) is not int or not least <= value <= most:
        raise UsageError(
            f"this state has {name} {reprlib.repr(value)}, not a whole number from {least} to {most}: it is damaged; start afresh"
        )
    return value
