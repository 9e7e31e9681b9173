"""What differs between two datasets: provenance, numbers, shards, and the soft ids of rows that both have."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers_gen import Ran, rows, write_jsonl

from textsmooth.pipeline.generation.run import generate
from textsmooth.pipeline.share import row_comparison as shared_rows
from textsmooth.pipeline.share.diff import Difference, diff
from textsmooth.pipeline.share.merge import merge
from textsmooth.pipeline.share.pull import pull
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.soft_ids.codec import decode
from textsmooth.stages.soft_ids.divergence import divergence
from textsmooth.stages.storage.atomic import pretty_json

ROWS = rows(40, 41)


@pytest.fixture(scope="module")
def make(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def made(name: str, lines: list[dict[str, Any]], **more: Any) -> Path:
        folder = tmp_path_factory.mktemp("datasets")
        shared = {"teacher": str(teacher), "threads": 1, "dtype": "float32", "rows_per_shard": 8, "topk": 3}
        corpus = write_jsonl(folder / f"{name}.jsonl", lines)
        generate(GenerateOptions(corpus=str(corpus), out=str(folder / "out"), **{**shared, **more}))
        return folder / "out"

    return made


@pytest.fixture(scope="module")
def a(make: Callable[..., Path]) -> Path:
    return make("a", ROWS[:20])


@pytest.fixture(scope="module")
def b(make: Callable[..., Path]) -> Path:
    return make("b", ROWS[20:])


def changed(found: Difference) -> dict[str, tuple[Any, Any]]:
    return {c.what: (c.a, c.b) for c in (*found.provenance, *found.numbers)}


def test_the_same_dataset_is_the_same(a: Path, tmp_path: Path) -> None:
    for other in (a, shutil.copytree(a, tmp_path / "copy")):
        found = diff(a, other)
        assert found.same and found.rows is None and changed(found) == {}
        assert found.summary().splitlines()[0] == f"the same dataset: {read_manifest(a).dataset[:12]}"


def test_units_of_a_part_are_those_of_its_shards(a: Path, tmp_path: Path) -> None:
    pull(str(a), str(tmp_path / "part"), shards="1")
    for found in (diff(tmp_path / "part", a), diff(a, tmp_path / "part")):
        assert (found.shards.same_bytes, found.shards.same_units) == (1, 1)
        assert "of the same units" not in found.summary()


def test_nothing_that_differs_steers_a_terminal(a: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(a, tmp_path / "evil"))
    manifest = read_manifest(folder)
    evil = {"\x1b]0;owned\x07": "\u202e1"}
    forged = replace(manifest, versions=evil, config={**manifest.config, **evil}, statistics={**manifest.statistics, "\x9b1m": 3})
    (folder / "manifest.json").write_bytes(pretty_json(replace(forged, dataset=manifest.dataset).to_json()))
    told = replace(diff(a, folder, rows=0), digests=("0" * 64, "1" * 64)).summary()
    assert "\\x1b]0;owned" in told and "\\x9b1m" in told
    assert all(line.isprintable() for line in told.split("\n"))


def test_another_k_is_told_in_settings_numbers_and_rows(a: Path, make: Callable[..., Path]) -> None:
    found = diff(a, make("a", ROWS[:20], topk=6))
    told = changed(found)
    assert not found.same and told["config topk"] == (3, 6)
    assert [c.what for c in found.provenance] == ["config topk"]
    assert told["entries"][1] == 2 * told["entries"][0] and told["captured mass at k = 6"][0] is None
    assert "captured mass at k = 1" not in told  # equal but for rounding
    assert (found.shards.a, found.shards.b, found.shards.same_bytes, found.shards.same_units) == (3, 3, 0, 0)
    assert found.rows is not None
    assert (found.rows.sampled, found.rows.found, found.rows.in_one, found.rows.same_top) == (20, 20, 0, 1)
    assert found.rows.p_original == 0 and found.rows.kl < 1e-5 and found.rows.tv < 1e-3
    assert found.verdict == "different: config topk; 0 of 3 shards are equal"


def test_another_number_format_moves_the_soft_ids_a_little(a: Path, make: Callable[..., Path]) -> None:
    found = diff(a, make("a", ROWS[:20], dtype="bfloat16"))
    assert changed(found)["config dtype"] == ("float32", "bfloat16")
    assert found.rows is not None and found.rows.found == 20
    assert 0 < found.rows.kl < found.rows.kl_max < 0.5 and 0 < found.rows.tv < found.rows.tv_max < 0.5
    assert found.rows.same_top > 0.9 and found.rows.p_original > 0


def test_the_figures_of_shared_rows_are_those_of_all_their_tokens(a: Path, make: Callable[..., Path]) -> None:
    other = make("a", ROWS[:20], dtype="bfloat16")
    one, two = ([decode(batch) for batch in SmoothedDataset(place, "train").record_batches()] for place in (a, other))
    parts = [divergence(x.soft, y.soft, 10_000) for x, y in zip(one, two, strict=True)]
    found = diff(a, other).rows
    assert found is not None
    kl, tv = (np.concatenate([getattr(part, name) for part in parts]) for name in ("kl", "tv"))
    assert (found.kl, found.kl_max, found.tv, found.tv_max) == pytest.approx((kl.mean(), kl.max(), tv.mean(), tv.max()))
    number = int(np.argmax(tv > found.tv_max - 1e-12))
    for block, part in zip(one, parts, strict=True):
        if number < len(part.tv):
            token = int(part.tokens[number])
            row = int(np.searchsorted(block.row_offsets, token, side="right")) - 1
            assert found.tv_max_at == f"train row {block.row[row]}, token {token - block.row_offsets[row]}"
            break
        number -= len(part.tv)


def test_rows_are_found_wherever_they_are(a: Path, b: Path, tmp_path: Path) -> None:
    merge([b, a], tmp_path / "ba")
    found = diff(a, tmp_path / "ba")
    assert found.rows is not None and (found.rows.sampled, found.rows.found) == (20, 20)
    assert (found.rows.kl_max, found.rows.tv_max, found.rows.tv_max_at) == (0, 0, None)
    assert found.shards.same_bytes == found.shards.same_units == 3
    assert "their soft ids are equal" in found.summary()
    assert changed(found)["merged from"][0] is None and changed(found)["corpus name"] == ("a.jsonl", "b.jsonl + a.jsonl")
    assert diff(a, tmp_path / "ba", rows=0).rows is None
    apart = diff(a, b).rows
    assert apart is not None and (apart.found, apart.tokens) == (0, 0)


def test_only_so_many_rows_of_so_many_shards_are_read(a: Path, b: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge([a, b], tmp_path / "ab")
    found = diff(tmp_path / "ab", a, rows=7).rows
    assert found is not None and found.sampled == 7 and 0 < found.found < 7
    monkeypatch.setattr(shared_rows, "SAMPLE_SHARDS", 2)
    few = diff(tmp_path / "ab", a).rows
    assert few is not None and few.sampled == 8 + 4  # the first shard and the last
    monkeypatch.setattr(shared_rows, "SEARCH_BYTES", 0)
    aligned = diff(b, tmp_path / "ab").rows
    assert aligned is not None and aligned.found == 0


@pytest.mark.parametrize("more", [{}, {"max_length": 12, "stride": 2, "long": "window"}], ids=["rows", "windows"])
def test_rows_of_a_part_are_found_by_their_numbers(
    more: dict[str, Any], make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a store, where the other dataset is not read as a whole for them."""
    monkeypatch.setattr(shared_rows, "SEARCH_BYTES", 0)
    whole, other = make("a", ROWS[:20], **more), make("a", ROWS[:20], topk=6, **more)
    pull(str(other), str(tmp_path / "part"), shards="1-2")
    there = sum(shard.samples for shard in read_manifest(other).shards[1:])
    for found in (diff(whole, tmp_path / "part", rows=1000).rows, diff(tmp_path / "part", whole).rows):
        assert found is not None and found.found == there > 0 and found.kl < 1e-5
        assert f"{there} of {found.sampled} sampled rows of A are also in B under the same numbers" in "\n".join(found.lines())


def test_rows_after_one_that_was_left_out_are_found_by_their_numbers(
    a: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_rows, "SEARCH_BYTES", 0)
    lines: list[dict[str, Any]] = [*ROWS[:3], {**ROWS[3], "text": None}, *ROWS[4:20]]
    found = diff(a, make("a", lines, skip_bad_rows=True)).rows
    assert found is not None and (found.sampled, found.found) == (20, 19)


def test_rows_of_the_same_tokens_are_all_found(make: Callable[..., Path]) -> None:
    found = diff(make("a", [ROWS[0], ROWS[1], ROWS[0]]), make("b", [ROWS[1], ROWS[2], ROWS[3], ROWS[0]])).rows
    assert found is not None and (found.sampled, found.found, found.kl) == (3, 3, 0)


def test_tokens_plain_in_one_are_counted(a: Path, make: Callable[..., Path]) -> None:
    found = diff(a, make("a", ROWS[:20], specials="smoothed")).rows
    assert found is not None and found.in_one == 2 * 20


def test_other_vocabularies_and_other_splits_are_not_compared_row_by_row(a: Path, kit: ModuleType, tmp_path: Path) -> None:
    other = diff(a, kit.small_dataset(tmp_path / "kit"))
    assert other.rows is None and other.note == "Rows are not compared: the teachers have different vocabularies."
    one = kit.write_dataset(tmp_path / "one", {"train": [kit.random_rows(1, 9).block]})
    two = kit.write_dataset(tmp_path / "two", {"test": [kit.random_rows(1, 9).block]})
    found = diff(one, two)
    assert found.note == "Rows are not compared: A has train, B has test." and found.shards.same_units is None


def test_the_same_shards_of_another_origin_are_told_apart(kit: ModuleType, tmp_path: Path) -> None:
    one = kit.write_dataset(tmp_path / "one", {"train": [kit.random_rows(1, 9).block]})
    two = kit.write_dataset(tmp_path / "two", {"train": [kit.random_rows(1, 9).block, kit.random_rows(2, 9).block]})
    assert diff(one, two).verdict.endswith("; 1 of 1 and 2 shards are equal")


def test_what_is_no_dataset_or_altered_is_an_error(a: Path, make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no smoothed dataset"):
        diff(a, tmp_path / "nowhere")
    other = make("a", ROWS[:20], topk=2)
    shard = other / read_manifest(other).shards[0].path
    shard.write_bytes(shard.read_bytes()[:-9] + b"\0" * 9)
    with pytest.raises(DatasetError, match="altered"):
        diff(a, other)


def test_the_command_prints_an_aligned_table_of_what_differs(a: Path, b: Path, textsmooth: Callable[..., Ran]) -> None:
    ran = textsmooth("diff", a, b)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "different: corpus name, corpus files; 0 of 3 shards are equal"
    table = lines[lines.index("") + 1 :]
    table = table[: table.index("")]
    assert table[0].split() == ["provenance", "A", "B"]
    assert table[1].split() == ["corpus", "name", "a.jsonl", "b.jsonl"]
    assert {line.index("b.jsonl" if "name" in line else '{"train": ["b' if "files" in line else "B") for line in table} == {
        table[0].index("B")
    }
    assert "config" not in ran.out and "teacher" not in ran.out


def test_exit_codes_and_json(a: Path, b: Path, textsmooth: Callable[..., Ran]) -> None:
    assert textsmooth("diff", a, b, "--exit-code").code == 1
    assert textsmooth("diff", a, a, "--exit-code").code == 0
    told = json.loads(textsmooth("diff", a, b, "--json", "--rows", 5).out)
    assert (told["same"], told["rows"]["sampled"], told["shards"]["same_bytes"]) == (False, 5, 0)
    assert {"what": "corpus name", "a": "a.jsonl", "b": "b.jsonl"} in told["provenance"]
    ran = textsmooth("diff", a, a / "nowhere")
    assert (ran.code, ran.out) == (2, "") and len(ran.err.splitlines()) == 1


def test_a_hostile_name_does_not_steer_the_terminal(make: Callable[..., Path], a: Path) -> None:
    lines = [{**row, "label": "\x1b[31mred" if row["idx"] % 2 else "x\ny"} for row in ROWS[:8]]
    said = diff(a, make("a", lines)).summary()
    assert "\x1b" not in said and r"\x1b[31mred" in said.replace("\\\\", "\\").replace("\\u001b", "\\x1b")
