"""Make a plan from a resolved request: read the corpus once, hash its rows, cut it into units."""

from collections.abc import Callable
from dataclasses import replace

from textsmooth.pipeline.plan.duplicates import RowTexts
from textsmooth.pipeline.plan.labels import FROM_LABELS, label_facts, label_remarks
from textsmooth.pipeline.plan.resolve import Request
from textsmooth.pipeline.plan.rows import bad_text, check_text, row_columns
from textsmooth.pipeline.plan.task_teacher import matched
from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.plan import CorpusIdentity, Plan, Unit, unit_ids
from textsmooth.schemas.printable import printable
from textsmooth.schemas.task_kinds import task_kind
from textsmooth.stages.corpus.column_types import ColumnKind
from textsmooth.stages.corpus.reader import rows_sha256, scan
from textsmooth.stages.corpus.source_file import SourceFile

WARNINGS = "warnings"  # of Plan.runtime, one line each
FROM_CORPUS = (*FROM_LABELS, WARNINGS)  # items of Plan.runtime that are read from the corpus, while the rest comes from the options
SAMPLE_TEXTS, SAMPLE_ROWS = 512, 32  # whose tokens are looked at: in all, and of each unit


def make_plan(request: Request, progress: Callable[[int], None] = lambda rows: None, *, skip_bad_rows: bool = False) -> Plan:
    """Read the corpus once, hash its rows, and cut it into units. `progress` is called with the number of rows read so far.

    skip_bad_rows: rows whose text is not text will be left out; otherwise they raise CorpusError.
    """
    identity, corpus = request.identity, request.corpus
    has_answers = task_kind(identity.label_kind).has_answers
    label = None if has_answers else identity.label_column
    columns = {name: ColumnKind(name, label=name == label) for name in ([label] if label else []) + list(identity.keep_columns)}
    texts: list[str] = []
    row_texts = RowTexts(identity.text_columns)
    units = _units(request, columns, texts, row_texts, progress, skip_bad_rows=skip_bad_rows)
    seen = columns[label] if label else None
    identity = replace(
        identity,
        **label_facts(identity, corpus, seen),
        keep_types=tuple(columns[name].kept(corpus.name) for name in identity.keep_columns),
    )
    numbered_by_corpus = identity.task is not None or identity.label_column in corpus.class_names
    task_teacher = matched(request.task_teacher, identity, ordered=numbered_by_corpus)
    # only now: labels and types of columns are part of an id
    id_of = unit_ids(teacher=request.teacher, corpus=identity, config=request.config, task_teacher=task_teacher)
    return Plan(
        corpus=identity,
        teacher=request.teacher,
        config=request.config,
        versions=request.versions,
        units=tuple(replace(unit, id=id_of(unit.split, unit.row, unit.rows_sha256)) for unit in units),
        runtime={**request.runtime, **label_remarks(identity, seen), **_warnings(request, texts, row_texts)},
        source={file.name: file.stat() for file in corpus.files},
        task_teacher=task_teacher,
    )


def _units(
    request: Request,
    columns: dict[str, ColumnKind],
    texts: list[str],
    row_texts: RowTexts,
    progress: Callable[[int], None],
    *,
    skip_bad_rows: bool,
) -> list[Unit]:
    """The units of the corpus, still without ids; CorpusError if there are no rows with text.

    Values are added to `columns`, a sample of the texts to `texts`, and all rows to `row_texts`.
    """
    identity = request.identity
    units: list[Unit] = []
    total = rows_with_text = 0
    for split, files in request.corpus.splits.items():
        number = row = 0
        for file in files:
            left = None if identity.limit is None else identity.limit - row
            if left == 0:
                break
            for part in scan(file, row_columns(identity), rows=request.config.rows_per_shard, limit=left, late=request.late):
                if not skip_bad_rows:
                    check_text(part.rows, identity, file, part.start)
                elif not rows_with_text:
                    rows_with_text = part.count - sum(1 for _ in bad_text(part.rows, identity))
                for name, column in columns.items():
                    column.add(part.rows[name], str(file), part.start, cells=_has_cells(file, name, identity))
                if len(texts) < SAMPLE_TEXTS:
                    sample = (value for name in identity.text_columns for value in part.rows[name][:SAMPLE_ROWS])
                    texts += (value for value in sample if isinstance(value, str))
                row_texts.add(split, part.rows)
                stop, content = part.start + part.count, rows_sha256(part.rows)
                units.append(
                    Unit(
                        split=split,
                        number=number,
                        file=file.name,
                        row=row,
                        offset=part.offset,
                        start=part.start,
                        stop=stop,
                        rows_sha256=content,
                        id="",
                    )
                )
                number, row, total = number + 1, row + part.count, total + part.count
                progress(total)
    if not units:
        raise CorpusError(f"corpus {identity.name} is empty: no rows in {', '.join(f.name for f in request.corpus.files)}")
    if skip_bad_rows and not rows_with_text:
        raise CorpusError(f"--skip-bad-rows would leave out all {total:,} rows of {identity.name}: none has text; look at the corpus")
    return units


def _has_cells(file: SourceFile, column: str, identity: CorpusIdentity) -> bool:
    """Whether a column holds CSV cells, whose type must be found out."""
    return file.format.cells_are_text and column not in identity.text_columns


def _warnings(request: Request, texts: list[str], row_texts: RowTexts) -> dict[str, list[str]]:
    """An item of Plan.runtime, if splits share rows, or anything is odd about how the teacher's tokenizer splits the corpus."""
    from textsmooth.stages.tokens.fit import fit_warnings

    lines = row_texts.warnings()
    lines += list(fit_warnings(request.tokenizer, request.rebuilt_tokenizer, request.sources.teacher, texts))
    return {WARNINGS: lines} if lines else {}


def plan_warnings(plan: Plan) -> tuple[str, ...]:
    """What the user should know about a plan before its units run, one line each."""
    lines = plan.runtime.get(WARNINGS)
    return tuple(printable(str(text)) for text in lines) if isinstance(lines, list) else ()
