"""`textsmooth verify`: a whole dataset passes, any damage is named, what can be made again is, and a teacher is asked a second time."""

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers_gen import POSITIONS, VOCAB, Ran, files_of, make_model, make_tokenizer, rows, sentence, write_jsonl

from textsmooth.pipeline import cli, verification
from textsmooth.pipeline.difference import diff
from textsmooth.pipeline.inspect import SmoothedRows
from textsmooth.pipeline.merging import merge
from textsmooth.pipeline.publish import push
from textsmooth.pipeline.retrieve import pull
from textsmooth.pipeline.stats import figures
from textsmooth.pipeline.verification import Verified, verify
from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import DatasetError, TeacherError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.check import Finding
from textsmooth.stages.codec import decode, encode
from textsmooth.stages.folder import open_folder, read_manifest
from textsmooth.stages.shard import shard_bytes
from textsmooth.stages.storage import pretty_json

BAD_ROW = 7
BAD = {"split": "train", "row": "x", "file": "f", "file_row": 0, "error": "e"}
KINDS: dict[str, tuple[object, ...]] = {
    "single": ("--temperatures", "0.5,1,2", "--mass", 0.9, "--keep-columns", "note", "--label-column", "label"),
    "pair": (),
    "masked": ("--context", "masked:3", "--temperatures", "1,3"),
    "windows": ("--long", "window", "--max-length", 9, "--stride", 2),
    "span": ("--stride", 6),
    "specials": ("--specials", "smoothed", "--max-length", 9),
    "quarantined": ("--skip-bad-rows",),
}


def questions(count: int) -> list[dict[str, Any]]:
    """Rows as SQuAD has them; every fifth question has no answer."""
    rng = random.Random(0)
    found = []
    for number in range(count):
        words = " ".join(sentence(rng, 12) for _ in range(rng.randint(1, 4))).split(" ")
        first = rng.randrange(len(words))
        start = len(" ".join(words[:first])) + (first > 0)
        answers = {"text": [words[first]], "answer_start": [start]} if number % 5 else {"text": [], "answer_start": []}
        found.append({"id": f"q{number}", "title": "t", "context": " ".join(words), "question": sentence(rng, 3), "answers": answers})
    return found


def span_model(folder: Path) -> Path:
    """A tiny random model that gives start and end logits."""
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(3)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForQuestionAnswering(BertConfig(vocab_size=len(VOCAB), max_position_embeddings=POSITIONS, **sizes)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> dict[str, tuple[Path, list[str]]]:
    """Datasets of every kind: folder, and what tells verify where corpus and teachers lie. Not to be changed."""
    from textsmooth.pipeline.cli import run
    from textsmooth.pipeline.cli_gen import gen

    room = tmp_path_factory.mktemp("kinds")
    lines = rows(30, 3, longest=20)
    (room / "lists").mkdir()
    single, pair, spans, bad = (room / "lists" / f"{name}.jsonl" for name in ("single", "pair", "squad", "bad"))
    write_jsonl(single, lines)
    write_jsonl(pair, rows(20, 4, pair=True))
    write_jsonl(bad, [{**line, "text": None} if number == BAD_ROW else line for number, line in enumerate(lines)])
    write_jsonl(spans, questions(16))
    second_teacher = span_model(room / "model")
    found = {}
    for name, options in KINDS.items():
        corpus = {"pair": pair, "span": spans, "quarantined": bad}.get(name, single)
        second = ["--task-teacher", second_teacher] if name == "span" else []
        text = {"pair": [], "span": []}.get(name, ["--text-column", "text"])
        where = [*map(str, ["--corpus", corpus, "--teacher", teacher, *second])]
        shared = ["--topk", 6, "--rows-per-shard", 7, "--dtype", "float32", "--threads", 1, "--progress", "none", "--out", room / name]
        assert run(gen, "textsmooth-gen", [*where, *map(str, [*text, *options, *shared])]) == 0, name
        found[name] = (room / name, where)
    return found


@pytest.fixture
def dataset(kinds: dict[str, tuple[Path, list[str]]], tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(kinds["single"][0], tmp_path / "dataset"))


@pytest.fixture
def where(kinds: dict[str, tuple[Path, list[str]]]) -> dict[str, str]:
    """Where its corpus and teacher lie."""
    options = kinds["single"][1]
    return {"corpus": options[1], "teacher": options[3]}


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def said(found: Verified) -> list[str]:
    return [str(finding) for finding in found.findings]


def remade(folder: Path, **changes: Any) -> Manifest:
    """The manifest written anew, with digests that fit: as somebody would who forges a dataset."""
    manifest = replace(read_manifest(folder), **changes)
    files = tuple(fresh(folder, entry) for entry in manifest.files)
    shards = tuple(fresh(folder, entry) for entry in manifest.shards)
    manifest = replace(manifest, files=files, shards=shards, dataset=Manifest.dataset_digest(manifest.plan, shards))
    (folder / "manifest.json").write_bytes(pretty_json(manifest.to_json()))
    return manifest


def fresh(folder: Path, entry: Any) -> Any:
    data = (folder / entry.path).read_bytes() if (folder / entry.path).exists() else b""
    return replace(entry, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("name", KINDS)
def test_what_was_made_is_whole_and_what_the_teacher_says(name: str, kinds: dict[str, tuple[Path, list[str]]]) -> None:
    folder, options = kinds[name]
    found = verify(folder, against_teacher=12, teacher=options[3])
    manifest = read_manifest(folder)
    assert said(found) == [] and found.ok
    assert (found.shards, found.digest) == (len(manifest.shards), manifest.dataset)
    assert found.bytes == sum(map(len, files_of(folder).values()))
    assert found.teacher is not None and found.teacher.rows == 12 and found.teacher.tokens > 12
    assert found.teacher.ids_differ == 0 and found.teacher.kl_max < 1e-6 and found.teacher.variation_max < 1e-3
    assert found.notes == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_teacher_in_another_number_format_is_within_its_limits(dtype: str, kinds: dict[str, tuple[Path, list[str]]]) -> None:
    found = verify(kinds["single"][0], against_teacher=30, teacher=kinds["single"][1][3], dtype=dtype)
    assert found.ok and found.teacher is not None
    assert 1e-4 < found.teacher.variation_max < found.teacher.variation_limit


def test_a_flipped_bit_anywhere_is_found(dataset: Path) -> None:
    """As benchmarks/verify.py --flips does a thousand times; in every file, the manifest most often."""
    rng = random.Random(0)
    files = list(files_of(dataset))
    picked = [*files, *(["manifest.json"] * 40), *(["run.json"] * 10), *rng.choices(files, k=100)]
    missed = []
    for name in picked:
        path = dataset / name
        bit = rng.randrange(8 * path.stat().st_size)
        flip(path, bit)
        if verify(dataset, workers=1).ok:
            missed.append((name, bit))
        flip(path, bit)
    assert missed == [] and len(picked) > 155 and verify(dataset).ok


@pytest.mark.parametrize(
    ("old", "new"), [(b'"label', b'"\\u006cabel'), (b"0.9,", b"9e-1,"), (b'"topk": 6', b'"topk":  6'), (b"\n}\n", b"\n} ")]
)
def test_a_manifest_that_means_the_same_is_altered_all_the_same(old: bytes, new: bytes, dataset: Path) -> None:
    path = dataset / "manifest.json"
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    assert said(verify(dataset)) == ["manifest.json: was altered: it says the same, in other bytes than textsmooth writes"]


def test_without_its_manifest_nothing_can_be_checked(dataset: Path) -> None:
    flip(dataset / "manifest.json", 300)
    found = verify(dataset)
    assert len(found.findings) == 1 and found.damaged == ("manifest.json",) and found.digest is None
    assert "fetch it again" in found.summary()
    (dataset / "manifest.json").unlink()
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        verify(dataset)
    with pytest.raises(UsageError, match="no smoothed dataset at"):
        verify(dataset / "nowhere")


def test_missing_cut_and_extra_files_are_told(dataset: Path) -> None:
    shards = sorted((dataset / "train").iterdir())
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    (dataset / "train/99999-0123456789ab.arrow").write_bytes(shards[2].read_bytes())
    (dataset / "tokenizer/tokenizer_config.json").unlink()
    (dataset / "notes.txt").write_text("mine")
    (dataset / "train/.tmp-1").write_text("")
    found = verify(dataset)
    assert [(f.path, f.altered) for f in found.findings][:2] == [
        ("tokenizer/tokenizer_config.json", True),
        ("train/99999-0123456789ab.arrow", False),
    ]
    text = "\n".join(said(found))
    assert f"train/{shards[0].name}: is missing" in text
    assert re.search(rf"train/{shards[1].name}: has [\d,]+ bytes, the manifest says [\d,]+", text)
    assert "is not in the manifest, and `datasets` would read it; remove it" in text
    assert any("notes.txt: not of the dataset" in note for note in found.notes)
    assert any(".tmp-1: left by a run" in note for note in found.notes)


def test_records_that_do_not_agree_are_told_though_their_digests_fit(dataset: Path) -> None:
    """A forger writes every digest anew."""
    whole = files_of(dataset)
    receipts = [json.loads(line) for line in whole["receipts.jsonl"].splitlines()]

    def lines(values: list[Any]) -> bytes:
        return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()

    stats = {**receipts[0]["stats"], "smoothed": 3}
    plan = json.loads(whole["plan.json"])
    tokenizer = json.loads(whole["tokenizer/tokenizer.json"])
    tokenizer["model"]["vocab"]["cat"], tokenizer["model"]["vocab"]["dog"] = 51, 50
    cases: list[tuple[str, bytes, str]] = [
        ("receipts.jsonl", lines(receipts[1:]), "where unit train/00000 is due"),
        ("receipts.jsonl", lines(receipts[:-1]), "4 receipts, the plan has 5 units"),
        ("receipts.jsonl", lines([{**receipts[0], "tokens": 1}, *receipts[1:]]), "has tokens 1 for train/00000-"),
        ("receipts.jsonl", lines([{**receipts[0], "stats": stats}, *receipts[1:]]), "has smoothed"),
        ("receipts.jsonl", lines([{**receipts[0], "stats": stats}, *receipts[1:]]), "has smoothed_tokens in its statistics"),
        ("receipts.jsonl", b"[]\n", "cannot be read"),
        ("receipts.jsonl", lines([{**receipts[0], "rows": [7]}, *receipts[1:]]), "receipts.jsonl: makes no sense"),
        ("receipts.jsonl", lines([{**receipts[0], "skipped": [BAD]}, *receipts[1:]]), "receipts.jsonl: makes no sense"),
        ("plan.json", pretty_json({**plan, "runtime": {"threads": 3}}), "plan.json was altered"),
        ("README.md", b"---\n---\n# mine\n", "is not made from this manifest"),
        ("tokenizer/tokenizer.json", json.dumps(tokenizer).encode(), "maps other tokens to ids"),
        ("tokenizer/tokenizer.json", b"{}", "cannot be read"),
    ]
    for name, data, told in cases:
        (dataset / name).write_bytes(data)
        remade(dataset)
        found = said(verify(dataset))
        assert any(told in line for line in found), (name, told, found)
        assert all("\n" not in line for line in found)
        for path, before in whole.items():
            (dataset / path).write_bytes(before)
    manifest = read_manifest(dataset)
    remade(dataset, shards=manifest.shards[:-1], statistics=manifest.statistics)
    text = "\n".join(said(verify(dataset)))
    assert "lists 4 shards, the plan has 5 units" in text and "would read it; remove it" in text
    (dataset / "manifest.json").write_bytes(whole["manifest.json"])
    remade(dataset, config={**manifest.config, "topk": 5})
    text = "\n".join(said(verify(dataset)))
    assert "plan.json: has another config than the manifest" in text and "says topk 6 in its metadata, the manifest 5" in text
    (dataset / "manifest.json").write_bytes(whole["manifest.json"])
    remade(dataset, corpus={"name": "x"})
    assert "manifest.json: is damaged (corpus has no files)" in said(verify(dataset))


def forge(folder: Path, change: Callable[[Any], Any]) -> None:
    """The first shard with other soft ids, under its own name, and every digest anew."""
    path = sorted((folder / "train").iterdir())[0]
    table = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    kept = {name: table.column(name) for name in table.schema.names}
    path.write_bytes(shard_bytes(encode(change(decode(table)), table.schema, kept)))
    remade(folder)


def test_exchanged_soft_ids_are_found_by_the_teacher_alone(dataset: Path, where: dict[str, str]) -> None:
    """Every number can be, and every digest fits: only who asks the teacher again is told."""

    def exchanged(block: Any) -> Any:
        soft, sizes = block.soft, np.diff(block.soft.offsets)
        n = next(n for n in range(len(sizes) - 1) if sizes[n] == sizes[n + 1] > 0)  # two neighbours of as many entries
        order = np.arange(len(soft.ids))
        a, b, c = soft.offsets[n : n + 3]
        order[a:c] = [*range(b, c), *range(a, b)]
        tokens = np.arange(len(sizes))
        tokens[[n, n + 1]] = tokens[[n + 1, n]]
        per_token = {name: getattr(soft, name)[tokens] for name in ("log_tail", "original_logprob", "log_partition")}
        return replace(
            block,
            soft=replace(soft, ids=soft.ids[order], logprobs=soft.logprobs[order], **per_token),
            input_ids=block.input_ids[tokens],
        )

    forge(dataset, exchanged)
    assert [line.partition(" ")[0] for line in said(verify(dataset)) if "receipt" not in line] == ["README.md:"]  # it names the dataset
    found = verify(dataset, against_teacher=100, teacher=where["teacher"])
    wrong = [f for f in found.findings if "is not what the teacher says" in f.what]
    assert len(wrong) == 1 and wrong[0].row == 0 and wrong[0].token is not None
    assert "--repair mends" in found.advice() and "contradicts itself or its teacher" in found.advice()
    assert found.teacher is not None and found.teacher.kl_max > found.teacher.kl_limit


def test_the_teacher_is_compared_before_it_is_asked(dataset: Path, where: dict[str, str], tmp_path: Path) -> None:
    make_model(hidden_size=16).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(TeacherError, match="is another teacher: its digest is"):
        verify(dataset, against_teacher=3, teacher=str(tmp_path / "other"))
    with pytest.raises(UsageError, match=r"no/such/one.*--teacher"):
        verify(dataset, against_teacher=3, teacher="no/such/one")
    flip(sorted((dataset / "train").iterdir())[0], 20_000)
    found = verify(dataset, against_teacher=3, teacher=where["teacher"])
    assert found.teacher is None and "none was compared with the teacher" in found.summary()


@pytest.mark.parametrize("name", KINDS)
def test_repair_makes_the_same_bytes_again(name: str, kinds: dict[str, tuple[Path, list[str]]], tmp_path: Path) -> None:
    original, options = kinds[name]
    folder = Path(shutil.copytree(original, tmp_path / "dataset"))
    before = files_of(folder)
    shards = sorted(path for path in before if path.endswith(".arrow"))
    flip(folder / shards[0], 9_999)
    flip(folder / shards[1], 30)
    (folder / shards[-1]).unlink()
    flip(folder / "README.md", 100)
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    (folder / "tokenizer/tokenizer_config.json").unlink()
    if "quarantine.jsonl" in before:
        flip(folder / "quarantine.jsonl", 77)
    asked = dict(zip(("corpus", "teacher", "task_teacher"), options[1::2], strict=False))
    found = verify(folder, repair=True, **asked)  # type: ignore[arg-type]
    assert said(found) == [] and found.refused == ()
    lost = {"README.md", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", shards[0], shards[1], shards[-1]}
    assert set(found.mended) == lost | ({"quarantine.jsonl"} & set(before))
    assert files_of(folder) == before


def test_repair_touches_only_what_is_damaged(dataset: Path, where: dict[str, str]) -> None:
    times = {path: (dataset / path).stat().st_mtime_ns for path in files_of(dataset)}
    shards = sorted((dataset / "train").iterdir())
    inode = shards[2].stat().st_ino
    flip(shards[2], 12_345)
    assert verify(dataset, repair=True, **where).mended == (f"train/{shards[2].name}",)
    changed = {path for path in files_of(dataset) if (dataset / path).stat().st_mtime_ns != times[path]}
    assert changed == {f"train/{shards[2].name}"} and shards[2].stat().st_ino != inode  # put in place whole
    assert verify(dataset, repair=True, corpus="nowhere").ok  # nothing to do: nothing is looked for


def test_repair_refuses_other_bytes_and_says_what_differs(dataset: Path, where: dict[str, str], tmp_path: Path) -> None:
    shard = sorted((dataset / "train").iterdir())[0]
    before = shard.read_bytes()
    flip(shard, 5_000)
    damaged = files_of(dataset)
    other = tmp_path / "single.jsonl"
    other.write_text(Path(where["corpus"]).read_text().replace("the", "a"))
    found = verify(dataset, repair=True, corpus=str(other), teacher=where["teacher"])
    assert len(found.refused) == 1 and "changed since the run was planned" in found.refused[0] and not found.ok
    with pytest.raises(UsageError, match=r"has no file single\.jsonl"):
        verify(dataset, repair=True, corpus=str(write_jsonl(tmp_path / "x.jsonl", rows(3))), teacher=where["teacher"])
    with pytest.raises(UsageError, match=r"the manifest calls the corpus 'single\.jsonl': say with --corpus where it lies"):
        verify(dataset, repair=True, teacher=where["teacher"])
    manifest = read_manifest(dataset)
    first = replace(manifest.shards[0], sha256="0" * 64)
    name = Manifest.dataset_digest(manifest.plan, (first, *manifest.shards[1:]))
    forged = replace(manifest, shards=(first, *manifest.shards[1:]), dataset=name)
    (dataset / "manifest.json").write_bytes(pretty_json(forged.to_json()))
    found = verify(dataset, repair=True, **where)
    assert any("made here it is other bytes, though versions and device are the same" in why for why in found.refused)
    (dataset / "manifest.json").write_bytes(damaged["manifest.json"])
    assert files_of(dataset) == damaged and before != damaged[f"train/{shard.name}"]


def test_what_cannot_be_made_again_is_to_be_fetched(dataset: Path, where: dict[str, str]) -> None:
    flip(dataset / "receipts.jsonl", 900)
    shard = sorted((dataset / "train").iterdir())[0]
    flip(shard, 5_000)
    found = verify(dataset, repair=True, **where)  # a shard needs the plan alone
    assert found.mended == (f"train/{shard.name}",)
    assert found.refused == ("receipts.jsonl cannot be made again, it holds times of the run that made it: fetch it again",)
    assert found.damaged == ("receipts.jsonl",) and "fetched again" in found.summary()
    assert verify(dataset).advice() == "none of these can be made again: fetch them again"
    flip(dataset / "plan.json", 900)
    flip(shard, 5_000)
    assert "shards cannot be made again without plan.json: fetch it first" in verify(dataset, repair=True, **where).refused


def test_what_stands_where_a_file_should_be_is_told(dataset: Path) -> None:
    shard = sorted((dataset / "train").iterdir())[0]
    for path in (shard, dataset / "plan.json"):
        path.unlink()
        path.mkdir()
    shutil.rmtree(dataset / "tokenizer")
    (dataset / "tokenizer").write_text("")
    found = verify(dataset)
    assert {f"train/{shard.name}: cannot be read: Is a directory", "plan.json: cannot be read: Is a directory"} <= set(said(found))
    assert "tokenizer/tokenizer.json: cannot be read: Not a directory" in said(found)
    assert "--repair makes" not in found.advice()


def test_the_record_of_a_run_has_its_own_digest(dataset: Path) -> None:
    record = json.loads((dataset / "run.json").read_bytes())
    first = {name: value for name, value in record.items() if name != "digest"}
    cases = {"rows": {**record, "rows": 1}, "digest": {**first, "digesu": record["digest"]}, "none": []}
    for name, value in cases.items():
        (dataset / "run.json").write_bytes(pretty_json(value) if isinstance(value, dict) else b"[]\n")
        assert said(verify(dataset)) == ["run.json: was altered since the run wrote it; it is a record, not of the dataset: remove it"], (
            name
        )
    (dataset / "run.json").write_bytes(pretty_json(first))  # of a version that gave it none
    found = verify(dataset)
    assert found.ok and found.notes == ("run.json is a record of the last run, in no digest: not checked",)


WRONG = [None, -1, 1, 10**30, 1.5, 1e308, "", "x", "\x1b[31m", "a\0b", [], {}, [1], {"a": 1}, True, "é", "../x"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where any value of a JSON value stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def test_a_manifest_with_any_value_exchanged_is_read_or_refused_in_one_line(dataset: Path, kinds: dict[str, Any], tmp_path: Path) -> None:
    """With digests that fit, as a forger makes them: nothing but one of our errors comes of it, and nothing that steers a terminal."""
    rng, whole = random.Random(1), json.loads((dataset / "manifest.json").read_bytes())
    spots = [
        path for path in places(whole) if path and path[0] not in ("digest", "dataset") and path[:2] != ("statistics", "p_original_bins")
    ]
    readers: list[Callable[[], object]] = [
        lambda: figures(dataset).to_json(),
        lambda: SmoothedRows(dataset).row(0),
        lambda: diff(dataset, kinds["pair"][0], rows=0).summary(),
        lambda: pull(str(dataset), str(tmp_path / "part"), shards="1", overwrite=True),
    ]
    read = 0
    for _ in range(150):
        value = json.loads(json.dumps(whole))
        *way, last = rng.choice(spots)
        place = value
        for step in way:
            place = place[step]
        place[last] = rng.choice(WRONG)
        with suppress(KeyError, TypeError):
            listed = [[shard[name] for name in ("path", "split", "rows", "tokens", "entries", "sha256")] for shard in value["shards"]]
            value["dataset"] = digest({"plan": value["plan"], "shards": listed})
        value["digest"] = digest({name: inner for name, inner in value.items() if name != "digest"})
        (dataset / "manifest.json").write_bytes(pretty_json(value))
        try:
            assert all(line.isprintable() for line in verify(dataset, workers=1).summary().splitlines())
            Manifest.from_json(value, "m")
        except DatasetError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        for reader in readers:
            with suppress(DatasetError, UsageError):
                reader()
    assert 5 < read < 75


def test_merged_datasets_are_verified_too(kinds: dict[str, tuple[Path, list[str]]], gen: Callable[..., Ran], tmp_path: Path) -> None:
    more = write_jsonl(tmp_path / "more.jsonl", rows(12, 9))
    shared = ("--text-column", "text", *KINDS["single"], "--topk", 6, "--rows-per-shard", 7)
    assert gen("--corpus", more, *shared, "--out", tmp_path / "more").code == 0
    merge([kinds["single"][0], tmp_path / "more"], tmp_path / "both")
    found = verify(tmp_path / "both", against_teacher=20, teacher=kinds["single"][1][3])
    assert said(found) == [] and found.rows == 42
    flip(sorted((tmp_path / "both/train").iterdir())[-1], 20_000)
    (finding, *_) = verify(tmp_path / "both", repair=True, corpus=str(more), teacher=kinds["single"][1][3]).findings
    assert finding.altered


def test_a_part_of_a_dataset_is_verified_as_one(kinds: dict[str, tuple[Path, list[str]]], where: dict[str, str], tmp_path: Path) -> None:
    pull(str(kinds["single"][0]), str(tmp_path / "part"), shards="1-2")
    found = verify(tmp_path / "part", against_teacher=5, teacher=where["teacher"])
    assert said(found) == [] and (found.shards, found.rows) == (2, 14)
    shard = sorted((tmp_path / "part/train").iterdir())[1]
    flip(shard, 20_000)
    assert verify(tmp_path / "part", repair=True, **where).mended == (f"train/{shard.name}",)


def test_the_command_prints_findings_and_ends_with_1(dataset: Path, textsmooth: Callable[..., Ran]) -> None:
    ran = textsmooth("verify", dataset)
    assert (ran.code, len(ran.out.splitlines())) == (0, 2) and "nothing wrong" in ran.out
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
    assert cli.told(lambda: fail(UsageError("shard \x1b[31m\x07 is missing")), "textsmooth x", after="", debug=False) == 2
    assert capsys.readouterr().err == "textsmooth x: shard \\x1b[31m\\x07 is missing\n"


def fail(error: Exception) -> None:
    raise error


def test_an_interrupted_repair_has_written() -> None:
    assert cli._resume("textsmooth", ["verify", "d", "--repair"]) == "files that were mended are in place, the same command mends the rest"
    assert cli._resume("textsmooth", ["verify", "d"]) == "nothing was written"


def test_no_more_threads_than_cpus_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    assert verification._cpus() == len(os.sched_getaffinity(0)) < 999


def test_findings_are_bounded() -> None:
    many = tuple(Finding(path=f"train/{n:05d}.arrow", what="is missing") for n in range(1000))
    lines = Verified(dataset="d", digest="0" * 64, findings=many).summary().splitlines()
    assert len(lines) < 30 and "and 980 more (--json lists them all)" in lines


def test_a_dataset_in_a_store_is_read_there_and_mended_there(
    kinds: dict[str, tuple[Path, list[str]]], where: dict[str, str], bucket: str
) -> None:
    files = files_of(kinds["single"][0])
    folder = open_folder(f"{bucket}/d")
    for name, data in files.items():
        folder.put(name, data)
    assert verify(f"{bucket}/d").ok
    name = next(name for name in files if name.endswith(".arrow"))
    data = bytearray(files[name])
    data[700] ^= 4
    folder.put(name, bytes(data))  # after a copy was read: what is in the store counts
    found = verify(f"{bucket}/d")
    assert found.damaged == (name,)
    assert verify(f"{bucket}/d", repair=True, **where).mended == (name,)
    assert folder.read(name) == files[name]


def test_a_dataset_on_the_hub_is_read_only(hub: Any, kinds: dict[str, tuple[Path, list[str]]]) -> None:
    push(str(kinds["single"][0]), "me/thing")
    found = verify("me/thing")
    assert said(found) == [] and found.shards == 5
    with pytest.raises(UsageError, match="is read, not written: --repair needs a folder"):
        verify("me/thing", repair=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher": "nowhere"}, "--teacher nowhere does nothing without --against-teacher N or --repair"),
        ({"dtype": "float32", "repair": True}, "--dtype float32 does nothing without --against-teacher N"),
        ({"corpus": "nowhere", "against_teacher": 2}, "--corpus nowhere does nothing without --repair"),
    ],
)
def test_an_option_that_would_do_nothing_is_told(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        verify(tmp_path, **options)
