"""A manifest survives JSON; an altered, newer, foreign or forged one is refused."""

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from helpers_json import changed, leaves, through_json

from textsmooth.schemas.canonical import digest
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import OWN, FileEntry, Manifest, ShardEntry
from textsmooth.schemas.manifest_fields import Statistics
from textsmooth.schemas.plan import CorpusIdentity, TeacherIdentity
from textsmooth.stages.soft_ids.statistics import UnitStats

CORPUS = CorpusIdentity(
    name="c", files={"train": ["c.jsonl"], "test": ["d.jsonl"]}, text_columns=("text",), label_column=None, label_kind=None,
    label_names=None, keep_columns=("note",), limit=None, keep_types=('["string"]',),
)  # fmt: skip
TEACHER = TeacherIdentity(
    name="t", digest="1" * 64, tokenizer_digest="2" * 64, vocab_digest="3" * 64, vocab_size=9, model_type="bert", license="mit"
)


@pytest.fixture
def manifest() -> Manifest:
    shards = tuple(
        ShardEntry(path=f"{s}/00000-{'e' * 12}.arrow", split=s, rows=2, tokens=9, entries=12, bytes=100, sha256="e" * 64)
        for s in ("train", "test")
    )
    return Manifest(
        dataset=Manifest.dataset_digest("f" * 64, shards), plan="f" * 64, corpus=CORPUS.to_json(), teacher=TEACHER.to_json(),
        config=GenerationConfig(topk=4).to_json(), token_types=True, special_ids={"pad": 0, "mask": None}, shards=shards,
        files=(FileEntry(path="README.md", bytes=5, sha256="a" * 64),),
        statistics={**UnitStats().summary(), "bytes": 200, "bytes_per_token": 11.1}, versions={"torch": "1"},
        created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """With digests that fit: as somebody would who forges one."""
    with contextlib.suppress(KeyError, TypeError):
        listed = [[shard[name] for name in ("path", "split", "rows", "tokens", "entries", "sha256")] for shard in value["shards"]]
        value["dataset"] = digest({"plan": value["plan"], "shards": listed})
    body = {k: v for k, v in value.items() if k != "digest"}
    return {**body, "digest": digest(body)}


def test_a_manifest_survives_json(manifest: Manifest) -> None:
    value = through_json(manifest.to_json())
    assert through_json(Manifest.from_json(value, "m").to_json()) == value
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


@pytest.mark.parametrize(("version", "advice"), [(1, "generate the dataset again"), (3, "update textsmooth"), ("2", "update textsmooth")])
def test_only_version_2_of_a_span_dataset_is_read(version: Any, advice: str, manifest: Manifest) -> None:
    spans = through_json(dataclasses.replace(manifest, corpus={**manifest.corpus, "label_kind": "span"}).to_json())
    assert spans["format"] == 2 and Manifest.from_json(spans, "m").corpus["label_kind"] == "span"
    with pytest.raises(DatasetError, match=f"m has format {version!r}, this version of textsmooth reads 2; {advice}"):
        Manifest.from_json({**spans, "format": version}, "m")


@pytest.mark.parametrize("value", [None, [], {}, {"format": 1}, {"shards": []}, "manifest"])
def test_what_is_no_manifest_is_refused(value: Any) -> None:
    with pytest.raises(DatasetError, match="not the manifest of a smoothed dataset"):
        Manifest.from_json(value, "m")


@pytest.mark.parametrize("sha256", ["../../outside", "/etc/passwd", "a" * 63, "A" * 64, None])
def test_a_manifest_with_a_digest_that_is_none_is_refused(sha256: Any, manifest: Manifest) -> None:
    """Digests name files in the cache of whoever reads the dataset."""
    shards = tuple(dataclasses.replace(s, sha256=sha256) for s in manifest.shards)
    forged = dataclasses.replace(manifest, shards=shards, dataset=Manifest.dataset_digest(manifest.plan, shards))
    with pytest.raises(DatasetError, match=r"shards\[0\]\.sha256 is "):
        Manifest.from_json(through_json(forged.to_json()), "m")


OUTSIDE = [
    "../outside",
    "/etc/passwd",
    "train/../../outside",
    "..\\outside",
    "C:/x",
    ".git/hooks/post-checkout",
    ".bashrc",
    "",
    "train",
    "a/b",
]
ODD = [
    "./README.md",
    "manifest.json",
    "run.json",
    ".tmp-1",
    "a\0b",
    "README.md\n",
    "x\x1b[31m.json",
    "tokenizer/.x",
    "tokenizer/\u202ex",
    "x.py",
]


@pytest.mark.parametrize("path", OUTSIDE + ODD)
def test_a_manifest_with_a_path_that_no_dataset_has_is_refused(path: str, manifest: Manifest) -> None:
    """Even with all digests made to fit: a dataset may come from a stranger, and pull writes what it lists."""
    for name in ("shards", "files"):
        value = through_json(manifest.to_json())
        value[name][0]["path"] = path
        with pytest.raises(DatasetError, match="is no file of a smoothed dataset; do not use this dataset") as told:
            Manifest.from_json(signed(value), "m")
        assert str(told.value).isprintable()


@pytest.mark.parametrize(
    "path", ["./train/00000.arrow", "train/x.arrow", "test/00000-eeeeeeeeeeee.arrow", "train/00000.arrow.py", "README.md"]
)
def test_a_shard_lies_in_its_split(path: str, manifest: Manifest) -> None:
    value = through_json(manifest.to_json())
    value["shards"] = [{**value["shards"][0], "path": path}]
    with pytest.raises(DatasetError, match="is no file of a smoothed dataset"):
        Manifest.from_json(signed(value), "m")


def test_no_file_is_listed_twice(manifest: Manifest) -> None:
    for name in ("shards", "files"):
        value = through_json(manifest.to_json())
        value[name] = [value[name][0]] * 2
        with pytest.raises(DatasetError, match=r"lists '.*' twice"):
            Manifest.from_json(signed(value), "m")


def test_every_file_that_is_written_may_be_listed_and_some_that_a_later_version_may_add(manifest: Manifest) -> None:
    written = ["README.md", "plan.json", "receipts.jsonl", "quarantine.jsonl", "tokenizer/tokenizer.json", "tokenizer/vocab.txt"]
    written += ["tokenizer/special_tokens_map.json", "tokenizer/spiece.model", "tokenizer/additional_chat_templates/tool use.jinja"]
    value = through_json(manifest.to_json())
    value["files"] = [{"path": path, "bytes": 1, "sha256": "a" * 64} for path in [*written, "more-figures.json", "notes.txt"]]
    assert len(Manifest.from_json(signed(value), "m").files) == len(written) + 2
    assert all(OWN.fullmatch(path) for path in written) and not OWN.fullmatch("notes.txt")


@pytest.mark.parametrize(
    ("path", "wrong", "told"),
    [
        (("shards", 1, "rows"), [1], r"shards\[1\]\.rows is \[1\]"),
        (("shards", 1, "rows"), -1, r"rows is -1"),
        (("shards", 1, "tokens"), 10**30, r"tokens is 1000"),
        (("shards", 0, "skipped"), 3, "has 2 rows, 3 left out"),
        (("shards", 0, "windows"), 3, "3 windows"),
        (("shards", 0, "split"), "a\x1b", "split is "),
        (("shards",), [], r"shards is \[\]"),
        (("files", 0, "bytes"), "../x", r"files\[0\]\.bytes is '\.\./x'"),
        (("versions",), "x", "versions is 'x'"),
        (("corpus",), {}, "corpus has no name"),
        (("corpus", "keep_types"), [], "keep_types are not those of keep_columns"),
        (("corpus", "keep_types"), ["[3"], r"keep_types\[0\] is "),
        (("statistics",), {}, "statistics has no rows"),
        (("statistics", "captured_mass"), {"1": 1e308}, "captured_mass is "),
        (("statistics", "p_original_bins"), [], "p_original_bins is "),
        (("teacher", "vocab_size"), True, "vocab_size is True"),
        (("config", "topk"), 0, "topk is 0"),
        (("config", "dtype"), "int8", "dtype 'int8' is not one of"),
        (("special_ids",), {}, "special_ids has no pad"),
        (("sources",), [{"splits": {}}], r"sources\[0\] has no dataset"),
        (("predecessor",), {"dataset": "1"}, "predecessor"),
    ],
)
def test_a_field_of_another_type_is_refused_in_one_line(path: tuple[Any, ...], wrong: Any, told: str, manifest: Manifest) -> None:
    value = through_json(manifest.to_json())
    place = value
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    with pytest.raises(DatasetError, match=rf"^m is damaged \(.*{told}.*fetch the dataset again") as error:
        Manifest.from_json(signed(value), "m")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_fields_that_a_later_version_added_are_passed_over(manifest: Manifest) -> None:
    """Format 1 may grow: who reads it goes by what he knows, and by the digest over all of it."""
    value = through_json(manifest.to_json())
    value["mood"] = "good"
    value["shards"][0]["colour"] = "red"
    value["files"][0]["smell"] = None
    with pytest.raises(DatasetError, match="was altered"):
        Manifest.from_json(value, "m")
    del value["digest"]
    assert Manifest.from_json({**value, "digest": digest(value)}, "m").shards == manifest.shards


def test_the_format_page_lists_every_statistic() -> None:
    page = (Path(__file__).parents[2] / "docs/format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| ", page.partition("## Statistics")[2].partition("\n## ")[0], re.MULTILINE)
    listed = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(Statistics.__struct_fields__)
