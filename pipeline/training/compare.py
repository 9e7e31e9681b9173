"""Compare ways to train (arms) at equal updates over several seeds: differences with confidence intervals, a table and a plot."""

import functools
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from textsmooth.pipeline.progress import TrainProgress
from textsmooth.pipeline.training.compare_result import CONFIDENCE, PICTURE, RESULTS, SUMMARY, TABLE, Against, ArmScore, Comparison, _stdev
from textsmooth.pipeline.training.dispatch import train
from textsmooth.pipeline.training.places import student_folder
from textsmooth.pipeline.training.setup import planned_steps
from textsmooth.pipeline.training.stop import Stopped
from textsmooth.schemas.compare import Arm, CompareOptions
from textsmooth.schemas.errors import ConflictError, DatasetError, StorageError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.models.load import teacher_digest
from textsmooth.stages.storage.atomic import pretty_json, put, remove, remove_empty

STUDENTS = "students"


def paired(scores: tuple[float, ...], first: tuple[float, ...]) -> Against:
    """Mean difference with Student's t interval over seeds; the same seed is the same order, head and dropout in both arms."""
    gains = [a - b for a, b in zip(scores, first, strict=True)]
    mean = statistics.fmean(gains)
    if len(gains) < 2:
        return Against(mean=mean, low=math.nan, high=math.nan)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1)) * _stdev(gains) / math.sqrt(len(gains))
    return Against(mean=mean, low=mean - half, high=mean + half)


def compare(options: CompareOptions, say: Callable[[str], None] = lambda line: None, progress: TrainProgress | None = None) -> Comparison:
    """Train every arm with every seed, at equal updates, and compare their scores with those of the first arm.

    Runs already in the folder are not repeated: an interrupted comparison resumes, and arms and seeds may be added.
    Raises what `train` raises, before the first run where possible; ConflictError if the folder holds another comparison.
    """
    out = _out(options)
    manifest = read_manifest(options.common.dataset)
    if options.common.eval_split is None and not any(split.startswith(("validation", "dev")) for split in manifest.splits):
        raise _nothing_to_compare_on(options.common)
    once = functools.cache(say)
    # for every arm, so that an arm that cannot run fails before the first run
    for arm in options.arms:
        planned_steps(replace(arm.options(options.common), max_steps=1), once)
    first = options.arms[0].options(options.common)
    steps = planned_steps(replace(first, inputs="plain") if first.inputs else first, once)
    common = replace(options.common, max_steps=steps)
    identities = {"dataset": manifest.dataset, "student": teacher_digest(student_folder(common))}
    settings = json.loads(json.dumps({**replace(options, common=common).settings(), **identities}))
    done = _read(out / RESULTS, settings)
    todo = [(arm, seed) for seed in range(options.seeds) for arm in options.arms if (arm.name, seed) not in done]
    for number, (arm, seed) in enumerate(todo, 1):
        say(f"run {number} of {len(todo)}: {arm.name}, seed {seed}")
        line = _run(arm, seed, common, out, settings, progress)
        done[arm.name, seed] = line
        _append(out / RESULTS, line)
        if not options.keep_students:
            remove(_student(out, arm, seed))
    if not options.keep_students:
        remove_empty(out / STUDENTS)
    return _conclude(options, done, out, steps)


def _out(options: CompareOptions) -> Path:
    return Path(options.out or Path("comparisons") / Path(options.common.dataset.rstrip("/")).name).expanduser()


def _nothing_to_compare_on(common: TrainOptions) -> DatasetError:
    return DatasetError(f"the dataset {common.dataset} has no labelled validation split to compare on; give --eval-split")


def _student(out: Path, arm: Arm, seed: int) -> Path:
    return out / STUDENTS / f"{arm.name.replace(':', '-').replace('=', '')}-{seed}"


def _run(arm: Arm, seed: int, common: TrainOptions, out: Path, settings: dict[str, Any], progress: TrainProgress | None) -> dict[str, Any]:
    student = _student(out, arm, seed)
    try:
        made = train(replace(arm.options(common), seed=seed, out=str(student), resume=True, overwrite=True), progress)
    except Stopped as stopped:
        way_on = f"stopped in {arm.name}, seed {seed}, and saved; the same command goes on from here"
        raise Stopped(stopped.exit_code - 128, way_on) from None
    if made.eval_split is None:
        raise _nothing_to_compare_on(common)
    return {
        "arm": arm.name, "seed": seed, "metric": made.metric, "score": made.metrics.get(made.metric), "metrics": made.metrics,
        "eval_split": made.eval_split, "steps": made.steps, "tokens": made.tokens, "tokens_per_s": made.tokens_per_s,
        "train_s": made.train_s, "settings": settings,
    }  # fmt: skip


def _read(path: Path, settings: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """The finished runs. ConflictError if they were made with other settings; a line cut off by a kill is skipped."""
    done = {}
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        other = [name for name in {*settings, *line["settings"]} if settings.get(name) != line["settings"].get(name)]
        if other:
            was = ", ".join(f"{name} {line['settings'].get(name)}, now {settings.get(name)}" for name in sorted(other)[:3])
            raise ConflictError(f"{path.parent} holds a comparison with other settings ({was}); give another --out")
        done[line["arm"], line["seed"]] = line
    return done


def _append(path: Path, line: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.is_file() and not path.read_bytes().endswith(b"\n")  # by a kill
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{chr(10) * torn}{json.dumps(line)}\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; choose another --out") from None


def _conclude(options: CompareOptions, done: dict[tuple[str, int], dict[str, Any]], out: Path, steps: int) -> Comparison:
    lines = {arm.name: [done[arm.name, seed] for seed in range(options.seeds)] for arm in options.arms}
    scores = {name: tuple(math.nan if r["score"] is None else float(r["score"]) for r in runs) for name, runs in lines.items()}
    first = options.arms[0].name
    arms = tuple(
        ArmScore(
            arm=name,
            scores=scores[name],
            against=None if name == first else paired(scores[name], scores[first]),
            tokens_per_s=statistics.fmean(r["tokens_per_s"] for r in runs),
        )
        for name, runs in lines.items()
    )
    any_run = lines[first][0]
    found = Comparison(out=out, metric=any_run["metric"], steps=steps, eval_split=any_run["eval_split"], arms=arms, picture=None)
    try:
        from textsmooth.pipeline.training.compare_plot import draw
    except ImportError:
        picture = None
    else:
        picture = draw(found, out / PICTURE)
    found = replace(found, picture=picture)
    facts = {"metric": found.metric, "steps": steps, "eval_split": found.eval_split, "confidence": CONFIDENCE, "against": first}
    put(out / TABLE, f"{found.table()}\n".encode())
    put(out / SUMMARY, pretty_json({**facts, "arms": [arm.to_json() for arm in arms], "settings": any_run["settings"]}))
    return found
