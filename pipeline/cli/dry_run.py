"""What --dry-run prints."""

from collections.abc import Iterator
from typing import Any

from textsmooth.pipeline.formatting import columns, counted, duration, percent, significant, size, warning_lines
from textsmooth.pipeline.generation.dry_run import Preview, Sample
from textsmooth.pipeline.generation.summary import captured_lines, predecessor_text, reached_text
from textsmooth.pipeline.plan.cut import plan_warnings
from textsmooth.schemas.printable import printable
from textsmooth.stages.soft_ids.statistics import captured_warning
from textsmooth.stages.soft_ids.truncation import Loss
from textsmooth.stages.tokens.fit import p_original_warning

MEANING = (
    "p: the teacher's distribution; q: the kept entries scaled to sum 1, as students read them;",
    "q': the kept entries as they are, the rest of the mass spread evenly. KL in nats.",
)
HEADS = (
    ("", "entries", "captured", "total vari", "ation p, q", "KL(q||p)", "KL(p||q')", "bytes", ""),
    ("kept", "per token", "mass", "mean", "95 %", "mean", "mean", "per token", "in all"),
)
WIDTHS = (10, 10, 12, 10, 11, 11, 11, 10)


def preview_text(preview: Preview, price_per_hour: float | None = None) -> str:
    """The plan, then what its sample says; of a finished dataset, its statistics."""
    lines = [*_plan(preview)]
    if preview.statistics is not None:
        lines += _finished(preview, preview.statistics)
    elif preview.sample is not None:
        lines += ["", *_sample(preview, preview.sample, price_per_hour), "", *_table(preview, preview.sample)]
    return "\n".join(map(printable, lines))


def _plan(preview: Preview) -> Iterator[str]:
    plan, config = preview.plan, preview.plan.config
    rows = {split: sum(u.rows for u in plan.units if u.split == split) for split in plan.splits}
    label = "none" if plan.corpus.label_kind is None else f"{plan.corpus.label_column} ({plan.corpus.label_kind})"
    mass = f", mass {config.mass:g}" if config.mass < 1 else ""
    stored = ", ".join(f"{t:g}" for t in sorted({1.0, *config.temperatures}))
    if preview.refused is not None:
        yield f"Would be refused: {preview.refused}"
    elif preview.finished:
        yield f"Nothing to do: {preview.out} is finished"
    else:
        yield f"Would write {preview.out}{', removing the run that is there' if preview.removes else ''}"
    yield f"  {plan.rows:,} rows: {', '.join(f'{name} {count:,}' for name, count in rows.items())}"
    yield f"  text from {' + '.join(plan.corpus.text_columns)}, label {label}"
    yield from (f"  {note}" for note in preview.notes)
    for warning in plan_warnings(plan):
        yield from warning_lines(warning)
    yield (
        f"  teacher {plan.teacher.name} ({plan.teacher.model_type}, vocabulary {plan.teacher.vocab_size:,}), "
        f"{config.dtype} on {config.device}, {plan.runtime['threads']} threads"
    )
    if plan.task_teacher is not None:
        yield f"  task teacher {plan.task_teacher.name} ({plan.task_teacher.model_type})"
    specials = f"special tokens {config.specials}{'' if config.context == 'unmasked' else f', context {config.context}'}"
    yield f"  top {config.topk}{mass}, temperatures {stored}, rows up to {config.max_length} tokens, {specials}"
    yield f"  {counted(len(plan.units), 'shard')}, {preview.done:,} done"
    if plan.predecessor is not None and not preview.finished:
        left = len(plan.units) - preview.done - preview.taken
        run = f"{left:,} would run ({counted(preview.rows_left, 'row')})"
        yield from predecessor_text(plan.predecessor, counts=f"{counted(preview.taken, 'unit')} would be taken over, {run}")
        if preview.previous_gone is not None:
            yield f"    --from-previous is no longer there, or not whole: what it had left to give would be run; {preview.previous_gone}"


def _finished(preview: Preview, statistics: dict[str, Any]) -> Iterator[str]:
    original = statistics["p_original"]
    yield f"  {counted(statistics['tokens'], 'token')}, {statistics['smoothed_tokens']:,} smoothed"
    if statistics["truncated_rows"]:
        yield f"  cut: {counted(statistics['truncated_rows'], 'row')}"
    if statistics.get("windows"):
        yield f"  {counted(statistics['windows'], 'window')}"
    if statistics["smoothed_tokens"]:
        yield from captured_lines(statistics, topk=preview.truncation.topk, mass=preview.truncation.mass)
        mean, low, median = (significant(original[name]) for name in ("mean", "q05", "q50"))
        yield f"  p(original): mean {mean}, 5 % quantile {low}, median {median}"
    yield f"  {size(statistics['bytes'])}, {statistics['bytes_per_token']:.0f} bytes per token"


def _sample(preview: Preview, sample: Sample, price_per_hour: float | None) -> Iterator[str]:
    plan, config = preview.plan, preview.plan.config
    what = "all" if preview.exact else "a sample of"
    scored = "all" if sample.scored_rows == sample.rows else f"{sample.scored_rows:,}"
    of = "" if preview.scope_rows == plan.rows else " that would run" if preview.exact else f" of the {preview.scope_rows:,} that would run"
    yield f"By {what} {counted(sample.rows, 'row')}{of}; {scored} of them, {counted(sample.scored_tokens, 'token')}, read by the teacher:"
    tokens = preview.of_all(sample.tokens)
    about = "" if preview.exact else "about "
    yield (
        f"  tokens       {about}{tokens:,.0f}"
        if preview.exact
        else f"  tokens       about {significant(tokens)}, {significant(tokens / preview.scope_rows)} per row"
    )
    if not sample.long_rows:
        yield f"  too long     none of these rows has more than {config.max_length} tokens"
    else:
        share = f"{percent(sample.long_rows / sample.rows)} of the rows have more than {config.max_length} tokens"
        if config.long == "window":
            windows = f"{significant(sample.lines / sample.rows)} per row, {about}{_count(preview, sample.lines)}"
            yield f"  too long     {share}: windows, {windows}"
        else:
            yield f"  too long     {share}: {percent(1 - sample.tokens / sample.whole_tokens)} of all tokens are cut off"
    if sample.p_original:
        at = [q for q in sample.p_original if q is not None]
        quantiles = f"at {', '.join(f'{100 * q:.0f}' for q in at)} %: {', '.join(significant(sample.p_original[q]) for q in at)}"
        yield f"  p(original)  mean {significant(sample.p_original[None])}; {quantiles}"
        if (low := p_original_warning(sample.p_original[None], config.context)) is not None:
            yield from warning_lines(low)
    chosen = next(loss for loss in sample.losses if loss.truncation == preview.truncation)
    total = preview.bytes(chosen)
    yield f"  size         about {significant(total / max(tokens, 1))} bytes per token, {size(total)} in all"
    passes = f", {config.passes} passes" if config.passes > 1 else ""
    yield f"  time         about {duration(preview.seconds)} on this device, at {significant(sample.tokens_per_s)} tokens/s{passes}"
    if price_per_hour is not None:
        cost, million = preview.seconds / 3600 * price_per_hour, 1e6 / sample.tokens_per_s / 3600 * price_per_hour
        yield f"  cost         about {significant(cost)} at {price_per_hour:g} per hour, {significant(million)} per million tokens"


def _count(preview: Preview, count: float) -> str:
    return f"{count:,.0f}" if preview.exact else significant(preview.of_all(count))


def _table(preview: Preview, sample: Sample) -> Iterator[str]:
    if not sample.smoothed:
        yield "No token would be smoothed: the rows are blank, look at the corpus."
        return
    tokens = preview.of_all(sample.tokens)
    yield f"Kept and lost, means over {counted(sample.smoothed, 'smoothed token')} (> what is asked for):"
    for head in HEADS:
        yield f"  {head[0]:<11}{''.join(f'{word:>{width}}' for word, width in zip(head[1:], WIDTHS, strict=True))}".rstrip()
    for loss in sample.losses:
        yield _row(preview, loss, tokens)
    yield from MEANING
    chosen = next(loss for loss in sample.losses if loss.truncation == preview.truncation)
    if chosen.captured_by_temperature:
        yield from _temperatures(preview, sample)
    if sample.reached_mass is not None:
        yield reached_text(preview.truncation.mass, sample.reached_mass / sample.smoothed, preview.truncation.topk)
    if (warning := captured_warning({1.0: chosen.captured, **chosen.captured_by_temperature}, preview.truncation.topk)) is not None:
        yield from warning_lines(warning)


def _temperatures(preview: Preview, sample: Sample) -> Iterator[str]:
    """The captured mass at each stored temperature, by k."""
    by_k = [loss for loss in sample.losses if loss.truncation.mass >= 1 or loss.truncation == preview.truncation]
    rows = [["", *(f"{'> ' if loss.truncation == preview.truncation else ''}{_name(loss)}" for loss in by_k)]]
    for temperature in sorted({1.0, *by_k[0].captured_by_temperature}):
        masses = (loss.captured if temperature == 1.0 else loss.captured_by_temperature[temperature] for loss in by_k)
        rows.append([f"temperature {temperature:g}", *map(significant, masses)])
    yield "Captured mass at each stored temperature:"
    yield from (f"  {line}" for line in columns(rows))


def _name(loss: Loss) -> str:
    return f"k {loss.truncation.topk}" if loss.truncation.mass >= 1 else f"mass {loss.truncation.mass:g}"


def _row(preview: Preview, loss: Loss, tokens: float) -> str:
    total = preview.bytes(loss)
    values = (loss.entries, loss.captured, loss.tv, loss.tv_95, loss.kl_q_p, loss.kl_p_spread, total / max(tokens, 1))
    mark = ">" if loss.truncation == preview.truncation else " "
    return f"{mark} {_name(loss):<11}" + "".join(
        f"{word:>{width}}" for word, width in zip((*map(significant, values), size(total)), WIDTHS, strict=True)
    )
