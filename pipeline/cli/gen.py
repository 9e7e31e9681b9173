"""`textsmooth gen`."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from textsmooth.pipeline.cli.app import Command
from textsmooth.pipeline.formatting import counted, size
from textsmooth.schemas.config import (
    CODECS,
    DEFAULT_TEACHER,
    DTYPES,
    EXECUTORS,
    LONG_ROWS,
    SPECIALS,
    STREAMING,
    GenerateOptions,
    context_passes,
)
from textsmooth.schemas.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textsmooth.pipeline.generation.run import Generated
    from textsmooth.schemas.manifest import Manifest


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
@click.option("--codec", type=click.Choice(CODECS), default="plain", show_default=True, help="How soft ids are laid out in shards.")
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
    if config is not None:
        from textsmooth.pipeline.cli.job import run_job

        return run_job(config, ctx)
    if params["corpus"] is None:
        raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == "corpus"))
    generate_one(options_of(params), params)
    return 0


def options_of(params: dict[str, Any]) -> GenerateOptions:
    """What the parameters of the command ask for. UsageError for what cannot work."""
    lists = {name: tuple(part.strip() for value in params[name] for part in value.split(",")) for name in ("keep_columns", "splits")}
    return GenerateOptions(**{f.name: params[f.name] for f in fields(GenerateOptions)} | lists)


def generate_one(asked: GenerateOptions, params: dict[str, Any]) -> str:
    """Generate, or preview, and print what came out; what was done in a few words."""
    from textsmooth.pipeline.progress import Progress

    shown = Progress(params["progress"])
    if params["dry_run"]:
        from textsmooth.pipeline.cli.dry_run import preview_text
        from textsmooth.pipeline.generation.dry_run import preview

        click.echo(preview_text(preview(asked, shown), asked.price_per_hour))
        return "previewed"
    from textsmooth.pipeline.generation.run import generate

    made = generate(asked, shown)
    click.echo(summary_text(made))
    return "written" if made.units or made.taken else "finished before"


def summary_text(made: "Generated") -> str:
    """The closing summary: what was made, how fast, how large, what to do next."""
    manifest, statistics = made.manifest, made.manifest.statistics
    captured, original = statistics["captured_mass"], statistics["p_original"]
    k = max(captured, key=int)
    first = f"Wrote {made.out}" if made.units or made.taken else f"Nothing to do: {made.out} is finished"
    lines = [
        f"{first}  (dataset {manifest.dataset[:12]})",
        f"  {counted(statistics['rows'], 'row')}, {counted(statistics['tokens'], 'token')}, {statistics['smoothed_tokens']:,} smoothed",
        f"  text from {' + '.join(manifest.corpus['text_columns'])}, {_label(manifest.corpus)}",
    ]
    if manifest.task_teacher is not None:
        lines.append(f"  teacher_logits by {manifest.task_teacher['name']}{_classes(manifest)}")
    if made.units:
        lines.append(
            f"  {made.tokens:,} tokens{_passes(manifest)} in {made.run_s:.1f} s: {made.tokens / made.run_s:,.0f} tokens/s, "
            f"padding {statistics['padding']:.1%}, device busy {made.busy:.0%}"
        )
    if statistics.get("windows"):
        lines.append(f"  {counted(statistics['windows'], 'window')} of at most {manifest.config['max_length']} tokens")
    if statistics.get("lost_answers"):
        lines.append(f"  without a window that holds the whole answer: {counted(statistics['lost_answers'], 'row')}")
    if statistics["truncated_rows"]:
        what = f"longer than {manifest.config['max_length']} tokens"
        if statistics.get("windows"):
            what = "whose first text left too little room for windows of the second"
        lines.append(f"  cut: {counted(statistics['truncated_rows'], 'row')} {what}")
    if statistics.get("unknown_tokens"):
        share = statistics["unknown_tokens"] / max(statistics["tokens"], 1)
        lines.append(f"  unknown to the tokenizer: {counted(statistics['unknown_tokens'], 'token')}, {share:.1%}")
    if statistics.get("skipped_rows"):
        lines.append(f"  left out: {counted(statistics['skipped_rows'], 'row')} that could not be smoothed, see its quarantine.jsonl")
    if statistics.get("task_truncated_rows"):
        lines.append(f"  cut for the task teacher: {counted(statistics['task_truncated_rows'], 'row')}")
    if statistics["unlabelled_rows"]:
        lines.append(f"  without a label (null or -1): {counted(statistics['unlabelled_rows'], 'row')}")
    if made.note is not None:
        lines.append(f"  {made.note}")
    if statistics["smoothed_tokens"]:
        lines.append(f"  the top {k} hold {captured[k]:.1%} of the probability; p(original) is {original['mean']:.2f} on average")
    else:
        lines.append("  no token was smoothed: the rows are blank, look at the corpus")
    if manifest.predecessor is not None:
        lines += predecessor_text(manifest.predecessor)
    lines += [f"    {what}" for what in made.told]
    lines += [
        f"  {counted(len(manifest.shards), 'shard')}, {size(statistics['bytes'])}, {statistics['bytes_per_token']:.0f} bytes per token",
        f"Next: textsmooth inspect {made.out}",
    ]
    labelled = statistics["unlabelled_rows"] < statistics["rows"] and "train" in manifest.splits and made.note is None
    masked = manifest.config["context"] != "unmasked"
    if (manifest.corpus["label_kind"] is not None and labelled) or (masked and "train" in manifest.splits):
        objective = " --objective mlm" if masked else ""
        lines.append(f"      textsmooth train {made.out} --student STUDENT --out OUT{objective}")
        lines.append("      textsmooth student --help   tells how a STUDENT is made")
    return "\n".join(lines)


def predecessor_text(entry: dict[str, Any], *, counts: str | None = None) -> "Iterator[str]":
    """What was taken over from an earlier dataset, and what became of its units. counts: where a run has not been yet."""
    if counts is None:
        taken, run = entry["taken_over"], entry["run"]
        counts = f"{counted(taken['units'], 'unit')} taken over ({counted(taken['rows'], 'row')}), "
        counts += f"{run['units']:,} run ({counted(run['rows'], 'row')})"
    yield f"  predecessor {entry['dataset'][:12]}, of {entry['corpus']}: {counts}"
    kinds: set[str] = set()
    for split, became in entry["splits"].items():
        found = {kind: count for kind, count in became.items() if count["units"]}
        kinds |= found.keys()
        if found:
            yield f"    {split}: {'; '.join(f'{kind} {_became(kind, count)}' for kind, count in found.items())}"
    for what in entry.get("differs", ()):
        yield f"    nothing can be taken over: {what}"
    if not kinds & {"unchanged", "grown", "moved"}:
        yield "    no whole unit in common with it: is it of another corpus, or were rows put in or taken out near the beginning?"


def _became(kind: str, count: dict[str, int]) -> str:
    now, before = count["rows"], count["rows_before"]
    rows = f"{before:,} -> {counted(now, 'row')}" if kind in ("grown", "edited") else counted(max(now, before), "row")
    return f"{counted(count['units'], 'unit')}, {rows}"


def _label(corpus: dict[str, Any]) -> str:
    if corpus["label_kind"] is None:
        return "no label"
    return f"label from {corpus['label_column']} ({corpus['label_kind']})"


def _passes(manifest: "Manifest") -> str:
    passes = context_passes(manifest.config["context"])
    return "" if passes == 1 else f", each row masked in {passes} ways,"


def _classes(manifest: "Manifest") -> str:
    """Which class of the task teacher is which of the corpus's."""
    second = manifest.task_teacher or {}
    names, classes = second.get("names"), manifest.corpus["label_names"]
    if not names or not classes:
        return ""
    order = second.get("order") or range(len(classes))
    return f": {', '.join(f'{names[i]} = {name}' for i, name in zip(order, classes, strict=True))}"
