"""--config job.yaml: every option, one or many corpora, variables; a mistake is one line with file and line number."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from helpers_gen import REPOSITORY, Ran, rows, shards_of, write_jsonl, wrong

from textsmooth.pipeline import progress
from textsmooth.pipeline.cli import gen as cli_gen
from textsmooth.pipeline.cli import job as cli_job
from textsmooth.pipeline.cli.command import OrWord
from textsmooth.pipeline.generation import run as generation
from textsmooth.pipeline.generation.job_file import NOT_IN_A_FILE, Entry, check, read_job
from textsmooth.schemas.config import GenerateOptions

SAMPLES = {"integer": "7", "float": "0.5", "text": "name", "boolean": "true"}
SPECIAL = {"temperatures": "0.25", "num_workers": "2-3", "context": "masked:3", "long": "window", "text_columns": "a", "device": "cpu"}


def options() -> list[click.Option]:
    return [p for p in cli_gen.gen.params if isinstance(p, click.Option) and p.name not in NOT_IN_A_FILE]


def sample(option: click.Option) -> str:
    """A value, as it is typed, that is not the default."""
    if option.name in SPECIAL:
        return SPECIAL[option.name]
    kind = option.type.inner if isinstance(option.type, OrWord) else option.type
    if isinstance(kind, click.Choice):
        return str(next((choice for choice in reversed(kind.choices) if choice != option.default), option.default))
    return SAMPLES[kind.name]


def context(*args: str) -> click.Context:
    return cli_gen.gen.make_context("textsmooth-gen", ["--config", "job.yaml", *args])


def read(folder: Path, text: str, *args: str) -> list[Entry]:
    (folder / "job.yaml").write_text(text)
    return read_job(str(folder / "job.yaml"), context(*args))


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_every_option_says_in_a_file_what_it_says_on_the_command_line(option: click.Option, tmp_path: Path) -> None:
    value, name = sample(option), option.opts[0]
    words = [name] if option.is_flag else [name, value]
    corpus = [] if option.name == "corpus" else ["--corpus", "demo"]
    typed = cli_gen.gen.make_context("textsmooth-gen", [*corpus, *words]).params
    if len(getattr(option.type, "choices", "more")) > 1:
        assert typed[option.name] != cli_gen.gen.make_context("textsmooth-gen", ["--corpus", "demo"]).params[option.name]
    for spelled in (name[2:], name[2:].replace("-", "_")):
        first = "" if option.name == "corpus" else "corpus: demo\n"
        entry = read(tmp_path, f"{first}{spelled}: {value}\n")[0]
        assert {k: v for k, v in entry.params.items() if k != "config"} == {k: v for k, v in typed.items() if k != "config"}


def test_the_options_of_the_file_are_those_of_the_command() -> None:
    fields = set(GenerateOptions.__dataclass_fields__)
    assert {option.name for option in options()} == fields | {"dry_run", "progress", "debug"}


def test_values_are_taken_as_they_are_written(tmp_path: Path) -> None:
    text = """\
corpus: demo
mass: 1
temperatures: [0.5, 1]
max-length: auto
text-column: [question, sentence]
keep_columns: idx, note
split: train
label-column: no        # a column of that name, not false
limit: null
overwrite: yes
dry-run: "true"
ship-code: false
"""
    found = read(tmp_path, text)[0].params
    assert found["mass"] == 1.0 and found["temperatures"] == (0.5, 1.0) and found["max_length"] is None
    assert found["text_columns"] == ("question", "sentence") and found["splits"] == ("train",)
    assert (found["label_column"], found["limit"], found["overwrite"], found["dry_run"], found["ship_code"]) == (
        "no",
        None,
        True,
        True,
        False,
    )
    asked = cli_job.generate_options(found)
    assert asked.keep_columns == ("idx", "note")


def test_the_top_is_for_all_a_corpus_overrides_it_and_the_command_line_wins(tmp_path: Path) -> None:
    text = """\
topk: 8
limit: 5
mass: 0.9
corpora:
- corpus: demo
- corpus: glue/qnli
  topk: 16
  limit: null
"""
    first, second = (entry.params for entry in read(tmp_path, text, "--mass", "0.5"))
    assert (first["corpus"], first["topk"], first["limit"], first["mass"]) == ("demo", 8, 5, 0.5)
    assert (second["corpus"], second["topk"], second["limit"], second["mass"]) == ("glue/qnli", 16, None, 0.5)
    assert read(tmp_path, "topk: 4\n", "--corpus", "demo")[0].params["corpus"] == "demo"


def test_variables_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "mine")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NIGHT", raising=False)
    text = 'corpus: s3://${BUCKET}/a.jsonl\nout: "${BUCKET}/${NIGHT:-tonight}-${EMPTY:-x}-$${BUCKET}"\nlimit: ${N:-3}\n'
    found = read(tmp_path, text)[0].params
    assert (found["corpus"], found["out"], found["limit"]) == ("s3://mine/a.jsonl", "mine/tonight-x-${BUCKET}", 3)


MISTAKES = [
    ("corpus: demo\ntopk: many\n", "job.yaml:2: topk: 'many' is not a valid integer"),
    ("corpus: demo\n\ntopk: true\n", "job.yaml:3: topk: 'true' is not a valid integer"),
    ("corpus: demo\ndtype: int8\n", "job.yaml:2: dtype: 'int8' is not one of 'float32', 'bfloat16', 'float16'"),
    ("corpus: demo\ntopk: 0\nmass: 0.5\n", "job.yaml:2: topk must be a whole number of at least 1, not 0"),
    ("mass: 2\ncorpora:\n- corpus: demo\n", "job.yaml:1: mass must be a number above 0 and at most 1, not 2"),
    ("corpus: demo\nstride: 4\nlong: truncate\n", "job.yaml:3: --stride is what neighboring windows share"),
    ("corpus: demo\ntemperatures: [1, x]\n", "job.yaml:2: temperatures: --temperatures takes numbers"),
    ("corpus: demo\ntop-k: 3\n", "job.yaml:2: no option 'top-k'; is topk meant?"),
    ("corpus: demo\ntext_colum: a\n", "job.yaml:2: no option 'text_colum'; is text-column meant?"),
    ("corpus: demo\nxyzzy: a\n", "job.yaml:2: no option 'xyzzy', see textsmooth-gen --help"),
    ("corpus: demo\nconfig: other.yaml\n", "job.yaml:2: config goes on the command line, not into a file"),
    ("corpus: demo\n? [a]\n: b\n", "job.yaml:2: no option 'this'"),
    ("topk: 3\ncorpus: demo\ntopk: 4\n", "job.yaml:3: topk is given twice, first in line 1"),
    ("text-column: a\ncorpus: demo\ntext_column: b\n", "job.yaml:3: text-column is given twice, first in line 1"),
    ("corpus: demo\n  topk: 3\n", "job.yaml:2: not YAML: mapping values are not allowed here"),
    ("corpus: demo\n\ttopk: 3\n", "job.yaml:2: not YAML: "),
    ("corpora:\n\t- corpus: demo\n", "job.yaml:2: not YAML: a tab; YAML is indented with spaces"),
    ("corpus: [demo\n", "job.yaml:2: not YAML: "),
    ("corpus: demo\n---\ncorpus: demo\n", "job.yaml:2: not YAML: "),
    ("corpus: demo\nout: a\x07b\n", "job.yaml:2: not YAML: character 0x7 is not allowed"),
    (b"corpus: demo\nout: \xff\n", "job.yaml:2: not text in UTF-8"),
    ("corpus: " + "[" * 1500, "job.yaml:1: not a job: nested too deeply"),
    ("corpus: *all\n", "job.yaml:1: not YAML: found undefined alias"),
    ("corpus: !!python/object/apply:os.system ['ls']\n", "job.yaml:1: corpus: takes one value, not a list"),
    ("corpus: !secret x\n", "job.yaml:1: corpus: tags like !secret are not taken"),
    ("corpus: demo\ntopk: [3, 4]\n", "job.yaml:2: topk: takes one value, not a list"),
    ("corpus: demo\ntemperatures: {a: 1}\n", "job.yaml:2: temperatures: takes one value or a list of them, not a mapping"),
    ("corpus: demo\ntext-column: [[a]]\n", "job.yaml:2: text-column: takes values, not lists or mappings in a list"),
    ("corpus: demo\ntext-column: [a, null]\n", "job.yaml:2: text-column: null is no value of a list"),
    ("corpus: demo\noverwrite: maybe\n", "job.yaml:2: overwrite: 'maybe' is not a valid boolean"),
    ("", "job.yaml:1: no corpus: the file is empty"),
    ("# nothing\n", "job.yaml:1: no corpus: the file is empty"),
    ("\ntopk: 3\n", "job.yaml:2: no corpus: add corpus: NAME, or corpora: a list"),
    ("corpus: null\n", "job.yaml:1: no corpus"),
    ("- corpus: demo\n", "job.yaml:1: options are needed, as `name: value`"),
    ("topk: 3\ncorpora:\n- corpus: demo\n  out: a\n- topk: 4\n", "job.yaml:5: no corpus"),
    ("corpora: []\n", "job.yaml:1: corpora: takes a list of mappings"),
    ("corpora: demo\n", "job.yaml:1: corpora: takes a list of mappings"),
    ("corpora:\n- demo\n", "job.yaml:2: each of corpora: is a mapping"),
    ("corpora:\n- corpora:\n  - corpus: demo\n", "job.yaml:2: corpora: goes at the top"),
    ("corpora:\n- corpus: demo\ncorpus: demo\n", "job.yaml:3: corpus: and corpora: do not go together"),
    ("corpora:\n- corpus: demo\n  limit: 3\n- corpus: demo\n", "job.yaml:4: out: "),
    ("out: here\ncorpora:\n- corpus: demo\n- corpus: squad\n", "job.yaml:1: out: "),
    ("corpora:\n- {corpus: demo, out: a}\n- corpus: squad\n  out: ./a/\n", "job.yaml:4: out: "),
    ("corpus: demo\nout: /data/${TEXTSMOOTH_UNSET}/x\n", "job.yaml:2: out: the environment has no TEXTSMOOTH_UNSET; set it, or write"),
    ("corpus: demo\nout: ${1x}\n", "job.yaml:2: out: '${1x}' is no variable"),
    ("corpus: demo\nout: ${open\n", "job.yaml:2: out: '${open' is no variable"),
]


@pytest.mark.parametrize(("text", "line"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_line_with_file_and_line(text: str | bytes, line: str, gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "job.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = wrong(gen, desk, 2, "--config", "job.yaml")
    assert said.startswith(f"textsmooth-gen: {line}"), said


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--config", "none.yaml"), "no file 'none.yaml'"),
        (("--config", "."), "cannot read .: Is a directory"),
        (("--config", "two.yaml", "--corpus", "demo"), "--corpus on the command line does not go with two.yaml"),
        (("--config", "two.yaml", "--out", "both"), "two.yaml:3: out: "),
        (("--config", "two.yaml", "--mass", 3), "two.yaml:2: mass must be a number above 0"),
        ((), "Missing option '--corpus'"),
    ],
)
def test_what_goes_wrong_beside_the_file(args: tuple[object, ...], line: str, gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "two.yaml").write_text("corpora:\n- corpus: demo\n- corpus: squad\n")
    assert f"textsmooth-gen: {line}" in wrong(gen, desk, 2, *args)


def test_several_corpora_one_after_the_other_and_again(gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "other.jsonl", rows(9, 4))
    (desk / "job.yaml").write_text(
        "topk: 3\nrows-per-shard: 4\ncorpora:\n- {corpus: good.jsonl, out: a}\n- {corpus: other.jsonl, out: b, topk: 5}\n"
    )
    ran = gen("--config", "job.yaml")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-3:] == ["job.yaml: 2 corpora", "  good.jsonl: written, a", "  other.jsonl: written, b"]
    assert gen("--corpus", "good.jsonl", "--topk", 3, "--rows-per-shard", 4, "--out", "a2").code == 0
    assert gen("--corpus", "other.jsonl", "--topk", 5, "--rows-per-shard", 4, "--out", "b2").code == 0
    assert shards_of(desk / "a") == shards_of(desk / "a2") and shards_of(desk / "b") == shards_of(desk / "b2")
    again = gen("--config", "job.yaml")
    assert again.code == 0 and again.out.splitlines()[-2:] == ["  good.jsonl: finished before, a", "  other.jsonl: finished before, b"]


def test_a_corpus_that_fails_does_not_stop_the_others(gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "bad.jsonl", [{"text": "fine"}, {"text": None}])
    (desk / "job.yaml").write_text("topk: 3\ncorpora:\n- {corpus: bad.jsonl, out: a}\n- {corpus: good.jsonl, out: b}\n")
    ran = gen("--config", "job.yaml")
    assert ran.code == 1
    assert ran.err.startswith("textsmooth-gen: bad.jsonl: row 1 of ") and len(ran.err.splitlines()) == 1
    assert ran.out.splitlines()[-3:] == ["job.yaml: 2 corpora", "  bad.jsonl: failed (exit code 1), a", "  good.jsonl: written, b"]


@pytest.mark.parametrize(("codes", "worst"), [((0, 0), 0), ((3, 0), 3), ((3, 1), 1), ((2, 1), 1), ((3, 2), 2)])
def test_the_exit_code_is_the_worst(
    codes: tuple[int, ...], worst: int, gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(codes)

    def one(*args: Any) -> str:
        if code := left.pop(0):
            raise click.exceptions.Exit(code)
        return "written"

    monkeypatch.setattr("textsmooth.pipeline.cli.job.generate_one", one)
    (desk / "job.yaml").write_text("corpora:\n- {corpus: demo, out: a}\n- {corpus: demo, out: b}\n")
    ran = gen("--config", "job.yaml")
    assert (ran.code, left) == (worst, [])


def test_interrupted_it_stops_at_once(gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "_run", interrupted)
    (desk / "job.yaml").write_text("corpora:\n- {corpus: good.jsonl, out: a}\n- {corpus: good.jsonl, out: b}\n")
    ran = gen("--config", "job.yaml", "--topk", 3)
    assert ran.code == 130
    assert ran.err == "textsmooth-gen: good.jsonl: interrupted; the same command goes on from here\n"
    assert ran.out.splitlines()[-2:] == ["  good.jsonl: interrupted (exit code 130), a", "  good.jsonl: not begun"]
    assert not (desk / "b").exists()


def test_an_unknown_error_is_shown_whole_and_the_others_are_done(
    gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = generation._run

    def broken(todo: Any, *args: Any) -> None:
        monkeypatch.setattr(generation, "_run", real)
        raise RuntimeError("odd")

    monkeypatch.setattr(generation, "_run", broken)
    (desk / "job.yaml").write_text("topk: 3\ncorpora:\n- {corpus: good.jsonl, out: a}\n- {corpus: good.jsonl, out: b}\n")
    ran = gen("--config", "job.yaml")
    assert ran.code == 1 and "Traceback" in ran.err and "RuntimeError: odd" in ran.err
    assert (desk / "b/manifest.json").exists()


def test_debug_in_a_file_shows_the_traceback(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "job.yaml").write_text("corpus: good.jsonl\ntopk: 100000\ndebug: true\n")
    ran = gen("--config", "job.yaml")
    assert ran.code == 2 and "Traceback" in ran.err and "topk 100000" in ran.err


def test_a_dry_run_in_a_file_writes_nothing(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "job.yaml").write_text("corpus: good.jsonl\nout: a\ntopk: 3\ndry-run: true\n")
    ran = gen("--config", "job.yaml")
    assert ran.code == 0 and "Would write a" in ran.out and not (desk / "a").exists()


def test_every_line_of_json_progress_parses_and_says_what_happened(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "job.yaml").write_text("topk: 3\nrows-per-shard: 2\ncorpora:\n- {corpus: good.jsonl, out: a}\n")
    ran = gen("--config", "job.yaml", "--progress", "json")
    events = [json.loads(line) for line in ran.err.splitlines()]
    assert [event["event"] for event in events] == ["started", "unit", "unit", "unit", "finished"]
    assert {event["event"] for event in events} <= set(progress.EVENTS)
    started, last = events[0], events[-1]
    assert {k: started[k] for k in ("corpus", "rows", "units", "done", "out", "executor")} == {
        "corpus": "good.jsonl", "rows": 6, "units": 3, "done": 0, "out": "a", "executor": "inline"
    }  # fmt: skip
    assert (last["outcome"], last["exit_code"], last["units"]["run"], last["rows"]) == ("done", 0, 3, 6)
    assert last["dataset"] == json.loads((desk / "a/manifest.json").read_bytes())["dataset"]
    again = gen("--config", "job.yaml", "--progress", "json")
    assert [json.loads(line)["units"] for line in again.err.splitlines()] == [{"all": 3, "run": 0, "reused": 3, "failed": 0}]


@pytest.mark.parametrize("more", [(), ("--device", "cpu"), ("--num-workers", "2-8", "--ray-address", "127.0.0.1:1")])
def test_a_job_that_had_finished_starts_no_ray(
    more: tuple[str, ...], gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", init)
    (desk / "job.yaml").write_text("topk: 3\ncorpora:\n- {corpus: good.jsonl, out: a}\n- {corpus: good.jsonl, out: b}\n")
    assert gen("--config", "job.yaml", "--executor", "inline").code == 0
    start = time.monotonic()
    ran = gen("--config", "job.yaml", "--executor", "ray", *more)
    assert ran.code == 0 and ran.out.count("finished before") == 2, ran.err
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("doc", ["jobs.md", "cluster.md"])
def test_the_job_files_in_the_docs_are_right(doc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "mine")
    text = (REPOSITORY / "docs" / doc).read_text(encoding="utf-8")
    found = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("# job.yaml")]
    assert found
    for block in found:
        entries = read(tmp_path, block)
        assert check(entries, cli_job.generate_options, context().params, cli_job._place)
