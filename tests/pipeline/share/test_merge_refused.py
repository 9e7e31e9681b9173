"""What cannot be one dataset is refused with the first difference, and nothing is written."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_merge import LABELLED, same_dataset

from textsmooth.pipeline.share.merge import merge
from textsmooth.pipeline.share.pull import pull
from textsmooth.schemas.errors import ConflictError, DatasetError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage import atomic as storage


def test_the_same_dataset_or_the_same_rows_twice_are_refused(
    a: Path, b: Path, merged: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    for twice in ([a, a], [merged, b], [a, shutil.copytree(a, tmp_path / "copy")]):
        with pytest.raises(UsageError, match="given twice: name each dataset once"):
            merge(twice, tmp_path / "out")
    grown = make("a", {"train": [*LABELLED[:20], *LABELLED[80:82]]})
    with pytest.raises(UsageError, match=r"contain the same rows \(train/00000 of a\)"):
        merge([a, grown], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"topk": 4}, "topk is 3 and 4"),
        ({"context": "masked:2"}, "context is unmasked and masked:2"),
        ({"temperatures": (1.0, 2.0)}, "temperatures"),
        ({"dtype": "bfloat16"}, "dtype is float32 and bfloat16"),
        ({"rows_per_shard": 9}, "rows_per_shard is 8 and 9"),
        ({"keep_columns": ("idx",)}, "kept columns is"),
        ({"label_column": "note"}, "classes is"),
    ],
)
def test_other_settings_are_refused_naming_the_first(
    more: dict[str, Any], said: str, a: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    lines = [{**row, "note": row["note"] or "x"} for row in LABELLED[60:66]]
    with pytest.raises(UsageError, match="cannot be merged") as raised:
        merge([a, make("other", {"train": lines}, **more)], tmp_path / "out")
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_another_teacher_is_refused(a: Path, make: Callable[..., Path], teacher: Path, tmp_path: Path) -> None:
    from helpers_gen import make_model, make_tokenizer

    make_model(hidden_size=12).save_pretrained(tmp_path / "teacher")
    make_tokenizer().save_pretrained(tmp_path / "teacher")
    with pytest.raises(UsageError, match="cannot be merged: teacher is"):
        merge([a, make("other", {"train": LABELLED[60:66]}, teacher=str(tmp_path / "teacher"))], tmp_path / "out")


def test_what_is_no_place_for_it_is_refused(a: Path, b: Path, merged: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two datasets"):
        merge([a], tmp_path / "out")
    with pytest.raises(UsageError, match="overlap"):
        merge([a, b], a / "inside")
    with pytest.raises(ConflictError, match="contains another dataset, of a \\+ b; give another --out"):
        merge([b, a], merged)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match="holds no run of textsmooth"):
        merge([a, b], tmp_path / "full")
    with pytest.raises(UsageError, match="no smoothed dataset"):
        merge([a, tmp_path / "nowhere"], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_a_damaged_source_is_named_and_the_rest_is_kept(a: Path, b: Path, merged: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(b, tmp_path / "damaged")
    shard = damaged / read_manifest(damaged).shards[-1].path
    good = shard.read_bytes()
    shard.write_bytes(good[:-9] + b"\0" + good[-8:])
    with pytest.raises(DatasetError, match=f"{shard.name} is damaged.*repair that dataset"):
        merge([a, damaged], tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    shard.write_bytes(good)
    assert merge([a, damaged], tmp_path / "out").taken < 7
    same_dataset(tmp_path / "out", merged)


def test_part_of_a_dataset_is_refused(a: Path, b: Path, tmp_path: Path) -> None:
    shutil.copytree(a, tmp_path / "part")
    whole = read_manifest(a)
    part = replace(whole, shards=whole.shards[:2], partial_of=whole.dataset, dataset=Manifest.dataset_digest(whole.plan, whole.shards[:2]))
    (tmp_path / "part/manifest.json").write_bytes(storage.pretty_json(part.to_json()))
    told = f"part has only some shards of dataset {whole.dataset[:12]}: textsmooth pull SOURCE {tmp_path / 'part'} adds the others to it"
    for others in ([tmp_path / "part", b], [b, tmp_path / "part"], [tmp_path / "part", tmp_path / "part"]):
        with pytest.raises(DatasetError, match=told):
            merge(others, tmp_path / "out")
    pull(str(a), str(tmp_path / "part"))
    assert merge([tmp_path / "part", b], tmp_path / "out").taken == 7
