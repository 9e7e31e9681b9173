"""A training step on plain input, on stored soft ids, and with the teacher in the loop, side by side on the same batches.

    python benchmarks/train_step.py DATASET --student FOLDER [--teacher FOLDER] [--batch-size 32] [--batches 12]

plain        token ids; an ordinary fine-tuning step
smoothed     the dataset's soft ids through SoftEmbedding
renormalize  the same without the mean embedding for the tail
draws        four ids drawn from each token's soft ids
mixed        half of the rows smoothed, half plain
in the loop  what the published code does: the teacher reads the batch, a full softmax [B, L, V], times the student's table

Collating is part of each. Prints the median milliseconds per optimizer update and the median of the ratios to plain, batch by batch.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.collate import Batch, SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.models.device import default_threads
from textsmooth.stages.models.load import load_checked
from textsmooth.stages.models.student import load_student
from textsmooth.stages.training.losses import objective_for
from textsmooth.stages.training.soft_embedding import SoftEmbedding
from textsmooth.stages.training.step import TrainStep

FORMS = {
    "plain": None,
    "smoothed": Smoothing(),
    "renormalize": Smoothing(tail="renormalize"),
    "draws": Smoothing(draws=4),
    "mixed": Smoothing(smoothed_share=0.5),
}


def make_step(student: torch.nn.Module, inputs: str, vocab_size: int) -> TrainStep:
    """What updates a student on `plain` or `smoothed` input."""
    soft = SoftEmbedding(student.get_input_embeddings(), vocab_size=vocab_size) if inputs == "smoothed" else None  # type: ignore[operator]
    objective = objective_for("task", "class", kd_weight=0.0, kd_temperature=1.0)
    return TrainStep(student, objective, soft=soft, reads=inputs, lr=1e-4, weight_decay=0.01, warmup=0.1, steps=10**6)


class InTheLoop:
    """The published step: softmax of the teacher on the plain text, mixed with the one-hot input, times the student's table."""

    def __init__(self, student: torch.nn.Module, teacher: torch.nn.Module, lam: float) -> None:
        self.student, self.teacher, self.lam = student.train(), teacher.eval(), lam
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)

    def step(self, batch: Batch) -> None:
        inputs = {"attention_mask": batch.attention_mask, "token_type_ids": batch.token_type_ids}
        with torch.no_grad():
            probs = torch.softmax(self.teacher(input_ids=batch.input_ids, **inputs).logits, dim=-1)
            mixed = self.lam * probs
            mixed.scatter_add_(2, batch.input_ids[:, :, None], torch.full_like(mixed[:, :, :1], 1 - self.lam))
        embeds = mixed @ self.student.get_input_embeddings().weight
        loss = torch.nn.functional.cross_entropy(self.student(inputs_embeds=embeds, **inputs).logits, batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--threads", type=int, default=default_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = SmoothedDataset(args.dataset, "train")
    vocab_size = dataset.manifest.teacher["vocab_size"]
    names = tuple(dataset.manifest.corpus["label_names"])

    def student() -> torch.nn.Module:
        found: torch.nn.Module = load_student(Path(args.student), label_names=names, label_kind="class")
        return found

    def arm(name: str) -> Callable[[NDArray[np.int64]], object]:
        collate = SmoothedCollator.for_dataset(dataset, smoothing=FORMS[name])
        form = "plain" if name == "plain" else "smoothed"
        updating = make_step(student(), form, vocab_size)
        return lambda rows: updating.update([collate(dataset.batch(rows))], form)

    plain = SmoothedCollator.for_dataset(dataset)
    arms = {name: arm(name) for name in FORMS}
    if args.teacher:
        from transformers import AutoModelForMaskedLM

        loop = InTheLoop(student(), load_checked(AutoModelForMaskedLM, Path(args.teacher)), 0.5)
        arms["in the loop"] = lambda rows: loop.step(plain(dataset.batch(rows)))
    batches = dataset.stream(plain, batch_size=args.batch_size).global_batches(0).after(0, 0)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for number, batch in enumerate(islice(batches, args.batches + 2)):  # the first two are a warm-up
        for arm, run in arms.items():
            start = time.perf_counter()
            run(batch.rows)
            if number >= 2:
                seconds[arm].append(time.perf_counter() - start)
    print(f"batches of {args.batch_size} rows, {args.threads} threads, medians of {args.batches}")
    for arm, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, seconds["plain"], strict=True))
        print(f"{arm:12} {1000 * statistics.median(found):8.1f} ms per update   {ratio:5.2f} x plain")


if __name__ == "__main__":
    main()
