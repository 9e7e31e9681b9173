"""Does smoothing help? A student on plain, smoothed and both inputs, at equal updates, over several seeds.

    python benchmarks/students.py DATASET --student FOLDER [--rows 8000] [--steps 750] [--seeds 3] [--lam 0.5]

Every arm takes the same number of optimizer updates with the same settings; an arm that updates twice per batch (both) therefore
sees half as many batches. Prints the validation metric of every run, then mean, spread, and the difference to plain of the same seed.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from textsmooth.pipeline.training.dispatch import train
from textsmooth.schemas.train import INPUTS, TrainOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--student", required=True)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lam", type=float, default=0.5)
    parser.add_argument("--lr", type=float, default=TrainOptions(dataset="", student="").lr)
    parser.add_argument("--arms", default=",".join(INPUTS))
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    arms = args.arms.split(",")
    scores: dict[str, list[float]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for arm in arms:
                made = train(
                    TrainOptions(
                        dataset=args.dataset,
                        student=args.student,
                        out=str(Path(folder) / f"{arm}-{seed}"),
                        inputs=arm,
                        lam=args.lam,
                        lr=args.lr,
                        max_rows=args.rows,
                        max_steps=args.steps,
                        seed=seed,
                        threads=args.threads,
                    )
                )
                value = made.metrics[made.metric]
                assert value is not None
                scores[arm].append(value)
                line = {"arm": arm, "seed": seed, made.metric: round(value, 4), "steps": made.steps}
                print(json.dumps({**line, "tokens_per_s": round(made.tokens_per_s)}), flush=True)
    for arm in arms:
        mean, spread = statistics.mean(scores[arm]), statistics.stdev(scores[arm]) if args.seeds > 1 else 0.0
        gain = [a - b for a, b in zip(scores[arm], scores[arms[0]], strict=True)]
        against = f"{statistics.mean(gain):+.4f} ({min(gain):+.4f} to {max(gain):+.4f})"
        print(f"{arm:9} mean {mean:.4f}  sd {spread:.4f}  against {arms[0]} {against}")


if __name__ == "__main__":
    main()
