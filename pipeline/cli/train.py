"""`textsmooth train`, `student` and `compare`. The options of train are the fields of TrainOptions (schemas/train.py)."""

import os
from pathlib import Path
from typing import Any

import click

from textsmooth.pipeline.cli.command import command, debug_option, options_from
from textsmooth.schemas.compare import Arm, CompareOptions
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import TrainOptions

SMOOTHING = ("lam", "temperature", "topk", "mass", "tail", "draws")  # options of smoothed input


@command
@click.argument("dataset")
@options_from(TrainOptions, "dataset")
@debug_option
def train(debug: bool, **options: Any) -> None:
    """Train a student on the smoothed DATASET (a folder made by textsmooth-gen); the teacher is not needed.

    After an interruption the same command continues from the last checkpoint. A finished student is not trained again.
    """
    _check_smoothing_is_read(options["inputs"])
    checked = TrainOptions(**options)
    from textsmooth.pipeline.training.dispatch import train as run

    result = run(checked)
    if os.environ.get("RANK", "0") == "0":  # only one of torchrun's processes prints
        click.echo(result.summary())


def _check_smoothing_is_read(inputs: str | None) -> None:
    """UsageError for an option of smoothed input that is typed with --inputs plain, where it would change nothing."""
    source = click.get_current_context().get_parameter_source
    typed = [name for name in SMOOTHING if source(name) is click.core.ParameterSource.COMMANDLINE]
    if inputs == "plain" and typed:
        raise UsageError(f"--{typed[0]} has no effect with --inputs plain: remove it, or choose other --inputs")


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"layers {text!r} is not a list of layer numbers; give for example --layers 0,5") from None


@command
@click.option(
    "--from", "teacher", required=True, metavar="TEACHER", help="Masked language model: OWNER/NAME on the Hub, a folder, or demo."
)
@click.option("--from-revision", "revision", help="Branch, tag or commit of a model on the Hub.  [default: main]")
@click.option("--layers", metavar="0,5", help="Encoder layers to copy, counted from 0.")
@click.option("--fresh", is_flag=True, help="Make random weights of the sizes below, with the teacher's family and vocabulary.")
@click.option("--num-layers", type=int, help="Number of encoder layers, with --fresh.")
@click.option("--hidden-size", type=int, help="Width of the hidden states, with --fresh.")
@click.option("--num-heads", type=int, help="Number of attention heads, with --fresh.")
@click.option(
    "--intermediate-size", type=int, help="Width of the feed-forward layers, with --fresh.  [default: in the teacher's proportion]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random weights, with --fresh.")
@click.option("--out", required=True, metavar="FOLDER", help="Folder for the student.")
@click.option("--overwrite", is_flag=True, help="Replace the model in --out.")
@debug_option
def student(
    teacher: str,
    revision: str | None,
    layers: str | None,
    fresh: bool,
    num_layers: int | None,
    hidden_size: int | None,
    num_heads: int | None,
    intermediate_size: int | None,
    seed: int,
    out: str,
    overwrite: bool,
    debug: bool,
) -> None:
    """Make a student from a teacher's embeddings, head and some of its layers, or a fresh one of its family."""
    sizes = {"num-layers": num_layers, "hidden-size": hidden_size, "num-heads": num_heads, "intermediate-size": intermediate_size}
    given = [f"--{name}" for name, value in sizes.items() if value is not None]
    if fresh == (layers is not None):
        raise UsageError("give either --layers, to copy some of the teacher's, or --fresh with --num-layers, --hidden-size and --num-heads")
    if given and not fresh:
        raise UsageError(f"{given[0]} is a size of a fresh student: add --fresh and omit --layers, or omit {given[0]}")
    chosen = None if layers is None else _layers(layers)
    from textsmooth.pipeline.plan.inputs import find_model
    from textsmooth.stages.models.model_folder import model_folder
    from textsmooth.stages.models.student_init import make_student

    def folder() -> Path:
        return model_folder(str(find_model(teacher, revision, option="--from").folder), "teacher")

    if chosen is not None:
        made = make_student(folder(), chosen, Path(out), overwrite=overwrite)
        what = f"{len(chosen)} of the teacher's layers: {', '.join(map(str, chosen))}"
    elif num_layers is None or hidden_size is None or num_heads is None:
        missing = next(name for name, value in sizes.items() if value is None)
        raise UsageError(f"a fresh student needs --{missing}; give for example --num-layers 2 --hidden-size 128 --num-heads 2")
    else:
        from textsmooth.stages.models.student_init import fresh_student

        made = fresh_student(
            folder(),
            Path(out),
            num_layers=num_layers,
            hidden_size=hidden_size,
            num_heads=num_heads,
            intermediate_size=intermediate_size,
            seed=seed,
            overwrite=overwrite,
        )
        what = f"{num_layers} layers of {hidden_size}, random weights"
    click.echo(f"saved    {made}  ({what})")
    click.echo(f"next     textsmooth train DATASET --student {made}")


@command
@click.argument("dataset")
@click.option(
    "--arms",
    required=True,
    metavar="ARM,ARM,…",
    help="Ways to train, compared with the first: an input and objectives joined by + (plain, smoothed, both, "
    "mixed, kd, task+kd, mlm), settings after colons: plain,kd+smoothed,smoothed:lam=0.2.",
)
@click.option("--seeds", default=5, show_default=True, help="Number of runs per arm.")
@click.option("--out", metavar="FOLDER", help="Folder for runs, table and plot.  [default: comparisons/<dataset>]")
@click.option("--keep-students", is_flag=True, help="Keep the student of every run.")
@options_from(TrainOptions, "dataset", "out", "inputs", "objective", "kd_weight", "seed", "log_dir", "resume", "overwrite")
@debug_option
def compare(arms: str, seeds: int, out: str | None, keep_students: bool, debug: bool, **options: Any) -> None:
    """Train a student in several ways on the smoothed DATASET, with equal updates, and test which differences are significant.

    After an interruption the same command continues and makes only the missing runs.
    """
    parsed = tuple(Arm.parse(arm) for arm in arms.split(","))
    checked = CompareOptions(common=TrainOptions(**options, inputs="plain"), arms=parsed, seeds=seeds, out=out, keep_students=keep_students)
    from textsmooth.pipeline.training.compare import compare as run

    click.echo(run(checked, say=lambda line: click.echo(line, err=True)).summary())
