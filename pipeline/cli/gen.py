"""`textsmooth gen`."""

from typing import TYPE_CHECKING, Any

import click

from textsmooth.pipeline.cli.command import Command
from textsmooth.schemas.codecs import CODECS
from textsmooth.schemas.config import (
    DEFAULT_TEACHER,
    DTYPES,
    EXECUTORS,
    LONG_ROWS,
    SPECIALS,
    STREAMING,
)
from textsmooth.schemas.errors import UsageError

if TYPE_CHECKING:
    pass


class Auto(click.ParamType[int | str | None]):
    """`auto` (None), or a value of another type."""

    def __init__(self, inner: click.ParamType[Any], name: str) -> None:
        self.inner, self.name = inner, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value is None or value == "auto" else self.inner.convert(value, param, ctx)


AUTO_INT = Auto(click.INT, "auto|int")


def _numbers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for value in values for part in value.split(","))
    except ValueError:
        raise UsageError(f"{param.opts[0]} takes numbers separated by commas, not {','.join(values)!r}") from None


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--config", help="YAML file of options, for one corpus or many; those on the command line win.")
@click.option("--corpus", help="demo; glue/TASK, squad; OWNER/NAME[:config] of the Hub; a folder laid out so; files, globs.")
@click.option("--corpus-revision", help="Branch, tag or commit of a corpus on the Hub.  [default: main]")
@click.option("--streaming", type=click.Choice(STREAMING), default="auto", show_default=True, help="Read Hub files without fetching them.")
@click.option("--split", "splits", multiple=True, help="Split to read; repeatable, or a,b.  [default: all]")
@click.option("--text-column", "text_columns", multiple=True, help="Column of the text; twice for a pair.  [default: found by name]")
@click.option("--label-column", help="Column of the label.  [default: label, if there is one]")
@click.option("--keep-columns", multiple=True, help="Column to carry through; repeatable, or a,b.")
@click.option("--limit", type=int, help="Only the first N rows of each split.")
@click.option(
    "--teacher", help=f"Masked language model: OWNER/NAME of the Hub, a folder, or demo.  [default: {DEFAULT_TEACHER}; demo for demo]"
)
@click.option("--teacher-revision", help="Branch, tag or commit of a teacher on the Hub.  [default: main]")
@click.option("--task-teacher", help="Fine-tuned classifier or span model; its logits are written as teacher_logits.")
@click.option("--task-teacher-revision", help="Branch, tag or commit of a task teacher on the Hub.  [default: main]")
@click.option("--topk", type=int, default=32, show_default=True, help="Entries kept per token, at most.")
@click.option("--mass", type=float, default=1.0, show_default=True, help="Keep the fewest entries whose probability reaches this.")
@click.option(
    "--temperatures",
    multiple=True,
    default=("1",),
    show_default=True,
    callback=_numbers,
    help="Temperatures that students may use exactly: 0.5,1,2.",
)
@click.option("--context", default="unmasked", show_default=True, help="unmasked, or masked:N: each token seen masked, in N passes.")
@click.option("--codec", type=click.Choice(list(CODECS)), default="plain", show_default=True, help="How soft ids are laid out in shards.")
@click.option("--specials", type=click.Choice(SPECIALS), default="plain", show_default=True, help="What happens to special tokens.")
@click.option("--max-length", type=AUTO_INT, default="auto", show_default=True, help="Tokens per row, specials counted.")
@click.option("--long", type=click.Choice(LONG_ROWS), help="Longer rows: cut off, or cut into windows.  [default: as the task needs it]")
@click.option("--stride", type=AUTO_INT, default="auto", show_default=True, help="Tokens that neighbouring windows of a row share.")
@click.option("--max-batch-tokens", type=AUTO_INT, default="auto", show_default=True, help="Padded tokens per forward pass.")
@click.option("--rows-per-shard", type=int, default=2048, show_default=True, help="Rows per shard: the unit of work and of resuming.")
@click.option("--dtype", type=Auto(click.Choice(DTYPES), "auto|dtype"), default="auto", show_default=True, help="|".join(DTYPES) + "|auto.")
@click.option("--device", type=Auto(click.STRING, "auto|device"), default="auto", show_default=True, help="cpu, cuda, cuda:1 …")
@click.option(
    "--threads",
    type=AUTO_INT,
    default="auto",
    show_default=True,
    help="CPU threads of the forward pass; auto: OMP_NUM_THREADS, else all that may be used.",
)
@click.option("--executor", type=click.Choice(EXECUTORS), default="auto", show_default=True, help="What runs the units.")
@click.option("--num-workers", help="Workers on Ray: N, or MIN-MAX for a pool that grows and shrinks.  [default: one per visible GPU]")
@click.option("--initial-workers", type=int, help="Of a pool that grows and shrinks.  [default: MIN]")
@click.option("--gpus-per-worker", type=float, help="0.5: two workers share a GPU.  [default: 1 where there are GPUs, else 0]")
@click.option("--cpus-per-worker", type=float, help="CPUs that Ray keeps for a worker.  [default: 1]")
@click.option("--ray-address", help="Ray cluster to join: HOST:PORT, or auto.  [default: RAY_ADDRESS, else a local one is started]")
@click.option("--ship-code", is_flag=True, help="Send this checkout to the workers, as a wheel.")
@click.option("--unit-timeout", "unit_timeout_s", type=float, help="Seconds after which a unit hangs.  [default: none]")
@click.option("--skip-bad-rows", is_flag=True, help="Leave rows that cannot be smoothed out, and write them to quarantine.jsonl.")
@click.option("--from-previous", help="Finished dataset of an older state of the corpus: only what changed is run.")
@click.option("--out", help="Folder of the dataset.  [default: smoothed/<corpus>-<teacher>-k<topk>]")
@click.option("--dry-run", is_flag=True, help="Say what would be done, kept and lost, by a sample of the rows; write nothing.")
@click.option("--price-per-hour", type=float, help="Of one worker, in any currency: --dry-run and run.json then say what the run costs.")
@click.option("--overwrite", is_flag=True, help="Remove the run that is in the output folder first.")
@click.option("--progress", type=click.Choice(("auto", "rich", "json", "none")), default="auto", show_default=True, help="On stderr.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def gen(ctx: click.Context, /, config: str | None, **params: Any) -> int:
    """Make a smoothed dataset: for every token of a corpus, the top of a teacher's distribution over the vocabulary.

    Interrupted, the same command goes on where it was. A finished folder is never written again.
    """
    from textsmooth.pipeline.cli.job import generate_one, options_of, run_job  # yaml: not for --help

    if config is not None:
        return run_job(config, ctx)
    if params["corpus"] is None:
        raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == "corpus"))
    generate_one(options_of(params), params)
    return 0
