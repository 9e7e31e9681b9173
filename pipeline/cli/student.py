"""Command line of students: `textsmooth student`."""

from pathlib import Path

import click

from textsmooth.pipeline.cli.app import Command
from textsmooth.schemas.errors import UsageError

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
