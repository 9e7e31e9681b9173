"""The summary that gen prints."""

from typing import TYPE_CHECKING, Any

from textsmooth.pipeline.formatting import counted, size, warning_lines
from textsmooth.schemas.config import context_passes
from textsmooth.schemas.printable import printable
from textsmooth.stages.soft_ids.statistics import captured_by_temperature, captured_warning
from textsmooth.stages.tokens.fit import p_original_warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textsmooth.pipeline.generation.run import Generated
    from textsmooth.schemas.manifest import Manifest


def summary_text(made: "Generated") -> str:
    """The closing summary: what was made, how fast, how large, what to do next."""
    manifest, statistics = made.manifest, made.manifest.statistics
    original = statistics["p_original"]
    first = f"Wrote {made.out}" if made.units or made.taken else f"Nothing to do: {made.out} is finished"
    lines = [
        f"{first}  (dataset {manifest.dataset[:12]})",
        f"  {counted(statistics['rows'], 'row')}, {counted(statistics['tokens'], 'token')}, {statistics['smoothed_tokens']:,} smoothed",
        f"  text from {' + '.join(manifest.corpus['text_columns'])}, {_label(manifest.corpus)}",
    ]
    if manifest.task_teacher is not None:
        lines.append(f"  teacher_logits by {manifest.task_teacher['name']}{_classes(manifest)}")
    if made.units:
        device, dtype = manifest.config["device"], manifest.config["dtype"]
        lines.append(
            f"  {made.tokens:,} tokens{_passes(manifest)} in {made.run_s:.1f} s on {device} in {dtype}: "
            f"{made.tokens / made.run_s:,.0f} tokens/s, padding {statistics['padding']:.1%}, device busy {made.busy:.0%}"
        )
    if made.units and made.kept:
        lines.append(f"  {counted(made.kept, 'unit')} kept from an earlier run, {made.units:,} run now")
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
    lines += [f"  {note}" for note in made.notes]
    warnings = [*made.warnings]
    if statistics["smoothed_tokens"]:
        lines.append(f"  p(original) is {original['mean']:.2f} on average")
        lines += captured_lines(statistics, topk=manifest.config["topk"], mass=manifest.config["mass"])
        masses = {t: by_k[max(by_k)] for t, by_k in captured_by_temperature(statistics).items()}
        low = p_original_warning(original["mean"], manifest.config["context"]), captured_warning(masses, manifest.config["topk"])
        warnings += [warning for warning in low if warning is not None]
    else:
        lines.append("  no token was smoothed: the rows are blank, look at the corpus")
    lines += [part for warning in warnings for part in warning_lines(warning)]
    if manifest.predecessor is not None:
        lines += predecessor_text(manifest.predecessor)
    lines += [f"    {what}" for what in made.not_taken]
    lines += [
        f"  {counted(len(manifest.shards), 'shard')}, {size(statistics['bytes'])}, {statistics['bytes_per_token']:.0f} bytes per token",
        f"Next: textsmooth inspect {made.out}",
    ]
    labelled = statistics["unlabelled_rows"] < statistics["rows"] and "train" in manifest.splits and made.trainable
    masked = manifest.config["context"] != "unmasked"
    if (manifest.corpus["label_kind"] is not None and labelled) or (masked and "train" in manifest.splits):
        objective = " --objective mlm" if masked else ""
        lines.append(f"      textsmooth train {made.out} --student STUDENT --out OUT{objective}")
        lines.append("      textsmooth student --help   tells how a STUDENT is made")
    return "\n".join(map(printable, lines))


def captured_lines(statistics: dict[str, Any], *, topk: int, mass: float) -> "Iterator[str]":
    """The mean captured mass at each stored temperature, and how many tokens reach the mass cut-off."""
    for temperature, masses in captured_by_temperature(statistics).items():
        k = max(masses)
        yield f"  temperature {temperature:g}: the top {k} hold {masses[k]:.1%} of the probability, the top 1 {masses[1]:.1%}"
    if statistics.get("reached_mass") is not None:
        yield f"  {reached_text(mass, statistics['reached_mass'], topk)}"


def reached_text(mass: float, share: float, topk: int) -> str:
    """How many tokens reach the mass cut-off."""
    return f"{share:.1%} of the smoothed tokens reach mass {mass:g}; the others have all {topk} entries"


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
