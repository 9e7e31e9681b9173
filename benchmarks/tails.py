"""What becomes of the tail, and of a temperature that was not stored: measured against the teacher's full softmax on real text.

    python benchmarks/tails.py --teacher FOLDER --corpus FILE [--text-column sentence] [--rows 64]

First table: the L2 distance between the dense mix s @ E and the mix of the stored entries, over the norm of the dense one, for each
tail policy. E: the teacher's own word embeddings. Second: the share of the tail at a temperature that is interpolated from others,
its bound and its real error (of probability, mean and largest over tokens). Special tokens are left out; entries are float16 as on disk.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.schemas.smoothing import TAILS, Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.models.device import default_threads
from textsmooth.stages.models.load import load_checked
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.temperature import interpolate
from textsmooth.stages.training.soft_embedding import soft_embedding

KS, LAMS, TEMPERATURES = (1, 8, 32), (0.5, 1.0), (0.5, 0.7, 1.5, 2.0, 3.0, 4.0, 8.0)
STORED: tuple[tuple[float, ...], ...] = ((), (2.0,), (2.0, 4.0), (0.5, 2.0))  # besides 1
MOST = max(KS)


def texts(path: Path, column: str, rows: int) -> list[str]:
    if path.suffix != ".parquet":
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()][:rows]
    import pyarrow.parquet as pq

    return next(pq.ParquetFile(path).iter_batches(rows, columns=[column])).column(column).to_pylist()  # type: ignore[no-any-return]


def block_of(ids: NDArray[np.int64], word: NDArray[np.bool_], logprobs: NDArray[np.float64]) -> TokenBlock:
    """One row as a shard has it: entries and tail of the words in float16, the log-partition at each of TEMPERATURES."""
    counts = np.where(word, MOST, 0)
    top, order = (found.numpy() for found in torch.from_numpy(logprobs[word]).topk(MOST))
    tail = np.full(len(ids), -np.inf)
    rest = np.exp(logprobs[word])
    np.put_along_axis(rest, order, 0.0, 1)
    tail[word] = np.log(rest.sum(1))
    partition = np.stack([np.where(word, np.log(np.exp(logprobs / t).sum(1)), 0.0) for t in TEMPERATURES], 1)
    soft = SoftIds(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        ids=order.astype(np.uint16 if logprobs.shape[1] <= 1 << 16 else np.uint32).ravel(),
        logprobs=top.astype(np.float16).ravel(),
        log_tail=tail.astype(np.float16),
        original_logprob=np.zeros(len(ids), np.float16),
        log_partition=partition.astype(np.float32),
    )
    where = np.array([0, len(ids)])
    return TokenBlock(row=np.zeros(1, np.int64), row_offsets=where, input_ids=ids, token_type_ids=None, soft=soft, label=None)


class Distances:
    """Relative distances of mixes, token by token, under (T, lam, k, tail)."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table
        self.found: dict[tuple[float, float, int, str], list[NDArray[Any]]] = {}

    def add(self, block: TokenBlock, word: NDArray[np.bool_], logprobs: NDArray[np.float64]) -> None:
        own = self.table[torch.from_numpy(block.input_ids)].double()
        for temperature in (1.0, 2.0):
            dense = torch.softmax(torch.from_numpy(logprobs / temperature), 1).float() @ self.table
            for lam in LAMS:
                expected = (lam * dense.double() + (1 - lam) * own)[word]
                for k in KS:
                    for tail in TAILS:
                        how = Smoothing(lam=lam, temperature=temperature, topk=k, tail=tail)
                        bag = SmoothedCollator(pad_id=0, smoothing=how, temperatures=TEMPERATURES)(block).soft
                        assert bag is not None
                        off = (soft_embedding(bag, self.table)[0].double()[word] - expected).norm(dim=1) / expected.norm(dim=1)
                        self.found.setdefault((temperature, lam, k, tail), []).append(off.numpy())

    def show(self) -> None:
        print(f"{'T':>4} {'lam':>4} {'k':>3}   " + "   ".join(f"{tail:>17}" for tail in TAILS) + "   relative distance, mean (95 %)")
        for temperature, lam, k in dict.fromkeys(key[:3] for key in self.found):
            values = [np.concatenate(self.found[temperature, lam, k, tail]) for tail in TAILS]
            shown = "   ".join(f"{v.mean():8.4f} ({np.quantile(v, 0.95):6.4f})" for v in values)
            print(f"{temperature:4g} {lam:4g} {k:3d}   {shown}   {TAILS[int(np.argmin([v.mean() for v in values]))]}")


class Interpolated:
    """Bound and real error of the tail's share under (stored, T)."""

    def __init__(self) -> None:
        self.found: dict[tuple[tuple[float, ...], float], list[NDArray[Any]]] = {}

    def add(self, block: TokenBlock, word: NDArray[np.bool_], logprobs: NDArray[np.float64]) -> None:
        soft = block.soft
        for stored in STORED:
            columns = [TEMPERATURES.index(t) for t in stored]
            known = SoftIds(**{**vars(soft), "log_partition": soft.log_partition[:, columns]})
            for column, temperature in enumerate(TEMPERATURES):
                if temperature in stored:
                    continue
                partition, bound = interpolate(known, temperature, stored, logprobs.shape[1])
                entries = np.exp(soft.logprobs.astype(np.float64).reshape(-1, MOST) / temperature).sum(1)
                real = np.abs(entries / np.exp(partition[word]) - entries / np.exp(soft.log_partition[word, column]))
                self.found.setdefault((stored, temperature), []).append(np.stack([bound[word], real]))

    def show(self) -> None:
        print(f"{'stored':>10} {'T':>4}   {'bound, mean':>12} {'worst':>7}   {'error, mean':>12} {'worst':>7}")
        for (stored, temperature), parts in self.found.items():
            bound, real = np.concatenate(parts, 1)
            known = ", ".join(f"{t:g}" for t in sorted({1.0, *stored}))
            print(f"{known:>10} {temperature:4g}   {bound.mean():12.4f} {bound.max():7.4f}   {real.mean():12.4f} {real.max():7.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--corpus", required=True, help=".parquet, or text by lines")
    parser.add_argument("--text-column", default="sentence")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=default_threads())
    args = parser.parse_args()
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.teacher)
    teacher = load_checked(AutoModelForMaskedLM, Path(args.teacher)).eval()
    distances, interpolated, tokens = Distances(teacher.get_input_embeddings().weight.detach()), Interpolated(), 0
    for text in texts(Path(args.corpus), args.text_column, args.rows):
        row = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
        with torch.no_grad():
            logprobs = torch.log_softmax(teacher(**row).logits[0].double(), 1).numpy()
        ids = row["input_ids"][0].numpy()
        word = ~np.isin(ids, tokenizer.all_special_ids)
        if word.any():
            block = block_of(ids, word, logprobs)
            distances.add(block, word, logprobs)
            interpolated.add(block, word, logprobs)
            tokens += int(word.sum())
    print(f"{tokens:,} tokens of {args.corpus} by {Path(args.teacher).name}")
    distances.show()
    interpolated.show()


if __name__ == "__main__":
    main()
