"""Command line of comparisons: `textsmooth compare`."""

from typing import Any

import click

from textsmooth.pipeline.cli.train import SETTINGS, Grouped, training_options
from textsmooth.schemas.compare import Arm, CompareOptions
from textsmooth.schemas.train import TrainOptions


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
