"""Command line of training: `textsmooth train` and `textsmooth student`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from textsmooth.pipeline.cli import Command
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.smoothing import TAILS
from textsmooth.schemas.train import INPUTS, TRAIN_DTYPES, TrainOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
_DEFAULTS = TrainOptions(dataset="", student="")


def _option(name: str, kind: Any, text: str) -> Callable[[_Command], _Command]:
    """An option of `train` whose default is that of TrainOptions; None is told as `auto`, in the help text."""
    default = getattr(_DEFAULTS, name)
    return click.option(f"--{name.replace('_', '-')}", name, type=kind, default=default, show_default=default is not None, help=text)


@click.command(cls=Command, context_settings=_SETTINGS)
@click.argument("dataset")
@click.option("--student", required=True, metavar="FOLDER", help="The model to train: a local folder with safetensors and tokenizer.")
@click.option("--out", metavar="FOLDER", help="Where to save it.  [default: students/<dataset>-<inputs>]")
@_option("inputs", click.Choice(INPUTS), "What the student reads; both: an update on plain, then one on smoothed, for each batch.")
@_option("lam", float, "Smoothing rate: (1 - lam) of the token itself, lam of its soft ids.")
@_option("temperature", float, "Of the soft ids: 1, or one of the --temperatures the dataset was generated with.")
@_option("topk", int, "Entries used of each token.  [default: all stored]")
@_option("mass", float, "Use the fewest entries that reach this probability.")
@_option("tail", click.Choice(TAILS), "Where the probability outside the entries goes: nowhere, the original token, the mean embedding.")
@_option("epochs", int, "Passes over the training rows.")
@_option("max_steps", int, "Optimizer updates in all, instead of --epochs.")
@_option("max_rows", int, "Train on the first so many rows.  [default: all]")
@_option("batch_size", int, "Rows of a batch.")
@_option("lr", float, "Highest learning rate.")
@_option("warmup", float, "Share of all updates in which the learning rate rises.")
@_option("weight_decay", float, "AdamW weight decay, not for biases and norms.")
@_option("seed", int, "Of the order, the new head and dropout.")
@_option("dtype", click.Choice(TRAIN_DTYPES), "Number format of matrix products; weights stay float32.")
@_option("eval_split", str, "Split to evaluate on.  [default: the validation split]")
@_option("threads", int, "CPU threads.  [default: all]")
@_option("device", str, "cpu, cuda, cuda:1 …  [default: cuda if there, else cpu]")
@click.option("--overwrite", is_flag=True, help="Replace the model in --out.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def train(debug: bool, **options: Any) -> None:
    """Train a student on the smoothed DATASET (a folder made by textsmooth-gen); the teacher is not needed."""
    checked = TrainOptions(**options)
    from textsmooth.pipeline.train import train as run

    click.echo(run(checked).summary())


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
@click.option("--layers", required=True, metavar="0,5", help="Encoder layers to take, counted from 0.")
@click.option("--out", required=True, metavar="FOLDER", help="Where to save the student.")
@click.option("--overwrite", is_flag=True, help="Replace the model in --out.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def student(teacher: str, revision: str | None, layers: str, out: str, overwrite: bool, debug: bool) -> None:
    """Make a student from a teacher's embeddings, head and some of its layers."""
    chosen = _layers(layers)
    from textsmooth.pipeline.sources import find_model
    from textsmooth.stages.student import make_student, model_folder

    folder = model_folder(str(find_model(teacher, revision, option="--from").folder), "teacher")
    made = make_student(folder, chosen, Path(out), overwrite=overwrite)
    click.echo(f"saved    {made}  ({len(chosen)} of the teacher's layers: {', '.join(map(str, chosen))})")
    click.echo(f"next     textsmooth train DATASET --student {made}")
