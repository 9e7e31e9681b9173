"""docs/errors.md: what a user can get wrong, what the command says, and its exit code. Every row is run.

TEXTSMOOTH_WRITE_ERRORS=1 python -m pytest tests/pipeline/cli/test_errors.py writes the table anew; look at the
difference before you keep it.
"""

import gzip
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import POSITIONS, VOCAB, Ran, make_model, make_tokenizer, rows, write_jsonl, wrong

DOC = Path(__file__).resolve().parents[3] / "docs/errors.md"
HEAD = """# Errors

Every wrong input costs one line on stderr and nothing on disk. Exit code 2: something named on the command line cannot be; 1: something
inside a file, a model or a folder is not as it has to be. `--debug` adds the traceback. The table is made from the tests
(tests/pipeline/cli/test_errors.py), which run each row with a teacher of {tokens} tokens and {positions} positions; what stands in front of
each line, `textsmooth-gen: `, is left out. Training has a table of its own: [errors-training.md](errors-training.md).
"""


@dataclass(frozen=True)
class Case:
    """One wrong input."""

    group: str
    what: str  # the user did
    args: str  # beside --corpus good.jsonl --teacher teacher --out out --topk 3, which are given where they are not named
    code: int
    make: Callable[[Path], object] = lambda desk: None  # what lies on the desk


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda desk: (desk / name).write_bytes(data)


def lines(*values: Any) -> Callable[[Path], object]:
    return lambda desk: write_jsonl(desk / "c.jsonl", list(values))


def folder(name: str, **files: str) -> Callable[[Path], object]:
    def make(desk: Path) -> None:
        (desk / name).mkdir()
        for file, content in files.items():
            (desk / name / file.replace("__", ".")).write_text(content)

    return make


def hub_folder(desk: Path) -> None:
    configs = "".join(f"- config_name: {c}\n  data_files: [{{split: train, path: {c}.jsonl}}]\n" for c in ("single", "pair"))
    folder("hub", README__md=f"---\nconfigs:\n{configs}---\n")(desk)
    for name in ("single", "pair"):
        write_jsonl(desk / f"hub/{name}.jsonl", rows(4, pair=name == "pair"))


def sly(desk: Path) -> None:
    folder("sly", README__md="---\nconfigs:\n- config_name: default\n  data_files: ../good.jsonl\n---\n")(desk)


def cut_gzip(desk: Path) -> None:
    (desk / "c.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n" * 50)[:-12])


def unlike(desk: Path) -> None:
    write_jsonl(desk / "x1.jsonl", rows(3))
    write_jsonl(desk / "x2.jsonl", [{"prose": "a"}])


def squad(**changes: Any) -> Callable[[Path], object]:
    row = {"id": "q1", "question": "who sat", "context": "the cat sat", "answers": {"text": ["cat"], "answer_start": [4]}}
    return lines({**row, **changes})


def model(**changes: Any) -> Callable[[Path], object]:
    """The teacher's config.json with changes; ... leaves a field out."""

    def make(desk: Path) -> None:
        file = desk / "teacher/config.json"
        config = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))

    return make


def without(*patterns: str) -> Callable[[Path], object]:
    def make(desk: Path) -> None:
        for pattern in patterns:
            for file in (desk / "teacher").glob(pattern):
                file.unlink()

    return make


def bare(desk: Path) -> None:
    make_model().bert.save_pretrained(desk / "teacher")


def cut_weights(desk: Path) -> None:
    file = desk / "teacher/model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def nan_weights(desk: Path) -> None:
    broken = make_model()
    broken.cls.predictions.bias.data[7] = float("nan")
    broken.save_pretrained(desk / "teacher")


def more_tokens(desk: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["surplus"])
    tokenizer.save_pretrained(desk / "teacher")


def tokenizer_settings(**changes: Any) -> Callable[[Path], object]:
    """The teacher's tokenizer_config.json with changes."""

    def make(desk: Path) -> None:
        file = desk / "teacher/tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return make


def no_mask(desk: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(desk / "teacher")


def classifier(*names: str, lower: bool = True) -> Callable[[Path], object]:
    def make(desk: Path) -> None:
        from transformers import BertForSequenceClassification

        config = make_model().config
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
        BertForSequenceClassification(config).save_pretrained(desk / "second")
        tokenizer = make_tokenizer()
        if not lower:
            tokenizer.backend_tokenizer.normalizer = None
        tokenizer.save_pretrained(desk / "second")
        write_jsonl(desk / "named.jsonl", [{**row, "label": ("no", "yes")[n % 2]} for n, row in enumerate(rows(4))])

    return make


def run_there(*changes: str, after: Callable[[Path], object] = lambda desk: None) -> Callable[[Path], object]:
    """A finished run in out/."""

    def make(desk: Path) -> None:
        from textsmooth.pipeline.generation.run import generate
        from textsmooth.schemas.config import GenerateOptions

        options = {"corpus": "good.jsonl", "teacher": "teacher", "topk": 3, "out": "out", "threads": 1, "dtype": "float32"}
        generate(GenerateOptions(**options))
        after(desk)

    return make


def altered_plan(desk: Path) -> None:
    plan = desk / "out/plan.json"
    plan.write_text(plan.read_text().replace('"limit": null', '"limit": 3'))


def lost_shard(desk: Path) -> None:
    next((desk / "out/train").glob("*.arrow")).unlink()


def edited(desk: Path) -> None:
    write_jsonl(desk / "good.jsonl", rows(6, seed=9))


CASES = [
    Case("Corpora", "a name that is nothing", "--corpus nowhere", 2),
    Case("Corpora", "a file that is not there", "--corpus nowhere.jsonl", 2),
    Case("Corpora", "a glob that finds nothing", "--corpus no*where.txt", 2),
    Case("Corpora", "a dataset of the Hub, offline, never read before", "--corpus glue/qnli", 1),
    Case("Corpora", "a task that is none", "--corpus glue/rtee", 2),
    Case("Corpora", "a config that is not there", "--corpus hub:triple", 2, hub_folder),
    Case("Corpora", "several configs, none named", "--corpus hub", 2, hub_folder),
    Case("Corpora", "a split that is not there", "--split test", 2),
    Case("Corpora", "a revision of a corpus on this machine", "--corpus-revision v2", 2),
    Case("Corpora", "a format that is not read", "--corpus c.docx", 2, text("c.docx", "PK")),
    Case("Corpora", "a compressed Parquet file", "--corpus c.parquet.gz", 2, text("c.parquet.gz", "PAR1")),
    Case("Corpora", "an empty file", "--corpus c.txt", 1, text("c.txt", "")),
    Case("Corpora", "an empty folder", "--corpus empty", 2, folder("empty")),
    Case("Corpora", "a line that is not JSON", "--corpus c.jsonl", 1, text("c.jsonl", '{"text": "a"}\n{"text": \n')),
    Case("Corpora", "one JSON array instead of lines", "--corpus c.json", 1, text("c.json", '[{"text": "a"}, {"text": "b"}]\n')),
    Case("Corpora", "a dict as Python prints it", "--corpus c.jsonl", 1, text("c.jsonl", "{'text': 'a'}\n")),
    Case("Corpora", "a table by columns", "--corpus c.json", 1, text("c.json", '{"text": {"0": "a"}, "label": {"0": 1}}\n')),
    Case("Corpora", "text that is not UTF-8", "--corpus c.txt", 1, text("c.txt", b"good\nb\xffd\n")),
    Case("Corpora", "half of a surrogate pair", "--corpus c.jsonl", 1, text("c.jsonl", '{"text": "\\ud83d"}\n')),
    Case("Corpora", "a damaged Parquet file", "--corpus c.parquet", 1, text("c.parquet", "PAR1 but no more")),
    Case("Corpora", "a compressed file that was cut off", "--corpus c.txt.gz", 1, cut_gzip),
    Case("Corpora", "a CSV row with too many fields", "--corpus c.csv", 1, text("c.csv", "text,label\na,1\nb,2,3\n")),
    Case("Corpora", "a CSV field whose quote never ends", "--corpus c.csv", 1, text("c.csv", 'text\na\n"b\nc\n')),
    Case("Corpora", "a CSV header that names a column twice", "--corpus c.csv", 1, text("c.csv", "text,text\na,b\n")),
    Case("Corpora", "a README.md that points outside its folder", "--corpus sly", 2, sly),
    Case("Corpora", "a CSV file of semicolons", "--corpus c.csv", 1, text("c.csv", "text;label\na;1\n")),
    Case("Corpora", "a CSV file without a header", "--corpus c.csv", 2, text("c.csv", "good film\nbad film\n")),
    Case("Corpora", "a CSV file with nothing but a header", "--corpus c.csv", 1, text("c.csv", "text,label\n")),
    Case("Corpora", "a URI", "--corpus https://host/c.jsonl", 2),
    Case("Columns", "a text column that is not there", "--text-column prose", 2),
    Case("Columns", "text in none of the usual columns", "--corpus c.jsonl", 2, lines({"one": "a", "two": "b"})),
    Case("Columns", "strings in one column only, of another name", "--corpus c.jsonl", 2, lines({"id": "x1", "stars": 1})),
    Case("Columns", "a column whose name has another case or a space", "--label-column Label", 2),
    Case("Columns", "more than a pair of texts", "--text-column text --text-column note --text-column idx", 2),
    Case("Columns", "a text that is null", "--corpus c.jsonl", 1, lines({"text": "a"}, {"text": None})),
    Case("Columns", "a text that is a number", "--text-column idx", 1),
    Case("Columns", "a row without the column", "--corpus c.jsonl", 1, lines({"text": "a"}, {"prose": "a"})),
    Case("Columns", "a file without the column", "--corpus x*.jsonl", 2, unlike),
    Case("Columns", "a column to keep that is not there", "--keep-columns idx,colour", 2),
    Case("Columns", "a column to keep with a name of ours", "--keep-columns label", 2),
    Case(
        "Columns",
        "a column to keep of several types",
        "--corpus c.jsonl --keep-columns k",
        1,
        lines({"text": "a", "k": 1}, {"text": "b", "k": "x"}),
    ),
    Case("Labels", "a label column that is not there", "--label-column class", 2),
    Case("Labels", "a class below -1", "--corpus c.jsonl", 1, lines({"text": "a", "label": -2})),
    Case("Labels", "numbers and strings", "--corpus c.jsonl", 1, lines({"text": "a", "label": 1}, {"text": "b", "label": "x"})),
    Case("Labels", "-1 among words", "--corpus c.jsonl", 1, lines({"text": "a", "label": "x"}, {"text": "b", "label": "-1"})),
    Case("Labels", "a list", "--corpus c.jsonl", 1, lines({"text": "a", "label": [1]})),
    Case("Labels", "a number of more than 64 bits", "--corpus c.jsonl", 1, lines({"text": "a", "label": 10**20})),
    Case("Labels", "an answer that is not in its context", "--corpus c.jsonl", 1, squad(answers={"text": ["dog"], "answer_start": [4]})),
    Case(
        "Labels", "an answer beyond the end of its context", "--corpus c.jsonl", 1, squad(answers={"text": ["cat"], "answer_start": [40]})
    ),
    Case("Labels", "answers without their starts", "--corpus c.jsonl", 1, squad(answers={"text": ["cat"], "answer_start": []})),
    Case("Teachers", "a folder that is not there", "--teacher no/where/bert", 2),
    Case("Teachers", "a model of the Hub, offline, never read before", "--teacher google-bert/bert-base-uncased", 1),
    Case("Teachers", "a file", "--teacher good.jsonl", 2),
    Case("Teachers", "a revision of a teacher on this machine", "--teacher-revision v2", 2),
    Case("Teachers", "no config.json", "", 1, without("config.json")),
    Case("Teachers", "no weights in safetensors", "", 1, without("*.safetensors")),
    Case("Teachers", "weights that were cut off", "", 1, cut_weights),
    Case("Teachers", "no masked-LM head", "", 1, bare),
    Case("Teachers", "weights of more layers than config.json has", "", 1, model(num_hidden_layers=1)),
    Case("Teachers", "a model that is no masked LM", "", 1, model(model_type="vit")),
    Case("Teachers", "no tokenizer", "", 1, without("*token*", "vocab*")),
    Case("Teachers", "a tokenizer with more tokens than the model", "", 1, more_tokens),
    Case("Teachers", "a damaged tokenizer.json", "", 1, lambda desk: (desk / "teacher/tokenizer.json").write_text("{}")),
    Case(
        "Teachers",
        "tokenizer.json and tokenizer_config.json that contradict each other",
        "",
        1,
        tokenizer_settings(tokenizer_class="BertTokenizer", do_lower_case=False),
    ),
    Case("Teachers", "a tokenizer whose rows have no room for text", "", 1, tokenizer_settings(model_max_length=2)),
    Case("Teachers", "a limit of the tokenizer that is no number", "", 1, tokenizer_settings(model_max_length="long")),
    Case("Teachers", "weights that give NaN", "", 1, nan_weights),
    Case("Teachers", "no mask token, for a masked context", "--context masked:3", 2, no_mask),
    Case("Task teachers", "more classes than the corpus", "--corpus named.jsonl --task-teacher second", 2, classifier("a", "b", "c")),
    Case("Task teachers", "classes of other names", "--corpus named.jsonl --task-teacher second", 2, classifier("good", "bad")),
    Case(
        "Task teachers",
        "nameless classes for strings",
        "--corpus named.jsonl --task-teacher second",
        2,
        classifier("LABEL_0", "LABEL_1"),
    ),
    Case("Task teachers", "a number for a task of classes", "--corpus named.jsonl --task-teacher second", 2, classifier("score")),
    Case("Task teachers", "no trained head", "--task-teacher teacher", 1),
    Case(
        "Task teachers", "another tokenizer, with windows", "--task-teacher second --long window", 2, classifier("no", "yes", lower=False)
    ),
    Case("Options", "no entries", "--topk 0", 2),
    Case("Options", "more entries than tokens", f"--topk {len(VOCAB) + 1}", 2),
    Case("Options", "no mass", "--mass 0", 2),
    Case("Options", "a temperature of 0", "--temperatures 1,0", 2),
    Case("Options", "temperatures that are no numbers", "--temperatures warm", 2),
    Case("Options", "a single masked pass", "--context masked:1", 2),
    Case("Options", "smoothed special tokens in a masked context", "--context masked:3 --specials smoothed", 2),
    Case("Options", "rows longer than the teacher takes", f"--max-length {POSITIONS + 1}", 2),
    Case("Options", "no room for text", "--max-length 2", 2),
    Case("Options", "a stride without windows", "--stride 5", 2),
    Case("Options", "windows that hardly advance", "--long window --stride 20", 2),
    Case("Options", "an answer cut off", "--corpus c.jsonl --long truncate", 2, squad()),
    Case("Options", "no rows", "--limit 0", 2),
    Case("Options", "a device that is not there", "--device abacus", 2),
    Case("Options", "a number format that is none", "--dtype int8", 2),
    Case("Options", "an option that is none", "--colour red", 2),
    Case("Options", "an option twice", "--limit 3 --limit 5", 2),
    Case("The output folder", "a file", "--out good.jsonl", 1),
    Case("The output folder", "a folder of something else", "--out teacher", 1),
    Case("The output folder", "something else, to be overwritten", "--out teacher --overwrite", 1),
    Case("The output folder", "another run", "--topk 4", 1, run_there()),
    Case("The output folder", "a run of a corpus that was edited", "", 1, run_there(after=edited)),
    Case("The output folder", "a finished run that lost a shard", "", 1, run_there(after=lost_shard)),
    Case("The output folder", "a plan that was altered", "", 1, run_there(after=altered_plan)),
]


def said(case: Case, gen: Callable[..., Ran], desk: Path) -> str:
    """The line that a case gives."""
    case.make(desk)
    args = case.args.split()
    for option, value in {"--corpus": "good.jsonl", "--teacher": "teacher", "--out": "out", "--topk": "3"}.items():
        args += [] if option in args else [option, value]
    line = wrong(gen, desk, case.code, *args).removeprefix("textsmooth-gen: ").rstrip("\n").replace(f"{desk}/", "/path/to/")
    return re.sub(r"[0-9a-f]{12}\.arrow", "0123456789ab.arrow", line)  # a shard's name is its content, which is this machine's


def table(found: dict[int, str]) -> str:
    """docs/errors.md, from the lines of the cases."""
    text = HEAD.format(tokens=len(VOCAB), positions=POSITIONS)
    group = ""
    for number, case in enumerate(CASES):
        if case.group != group:
            group = case.group
            text += f"\n## {group}\n\n| wrong | said | exit code |\n|---|---|---:|\n"
        line = found[number].replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")
        options = case.args.replace("*", "\\*")
        text += f"| {case.what}{f' (`{case.args}`)' if options else ''} | {line} | {case.code} |\n"
    return text


@pytest.fixture(scope="module")
def found() -> dict[int, str]:
    return {}


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{c.group}: {c.what}" for c in CASES])
def test_a_wrong_input_is_told_as_the_table_says(number: int, gen: Callable[..., Ran], desk: Path, found: dict[int, str]) -> None:
    case = CASES[number]
    line = said(case, gen, desk)
    found[number] = line
    assert str(desk) not in line, "a path of this machine would get into the docs"
    assert line[0].islower() or line[0] in "-'" or line.startswith(("HF_", "No such", "Invalid", "Got"))
    if "TEXTSMOOTH_WRITE_ERRORS" not in os.environ:
        rendered = line.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")
        assert f"| {rendered} | {case.code} |" in DOC.read_text(encoding="utf-8"), f"docs/errors.md has another line; now: {line}"


def test_the_table_is_that_of_the_cases(found: dict[int, str]) -> None:
    if len(found) < len(CASES):
        pytest.skip("only after all cases")
    if "TEXTSMOOTH_WRITE_ERRORS" in os.environ:
        DOC.write_text(table(found), encoding="utf-8")
    assert DOC.read_text(encoding="utf-8") == table(found)


def test_there_are_enough_cases_and_none_twice() -> None:
    assert len(CASES) >= 40
    assert len({(c.group, c.what) for c in CASES}) == len(CASES)
    assert {c.group for c in CASES} >= {"Corpora", "Columns", "Labels", "Teachers", "Options"}
