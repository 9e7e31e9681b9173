"""Codec `compact`: what `plain` stores in 128 bytes a token at k = 32, in about 52; `compact:E` in about 40. docs/format.md specifies it.

    soft_table    once in a shard: for each input token, the ids that are often among its entries, the most frequent first
    soft_streams  once in a record batch: numbers, each kind compressed by itself (pcodec)

An id is stored as its place in the table of its input token, a log-probability as the difference from the entry before. Both are
compressed by groups of ranks: the third entry of a token resembles the third entries of others. `compact` gives back the bits that `plain`
stores. `compact:E` rounds log-probabilities to cells so fine that the total variation from what was stored has a mean of at most E over the
tokens of a shard; this follows from the cells that are used, so a reader can check it. benchmarks/codec.py measures alternatives.
Legend: R rows, N tokens, M tokens with entries, E entries, K most entries of a token, S extra temperatures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.shard import ROWS_PER_RECORD_BATCH, ShardMeta
from textsmooth.schemas.soft_ids import SoftIds, id_dtype
from textsmooth.stages.soft_ids.codec import Codec, TokenBlock, values
from textsmooth.stages.soft_ids.plain_codec import CODEC as PLAIN
from textsmooth.stages.soft_ids.plain_codec import to_float16

Array = NDArray[Any]
SIGN, INFINITY = 0x8000, 0x7C00  # bits of a float16
MOST_ALTERNATIVES = 255  # of one input token
MOST_ENTRIES = 1 << 26  # of a record batch: 256 MB decoded
MOST_IN_TABLE = 1 << 24
LEVEL = 8  # of pcodec
WIDEST = 0.25  # nats: the widest cell above probabilities of e^-32, so that small ones keep their order of magnitude
FINER = 2**0.25  # factor between the steps that are tried


class CompactCodec(Codec):
    """bound: on the mean total variation; None: nothing is lost."""

    def __init__(self, bound: float | None = None) -> None:
        self.most_variation = bound or 0.0

    def with_bound(self, variation: float) -> "CompactCodec":
        return CompactCodec(variation)

    def fields(self, meta: ShardMeta) -> list[pa.Field]:
        table = pa.dictionary(pa.int8(), pa.binary())
        return [pa.field("soft_table", table), pa.field("soft_streams", pa.list_(pa.binary()))]

    def encode(self, block: TokenBlock) -> dict[str, pa.Array]:
        soft, sizes = block.soft, np.diff(block.soft.offsets)
        bits, tail, original = (to_float16(v).view(np.uint16) for v in (soft.logprobs, soft.log_tail, soft.original_logprob))
        codes, keys, table_sizes, alternatives = _places(np.repeat(block.input_ids, sizes), soft.ids)
        step, rounded = 0, original
        if self.most_variation:
            step = self._step(bits, tail[sizes > 0])
            cells = _cells(self.most_variation, step)
            bits, tail = cells.code_of[bits & 0x7FFF], cells.code_of[tail & 0x7FFF]
            rounded = np.where(sizes > 0, cells.bits_of[cells.code_of[original & 0x7FFF]], original)
        streams: list[list[bytes]] = []
        for first in range(0, len(block), ROWS_PER_RECORD_BATCH):
            tokens = slice(*block.row_offsets[[first, min(first + ROWS_PER_RECORD_BATCH, len(block))]])
            entries = slice(*soft.offsets[[tokens.start, tokens.stop]])
            if entries.stop - entries.start > MOST_ENTRIES:
                count = entries.stop - entries.start
                raise UsageError(f"{count:,} entries in {ROWS_PER_RECORD_BATCH} rows, codec compact holds {MOST_ENTRIES:,}; lower --topk")
            grid = _Grid(sizes[tokens])
            codes_mk, bits_mk, ids_mk = (grid.spread(v[entries]) for v in (codes, bits, soft.ids))
            decoded = cells.bits_of[bits_mk] if self.most_variation else bits_mk
            expected = grid.own(ids_mk, decoded, block.input_ids[tokens])
            streams.append(
                [
                    _pack(sizes[tokens].astype(np.uint32)),
                    _pack(tail[tokens]),
                    _pack(rounded[tokens] ^ expected),
                    _pack(ids_mk[grid.inside(codes_mk == 0)]),
                    *(_pack(soft.log_partition[tokens, s]) for s in range(soft.log_partition.shape[1])),
                    *(_pack(part) for part in grid.groups(codes_mk)),
                    *(_pack(part) for part in grid.groups(np.diff(bits_mk, axis=1, prepend=np.uint16(0)))),
                ]
            )
            streams += [[]] * (min(ROWS_PER_RECORD_BATCH, len(block) - first) - 1)
        table = [bytes([step]), _pack(keys, delta=1), _pack(table_sizes), _pack(np.diff(alternatives, prepend=alternatives.dtype.type(0)))]
        indices = pa.array(np.zeros(len(block), np.int8))
        return {
            "soft_table": pa.DictionaryArray.from_arrays(indices, pa.array(table, pa.binary())),
            "soft_streams": pa.array(streams, pa.list_(pa.binary())),
        }

    def _step(self, bits: Array, tail: Array) -> int:
        """The first step, from the coarsest, whose bound is kept. bits: of the entries; tail: of the tokens with entries."""
        counts = np.bincount(bits & 0x7FFF, minlength=SIGN) + np.bincount(tail & 0x7FFF, minlength=SIGN)
        step = 0
        while counts @ _cells(self.most_variation, step).error_of > 2 * self.most_variation * len(tail):
            step += 1
        return step

    def decode(self, batch: pa.RecordBatch, row_offsets: NDArray[np.signedinteger]) -> SoftIds:
        meta, column = ShardMeta.of(batch.schema, "the record batch"), batch.column("soft_streams")
        dtype, table = id_dtype(meta.vocab_size), self._table(batch, meta)
        lengths = values(column.offsets)
        firsts = np.flatnonzero(np.diff(lengths))
        if len(batch) and (not len(firsts) or firsts[0]):
            raise pa.ArrowInvalid("its first row has no soft_streams")
        parts = []
        for first, stop in pairwise([*firsts.tolist(), len(batch)]):
            tokens = values(batch.column("input_ids").slice(first, stop - first).flatten())
            parts.append(self._decode_part([value.as_buffer() for value in column[first].values], tokens, meta, dtype, table))
        offsets = np.zeros(int(row_offsets[-1]) + 1, row_offsets.dtype)
        np.cumsum(np.concatenate([np.zeros(0, np.int64), *(p[0] for p in parts)]), out=offsets[1:])
        empty: tuple[Any, ...] = (dtype, np.uint16, np.uint16, np.uint16)
        ids, bits, tail, original = (
            parts[0][i + 1] if len(parts) == 1 else np.concatenate([np.zeros(0, kind), *(p[i + 1] for p in parts)])
            for i, kind in enumerate(empty)
        )
        partition = np.concatenate([np.zeros((0, len(meta.temperatures)), np.float32), *(p[5] for p in parts)])
        logprobs, tail, original = (v.view(np.float16) for v in (bits, tail, original))
        return SoftIds(offsets=offsets, ids=ids, logprobs=logprobs, log_tail=tail, original_logprob=original, log_partition=partition)

    def _table(self, batch: pa.RecordBatch, meta: ShardMeta) -> "_Table":
        parts = batch.column("soft_table").dictionary
        if len(parts) != 4 or parts.null_count:
            raise pa.ArrowInvalid("its soft_table has not the four parts of codec compact")
        return _table(tuple(parts.to_pylist()), id_dtype(meta.vocab_size).name, meta.vocab_size)

    def _decode_part(self, streams: list[pa.Buffer], tokens: Array, meta: ShardMeta, dtype: Any, table: "_Table") -> tuple[Array, ...]:
        reader = _Streams(streams)
        sizes = reader.next(len(tokens), np.uint32)
        whole = int(sizes.sum(dtype=np.uint64))
        if whole > MOST_ENTRIES or (whole and int(sizes.max()) > min(meta.topk, meta.vocab_size)):
            raise pa.ArrowInvalid(f"its soft_streams announce {whole:,} entries, or more than {meta.topk} for a token")
        tail, original = reader.next(len(tokens), np.uint16), reader.next(len(tokens), np.uint16)
        escapes = reader.last(dtype, whole)
        partition = np.zeros((len(tokens), len(meta.temperatures)), np.float32)
        for s in range(len(meta.temperatures)):
            partition[:, s] = reader.next(len(tokens), np.float32)
        grid = _Grid(sizes)
        codes, bits = grid.join(reader), grid.join(reader)
        reader.end()
        np.add.accumulate(bits, axis=1, out=bits)
        if self.most_variation:
            cells = _cells(self.most_variation, table.step)
            if (len(bits) and int(bits.max(initial=0)) >= len(cells.bits_of)) or int(tail.max(initial=0)) >= len(cells.bits_of):
                raise pa.ArrowInvalid("its soft_streams have a code that the step of its shard has not")
            bits, tail = cells.bits_of.take(bits), cells.bits_of.take(tail)
        ids = table.ids_of(codes, grid.of(tokens))
        escaped = grid.inside(codes == 0)
        if np.count_nonzero(escaped) != len(escapes):
            raise pa.ArrowInvalid(f"its soft_streams have {len(escapes):,} escapes for {np.count_nonzero(escaped):,} entries")
        ids[escaped] = escapes
        original ^= grid.own(ids, bits, tokens)
        return sizes, grid.flat(ids), grid.flat(bits), tail, original, partition

    def variation(self, batch: pa.RecordBatch, soft: SoftIds) -> float:
        if not self.most_variation or not len(batch):
            return 0.0
        error = _cells(self.most_variation, self._table(batch, ShardMeta.of(batch.schema, "the record batch")).step).error_of
        has = np.diff(soft.offsets) > 0
        return float(sum(error.take(v.view(np.uint16) & 0x7FFF).sum() for v in (soft.logprobs, soft.log_tail[has])) / 2)

    def entry_bytes(self, vocab_size: int) -> float:
        return 1.2 if self.most_variation else 1.6

    def log_error(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        rounding = PLAIN.log_error(size)
        if not self.most_variation:
            return rounding
        return np.where(np.isfinite(size), 2 * rounding + 0.6 * _width(np.minimum(size, 65504.0), _coarsest(self.most_variation)), 0.0)


CODEC = CompactCodec()


def _places(tokens: Array, ids: Array) -> tuple[Array, Array, Array, Array]:
    """Make the table of a shard. tokens, ids: [E], input token and id of each entry.

    Returns the place of each entry in the table of its token, from 1, 0 for none: [E]; the tokens that have a table, ascending, [T]; how
    many alternatives each has, [T]; and these, one token after the other. A pair that occurs once has no place: it would cost more.
    """
    at = _sorted_order(ids, tokens)
    token, id_ = tokens[at], ids[at]
    firsts = np.flatnonzero(np.concatenate([np.ones(min(len(at), 1), np.bool_), (token[1:] != token[:-1]) | (id_[1:] != id_[:-1])]))
    counts = np.diff(np.append(firsts, len(at)))
    pair_tokens, pair_ids = token[firsts], id_[firsts]
    often = np.flatnonzero(counts > 1)
    often = often[np.lexsort((-counts[often], pair_tokens[often]))]  # stable: ids ascend where the counts are the same
    token = pair_tokens[often]
    place = np.arange(len(often)) - np.searchsorted(token, token)
    short = place < MOST_ALTERNATIVES
    often, token, place = often[short], token[short], place[short]
    code_of_pair = np.zeros(len(firsts), np.uint16)
    code_of_pair[often] = place + 1
    codes = np.empty(len(ids), np.uint16)
    codes[at] = np.repeat(code_of_pair, counts)
    with_table, sizes = np.unique(token, return_counts=True)
    return codes, with_table.astype(np.uint32), sizes.astype(np.uint16), pair_ids[often]


def _sorted_order(*keys: Array) -> NDArray[np.int64]:
    """The order in which integers [E] of at least 0 ascend, by the last key first; stable. numpy sorts their digits of 16 bits by radix."""
    digits = [(key >> shift).astype(np.uint16) for key in keys for shift in range(0, max(int(key.max(initial=0)).bit_length(), 1), 16)]
    order = np.argsort(digits[0], kind="stable")
    for digit in digits[1:]:
        order = order[np.argsort(digit[order], kind="stable")]
    return order


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The alternatives of a shard, decoded."""

    step: int
    begins: NDArray[np.int32]  # [V' + 1] by input token: number of alternatives before its own; the last two are the same
    ids: Array  # all alternatives, after one filler

    def ids_of(self, codes: Array, tokens: Array) -> Array:
        """The ids at places [M, K] of the tables of tokens [M]; any id where the place is 0. ArrowInvalid for a place beyond a table."""
        token = np.minimum(tokens.astype(np.int64), len(self.begins) - 2)
        begin = self.begins[token]
        if (codes > (self.begins[token + 1] - begin).astype(np.uint16)[:, None]).any():
            raise pa.ArrowInvalid("its soft_streams have a place that its soft_table has not")
        return self.ids.take(begin[:, None] + codes)


@lru_cache(maxsize=64)
def _table(parts: tuple[bytes, ...], dtype: str, vocab_size: int) -> _Table:
    step, *packed = parts
    kinds = (np.dtype(np.uint32), np.dtype(np.uint16), np.dtype(dtype))
    keys, sizes, differences = (_Streams([part]).last(kind, MOST_IN_TABLE) for part, kind in zip(packed, kinds, strict=True))
    fit = len(step) == 1 and len(keys) == len(sizes) and int(sizes.sum(dtype=np.uint64)) == len(differences)
    if not fit or (len(keys) and int(keys.max()) >= min(vocab_size, MOST_IN_TABLE)) or (keys[1:] <= keys[:-1]).any():
        raise pa.ArrowInvalid("the parts of its soft_table do not fit together")
    by_token = np.zeros(int(keys.max(initial=0)) + 2, np.int32)
    by_token[keys] = sizes
    ids = np.concatenate([np.zeros(1, dtype), np.add.accumulate(differences, dtype=dtype)])
    return _Table(step=step[0], begins=np.concatenate([np.zeros(1, np.int32), np.cumsum(by_token, dtype=np.int32)]), ids=ids)


class _Grid:
    """Entries of N tokens as [M, K]: a row for each token with entries, a column for each rank. Shorter rows are padded with 0."""

    def __init__(self, sizes: Array) -> None:
        self.has = None if len(sizes) and sizes.all() else sizes > 0  # [N] tokens with entries; None: all
        self.sizes = self.of(sizes)
        self.shape = len(self.sizes), int(self.sizes.max(initial=0))
        uniform = bool((self.sizes == self.shape[1]).all())
        self.mask = None if uniform else np.arange(self.shape[1]) < self.sizes[:, None]  # [M, K]

    def of(self, values_of_tokens: Array) -> Array:
        """[N] -> [M], those of the tokens with entries."""
        return values_of_tokens if self.has is None else values_of_tokens[self.has]

    def spread(self, entries: Array) -> Array:
        """[E] -> [M, K]."""
        if self.mask is None:
            return entries.reshape(self.shape)
        grid = np.zeros(self.shape, entries.dtype)
        grid[self.mask] = entries
        return grid

    def flat(self, grid: Array) -> Array:
        """[M, K] -> [E]."""
        return grid.reshape(-1) if self.mask is None else grid[self.mask]

    def inside(self, which: Array) -> Array:
        return which if self.mask is None else which & self.mask

    def _ranks(self) -> Iterator[slice]:
        """Ranks that are compressed together: 0, 1, 2, 3, 4-5, 6-7, 8-11, 12-15, 16-23, …"""
        low, width = 0, self.shape[1]
        while low < width:
            size = max(1, 1 << max(low.bit_length() - 2, 0))
            yield slice(low, min(low + size, width))
            low += size

    def groups(self, grid: Array) -> Iterator[Array]:
        """The entries of each group of ranks, token by token."""
        for ranks in self._ranks():
            yield grid[:, ranks].reshape(-1) if self.mask is None else grid[:, ranks][self.mask[:, ranks]]

    def join(self, streams: "_Streams") -> Array:
        """The inverse of `groups`, of uint16."""
        grid = np.zeros(self.shape, np.uint16)
        for ranks in self._ranks():
            if self.mask is None:
                grid[:, ranks] = streams.next(grid[:, ranks].size, np.uint16).reshape(len(grid), -1)
            else:
                inside = self.mask[:, ranks]
                grid[:, ranks][inside] = streams.next(int(np.count_nonzero(inside)), np.uint16)
        return grid

    def own(self, ids: Array, bits: Array, tokens: Array) -> Array:
        """[N] bits of the entry that is the input token itself; 0 where it is not among the entries. ids, bits: [M, K]; tokens: [N]."""
        at = np.flatnonzero(self.inside(ids == self.of(tokens)[:, None]))
        bits_of_token = np.zeros(self.shape[0], np.uint16)
        bits_of_token[at // max(self.shape[1], 1)] = bits.reshape(-1)[at]
        if self.has is None:
            return bits_of_token
        spread = np.zeros(len(tokens), np.uint16)
        spread[self.has] = bits_of_token
        return spread


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Ranges of float16 log-probabilities that are stored as one code each."""

    code_of: NDArray[np.uint16]  # [32768] by the bits without the sign
    bits_of: NDArray[np.uint16]  # by code: the number that is read
    error_of: NDArray[np.float64]  # [32768] how far the probability that is read may be from the one that was stored, at most


def _coarsest(bound: float) -> float:
    """Cells in sqrt(p) per unit. A cell of p is then sqrt(p) / steps wide to either side, and sqrt(p) sums to 1 or more over a token."""
    return 0.5 / bound


def _width(size: NDArray[np.float64], steps: float) -> NDArray[np.float64]:
    """Width of the cells at -log p = size, in nats: equal steps of sqrt(p), then of log p, in the end of log(-log p)."""
    return np.minimum(2 / steps * np.exp(np.minimum(size, 64.0) / 2), WIDEST * np.maximum(size / 32, 1))


@lru_cache(maxsize=64)
def _cells(bound: float, step: int) -> _Cells:
    size = np.arange(INFINITY, dtype=np.uint16).view(np.float16).astype(np.float64)
    steps = _coarsest(bound) * FINER**step
    turn = min(max(2 * np.log(WIDEST * steps / 2), 0.0), 32.0)
    position = steps * (1 - np.exp(-np.minimum(size, turn) / 2)) + np.clip(size - turn, 0, 32 - turn) / WIDEST
    position += 32 / WIDEST * np.log(np.maximum(size / 32, 1))
    _, first, code = np.unique(np.floor(position + 0.5), return_index=True, return_inverse=True)
    low, high = size[first], size[np.append(first[1:], len(size)) - 1]
    middle = ((low + high) / 2).astype(np.float16)
    read = np.exp(-middle.astype(np.float64))
    error = np.maximum(np.exp(-low) - read, read - np.exp(-high))
    infinite = len(first)
    code_of = np.full(SIGN, infinite, np.uint16)
    code_of[:INFINITY] = code
    return _Cells(
        code_of=code_of,
        bits_of=np.append(middle.view(np.uint16) | SIGN, SIGN | INFINITY).astype(np.uint16),
        error_of=np.append(error, 0.0)[code_of],
    )


def _pack(numbers: Array, delta: int = 0) -> bytes:
    from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

    how = DeltaSpec.try_consecutive(delta) if delta else DeltaSpec.no_op()
    config = ChunkConfig(compression_level=LEVEL, delta_spec=how, mode_spec=ModeSpec.classic())
    packed: bytes = standalone.simple_compress(np.ascontiguousarray(numbers), config)
    return packed


class _Streams:
    """Compressed streams of a record batch, in order. ArrowInvalid if one is damaged, or has not as many numbers as it should."""

    def __init__(self, streams: Sequence[Any]) -> None:
        self._left = iter(streams)

    def into(self, numbers: Array) -> None:
        """Fill an array with all numbers of the next stream."""
        count, finished = self._decompress(next(self._left, b""), numbers)
        if count != len(numbers) or not finished:
            raise pa.ArrowInvalid(f"a stream of its soft_streams has not the {len(numbers):,} numbers that are due")

    def next(self, count: int, dtype: Any) -> Array:
        numbers = np.empty(count, dtype)
        self.into(numbers)
        return numbers

    def last(self, dtype: Any, most: int) -> Array:
        """All numbers of the next stream, however many up to `most`."""
        size = 1 << 12
        stream = next(self._left, b"")
        while True:
            numbers = np.empty(min(size, most + 1), dtype)
            count, finished = self._decompress(stream, numbers)
            if finished and count <= most:
                return numbers[:count]
            if size > most:
                raise pa.ArrowInvalid("a stream of its soft_streams is too long")
            size *= 8

    def end(self) -> None:
        if next(self._left, None) is not None:
            raise pa.ArrowInvalid("its soft_streams have more streams than are due")

    def _decompress(self, stream: Any, numbers: Array) -> tuple[int, bool]:
        from pcodec import standalone

        try:
            progress = standalone.simple_decompress_into(bytes(stream), numbers)
        except BaseException as error:
            if isinstance(error, RuntimeError | TypeError | ValueError) or type(error).__name__ == "PanicException":
                raise pa.ArrowInvalid(f"a stream of its soft_streams cannot be decompressed ({error})") from None
            raise
        return progress.n_processed, progress.finished
