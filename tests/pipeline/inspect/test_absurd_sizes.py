"""Sizes that no file can have, in a dataset whose digests fit: one line, before there is an array of them."""

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_verify import Kinds, remade, said

from textsmooth.pipeline.inspect.report import report
from textsmooth.pipeline.inspect.rows import SmoothedRows
from textsmooth.pipeline.inspect.stats import figures
from textsmooth.pipeline.share.diff import diff
from textsmooth.pipeline.verification.run import verify
from textsmooth.pipeline.verification.teacher_sample import second_opinion
from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import DatasetError
from textsmooth.stages import SmoothedCollator, SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.storage.atomic import pretty_json

ROOM = 4 << 30  # bytes of address space more than are taken now
MOST = (1 << 31) - 1


@pytest.fixture
def little_memory() -> Iterator[None]:
    """An array of two thousand million numbers is a MemoryError, not a machine that swaps."""
    told = Path("/proc/self/statm")
    if not told.exists():
        pytest.skip("only Linux tells how much address space a process has")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(told.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def forge(folder: Path, *changes: tuple[str, Any]) -> None:
    """Values of the manifest exchanged, with digests that fit."""
    value = json.loads((folder / "manifest.json").read_bytes())
    for path, wrong in changes:
        *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
        place = value
        for step in way:
            place = place[step]
        place[last] = wrong
    listed = [[shard[name] for name in ("path", "split", "rows", "tokens", "entries", "sha256")] for shard in value["shards"]]
    value["dataset"] = digest({"plan": value["plan"], "shards": listed})
    value["digest"] = digest({name: inner for name, inner in value.items() if name != "digest"})
    (folder / "manifest.json").write_bytes(pretty_json(value))


def load(dataset: Path) -> None:
    rows = SmoothedDataset(dataset, "train")
    assert next(iter(rows.stream(SmoothedCollator.for_dataset(rows), batch_tokens=64))).tokens > 0
    assert len(rows.lengths) == len(rows)


READERS: dict[str, Callable[[Path, Path], object]] = {
    "stats": lambda dataset, other: figures(dataset),
    "stats --all": lambda dataset, other: figures(dataset, all_rows=True),
    "inspect": lambda dataset, other: SmoothedRows(dataset).row(0),
    "report": lambda dataset, other: report(dataset, out=dataset.parent / "report.html"),
    "diff": lambda dataset, other: (diff(dataset, other), diff(other, dataset)),
    "train": lambda dataset, other: load(dataset),
}
REFUSED = [
    ("config.topk", MOST, r"config\.topk does not fit a vocabulary of \d+"),
    ("special_ids.pad", MOST, r"special_ids\.pad does not fit a vocabulary"),
    ("shards.0.rows", MOST, "more rows, tokens or entries than [\\d,]+ bytes can hold"),
    ("shards.0.tokens", 1 << 52, "more rows, tokens or entries than [\\d,]+ bytes can hold"),
    ("shards.0.entries", 1 << 52, "more rows, tokens or entries than [\\d,]+ bytes can hold"),
    ("statistics.captured_mass", {"0": 0.5}, "captured_mass is"),
]


@pytest.mark.parametrize(("path", "wrong", "told"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_manifest_that_no_shards_can_be_of_is_refused(path: str, wrong: Any, told: str, dataset: Path) -> None:
    forge(dataset, (path, wrong))
    with pytest.raises(DatasetError, match=rf"is damaged \(.*{told}.*fetch the dataset again"):
        read_manifest(dataset)
    found = verify(dataset)
    assert len(found.findings) == 1 and found.digest is None


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("size", ["vocab_size", "max_length", "tokens of a batch", "rows left out", "numbers"])
def test_other_sizes_are_refused_in_one_line_or_taken_for_what_they_are(
    size: str, reader: str, dataset: Path, kinds: Kinds, little_memory: None
) -> None:
    other, rows = kinds["single"][0], read_manifest(dataset).shards[0].rows
    cases: dict[str, tuple[tuple[str, Any], ...]] = {
        "vocab_size": (("teacher.vocab_size", MOST), ("plan", "a" * 64)),  # another plan: diff compares rows
        "max_length": (("config.max_length", MOST),),
        "tokens of a batch": (("config.max_batch_tokens", 1 << 52), ("config.chunk_tokens", 1 << 52)),
        "rows left out": (("shards.0.rows", MOST + rows), ("shards.0.skipped", MOST)),
        "numbers": (("statistics.rows", 1 << 52), ("statistics.tokens", 1 << 52), ("statistics.bytes", 1 << 52)),
    }
    forge(dataset, *cases[size])
    if size == "vocab_size":
        of_tokens = r"json has \d+ tokens with ids up to \d+, the manifest a vocabulary of 2,147,483,647"
        of_shard = "has column input_ids: list<item: uint16> where the manifest promises input_ids: list<item: uint32>"
        with pytest.raises(DatasetError, match=of_shard if reader in ("diff", "train") else of_tokens):  # the two show no tokens
            READERS[reader](dataset, other)
    else:
        READERS[reader](dataset, other)


def test_verify_tells_of_a_vocabulary_that_is_not_the_tokenizers(dataset: Path, little_memory: None) -> None:
    forge(dataset, ("teacher.vocab_size", MOST))
    assert any(line.endswith("the manifest a vocabulary of 2,147,483,647") for line in said(verify(dataset, workers=1)))


def test_verify_makes_no_room_for_rows_that_plan_receipts_and_manifest_promise(dataset: Path, little_memory: None) -> None:
    more, shard = 1 << 40, read_manifest(dataset).shards[0]
    plan = json.loads((dataset / "plan.json").read_bytes())
    plan["units"][0]["stop"][0] += more
    plan["file_digest"] = digest({name: value for name, value in plan.items() if name != "file_digest"})
    receipts = [json.loads(line) for line in (dataset / "receipts.jsonl").read_text().splitlines()]
    receipts[0]["rows"] += more
    (dataset / "plan.json").write_bytes(pretty_json(plan))
    (dataset / "receipts.jsonl").write_text("".join(json.dumps(receipt) + "\n" for receipt in receipts))
    remade(dataset)
    forge(dataset, ("shards.0.rows", shard.rows + more), ("shards.0.skipped", more))
    assert f"receipts.jsonl: has 0 skipped rows for {shard.path}, the manifest {more}" in said(verify(dataset, workers=1))


def test_a_tokenizer_with_a_token_far_out_is_refused(dataset: Path, little_memory: None) -> None:
    tokenizer = json.loads((dataset / "tokenizer/tokenizer.json").read_bytes())
    tokenizer["model"]["vocab"]["far"] = MOST - 1
    (dataset / "tokenizer/tokenizer.json").write_text(json.dumps(tokenizer))
    remade(dataset)
    forge(dataset, ("teacher.vocab_size", MOST))
    with pytest.raises(DatasetError, match=r"tokens with ids up to 2,147,483,646, the manifest a vocabulary of 2,147,483,647"):
        figures(dataset)


def test_the_teacher_is_asked_in_batches_that_fit(dataset: Path, where: dict[str, str], little_memory: None) -> None:
    forge(dataset, ("config.max_batch_tokens", 1 << 52), ("config.chunk_tokens", 1 << 52))
    opinion, wrong = second_opinion(open_folder(dataset), read_manifest(dataset), 30, teacher=where["teacher"])
    assert (opinion.rows, wrong) == (30, [])
