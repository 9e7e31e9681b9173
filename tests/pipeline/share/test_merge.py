"""Datasets of the same teacher and settings become one that trains, shows and checks like any other."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers_gen import Ran, files_of, shards_of
from helpers_inspect import read_row
from helpers_merge import LABELLED, logical, same_dataset

from textsmooth.pipeline.commit.card import card
from textsmooth.pipeline.share import merge as merging
from textsmooth.pipeline.share.merge import Merged, merge
from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.verification.run import verify
from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage import atomic as storage


@pytest.fixture(scope="module")
def c(make: Callable[..., Path]) -> Path:
    return make("c", {"train": LABELLED[60:70]})


def test_each_split_has_the_rows_of_the_first_then_of_the_second_numbered_through(a: Path, b: Path, merged: Path) -> None:
    assert read_manifest(merged).splits == ("train", "validation", "test")
    for split, parts in (("train", (a, b)), ("validation", (a,)), ("test", (b,))):
        found = logical(merged, split)
        assert found["row"].to_pylist() == list(range(found.num_rows))
        wanted = pa.concat_tables([logical(part, split).replace_schema_metadata(None) for part in parts])
        assert found.replace_schema_metadata(None).drop_columns("row").equals(wanted.drop_columns("row"))


def test_no_shard_is_written_anew_and_the_sources_are_left_as_they_are(a: Path, b: Path, tmp_path: Path) -> None:
    before = files_of(a), files_of(b)
    made = merge([a, b], tmp_path / "out")
    assert (files_of(a), files_of(b)) == before
    assert sorted(shards_of(tmp_path / "out").values()) == sorted([*shards_of(a).values(), *shards_of(b).values()])
    assert made.linked == made.taken == len(made.manifest.shards) == 3 + 1 + 2 + 1
    names = [s.path for s in made.manifest.split("train")]
    assert names == sorted(names) and [int(name[6:11]) for name in names] == list(range(5))


def test_the_numbers_are_the_sums(a: Path, b: Path, merged: Path) -> None:
    parts, found = [read_manifest(p).statistics for p in (a, b)], read_manifest(merged).statistics
    for name in ("rows", "tokens", "smoothed_tokens", "entries", "bytes"):
        assert found[name] == sum(part[name] for part in parts)
    assert found["p_original_bins"] == [sum(bins) for bins in zip(*(part["p_original_bins"] for part in parts), strict=True)]


def test_which_corpus_a_row_came_from_is_known(a: Path, b: Path, merged: Path) -> None:
    manifest = read_manifest(merged)
    assert manifest.origin("train", 0) == ("a", 0)
    assert manifest.origin("train", 19) == ("a", 19)
    assert manifest.origin("train", 20) == ("b", 0)
    assert manifest.origin("test", 2) == ("b", 2)
    assert read_manifest(a).origin("train", 7) == ("a", 7)
    assert [source["dataset"] for source in manifest.sources] == [read_manifest(p).dataset for p in (a, b)]
    assert {line["taken_from"] for line in map(json.loads, (merged / "receipts.jsonl").read_text().splitlines())} == {
        source["dataset"] for source in manifest.sources
    }


def test_the_card_tells_the_sources_and_is_made_from_the_manifest(merged: Path) -> None:
    text, manifest = (merged / "README.md").read_text(encoding="utf-8"), read_manifest(merged)
    assert card(replace(manifest, files=(), created="")) == text
    assert "# a + b, smoothed by tiny-bert" in text
    assert "| a, text from `text`; licence: unknown | train 20, validation 5 |" in text
    rule = [line.count("|") for line in text[text.index("## Merged from") :].splitlines() if line.startswith("|")]
    assert len(set(rule)) == 1


def test_inspect_shows_the_row_of_the_source(b: Path, merged: Path) -> None:
    found, wanted = read_row(merged, 25, "train"), read_row(b, 5, "train")
    assert found.tokens == wanted.tokens and found.row == 25


def test_datasets_loads_it(merged: Path, tmp_path: Path) -> None:
    import datasets

    found = datasets.load_dataset(str(merged), cache_dir=str(tmp_path))
    assert {split: len(found[split]) for split in found} == {"train": 33, "validation": 5, "test": 3}
    assert found["train"]["row"][:] == [*range(20), *range(13)]  # as the shards have it: the source's


def test_a_student_trains_on_it(a: Path, b: Path, merged: Path, tmp_path: Path) -> None:
    from textsmooth.pipeline.training.dispatch import train
    from textsmooth.schemas.train import TrainOptions
    from textsmooth.stages.models.student_init import make_student

    teacher = tmp_path / "teacher"
    from helpers_gen import make_model, make_tokenizer

    make_model().save_pretrained(teacher)
    make_tokenizer().save_pretrained(teacher)
    make_student(teacher, (0,), tmp_path / "student")
    options = TrainOptions(dataset=str(merged), student=str(tmp_path / "student"), out=str(tmp_path / "trained"), epochs=1, batch_size=8)
    result = train(replace(options, inputs="smoothed", eval_split="validation"))
    assert (result.steps, result.rows, result.eval_split) == (5, 33, "validation")


def test_windows_of_one_row_are_not_taken_for_those_of_another(make: Callable[..., Path], tmp_path: Path) -> None:
    long = [{"text": " ".join(["the cat sat on the tree"] * n), "label": 0} for n in (3, 1)]
    cut = {"long": "window", "max_length": 9, "stride": 1}
    one, other = make("one", {"train": long[:1]}, **cut), make("other", {"train": [{**r, "label": 1} for r in long]}, **cut)
    merge([one, other], tmp_path / "out")
    found = logical(tmp_path / "out", "train")
    windows = [logical(p, "train")["window"].to_pylist() for p in (one, other)]
    assert found["window"].to_pylist() == [*windows[0], *windows[1]]
    counts = np.bincount(found["row"].to_numpy())
    assert counts.tolist() == [len(windows[0]), *np.bincount(logical(other, "train")["row"].to_numpy()).tolist()]
    assert read_row(tmp_path / "out", 2, "train").windows == counts[2]


def test_rows_that_were_left_out_keep_their_numbers(make: Callable[..., Path], tmp_path: Path) -> None:
    bad = [*LABELLED[:3], {**LABELLED[3], "text": 7}, *LABELLED[4:9]]
    other = [*LABELLED[40:42], {**LABELLED[42], "text": None}, *LABELLED[43:46]]
    one, two = (make(n, {"train": r}, skip_bad_rows=True) for n, r in (("bad", bad), ("worse", other)))
    made = merge([one, two], tmp_path / "out")
    assert made.manifest.statistics["skipped_rows"] == 2
    assert logical(tmp_path / "out", "train")["row"].to_pylist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14]
    lines = list(map(json.loads, (tmp_path / "out/quarantine.jsonl").read_text().splitlines()))
    assert [(line["row"], line["file_row"]) for line in lines] == [(3, 3), (11, 2)]
    with pytest.raises(UsageError, match="left out"):
        read_row(tmp_path / "out", 11)


def test_merging_merged_ones_is_merging_their_sources(a: Path, b: Path, c: Path, merged: Path, tmp_path: Path) -> None:
    merge([a, b, c], tmp_path / "all")
    merge([merged, c], tmp_path / "left")
    merge([b, c], tmp_path / "bc")
    merge([a, tmp_path / "bc"], tmp_path / "right")
    for name in ("left", "right"):
        same_dataset(tmp_path / name, tmp_path / "all")
    assert read_manifest(tmp_path / "all").origin("train", 40) == ("c", 7)


def test_the_manifest_is_read_back_as_it_was_written_and_adds_nothing_to_others(a: Path, merged: Path) -> None:
    for folder in (a, merged):
        value = json.loads((folder / "manifest.json").read_bytes())
        assert json.loads(json.dumps(Manifest.from_json(value, "m").to_json())) == value
        assert ("sources" in value, any("row_offset" in shard for shard in value["shards"])) == (folder == merged, folder == merged)
        assert ("sources" in json.loads((folder / "plan.json").read_bytes())) == (folder == merged)


@pytest.mark.parametrize("sources", [["x"], [{}], [{"corpus": {"name": "a"}, "splits": {"train": {"rows": "9"}}}], 7, [[]]])
def test_sources_that_are_none_are_damage(sources: Any, merged: Path) -> None:
    value = json.loads((merged / "manifest.json").read_bytes())
    body = {**value, "sources": sources}
    body["digest"] = digest({name: inner for name, inner in body.items() if name != "digest"})
    with pytest.raises(DatasetError, match="is damaged"):
        Manifest.from_json(body, "m")


def test_rows_left_out_keep_their_numbers_in_a_part_of_a_merged_dataset(make: Callable[..., Path], tmp_path: Path) -> None:
    one, two = ([{**row, "text": None} if n == 3 else row for n, row in enumerate(lines)] for lines in (LABELLED[:8], LABELLED[8:18]))
    sources = [
        make(name, {"train": lines, "test": [row | {"text": row["text"] and f"{row['text']} again"} for row in lines]}, skip_bad_rows=True)
        for name, lines in (("left", one), ("right", two))
    ]
    merge(sources, tmp_path / "whole")
    pull(str(tmp_path / "whole"), str(tmp_path / "part"), splits=["test"])
    lines = [json.loads(line) for line in (tmp_path / "part/quarantine.jsonl").read_text().splitlines()]
    assert [(line["split"], line["row"]) for line in lines] == [("test", 3), ("test", 11)]
    found = verify(tmp_path / "part")
    assert found.ok, found.summary()
    assert verify(tmp_path / "whole").ok
    manifest = read_manifest(tmp_path / "part")
    forged = replace(manifest, shards=tuple(replace(shard, row_offset=0) for shard in manifest.shards))
    (tmp_path / "part/manifest.json").write_bytes(storage.pretty_json(forged.to_json()))
    text = verify(tmp_path / "part").summary()
    assert "quarantine.jsonl: has other rows" in text and "row offset 0, the plan" in text


def test_the_command_says_what_came_from_where(a: Path, b: Path, textsmooth: Callable[..., Ran], tmp_path: Path) -> None:
    ran = textsmooth("merge", a, b, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].startswith(f"2 datasets merged into {tmp_path / 'out'}  (dataset ")
    assert "  train: 33 rows, 20 of a + 13 of b\n  validation: 5 rows, 5 of a\n" in ran.out
    told = json.loads(textsmooth("merge", a, b, "--out", tmp_path / "out", "--json").out)
    assert (told["taken"], told["splits"]) == (0, {"train": 33, "validation": 5, "test": 3})
    ran = textsmooth("merge", a, a, "--out", tmp_path / "other")
    assert (ran.code, ran.out) == (2, "") and len(ran.err.splitlines()) == 1 and ran.err.startswith("textsmooth merge: ")
    assert textsmooth("merge", a, "--out", tmp_path / "other").code == 2


def test_other_library_versions_are_told(a: Path, b: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = merging.open_previous

    def older(folder: Any) -> Any:
        found = real(folder)
        return (
            replace(found, plan=replace(found.plan, versions={**found.plan.versions, "torch": "2.0"})) if folder.where == str(b) else found
        )

    monkeypatch.setattr(merging, "open_previous", older)
    made: Merged = merge([a, b], tmp_path / "out")
    assert "made with different versions of torch" in made.summary()
    assert made.manifest.versions["torch"].endswith(", 2.0")
    assert [source["versions"]["torch"] for source in made.manifest.sources][1] == "2.0"
