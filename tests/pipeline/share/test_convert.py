"""Datasets stored in another way: the same numbers, or fewer of them; never more."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers_gen import Ran
from helpers_verify import KINDS, Kinds, said

from textsmooth.pipeline import convert, generate, verify
from textsmooth.pipeline.share.convert import smaller
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import ConflictError, UsageError
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.soft_ids.plain_codec import CODEC as PLAIN_CODEC

PLAIN = [name for name in KINDS if not name.startswith("compact")]


def shards(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.arrow"))}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_to_compact_to_plain_gives_the_same_shards(name: str, kinds: Kinds, tmp_path: Path) -> None:
    made = convert(kinds[name][0], tmp_path / "compact", codec="compact")
    assert (made.done, made.dropped) == (len(shards(kinds[name][0])), ())
    assert said(verify(tmp_path / "compact")) == []
    convert(tmp_path / "compact", tmp_path / "plain", codec="plain")
    assert shards(tmp_path / "plain") == shards(kinds[name][0])
    assert said(verify(tmp_path / "plain")) == []
    assert convert(tmp_path / "compact", tmp_path / "plain", codec="plain").done == 0


def test_converted_soft_ids_are_those_that_gen_makes(tmp_path: Path) -> None:
    generate("demo", out=tmp_path / "a", limit=30, topk=5, codec="compact:5e-4", splits="train")
    generate("demo", out=tmp_path / "b", limit=30, topk=5, splits="train")
    convert(tmp_path / "b", tmp_path / "c", codec="compact:5e-4")
    blocks = [SmoothedDataset(tmp_path / name, "train").batch(np.arange(30)) for name in "ac"]
    for field in ("ids", "logprobs", "log_tail", "original_logprob"):
        assert getattr(blocks[0].soft, field).tobytes() == getattr(blocks[1].soft, field).tobytes()
    assert read_manifest(open_folder(tmp_path / "c")).config["codec"] == "compact:0.0005"


def test_the_roundings_of_many_dropped_entries_do_not_add_up() -> None:
    """The entries that stay and the tail are 1 within their own rounding, whatever was dropped."""
    logits = np.sort(np.random.default_rng(0).normal(scale=2.0, size=(500, 4000)), axis=1)[:, ::-1]
    exact = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    many, few = 600, 2
    soft = SoftIds(
        offsets=np.arange(501) * many,
        ids=np.tile(np.arange(many, dtype=np.uint16), 500),
        logprobs=exact[:, :many].astype(np.float16).reshape(-1),
        log_tail=np.log(np.exp(exact[:, many:]).sum(1)).astype(np.float16),
        original_logprob=exact[:, 0].astype(np.float16),
        log_partition=np.zeros((500, 0), np.float32),
    )
    small = smaller(soft, GenerationConfig(topk=few), (), PLAIN_CODEC)
    logprobs = np.concatenate([small.logprobs.reshape(500, few), small.log_tail.astype(np.float16)[:, None]], axis=1).astype(np.float64)
    off = np.exp(logprobs) * np.expm1(PLAIN_CODEC.log_error(-logprobs))
    assert (np.abs(np.exp(logprobs).sum(1) - 1) < off.sum(1) + 1e-6).all()


@pytest.mark.parametrize("codec", ["plain", "compact"])
def test_fewer_entries_and_temperatures(codec: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 40, "splits": "train", "temperatures": (1, 2, 3)}
    generate("demo", out=tmp_path / "large", topk=16, codec=codec, **options)
    made = convert(tmp_path / "large", tmp_path / "small", topk=8, mass=0.9, temperatures=(1, 3))
    assert made.dropped == ("entries past the first 8 of 16", "entries past a mass of 0.9", "log_partition at temperature 2")
    assert said(verify(tmp_path / "small")) == []
    generate("demo", out=tmp_path / "again", topk=8, mass=0.9, **(options | {"temperatures": (1, 3)}))
    small, again = (SmoothedDataset(tmp_path / name, "train").batch(np.arange(40)).soft for name in ("small", "again"))
    same = np.diff(small.offsets) == np.diff(again.offsets)
    assert same.mean() > 0.98, "rounding may move a token across the mass"
    np.testing.assert_allclose(np.exp(small.log_tail[same].astype(float)), np.exp(again.log_tail[same].astype(float)), atol=4e-3)
    np.testing.assert_allclose(small.log_partition, again.log_partition, rtol=1e-6)
    manifest = read_manifest(open_folder(tmp_path / "small"))
    assert manifest.converted is not None
    assert manifest.converted["dataset"] == read_manifest(open_folder(tmp_path / "large")).dataset


def test_what_a_dataset_has_not_is_refused(kinds: Kinds, tmp_path: Path) -> None:
    single, rounded = kinds["single"][0], kinds["compact-masked"][0]
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (single, {"topk": 7}, "--topk 7 is above the stored 6"),
        (single, {"mass": 0.95}, "--mass 0.95 is above the stored 0.9"),
        (single, {"temperatures": (1, 4)}, "--temperatures 4: its log-partition is not stored"),
        (single, {}, "has these settings already"),
        (single, {"format": "csv"}, "format 'csv' is not one of dataset, parquet"),
        (single, {"format": "parquet", "codec": "compact"}, "does not go with --format parquet"),
        (rounded, {"codec": "plain"}, "codec compact:0.0005 has rounded already"),
        (rounded, {"topk": 2}, "convert the dataset it was made of"),
    ]
    for source, settings, message in cases:
        with pytest.raises(UsageError, match=message):
            convert(source, tmp_path / "out", **settings)
    with pytest.raises(UsageError, match="overlap"):
        convert(single, single / "inside", codec="compact")
    convert(single, tmp_path / "out", codec="compact")
    with pytest.raises(ConflictError, match="contains another dataset"):
        convert(single, tmp_path / "out", codec="compact:0.001")


def test_it_goes_on_after_an_interruption(kinds: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textsmooth.pipeline.share import convert as module

    convert(kinds["single"][0], tmp_path / "whole", codec="compact")
    real, calls = module._convert_unit, 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "_convert_unit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(kinds["single"][0], tmp_path / "out", codec="compact")
    assert not (tmp_path / "out" / MANIFEST).exists()
    monkeypatch.setattr(module, "_convert_unit", real)
    made = convert(kinds["single"][0], tmp_path / "out", codec="compact")
    assert 0 < made.done < made.shards
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")
    assert made.dataset == read_manifest(open_folder(tmp_path / "whole")).dataset


@pytest.mark.parametrize("name", ["single", "compact-span"])
def test_parquet_has_the_same_rows(name: str, kinds: Kinds, tmp_path: Path) -> None:
    folder = kinds[name][0]
    made = convert(folder, tmp_path / "out", format="parquet")
    dataset = SmoothedDataset(folder, "train")
    files = sorted((tmp_path / "out/train").glob("*.parquet"))
    tables = [pq.read_table(file) for file in files]
    assert made.done == len(files) == len(dataset.shards)
    soft = dataset.batch(np.arange(len(dataset))).soft
    ids = np.concatenate([t["soft_ids"].combine_chunks().flatten().flatten().to_numpy() for t in tables])
    logprobs = np.concatenate([t["soft_logprobs"].combine_chunks().flatten().flatten().to_numpy() for t in tables])
    np.testing.assert_array_equal(ids, soft.ids)
    np.testing.assert_array_equal(logprobs, soft.logprobs.astype(np.float32))
    assert "data_files" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    files[0].unlink()
    assert convert(folder, tmp_path / "out", format="parquet").done == 1
    (tmp_path / "out/notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConflictError, match=r"notes\.txt, which is no file of this conversion"):
        convert(folder, tmp_path / "out", format="parquet")


def test_the_command(kinds: Kinds, tmp_path: Path, textsmooth: Any) -> None:
    done: Ran = textsmooth("convert", kinds["single"][0], tmp_path / "out", "--codec", "compact:1e-3", "--temperatures", "1", "--topk", 4)
    assert done.code == 0 and "5 shards converted to" in done.out and "dropped: entries past the first 4 of 6" in done.out
    refused: Ran = textsmooth("convert", kinds["single"][0], tmp_path / "b", "--temperatures", "x")
    assert refused.code == 2 and "--temperatures x: expected numbers like 1,2" in refused.err
