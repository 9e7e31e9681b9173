"""What is typed wrongly is told in one line, with what was meant; output goes where it can."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Ran
from helpers_verify import Kinds

from textsmooth.pipeline.cli.app import COMMANDS
from textsmooth.schemas.version import VERSION


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("pul", "No such command 'pul'. Did you mean 'pull'? (see textsmooth --help)"),
        ("Verify", "No such command 'Verify'. Did you mean 'verify'? (see textsmooth --help)"),
        ("zzz", "No such command 'zzz'. (see textsmooth --help)"),
        ("", "No such command ''. (see textsmooth --help)"),
        ("\x1b[2Jpull", "No such command '\\x1b[2Jpull'. Did you mean 'pull'? (see textsmooth --help)"),
        ("--versio", "No such option '--versio'. Did you mean '--version'? (see textsmooth --help)"),
    ],
)
def test_a_command_that_is_none_is_told_with_the_nearest(typed: str, said: str, textsmooth: Callable[..., Ran]) -> None:
    ran = textsmooth(typed, "somewhere")
    assert (ran.code, ran.out, ran.err) == (2, "", f"textsmooth: {said}\n")


def test_an_option_that_is_none_is_told_with_the_nearest(textsmooth: Callable[..., Ran]) -> None:
    ran = textsmooth("verify", "somewhere", "--seeed", 3)
    assert (
        ran.code == 2 and ran.err == "textsmooth verify: No such option '--seeed'. Did you mean '--seed'? (see textsmooth verify --help)\n"
    )


@pytest.mark.parametrize("words", [("gen", "--overwrit"), ("push", "d", "me/d", "--publik")])
def test_what_replaces_or_shows_data_is_never_the_suggestion(words: tuple[str, ...], textsmooth: Callable[..., Ran]) -> None:
    ran = textsmooth(*words)
    assert ran.code == 2 and f"No such option '{words[-1]}'. (see textsmooth {words[0]} --help)" in ran.err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_says_its_version(command: str, textsmooth: Callable[..., Ran]) -> None:
    assert textsmooth(command, "--version").out == textsmooth("--version").out == f"textsmooth {VERSION}\n"


SLIPS: list[tuple[list[str], str]] = [
    (
        ["gen", "--corpus", "demo", "--teacher", "students/stat"],
        "no folder students/stat here (closest: students/start); for the Hub write hf:/",
    ),
    (["train", "data", "--student", "studnets/start"], "no folder studnets/start here (closest: students/start); for the Hub write hf:/"),
    (["train", "data", "--student", "students/q"], "no folder students/q here; for the Hub write hf://students/q"),
    (
        ["student", "--from", "students/stat", "--layers", "0", "--out", "new"],
        "no folder students/stat here (closest: students/start); for the Hub",
    ),
    (
        ["student", "--from", "./students/stat", "--layers", "0", "--out", "new"],
        "no model at './students/stat' (closest: students/start): give --from",
    ),
    (["inspect", "students/stat"], "no folder students/stat here (closest: students/start); for the Hub write hf://datasets/students/stat"),
    (["inspect", "./smothed"], "no smoothed dataset at smothed: there is no such folder (closest: smoothed); make one with textsmooth-gen"),
    (["gen", "--corpus", "revews.csv"], "no corpus 'revews.csv': there is no such file here (closest: reviews.csv); check the path"),
]


@pytest.mark.parametrize(("words", "message"), SLIPS, ids=[" ".join(words) for words, _ in SLIPS])
def test_a_mistyped_name_is_answered_with_the_closest_and_never_sent_to_the_hub(
    words: list[str], message: str, kinds: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, textsmooth: Callable[..., Ran]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "students/start").mkdir(parents=True)
    (tmp_path / "smoothed").mkdir()
    (tmp_path / "data").symlink_to(kinds["single"][0])
    (tmp_path / "reviews.csv").write_text("text\nfine\n")
    ran = textsmooth(*words)
    assert ran.code == 2 and message in ran.err and len(ran.err.splitlines()) == 1, ran.err


@pytest.mark.parametrize("command", ["inspect", "stats", "verify", "report"])
def test_a_folder_of_datasets_names_them(command: str, kinds: Kinds, textsmooth: Callable[..., Ran]) -> None:
    room = Path("smoothed")
    room.mkdir()
    for name in ("unfinished", "web"):
        (room / name).mkdir()
    (room / "web/manifest.json").write_text("{}")  # of somebody else
    ran = textsmooth(command, room)
    assert ran.code == 1 and "smoothed has no manifest.json" in ran.err
    shutil.copytree(kinds["pair"][0], room / "a")
    ran = textsmooth(command, room)
    assert (ran.code, ran.err) == (2, f"textsmooth {command}: no smoothed dataset at smoothed: name smoothed/a\n")
    for name in "edcb":
        (room / name).symlink_to(kinds["single"][0])
    ran = textsmooth(command, room)
    told = "name one of smoothed/a, smoothed/b, smoothed/c and 2 more"
    assert (ran.code, ran.err) == (2, f"textsmooth {command}: no smoothed dataset at smoothed: {told}\n")
    ran = textsmooth(command, room / "a/train")
    assert (ran.code, ran.err) == (2, f"textsmooth {command}: no smoothed dataset at smoothed/a/train: name smoothed/a\n")


def command(*words: object, **more: Any) -> "subprocess.CompletedProcess[str]":
    """`textsmooth …` in a process of its own."""
    line = [sys.executable, "-m", "textsmooth.pipeline", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, encoding="utf-8", errors="replace", **more)


@pytest.mark.parametrize(
    ("redirected", "code", "out", "err"),
    [
        ("2>&-", 0, "p(original)", ""),
        (">&-", 0, "", ""),
        ("> /dev/full", 1, "", "textsmooth stats: cannot write to standard output: No space left on device\n"),
    ],
)
def test_output_that_is_closed_or_full(redirected: str, code: int, out: str, err: str, made: Path) -> None:
    ran = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m textsmooth.pipeline stats {made} {redirected}"], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (code, err)
    assert out in ran.stdout


def test_what_the_terminal_cannot_show_is_escaped(made: Path, tmp_path: Path) -> None:
    named = shutil.copytree(made, tmp_path / "😀")
    ran = command("verify", named, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert ran.returncode == 0, ran.stderr
    assert "\\U0001f600" in ran.stdout and "Traceback" not in ran.stderr


def test_a_current_folder_that_is_gone_is_one_line(made: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    ran = subprocess.run(
        ["bash", "-c", f"cd {gone} && rmdir {gone} && {sys.executable} -P -m textsmooth.pipeline stats {made}"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == "textsmooth stats: the folder you are in is gone; cd to another one"
