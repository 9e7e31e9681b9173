"""`textsmooth student`: layers of a teacher, or a fresh model; and what is said of what cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from textsmooth.pipeline.cli import app as cli


@pytest.fixture
def student(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def start(*args: object) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.run(cli.textsmooth, "textsmooth", ["student", *map(str, args)])
        return code, "".join(capsys.readouterr())

    return start


def test_layers_are_taken(student: Callable[..., tuple[int, str]], teacher: Path, tmp_path: Path) -> None:
    code, said = student("--from", teacher, "--layers", "1", "--out", tmp_path / "s")
    assert code == 0 and said.startswith(f"saved    {tmp_path / 's'}  (1 of the teacher's layers: 1)"), said
    assert json.loads((tmp_path / "s" / "config.json").read_text())["num_hidden_layers"] == 1


def test_a_fresh_one_is_made(student: Callable[..., tuple[int, str]], teacher: Path, tmp_path: Path) -> None:
    sizes = ("--num-layers", 3, "--hidden-size", 16, "--num-heads", 2)
    code, said = student("--from", teacher, "--fresh", *sizes, "--intermediate-size", 20, "--out", tmp_path / "s")
    assert code == 0 and "(3 layers of 16, random weights)" in said and f"textsmooth train DATASET --student {tmp_path / 's'}" in said, said
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]) == (3, 16, 20)
    assert (tmp_path / "s" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("args", "code", "expected"),
    [
        ((), 2, "give either --layers, to copy some of the teacher's, or --fresh with --num-layers"),
        (("--layers", "0", "--fresh"), 2, "give either --layers"),
        (("--layers", "0;1"), 2, "layers '0;1' is not a list of layer numbers"),
        (("--layers", "7"), 2, "layer 7 is not in the teacher"),
        (("--layers", "0", "--hidden-size", "16"), 2, "--hidden-size is a size of a fresh student"),
        (("--fresh", "--num-layers", "2"), 2, "a fresh student needs --hidden-size"),
        (("--fresh", "--num-layers", "2", "--hidden-size", "16", "--num-heads", "3"), 2, "hidden-size 16 is not a multiple of num-heads 3"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    student: Callable[..., tuple[int, str]], teacher: Path, tmp_path: Path, args: tuple[str, ...], code: int, expected: str
) -> None:
    found, said = student("--from", teacher, *args, "--out", tmp_path / "s")
    assert found == code and expected in said and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_every_option_has_help() -> None:
    from textsmooth.pipeline.cli.train import student

    assert all(parameter.help for parameter in student.params if parameter.param_type_name == "option")
