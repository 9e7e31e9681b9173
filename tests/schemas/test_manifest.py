"""A manifest survives JSON; an altered, newer, foreign or forged one is refused."""

import dataclasses
from typing import Any

import pytest
from helpers_json import changed, leaves, through_json

from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import FileEntry, Manifest, ShardEntry


@pytest.fixture
def manifest() -> Manifest:
    shards = tuple(
        ShardEntry(path=f"{s}/0.arrow", split=s, rows=2, tokens=9, entries=12, bytes=100, sha256="e" * 64) for s in ("train", "test")
    )
    return Manifest(
        dataset=Manifest.dataset_digest("f" * 64, shards), plan="f" * 64, corpus={"name": "c"}, teacher={"name": "t"}, config={"topk": 4},
        token_types=True, special_ids={"pad": 0, "mask": None}, shards=shards,
        files=(FileEntry(path="README.md", bytes=5, sha256="a" * 64),),
        statistics={"rows": 4, "padding": 0.25}, versions={"torch": "1"}, created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def test_a_manifest_survives_json(manifest: Manifest) -> None:
    assert Manifest.from_json(through_json(manifest.to_json()), "m") == manifest
    assert manifest.splits == ("train", "test")
    with pytest.raises(UsageError, match="no split 'dev' in this dataset; it has train, test"):
        manifest.split("dev")


def test_a_manifest_altered_anywhere_is_refused(manifest: Manifest) -> None:
    value = through_json(manifest.to_json())
    assert len(leaves(value)) > 25
    for path in leaves(value):
        with pytest.raises(DatasetError, match=r"there/manifest\.json"):
            Manifest.from_json(changed(value, path), "there/manifest.json")
    for name in value:
        with pytest.raises(DatasetError, match=r"there/manifest\.json"):
            Manifest.from_json({k: v for k, v in value.items() if k != name}, "there/manifest.json")


def test_a_manifest_whose_shards_are_not_those_of_its_name_is_refused(manifest: Manifest) -> None:
    """Even with its own digest made to fit."""
    forged = dataclasses.replace(manifest, shards=manifest.shards[:1])
    with pytest.raises(DatasetError, match="was altered"):
        Manifest.from_json(through_json(forged.to_json()), "m")


def test_a_manifest_of_a_newer_format_is_refused(manifest: Manifest) -> None:
    with pytest.raises(DatasetError, match="has format 2, this version of textsmooth reads 1; update textsmooth"):
        Manifest.from_json({**manifest.to_json(), "format": 2}, "m")


@pytest.mark.parametrize("value", [None, [], {}, {"format": 1}, {"shards": []}, "manifest"])
def test_what_is_no_manifest_is_refused(value: Any) -> None:
    with pytest.raises(DatasetError, match="not the manifest of a smoothed dataset"):
        Manifest.from_json(value, "m")


@pytest.mark.parametrize("sha256", ["../../outside", "/etc/passwd", "a" * 63, "A" * 64, None])
def test_a_manifest_with_a_digest_that_is_none_is_refused(sha256: Any, manifest: Manifest) -> None:
    """Digests name files in the cache of whoever reads the dataset."""
    shards = tuple(dataclasses.replace(s, sha256=sha256) for s in manifest.shards)
    forged = dataclasses.replace(manifest, shards=shards, dataset=Manifest.dataset_digest(manifest.plan, shards))
    with pytest.raises(DatasetError, match="a digest is none"):
        Manifest.from_json(through_json(forged.to_json()), "m")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "train/../../outside", "..\\outside"])
def test_a_manifest_that_points_outside_its_folder_is_refused(path: str, manifest: Manifest) -> None:
    """Even with all digests made to fit: a dataset may come from a stranger."""
    shards = tuple(dataclasses.replace(s, path=path) for s in manifest.shards)
    forged = dataclasses.replace(manifest, shards=shards, dataset=Manifest.dataset_digest(manifest.plan, shards))
    with pytest.raises(DatasetError, match="outside the dataset"):
        Manifest.from_json(through_json(forged.to_json()), "m")
    forged = dataclasses.replace(manifest, files=(FileEntry(path=path, bytes=5, sha256="a" * 64),))
    with pytest.raises(DatasetError, match="outside the dataset"):
        Manifest.from_json(through_json(forged.to_json()), "m")


def test_fields_that_a_later_version_added_are_passed_over(manifest: Manifest) -> None:
    """Format 1 may grow: who reads it goes by what he knows, and by the digest over all of it."""
    value = through_json(manifest.to_json())
    value["mood"] = "good"
    value["shards"][0]["colour"] = "red"
    value["files"][0]["smell"] = None
    with pytest.raises(DatasetError, match="was altered"):
        Manifest.from_json(value, "m")
    del value["digest"]
    assert Manifest.from_json({**value, "digest": digest(value)}, "m") == manifest
