"""run.json: what a run did, how fast and at what cost, however it ended; no part of the dataset."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import REPOSITORY, Ran, files_of

from textsmooth.pipeline import progress
from textsmooth.pipeline.executors.base import Outcome
from textsmooth.pipeline.executors.inline import Inline
from textsmooth.pipeline.executors.shutdown import Terminated
from textsmooth.pipeline.generation import run as generation
from textsmooth.pipeline.generation import run_record
from textsmooth.pipeline.units import worker as units
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import StorageError, UsageError
from textsmooth.schemas.manifest import MANIFEST, RUN
from textsmooth.schemas.plan import Unit
from textsmooth.schemas.receipt import UnitFailure
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage.local import LocalFolder

DOC = (REPOSITORY / "docs/jobs.md").read_text(encoding="utf-8")
ARGS = ("--corpus", "good.jsonl", "--out", "out", "--topk", 3, "--rows-per-shard", 2)


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RUN).read_bytes())
    return found


def test_it_counts_what_was_done(gen: Callable[..., Ran], desk: Path) -> None:
    assert gen(*ARGS, "--price-per-hour", 2).code == 0
    found, manifest = record(desk / "out"), read_manifest(desk / "out")
    assert (found["outcome"], found["exit_code"], found["error"]) == ("done", 0, None)
    assert found["units"] == {"all": 3, "run": 3, "reused": 0, "failed": 0}
    assert (found["rows"], found["tokens"]) == (6, manifest.statistics["tokens"])
    assert found["bytes"] == sum(shard.bytes for shard in manifest.shards)
    assert found["padding"] == pytest.approx(manifest.statistics["padding"])
    assert (found["executor"], found["workers"], found["plan"]) == ("inline", 1, manifest.plan)
    assert found["versions"] == manifest.versions and found["devices"] == [manifest.versions["device"]]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found[name]) for name in ("started", "ended"))
    seconds = found["seconds"]
    assert list(seconds) == list(run_record.PHASES) and min(seconds.values()) >= 0 and seconds["running"] > 0
    assert found["tokens_per_s"] == pytest.approx(found["tokens"] / seconds["running"], rel=0.05)
    assert 0 < found["device_busy"] <= 1
    assert found["cost"] == pytest.approx(2 * (seconds["loading"] + seconds["running"]) / 3600, rel=0.05)
    assert found["cost_per_million_tokens"] == pytest.approx(found["cost"] / found["tokens"] * 1e6)


def test_it_is_no_part_of_the_dataset(gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for method in ("put", "put_exclusive"):
        real = getattr(LocalFolder, method)

        def put(self: Any, name: str, data: Any, real: Any = real) -> Any:
            order.append(name)
            return real(self, name, data)

        monkeypatch.setattr(LocalFolder, method, put)
    assert gen(*ARGS).code == 0
    assert order[-2:] == [RUN, MANIFEST]
    manifest, before = read_manifest(desk / "out"), files_of(desk / "out")
    assert RUN not in {entry.path for entry in (*manifest.shards, *manifest.files)}
    assert gen(*ARGS).code == 0  # nothing to do: all stays, the record too
    assert files_of(desk / "out") == before
    (desk / "out" / RUN).unlink()
    assert gen(*ARGS).code == 0 and not (desk / "out" / RUN).exists()
    assert gen(*ARGS, "--price-per-hour", 1, "--overwrite").code == 0
    assert read_manifest(desk / "out").dataset == manifest.dataset and record(desk / "out")["price_per_hour"] == 1


def test_without_a_price_there_is_no_cost(gen: Callable[..., Ran], desk: Path) -> None:
    assert gen(*ARGS).code == 0
    assert [record(desk / "out")[name] for name in ("price_per_hour", "cost", "cost_per_million_tokens")] == [None] * 3


@pytest.mark.parametrize(
    ("error", "code", "outcome"),
    [
        (StorageError("disk full; make room"), 1, "failed"),
        (RuntimeError("odd"), 1, "failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "terminated"),
    ],
)
def test_a_run_that_breaks_off_leaves_a_record_and_the_next_one_the_dataset(
    error: BaseException, code: int, outcome: str, gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = units.UnitWorker.finish

    def finish(self: Any, unit: Unit, *args: Any) -> Any:
        if unit.number == 1:
            raise error
        return real(self, unit, *args)

    monkeypatch.setattr(units.UnitWorker, "finish", finish)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            gen(*ARGS)
    else:
        assert gen(*ARGS).code == code
    found = record(desk / "out")
    assert (found["outcome"], found["exit_code"], found["units"]["all"]) == (outcome, code, 3)
    assert found["error"] == (str(error) or type(error).__name__)
    monkeypatch.setattr(units.UnitWorker, "finish", real)
    assert gen(*ARGS).code == 0
    found = record(desk / "out")
    assert (found["outcome"], found["units"]["run"] + found["units"]["reused"]) == ("done", 3) and found["units"]["reused"] >= 1


class Quarantined(Inline):
    """The second unit fails for its rows."""

    def run(self, todo: Sequence[Unit]) -> Iterator[Outcome]:
        for outcome in super().run(todo):
            assert not isinstance(outcome, UnitFailure)
            yield UnitFailure(unit=outcome.unit, name=f"train/{outcome.number:05d}", error="bad row") if outcome.number == 1 else outcome


def test_failed_units_are_counted_and_told(desk: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = GenerateOptions(corpus="good.jsonl", teacher=str(teacher), out="out", topk=3, rows_per_shard=2, dtype="float32", threads=1)
    generation.generate(asked, progress.Progress("json"), executor=Quarantined())  # storage has all receipts: the truth
    found = record(desk / "out")
    assert (found["units"]["run"], found["units"]["failed"]) == (2, 1)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["started", "unit", "failure", "unit", "finished"]
    assert {k: events[2][k] for k in ("unit", "error", "attempts")} == {"unit": "train/00001", "error": "bad row", "attempts": 1}


def test_what_was_refused_leaves_no_record(gen: Callable[..., Ran], desk: Path) -> None:
    assert gen(*ARGS, "--text-column", "nope").code == 2
    assert not (desk / "out").exists()
    assert gen(*ARGS).code == 0
    before = files_of(desk / "out")
    assert gen(*ARGS, "--mass", 0.5).code == 1
    assert files_of(desk / "out") == before


def test_a_record_that_cannot_be_written_hides_no_error_and_fails_no_run(
    gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_put, real_finish = LocalFolder.put, units.UnitWorker.finish

    def put(self: Any, name: str, data: Any) -> None:
        if name == RUN:
            raise StorageError("no space for the record")
        real_put(self, name, data)

    def finish(*args: Any) -> None:
        raise StorageError("the real one")

    monkeypatch.setattr(LocalFolder, "put", put)
    monkeypatch.setattr(units.UnitWorker, "finish", finish)
    assert gen(*ARGS).err == "textsmooth-gen: the real one\n"
    monkeypatch.setattr(units.UnitWorker, "finish", real_finish)
    assert gen(*ARGS).code == 0
    assert (desk / "out" / MANIFEST).exists() and not (desk / "out" / RUN).exists()


def test_shares_and_costs_are_per_worker(gen: Callable[..., Ran], desk: Path, teacher: Path) -> None:
    class Two(Inline):
        retries = 5
        num_workers = 2  # type: ignore[assignment]

    common = {"teacher": str(teacher), "topk": 3, "rows_per_shard": 2, "dtype": "float32", "threads": 1, "price_per_hour": 3.0}
    made = generation.generate(GenerateOptions(corpus="good.jsonl", out="two", **common), executor=Two())
    found = record(desk / "two")
    assert (found["workers"], found["retries"]) == (2, 5)
    assert found["tokens_per_s_per_worker"] == pytest.approx(found["tokens_per_s"] / 2)
    assert found["cost"] == pytest.approx(3 * 2 * (found["seconds"]["loading"] + found["seconds"]["running"]) / 3600, rel=0.05)
    receipts = [json.loads(line) for line in (desk / "two/receipts.jsonl").read_text().splitlines()]
    busy = sum(receipt["timings"]["score_s"] for receipt in receipts)
    assert found["device_busy"] == pytest.approx(busy / (2 * found["seconds"]["running"]), rel=0.05)
    assert made.busy == pytest.approx(found["device_busy"], rel=0.2)


def test_the_docs_name_every_field_and_every_event() -> None:
    described = set(re.findall(r"^\| `(\w+)`", DOC[DOC.index("## run.json") :], re.MULTILINE))
    assert described == set(run_record.RunRecord(GenerateOptions(corpus="demo")).to_json())
    events = set(re.findall(r"^\| `(\w+)`", DOC[DOC.index("## Progress") : DOC.index("## run.json")], re.MULTILINE))
    assert events == set(progress.EVENTS)


@pytest.mark.parametrize(("error", "code"), [(None, 0), (UsageError("x"), 2), (StorageError("x"), 1), (ValueError(), 1)])
def test_exit_codes(error: BaseException | None, code: int) -> None:
    assert run_record.exit_code(error) == code
