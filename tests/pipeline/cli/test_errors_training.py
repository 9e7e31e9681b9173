"""docs/errors-training.md: what can go wrong when students are trained, what the command says, and its exit code. Every row is run.

TEXTSMOOTH_WRITE_ERRORS=1 python -m pytest tests/pipeline/cli/test_errors_training.py writes the table anew; look at the
difference before you keep
it.
"""

import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from helpers_gen import files_of, tree

from textsmooth.pipeline.cli.app import run, textsmooth

DOC = Path(__file__).resolve().parents[3] / "docs/errors-training.md"
HEAD = """# Errors of training

As in [errors.md](errors.md): one line on stderr, nothing on disk, exit code 2 for what cannot be named so, 1 for what is not as it has
to be. The table is made from the tests (tests/pipeline/cli/test_errors_training.py), which run each
row; `textsmooth train: ` in front of the
line is left out. `DATASET` stores k = 8, mass 0.98 and temperatures 0.5, 1 and 2, and `STUDENT` takes 40 tokens.
"""


@dataclass(frozen=True)
class Case:
    """One wrong input."""

    group: str
    what: str  # the user did
    args: str  # DATASET --student STUDENT --out OUT are given where they are not named
    code: int
    make: Callable[[Path, ModuleType], object] = lambda desk, kit: None  # what lies on the desk


def small(**changes: object) -> Callable[[Path, ModuleType], object]:
    return lambda desk, kit: kit.small_dataset(desk / "other", **changes)


def unlabelled(desk: Path, kit: ModuleType) -> None:
    kit.write_dataset(desk / "other", {"train": [kit.random_rows(1, 40, label_kind=None).block]}, label_kind=None)


def only_train(desk: Path, kit: ModuleType) -> None:
    kit.write_dataset(desk / "other", {"train": [kit.random_rows(1, 40).block]})


def shard(change: Callable[[Path], object]) -> Callable[[Path, ModuleType], object]:
    def make(desk: Path, kit: ModuleType) -> None:
        kit.small_dataset(desk / "other")
        change(desk / "other/train/00000.arrow")

    return make


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_words(desk: Path, kit: ModuleType) -> None:
    kit.save_masked_lm(desk / "other", words=50)


def short(desk: Path, kit: ModuleType) -> None:
    kit.save_masked_lm(desk / "other", max_position_embeddings=6)


def no_weights(desk: Path, kit: ModuleType) -> None:
    shutil.copytree(desk / "STUDENT", desk / "other")
    (desk / "other/model.safetensors").unlink()


def something(desk: Path, kit: ModuleType) -> None:
    (desk / "OUT").mkdir()
    (desk / "OUT/notes.txt").write_text("mine")


def unfinished(desk: Path, kit: ModuleType) -> None:
    """A run that was interrupted after its first epoch."""
    from textsmooth.pipeline.training.dispatch import train
    from textsmooth.schemas.train import TrainOptions

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    options = TrainOptions(dataset="DATASET", student="STUDENT", out="OUT", epochs=1, threads=1, progress="none")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("textsmooth.pipeline.training.run.save_model", interrupted)
        train(options)


CASES = [
    Case("The dataset", "a folder that is not there", "nowhere", 2),
    Case("The dataset", "a folder of something else", "STUDENT", 1),
    Case("The dataset", "no labels", "other", 1, unlabelled),
    Case("The dataset", "an evaluation split that it has not", "DATASET --eval-split test", 2),
    Case("The dataset", "early stopping without a validation split", "other --patience 2", 2, only_train),
    Case("The dataset", "no teacher's logits", "DATASET --objective kd", 2),
    Case("The dataset", "soft ids of unmasked text", "DATASET --objective mlm", 2),
    Case("The dataset", "rows per class, of values", "other --rows-per-class 5", 2, small(label_kind="value", label_names=None)),
    Case("The dataset", "a shard that is gone", "other", 1, shard(Path.unlink)),
    Case("The dataset", "a shard that was cut short", "other", 1, shard(lambda path: path.write_bytes(path.read_bytes()[:5000]))),
    Case("The dataset", "a shard with one bit flipped", "other", 1, shard(flip)),
    Case("The student", "a folder that is not there", "--student nowhere", 2),
    Case("The student", "another vocabulary", "--student other", 1, other_words),
    Case("The student", "too few positions", "--student other", 2, short),
    Case("The student", "no weights", "--student other", 1, no_weights),
    Case("The input", "a rate above 1", "--lam 2", 2),
    Case("The input", "a distribution that is none", "--lam gauss", 2),
    Case("The input", "a Beta distribution without its parameter", "--lam beta:", 2),
    Case("The input", "more entries than are stored", "--topk 9", 2),
    Case("The input", "more mass than is stored", "--mass 0.99", 2),
    Case("The input", "a temperature that cannot be", "--temperature 0", 2),
    Case(
        "The input",
        "a temperature that masked words were not stored at",
        "other --objective mlm --temperature 3",
        2,
        small(context="masked:3"),
    ),
    Case("The input", "no draws", "--draws 0", 2),
    Case("The input", "a smoothing rate for plain input", "--inputs plain --lam 0.5", 2),
    Case("The input", "a tail that is none", "--tail head", 2),
    Case("The run", "rows and tokens of a batch", "--batch-size 8 --batch-tokens 512", 2),
    Case("The run", "no epochs", "--epochs 0", 2),
    Case("The run", "a share of the teacher without a teacher", "--kd-weight 0.5", 2),
    Case("The run", "a form of input, for masked words", "--objective mlm --inputs smoothed", 2),
    Case("The run", "a learning rate that makes the loss infinite", "--lr 1e30 --warmup 0", 1),
    Case("The output", "a folder that holds something", "", 1, something),
    Case("The output", "something else, to be overwritten", "--overwrite", 1, something),
    Case("The output", "the dataset itself", "--out DATASET", 2),
    Case("The output", "another run that was interrupted", "--epochs 1 --lr 0.1", 1, unfinished),
]


@pytest.fixture(scope="module")
def found() -> dict[int, str]:
    return {}


def said(case: Case, capsys: pytest.CaptureFixture[str], desk: Path) -> str:
    """The line that a case gives; nothing on the desk has changed."""
    args = shlex.split(case.args)
    dataset = args.pop(0) if args and not args[0].startswith("-") else "DATASET"
    for option, value in {"--student": "STUDENT", "--out": "OUT", "--threads": "1"}.items():
        args += [] if option in args else [option, value]
    before = files_of(desk), tree(desk)
    capsys.readouterr()
    code = run(textsmooth, "textsmooth", ["train", dataset, *args])
    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (case.code, "", 1), err
    assert (files_of(desk), tree(desk)) == before
    return err.removeprefix("textsmooth train: ").rstrip("\n").replace(f"{desk}/", "/path/to/")


def rendered(line: str) -> str:
    return line.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{c.group}: {c.what}" for c in CASES])
def test_a_wrong_input_is_told_as_the_table_says(
    number: int,
    kit: ModuleType,
    student: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    found: dict[int, str],
) -> None:
    case = CASES[number]
    kit.small_dataset(tmp_path / "DATASET")
    shutil.copytree(student, tmp_path / "STUDENT")
    monkeypatch.chdir(tmp_path)
    case.make(tmp_path, kit)
    line = said(case, capsys, tmp_path)
    line = re.sub(r"\b[0-9a-f]{12}\b", "0123456789ab", line)  # digests are of this machine's files
    found[number] = line
    assert str(tmp_path) not in line, "a path of this machine would get into the docs"
    if "TEXTSMOOTH_WRITE_ERRORS" not in os.environ:
        assert f"| {rendered(line)} | {case.code} |" in DOC.read_text(encoding="utf-8"), f"docs/errors-training.md differs; now: {line}"


def test_the_table_is_that_of_the_cases(found: dict[int, str]) -> None:
    if len(found) < len(CASES):
        pytest.skip("only after all cases")
    text, group = HEAD, ""
    for number, case in enumerate(CASES):
        if case.group != group:
            group = case.group
            text += f"\n## {group}\n\n| wrong | said | exit code |\n|---|---|---:|\n"
        text += f"| {case.what}{f' (`{case.args}`)' if case.args else ''} | {rendered(found[number])} | {case.code} |\n"
    if "TEXTSMOOTH_WRITE_ERRORS" in os.environ:
        DOC.write_text(text, encoding="utf-8")
    assert DOC.read_text(encoding="utf-8") == text
