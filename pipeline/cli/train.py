"""Command line of training: `textsmooth train`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from textsmooth.pipeline.cli.command import Command
from textsmooth.schemas.compare import Arm, CompareOptions
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.objectives import OBJECTIVES
from textsmooth.schemas.smoothing import TAILS
from textsmooth.schemas.train import INPUTS, PROGRESS_MODES, SCHEDULES, TRAIN_DTYPES, TrainOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
# The options of `train` in help, by what they are about; those of the last group are the rest.
GROUPS = {
    "What it reads": ("inputs", "lam", "temperature", "topk", "mass", "tail", "draws"),
    "What it learns": ("objective", "kd_weight", "kd_temperature"),
    "How long, on what": ("epochs", "max_steps", "max_rows", "rows_per_class", "batch_size", "batch_tokens", "accumulate"),
    "How": ("lr", "warmup", "schedule", "weight_decay", "max_grad_norm", "dropout", "seed", "dtype"),
    "Evaluation, checkpoints, logs": (
        *("eval_split", "eval_every", "patience", "checkpoint_every", "resume", "overwrite", "log_dir", "progress"),
    ),
    "The machine": ("loader_workers", "num_workers", "threads", "device"),
}


class Grouped(Command):
    """A command whose help shows its options in GROUPS."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = (param for param in self.get_params(ctx) if isinstance(param, click.Option))
        shown = {option.name or "": row for option in options if (row := option.get_help_record(ctx)) is not None}
        grouped = {name for names in GROUPS.values() for name in names}
        for title, names in ({"Options": tuple(name for name in shown if name not in grouped)} | GROUPS).items():
            if rows := [shown[name] for name in names if name in shown]:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Rate(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4
    """A number, or the name of a distribution."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except ValueError:
            return value


class NumberOrNone(click.ParamType):  # type: ignore[type-arg]
    """A number, or `none`."""

    name = "float|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value is None or value == "none" else click.FLOAT.convert(value, param, ctx)


class _Option(NamedTuple):
    """An option of TrainOptions on the command line."""

    name: str
    kind: Any
    text: str

    def __call__(self, command: _Command) -> _Command:
        default, flag = getattr(TrainOptions, self.name), f"--{self.name.replace('_', '-')}"
        return click.option(flag, self.name, type=self.kind, default=default, show_default=default is not None, help=self.text)(command)


_OPTIONS = (
    _Option(
        "inputs",
        click.Choice(INPUTS),
        "both: an update on plain, then one on smoothed per batch; mixed: a coin for each row. Not of mlm.  [default: smoothed]",
    ),
    _Option("lam", Rate(), "Smoothing rate: (1 - lam) of the token, lam of its soft ids. A number, or by row: uniform, beta:A."),
    _Option("temperature", float, "Of the soft ids: 1, or one of --temperatures of the dataset; others are interpolated."),
    _Option("topk", int, "Entries used of each token.  [default: all stored]"),
    _Option("mass", float, "Use the fewest entries that reach this probability."),
    _Option(
        "tail", click.Choice(TAILS), "Where the probability outside the entries goes: nowhere, the original token, the mean embedding."
    ),
    _Option("draws", int, "Draw so many ids of each token's distribution in place of its entries."),
    _Option("objective", click.Choice(tuple(OBJECTIVES)), "Labels, a task teacher's logits, both, or masked tokens (--context masked:N)."),
    _Option("kd_weight", float, "Share of the teacher in the loss of task+kd and mlm.  [default: 0.5]"),
    _Option("kd_temperature", float, "Of the task teacher's and the student's logits."),
    _Option("epochs", int, "Passes over the training rows."),
    _Option("max_steps", int, "Optimizer updates in all, instead of --epochs."),
    _Option("max_rows", int, "Train on the first so many rows.  [default: all]"),
    _Option("rows_per_class", int, "Train on the first so many labelled rows of each class.  [default: all]"),
    _Option("batch_size", int, "Rows of a batch.  [default: 32]"),
    _Option("batch_tokens", int, "Tokens of a batch, padding counted, of rows of similar length; instead of --batch-size."),
    _Option("accumulate", int, "Parts a batch is worked in: the same result in less memory."),
    _Option("lr", float, "Highest learning rate."),
    _Option("warmup", float, "Share of all updates in which the learning rate rises."),
    _Option("schedule", click.Choice(SCHEDULES), "Of the learning rate after that."),
    _Option("weight_decay", float, "AdamW weight decay, not for biases and norms."),
    _Option("max_grad_norm", NumberOrNone(), "Longest gradient; a longer one is scaled down. none: as it is."),
    _Option("dropout", float, "Of the student.  [default: as its configuration says]"),
    _Option("seed", int, "Of the order, the new head, dropout and whatever is drawn."),
    _Option("dtype", click.Choice(TRAIN_DTYPES), "Number format of matrix products; weights stay float32."),
    _Option("eval_split", str, "Split to evaluate on.  [default: the validation split]"),
    _Option("eval_every", int, "Updates between evaluations.  [default: an epoch's]"),
    _Option("patience", int, "Evaluations without a better score until it stops; the best state is saved.  [default: off]"),
    _Option("checkpoint_every", int, "Updates between checkpoints.  [default: at each evaluation]"),
    _Option("log_dir", str, "Folder for TensorBoard events."),
    _Option("progress", click.Choice(PROGRESS_MODES), "On stderr."),
    _Option("loader_workers", int, "Processes that make batches; 0: the one that trains."),
    _Option("num_workers", int, "Processes that train, by Ray Train."),
    _Option("threads", int, "CPU threads.  [default: all]"),
    _Option("device", str, "cpu, cuda, cuda:1 …  [default: cuda if there, else cpu]"),
)


def training_options(*left_out: str) -> Callable[[_Command], _Command]:
    """The options of a training run, but for some; their defaults are those of TrainOptions. None is told as `auto`, in the help text."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(_OPTIONS):
            if option.name not in left_out:
                command = option(command)
        return command

    return decorate


@click.command(cls=Grouped, context_settings=SETTINGS)
@click.argument("dataset")
@click.option(
    "--student", required=True, metavar="MODEL", help="The model to train: a local folder with safetensors and tokenizer, or OWNER/NAME."
)
@click.option("--student-revision", help="Branch, tag or commit of a student on the Hub.  [default: main]")
@click.option("--out", metavar="FOLDER", help="Where to save it.  [default: students/<dataset>-<inputs>]")
@training_options()
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in <out>.run; from the beginning if there is none.")
@click.option("--overwrite", is_flag=True, help="Replace the model in --out, and an unfinished run.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def train(debug: bool, **options: Any) -> None:
    """Train a student on the smoothed DATASET (a folder made by textsmooth-gen); the teacher is not needed.

    Killed or interrupted, the same command with --resume goes on from the last checkpoint.
    """
    checked = TrainOptions(**options)
    from textsmooth.pipeline.training.dispatch import train as run

    made = run(checked)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes, one tells
        click.echo(made.summary())


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"layers {text!r} is no list of layer numbers; give for example --layers 0,5") from None


@click.command(cls=Command, context_settings=_SETTINGS)
@click.option(
    "--from", "teacher", required=True, metavar="TEACHER", help="Masked language model: OWNER/NAME of the Hub, a folder, or demo."
)
@click.option("--from-revision", "revision", help="Branch, tag or commit of a model on the Hub.  [default: main]")
@click.option("--layers", metavar="0,5", help="Encoder layers to take, counted from 0.")
@click.option("--fresh", is_flag=True, help="Random weights instead, in the sizes that follow; family and vocabulary of the teacher.")
@click.option("--num-layers", type=int, help="Encoder layers, with --fresh.")
@click.option("--hidden-size", type=int, help="Width of the hidden states, with --fresh.")
@click.option("--num-heads", type=int, help="Attention heads, with --fresh.")
@click.option("--intermediate-size", type=int, help="Width of the feed-forward layers, with --fresh.  [default: the teacher's proportion]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random weights, with --fresh.")
@click.option("--out", required=True, metavar="FOLDER", help="Where to save the student.")
@click.option("--overwrite", is_flag=True, help="Replace the model in --out.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
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
        raise UsageError("give either --layers, to take some of the teacher's, or --fresh with --num-layers, --hidden-size and --num-heads")
    if given and not fresh:
        raise UsageError(f"{given[0]} is a size of a fresh student: add --fresh and leave --layers away, or leave {given[0]} away")
    chosen = None if layers is None else _layers(layers)
    from textsmooth.pipeline.plan.inputs import find_model
    from textsmooth.stages.models.student import model_folder
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


@click.command(cls=Grouped, context_settings=SETTINGS)
@click.argument("dataset")
@click.option("--student", required=True, metavar="MODEL", help="The model that every run begins with: a local folder, or OWNER/NAME.")
@click.option("--student-revision", help="Branch, tag or commit of a student on the Hub.  [default: main]")
@click.option(
    "--arms",
    required=True,
    metavar="ARM,ARM,…",
    help="Ways to train, the first is what the others are held against: a form of input and objectives joined by + (plain, smoothed, both, "
    "mixed, kd, task+kd, mlm), settings after colons. plain,kd+smoothed,smoothed:lam=0.2",
)
@click.option("--seeds", default=5, show_default=True, help="Runs of each arm.")
@click.option("--out", metavar="FOLDER", help="Where runs, table and picture are kept.  [default: comparisons/<dataset>]")
@click.option("--keep-students", is_flag=True, help="Keep the student of every run.")
@training_options("inputs", "objective", "kd_weight", "seed", "log_dir")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def compare(arms: str, seeds: int, out: str | None, keep_students: bool, debug: bool, **options: Any) -> None:
    """Train a student in several ways on the smoothed DATASET, at equal updates, and say which differences can be told from chance.

    The same command goes on where it was interrupted, and makes only the runs that are not there yet.
    """
    parsed = tuple(Arm.parse(arm) for arm in arms.split(","))
    asked = CompareOptions(common=TrainOptions(**options, inputs="plain"), arms=parsed, seeds=seeds, out=out, keep_students=keep_students)
    from textsmooth.pipeline.training.compare import compare as run

    click.echo(run(asked, say=lambda line: click.echo(line, err=True)).summary())
