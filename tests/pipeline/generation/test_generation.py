"""From corpus to dataset, against a dense float64 reference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from helpers_gen import POSITIONS, Ran, files_of, rows, write_jsonl, write_parquet

from textsmooth.schemas.canonical import file_sha256
from textsmooth.schemas.shard import ROWS_PER_RECORD_BATCH
from textsmooth.stages.dataset.open import read_manifest

HALF = 2.0**-11  # relative rounding error of float16


@pytest.fixture(scope="module")
def reference(teacher: Path) -> Callable[..., list[dict[str, Any]]]:
    """Rows as they should be: tokenizer call, model in float64, full log-softmax. Knows nothing of textsmooth."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    model = AutoModelForMaskedLM.from_pretrained(teacher).double().eval()

    def dense(texts: list[str], pairs: list[str] | None = None, *, max_length: int = POSITIONS) -> list[dict[str, Any]]:
        import torch

        found = []
        for index, text in enumerate(texts):
            given = (text,) if pairs is None else (text, pairs[index])
            tokens = tokenizer(
                *given, truncation="longest_first", max_length=max_length, return_special_tokens_mask=True, return_token_type_ids=True
            )
            special = np.array(tokens.pop("special_tokens_mask"), bool)
            whole = tokenizer(*given)
            with torch.no_grad():
                logits = model(**{k: torch.tensor([v]) for k, v in tokens.items()}).logits[0].numpy()
            assert logits.dtype == np.float64
            found.append(
                {
                    "input_ids": tokens["input_ids"],
                    "token_type_ids": tokens["token_type_ids"],
                    "special": special,
                    "logprobs": logits - np.logaddexp.reduce(logits, axis=1, keepdims=True),
                    "truncated": len(whole["input_ids"]) > len(tokens["input_ids"]),
                }
            )
        return found

    return dense


def stored_rows(out: Path, split: str = "train") -> list[dict[str, Any]]:
    """The rows of a split, read with pyarrow alone."""
    return [row for path in sorted((out / split).glob("*.arrow")) for row in pa.ipc.open_file(path).read_all().to_pylist()]


def near(found: Any, wanted: Any, what: str) -> None:
    """Within float16 rounding and 1e-4 of float32 arithmetic."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, what
    assert (np.abs(found - wanted) <= 1e-4 + HALF * np.abs(wanted)).all(), (what, found, wanted)


def assert_row(
    row: dict[str, Any], wanted: dict[str, Any], *, topk: int, mass: float = 1.0, temperatures: tuple[float, ...] = (), smooth: bool = False
) -> None:
    assert row["input_ids"] == wanted["input_ids"]
    assert row["token_type_ids"] == wanted["token_type_ids"]
    for n, logprobs in enumerate(wanted["logprobs"]):
        ids, values = row["soft_ids"][n], row["soft_logprobs"][n]
        if wanted["special"][n] and not smooth:
            assert (ids, values) == ([], [])
            assert (row["log_tail"][n], row["original_logprob"][n]) == (-np.inf, 0.0)
            assert not temperatures or row["log_partition"][n] == [0.0] * len(temperatures)
            continue
        best = np.sort(logprobs)[::-1]
        count = min(topk, int((np.cumsum(np.exp(best)) < mass).sum()) + 1) if mass < 1 else topk
        assert len(ids) == len(set(ids)) == count
        near(values, best[:count], "soft_logprobs")
        near(values, logprobs[ids], "the ids are those of the values")
        if count == len(logprobs):
            assert row["log_tail"][n] == -np.inf
        else:
            near(row["log_tail"][n], np.logaddexp.reduce(best[count:]), "log_tail")
        near(row["original_logprob"][n], logprobs[row["input_ids"][n]], "original_logprob")
        for slot, temperature in enumerate(temperatures):
            exact = np.logaddexp.reduce(logprobs / temperature)
            assert abs(row["log_partition"][n][slot] - exact) <= 1e-4, "log_partition"
    assert ("log_partition" in row) == bool(temperatures)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--topk", 5), {"topk": 5}),
        (("--topk", 1, "--temperatures", "2,0.5,1,4"), {"topk": 1, "temperatures": (0.5, 2.0, 4.0)}),
        (("--topk", 20, "--mass", 0.9), {"topk": 20, "mass": 0.9}),
        (("--topk", 3, "--mass", 0.999), {"topk": 3, "mass": 0.999}),
        (("--topk", 4, "--specials", "smoothed", "--temperatures", "3"), {"topk": 4, "smooth": True, "temperatures": (3.0,)}),
        (("--topk", 6, "--rows-per-shard", 7, "--max-batch-tokens", 30), {"topk": 6}),
    ],
)
def test_every_stored_column_is_that_of_a_dense_float64_reference(
    options: tuple[Any, ...], wanted: dict[str, Any], reviews: Path, gen: Callable[..., Ran], reference: Any, tmp_path: Path
) -> None:
    ran = gen("--corpus", reviews, "--out", tmp_path / "out", *options)
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in reviews.read_text().splitlines()]
    dense = reference([line["text"] for line in lines])
    found = stored_rows(tmp_path / "out")
    assert [row["row"] for row in found] == list(range(len(lines)))
    for row, right in zip(found, dense, strict=True):
        assert_row(row, right, **wanted)
    assert [row["label"] for row in found] == [-1 if line["label"] is None else line["label"] for line in lines]


def test_all_of_the_vocabulary_can_be_kept(reviews: Path, gen: Callable[..., Ran], reference: Any, tmp_path: Path) -> None:
    from helpers_gen import VOCAB

    assert gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", len(VOCAB), "--limit", 3).code == 0
    for row, line in zip(stored_rows(tmp_path / "out"), reviews.read_text().splitlines(), strict=False):
        assert_row(row, reference([json.loads(line)["text"]])[0], topk=len(VOCAB))


def test_pairs_have_token_types_and_lose_tokens_from_the_longer_text(
    hub_folder: Path, gen: Callable[..., Ran], reference: Any, tmp_path: Path
) -> None:
    ran = gen("--corpus", f"{hub_folder}:pair", "--out", tmp_path / "out", "--topk", 4, "--max-length", 14)
    assert ran.code == 0, ran.err
    lines = rows(21, 3, pair=True)
    dense = reference([line["question"] for line in lines], [line["sentence"] for line in lines], max_length=14)
    assert sum(right["truncated"] for right in dense) > 3
    for row, right in zip(stored_rows(tmp_path / "out"), dense, strict=True):
        assert max(row["token_type_ids"]) == 1
        assert_row(row, right, topk=4)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.statistics["truncated_rows"] == sum(right["truncated"] for right in dense)
    assert f"cut: {manifest.statistics['truncated_rows']} rows longer than 14 tokens" in ran.out


def test_special_tokens_written_in_the_text_are_text(teacher: Path, gen: Callable[..., Ran], reference: Any, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "the cat [SEP] sat [MASK] . [CLS] [PAD] dog"}])
    assert gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 4).code == 0
    (row,) = stored_rows(tmp_path / "out")
    assert_row(row, reference(["the cat [SEP] sat [MASK] . [CLS] [PAD] dog"])[0], topk=4)
    assert [len(ids) for ids in row["soft_ids"]] == [0] + [4] * (len(row["soft_ids"]) - 2) + [0]


@pytest.mark.parametrize("temperatures", ["1", "0.5,2"])
def test_rows_without_text_are_rows_of_special_tokens(temperatures: str, gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": ""}, {"text": "  "}, {"text": "the cat"}])
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 4, "--rows-per-shard", 2, "--temperatures", temperatures)
    assert ran.code == 0, ran.err
    assert [len(row["input_ids"]) for row in stored_rows(tmp_path / "out")] == [2, 2, 4]


@pytest.mark.parametrize(
    ("values", "stored", "names"),
    [
        ([1, 0, None], [1, 0, -1], None),
        ([True, False, None], [1, 0, -1], ["false", "true"]),
        (["pos", "neg", None], [1, 0, -1], ["neg", "pos"]),
        ([0.25, 3, -1.5], [0.25, 3.0, -1.5], None),
        ([0.5, None, 1.0], [0.5, np.nan, 1.0], None),
        ([None, None, None], [-1, -1, -1], None),
    ],
)
def test_labels(values: list[Any], stored: list[Any], names: list[str] | None, gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": f"cat {i}", "label": v} for i, v in enumerate(values)])
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2, "--rows-per-shard", 2)
    assert ran.code == 0, ran.err
    found = [row["label"] for row in stored_rows(tmp_path / "out")]
    np.testing.assert_array_equal(found, stored)
    assert {type(v) for v in found} == {type(v) for v in stored}
    manifest = read_manifest(tmp_path / "out")
    assert manifest.corpus["label_names"] == names
    assert manifest.statistics["unlabelled_rows"] == sum(v is None for v in values)


def test_class_names_come_from_the_corpus(hub_folder: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    assert gen("--corpus", f"{hub_folder}:single", "--out", tmp_path / "out", "--topk", 2).code == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.corpus["label_names"] == ["no", "yes"]
    assert manifest.corpus["license"] == "cc-by-4.0"
    assert [(s.split, s.rows) for s in manifest.shards] == [("train", 17), ("train", 13), ("validation", 9)]
    assert [row["row"] for row in stored_rows(tmp_path / "out")] == list(range(30))


def test_a_corpus_without_labels_has_no_label_column(gen: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("the cat sat\nthe dog ran\n")
    assert gen("--corpus", tmp_path / "c.txt", "--out", tmp_path / "out", "--topk", 2).code == 0
    assert "label" not in stored_rows(tmp_path / "out")[0]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_kept_columns_are_carried_through(format: str, gen: Callable[..., Ran], tmp_path: Path) -> None:
    lines = rows(30, 5)
    write = {"jsonl": lambda p: write_jsonl(p, lines), "parquet": lambda p: write_parquet(p, lines, group=7)}[format]
    corpus = write(tmp_path / f"c.{format}")
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2, "--keep-columns", "idx,score,note,flag", "--keep-columns", "text")
    assert ran.code == 0, ran.err
    found = stored_rows(tmp_path / "out")
    for name in ("idx", "score", "note", "flag", "text"):
        assert [row[name] for row in found] == [line[name] for line in lines]


def test_rows_are_written_in_row_order_over_many_record_batches(gen: Callable[..., Ran], reference: Any, tmp_path: Path) -> None:
    lines = rows(2 * ROWS_PER_RECORD_BATCH + 9, 6, longest=3)
    corpus = write_jsonl(tmp_path / "c.jsonl", lines)
    assert gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2, "--keep-columns", "idx").code == 0
    found = stored_rows(tmp_path / "out")
    assert [row["idx"] for row in found] == [row["row"] for row in found] == list(range(len(lines)))
    for index in (0, ROWS_PER_RECORD_BATCH - 1, ROWS_PER_RECORD_BATCH, len(lines) - 1):
        assert_row(found[index], reference([lines[index]["text"]])[0], topk=2)


def test_limit_counts_rows_of_each_split_and_a_longer_run_begins_the_same(
    hub_folder: Path, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    for limit in (5, 19):
        args = ("--limit", limit, "--rows-per-shard", 5, "--topk", 2)
        assert gen("--corpus", f"{hub_folder}:single", "--out", tmp_path / str(limit), *args).code == 0
        for split, there in (("train", 30), ("validation", 9)):
            assert len(stored_rows(tmp_path / str(limit), split)) == min(limit, there)
    assert stored_rows(tmp_path / "19")[:5] == stored_rows(tmp_path / "5")


def test_only_the_splits_asked_for_are_read(hub_folder: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    assert gen("--corpus", f"{hub_folder}:single", "--split", "validation", "--out", tmp_path / "out", "--topk", 2).code == 0
    assert read_manifest(tmp_path / "out").splits == ("validation",)
    assert not (tmp_path / "out/train").exists()


def test_batches_change_nothing_but_rounding(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    for tokens in (1, 64, 4096):
        assert gen("--corpus", reviews, "--out", tmp_path / str(tokens), "--topk", 3, "--max-batch-tokens", tokens).code == 0
    one, some, all_ = (stored_rows(tmp_path / str(tokens)) for tokens in (1, 64, 4096))
    for left, right in [*zip(one, some, strict=True), *zip(one, all_, strict=True)]:
        assert left["input_ids"] == right["input_ids"]
        near(np.concatenate(left["soft_logprobs"]), np.concatenate(right["soft_logprobs"]), "soft_logprobs")


def test_the_dataset_opens_with_datasets_and_says_what_pyarrow_says(hub_folder: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    import datasets

    out = tmp_path / "out"
    assert gen("--corpus", f"{hub_folder}:single", "--out", out, "--topk", 3, "--temperatures", "0.5,2", "--rows-per-shard", 8).code == 0
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "validation"}
    for split in loaded:
        assert loaded[split].to_list() == stored_rows(out, split)


def test_the_manifest_lists_every_file_with_its_digest(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gen("--corpus", reviews, "--out", out, "--topk", 3, "--rows-per-shard", 16).code == 0
    manifest = read_manifest(out)
    listed = {entry.path: entry for entry in (*manifest.shards, *manifest.files)}
    assert set(files_of(out)) == {*listed, "manifest.json", "run.json"}
    for path, entry in listed.items():
        assert (entry.bytes, entry.sha256) == ((out / path).stat().st_size, file_sha256(out / path))
    for shard in manifest.shards:
        assert shard.path.endswith(f"-{shard.sha256[:12]}.arrow")
    found = stored_rows(out)
    assert sum(s.rows for s in manifest.shards) == len(found)
    assert sum(s.tokens for s in manifest.shards) == sum(len(row["input_ids"]) for row in found)
    assert sum(s.entries for s in manifest.shards) == sum(len(ids) for row in found for ids in row["soft_ids"])
    receipts = [json.loads(line) for line in (out / "receipts.jsonl").read_text().splitlines()]
    assert [r["shard"] for r in receipts] == [s.path for s in manifest.shards]


def test_the_card_is_valid_and_names_splits_and_digest(hub_folder: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gen("--corpus", f"{hub_folder}:single", "--out", out, "--topk", 3).code == 0
    text = (out / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    meta = yaml.safe_load(head)
    assert meta["license"] == "cc-by-4.0"
    assert [part["split"] for part in meta["configs"][0]["data_files"]] == ["train", "validation"]
    assert read_manifest(out).dataset in body
    assert "0 no, 1 yes" in body


def test_the_tokenizer_in_the_dataset_is_that_of_the_teacher(teacher: Path, reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3, "--max-length", 6).code == 0
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path / "out/tokenizer"), AutoTokenizer.from_pretrained(teacher)
    text = "the very long book was not happy under the river and the house ran"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.get_vocab() == theirs.get_vocab()


def test_no_published_file_tells_where_things_lay(reviews: Path, teacher: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    assert gen("--corpus", reviews, "--out", tmp_path / "out", "--topk", 3).code == 0
    for name, data in files_of(tmp_path / "out").items():
        for place in (reviews.parent, teacher.parent, tmp_path):
            assert str(place).encode() not in data, name
