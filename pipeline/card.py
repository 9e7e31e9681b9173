"""The dataset card: README.md of a smoothed dataset, with the YAML head that the Hub and `datasets` understand."""

from typing import Any

from textsmooth.schemas.manifest import ShardEntry
from textsmooth.schemas.plan import Plan


def _at(revision: str | None) -> str:
    return f" at commit `{revision[:12]}`" if revision else ""


def _bin(p: float) -> str:
    """A quantile that is known to within a bin of 0.01."""
    return "below 0.01" if p < 0.01 else "above 0.99" if p > 0.99 else f"{p:.2f}"


def card(
    plan: Plan, shards: tuple[ShardEntry, ...], statistics: dict[str, Any], digest: str, predecessor: dict[str, Any] | None = None
) -> str:
    """Markdown text, a pure function of its arguments. predecessor: as the manifest has it."""
    import yaml

    config, corpus, teacher = plan.config, plan.corpus, plan.teacher
    splits = [split for split in plan.splits if any(s.split == split for s in shards)]
    head: dict[str, Any] = {
        "license": (corpus.license or "unknown").split(",")[0].strip(),
        "tags": ["textsmooth", "text-smoothing", "knowledge-distillation"],
        "configs": [{"config_name": "default", "data_files": [{"split": s, "path": f"{s}/*.arrow"} for s in splits]}],
    }
    counts = {s: (sum(x.rows - x.skipped for x in shards if x.split == s), sum(x.tokens for x in shards if x.split == s)) for s in splits}
    captured = statistics["captured_mass"]
    original = statistics["p_original"]
    title = f"{corpus.name}, smoothed by {teacher.name}"
    special = "left plain" if config.specials == "plain" else "smoothed too"
    label = f"`label` from column `{corpus.label_column}`" if corpus.label_kind else "none"
    if corpus.label_kind == "span":
        label = f"column `{corpus.label_column}`: `answers` as they are, `start_positions` and `end_positions` in tokens"
    if corpus.label_names:
        label += f" ({', '.join(f'{i} {n}' for i, n in enumerate(corpus.label_names))})"
    text = " + ".join(f"`{c}`" for c in corpus.text_columns)
    long = f"longest row | {config.max_length} tokens; {statistics['truncated_rows']:,} rows were cut"
    if config.long == "window":
        long += f"; longer rows became windows that share {config.stride} tokens: {statistics['windows']:,} in all"
        if statistics["lost_answers"]:
            long += f"; of {statistics['lost_answers']:,} rows no window holds the whole answer"
    second = plan.task_teacher
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(),
        "---",
        f"# {title}",
        "",
        "A *smoothed dataset*: for every token the top of the distribution that a masked language model, the teacher, gives over its",
        "vocabulary (soft ids), so that students can be distilled without the teacher. Made by textsmooth; the method is Text Smoothing",
        "(arXiv 2005.03848, arXiv 2202.13840).",
        "",
        "| split | rows | tokens |",
        "|---|---:|---:|",
        *(f"| {s} | {rows:,} | {tokens:,} |" for s, (rows, tokens) in counts.items()),
        "",
        "| | |",
        "|---|---|",
        f"| corpus | {corpus.name}{_at(corpus.revision)}, text from {text}; licence: {corpus.license or 'unknown'} |",
        *([f"| task | {corpus.task} |"] if corpus.task else []),
        f"| label | {label} |",
        f"| teacher | {teacher.name}{_at(teacher.revision)} ({teacher.model_type}, vocabulary {teacher.vocab_size:,}); "
        f"licence: {teacher.license or 'unknown'} |",
        f"| teacher digest | `{teacher.digest}` |",
        *(
            [
                f"| task teacher | `teacher_logits` by {second.name}{_at(second.revision)} ({second.model_type}, {second.kind}); "
                f"licence: {second.license or 'unknown'}; digest `{second.digest}` |"
            ]
            if second
            else []
        ),
        f"| soft ids | top {config.topk}, mass {config.mass:g}, context {config.context}, special tokens {special} |",
        f"| temperatures stored | {', '.join(f'{t:g}' for t in sorted({1.0, *config.temperatures}))} |",
        f"| {long} |",
        f"| probability inside the entries | {', '.join(f'{m:.1%} at k = {k}' for k, m in captured.items())} |",
        f"| p(original) | mean {original['mean']:.3f}, median {_bin(original['q50'])}, 5 % quantile {_bin(original['q05'])} |",
        *(
            [f"| unknown to the tokenizer | {statistics['unknown_tokens'] / max(statistics['tokens'], 1):.1%} of the tokens |"]
            if "unknown_tokens" in statistics
            else []
        ),
        *(
            [f"| left out | {statistics['skipped_rows']:,} rows of the corpus that could not be smoothed: `quarantine.jsonl` |"]
            if "skipped_rows" in statistics
            else []
        ),
        f"| size | {statistics['bytes'] / 1e6:,.1f} MB, {statistics['bytes_per_token']:.0f} bytes per token |",
        f"| dataset digest | `{digest}` |",
        *(
            [
                f"| predecessor | dataset `{predecessor['dataset']}` of {predecessor['corpus']}: "
                f"{predecessor['taken_over']['units']:,} of {len(plan.units):,} shards taken over |"
            ]
            if predecessor
            else []
        ),
        "",
        "The files contain the text of the corpus as token ids.",
        "",
        "```python",
        "import datasets",
        f'datasets.load_dataset("path/to/this/folder", split="{splits[0]}")',
        "```",
        "",
        "`textsmooth train FOLDER --student STUDENT --out OUT` trains a student on it.",
        "",
    ]
    return "\n".join(lines)
