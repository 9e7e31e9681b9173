"""`textsmooth verify` as it is typed: what it prints, its exit codes, and what it refuses."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Ran
from helpers_verify import flip

from textsmooth.pipeline.cli import errors
from textsmooth.pipeline.verification import run as verification
from textsmooth.pipeline.verification.run import Verified, verify
from textsmooth.schemas.errors import UsageError
from textsmooth.stages.checks.shard import Finding


def test_the_command_prints_findings_and_ends_with_1(dataset: Path, textsmooth: Callable[..., Ran]) -> None:
    ran = textsmooth("verify", dataset)
    assert (ran.code, len(ran.out.splitlines())) == (0, 2) and "no findings" in ran.out
    assert [json.loads(line)["event"] for line in ran.err.splitlines()] == ["started", "files"]
    shards = sorted((dataset / "train").iterdir())
    flip(shards[0], 9_999)
    ran = textsmooth("verify", dataset, "--progress", "none", "--workers", 2)
    assert ran.code == 1 and ran.err == ""
    assert ran.out.startswith(f"train/{shards[0].name}: was altered, its sha256 is not the manifest's\n")
    assert "1 file" in ran.out and f"textsmooth verify {dataset} --repair" in ran.out
    ran = textsmooth("verify", dataset, "--progress", "none", "--json")
    told = json.loads(ran.out)
    assert ran.code == 1 and not told["ok"] and told["findings"][0]["path"] == f"train/{shards[0].name}"
    assert textsmooth("verify", dataset, "--against-teacher", -1).code == 2
    assert textsmooth("verify", dataset / "no").code == 2


def test_nothing_that_is_told_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = Finding(path="train/\x1b]0;x\x07.arrow", what="has column \u202eevil\n")
    found = Verified(dataset="d\x1b[2J", digest="0" * 64, findings=(evil,), notes=("\x9b1m",), refused=("\x1b[1m",))
    for text in (str(evil), *found.summary().split("\n")):
        assert text.isprintable() and text
    assert errors.exit_code_of(lambda: fail(UsageError("shard \x1b[31m\x07 is missing")), "textsmooth x", after="", debug=False) == 2
    assert capsys.readouterr().err == "textsmooth x: shard \\x1b[31m\\x07 is missing\n"


def fail(error: Exception) -> None:
    raise error


def test_an_interrupted_repair_has_written() -> None:
    assert (
        errors.resume_advice("textsmooth", ["verify", "d", "--repair"])
        == "files that were mended are in place, the same command mends the rest"
    )
    assert errors.resume_advice("textsmooth", ["verify", "d"]) == "nothing was written"


def test_no_more_threads_than_cpus_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    assert verification._cpus() == len(os.sched_getaffinity(0)) < 999


def test_findings_are_bounded() -> None:
    many = tuple(Finding(path=f"train/{n:05d}.arrow", what="is missing") for n in range(1000))
    lines = Verified(dataset="d", digest="0" * 64, findings=many).summary().splitlines()
    assert len(lines) < 30 and "and 980 more (--json lists them all)" in lines


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher": "nowhere"}, "--teacher nowhere has no effect without --against-teacher N or --repair"),
        ({"dtype": "float32", "repair": True}, "--dtype float32 has no effect without --against-teacher N"),
        ({"corpus": "nowhere", "against_teacher": 2}, "--corpus nowhere has no effect without --repair"),
    ],
)
def test_an_option_that_would_do_nothing_is_told(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        verify(tmp_path, **options)
