"""What --dry-run says is what the run then does, and what a dense computation over the whole vocabulary gives."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_gen import REPOSITORY, VOCAB, Ran, rows, sentence, write_jsonl, write_parquet
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from textsmooth.pipeline.cli.dry_run import preview_text
from textsmooth.pipeline.executors.inline import Inline
from textsmooth.pipeline.formatting import significant
from textsmooth.pipeline.generation import dry_run as previews
from textsmooth.pipeline.generation.dry_run import ROWS, draw, preview, rows_of
from textsmooth.pipeline.generation.run import generate, resolve
from textsmooth.pipeline.progress import Progress
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.plan import Unit
from textsmooth.stages.soft_ids.truncation import Loss, Truncation


def options(corpus: Path, teacher: Path, out: Path, **asked: Any) -> GenerateOptions:
    shared = {"topk": 8, "threads": 1, "dtype": "float32", "rows_per_shard": 16}
    return GenerateOptions(corpus=str(corpus), teacher=str(teacher), out=str(out), **{**shared, **asked})


def figures(loss: Loss) -> dict[str, float]:
    return {name: value for name, value in vars(loss).items() if name not in ("truncation", "captured_by_temperature")}


# --- the figures -----------------------------------------------------------------------------------------------------------------


def every_token(texts: list[str], teacher: Path, specials: str, passes: int) -> tuple[np.ndarray, np.ndarray]:
    """([N, V] log p of every token that is smoothed, [N] its id), row by row, by the model as it is."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModelForMaskedLM.from_pretrained(teacher).eval()
    found, own = [], []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt", truncation=True, return_special_tokens_mask=True)
        special = batch.pop("special_tokens_mask")[0].bool()
        ids = batch["input_ids"][0]
        wanted = torch.ones_like(special) if specials == "smoothed" else ~special
        logits = torch.empty(len(ids), len(VOCAB))
        for turn in range(passes):
            mine = torch.zeros_like(special)
            mine[torch.arange(len(ids))[~special][turn::passes]] = True
            masked = torch.where(mine, tokenizer.mask_token_id, ids) if passes > 1 else ids
            with torch.inference_mode():
                given = model(**{**batch, "input_ids": masked[None]}).logits[0]
            if passes == 1:
                logits = given
            else:
                logits[mine] = given[mine]
        found.append(log_softmax(logits[wanted].double().numpy(), -1))
        own.append(ids[wanted].numpy())
    return np.concatenate(found), np.concatenate(own)


def dense(logp: np.ndarray, cut: Truncation) -> dict[str, float]:
    p = -np.sort(-np.exp(logp), -1)
    before = np.cumsum(p, -1) - p
    kept = (np.arange(p.shape[1]) < cut.topk) & (before < (cut.mass if cut.mass < 1 else 2.0))
    q = np.where(kept, p, 0) / np.where(kept, p, 0).sum(-1, keepdims=True)
    tail = np.where(kept, 0, p).sum(-1, keepdims=True)
    spread = np.where(kept, p, tail / np.maximum((~kept).sum(-1, keepdims=True), 1))
    tv = np.abs(p - q).sum(-1) / 2
    return {
        "entries": kept.sum(-1).mean(),
        "captured": np.where(kept, p, 0).sum(-1).mean(),
        "tv": tv.mean(),
        "tv_95": np.quantile(tv, 0.95),
        "kl_q_p": rel_entr(q, p).sum(-1).mean(),
        "kl_p_spread": rel_entr(p, spread).sum(-1).mean(),
    }


@pytest.mark.parametrize(("specials", "passes"), [("plain", 1), ("smoothed", 1), ("plain", 3)])
def test_every_figure_is_that_of_the_dense_teacher(specials: str, passes: int, reviews: Path, teacher: Path, tmp_path: Path) -> None:
    context = "unmasked" if passes == 1 else f"masked:{passes}"
    found = preview(options(reviews, teacher, tmp_path / "out", specials=specials, context=context, mass=0.97)).sample
    texts = [json.loads(line)["text"] for line in reviews.read_text().splitlines()]
    logp, ids = every_token(texts, teacher, specials, passes)
    assert found is not None
    assert (found.rows, found.scored_rows, found.smoothed) == (40, 40, len(ids))
    assert [(loss.truncation.topk, loss.truncation.mass) for loss in found.losses] == [
        *((k, 1.0) for k in (4, 8, 16, 32, 64)),  # 128 is more than the vocabulary
        *((8, mass) for mass in (0.9, 0.95, 0.97, 0.99, 0.999)),
    ]
    for loss in found.losses:
        assert figures(loss) == pytest.approx(dense(logp, loss.truncation), rel=1e-4), loss.truncation
    original = np.exp(logp[np.arange(len(ids)), ids])
    expected = {None: original.mean(), **{q: np.quantile(original, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}}
    assert found.p_original == pytest.approx(expected, rel=1e-4)


def test_more_entries_keep_more_and_cost_more(reviews: Path, teacher: Path, tmp_path: Path) -> None:
    found = preview(options(reviews, teacher, tmp_path / "out"))
    assert found.sample is not None
    for mass in (True, False):
        losses = [loss for loss in found.sample.losses if (loss.truncation.mass < 1) is mass]
        for name in ("entries", "captured"):
            values = [getattr(loss, name) for loss in losses]
            assert values == sorted(values)
        for name in ("tv", "tv_95", "kl_q_p", "kl_p_spread"):
            values = [getattr(loss, name) for loss in losses]
            assert values == sorted(values, reverse=True)
        sizes = [found.bytes(loss) for loss in losses]
        assert sizes == sorted(sizes)
    assert all(loss.captured + loss.tv == pytest.approx(1) for loss in found.sample.losses)


# --- what the run then does ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", [{}, {"topk": 16, "mass": 0.9}, {"specials": "smoothed", "temperatures": (0.5, 1.0)}, {"max_length": 8}], ids=str
)
def test_tokens_and_bytes_are_those_of_the_run(asked: dict[str, Any], reviews: Path, teacher: Path, tmp_path: Path) -> None:
    wish = options(reviews, teacher, tmp_path / "out", **asked)
    found = preview(wish)
    statistics = generate(wish).manifest.statistics
    sample = found.sample
    assert sample is not None and found.exact
    assert (sample.tokens, sample.scored_tokens, sample.smoothed) == (
        statistics["tokens"],
        statistics["tokens"],
        statistics["smoothed_tokens"],
    )
    assert sample.long_rows == statistics["truncated_rows"]
    assert (sample.whole_tokens > sample.tokens) is bool(sample.long_rows)
    loss = next(loss for loss in sample.losses if loss.truncation == found.truncation)
    assert loss.entries * sample.smoothed == pytest.approx(statistics["entries"])
    assert found.bytes(loss) == pytest.approx(statistics["bytes"], rel=0.02)  # Arrow pads its buffers


def test_the_bytes_of_another_k_are_those_of_a_run_with_it(reviews: Path, teacher: Path, tmp_path: Path) -> None:
    found = preview(options(reviews, teacher, tmp_path / "out", topk=32))
    assert found.sample is not None
    for asked in ({"topk": 4}, {"topk": 64}, {"topk": 32, "mass": 0.95}):
        made = generate(options(reviews, teacher, tmp_path / str(asked), **asked)).manifest.statistics["bytes"]
        loss = next(loss for loss in found.sample.losses if loss.truncation == Truncation(**asked))
        assert found.bytes(loss) == pytest.approx(made, rel=0.02), asked


def test_a_sample_tells_of_the_whole(teacher: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "many.jsonl", rows(1500, 3))
    wish = options(corpus, teacher, tmp_path / "out", rows_per_shard=100)
    found = preview(wish)
    assert found.sample is not None and not found.exact
    assert 500 <= found.sample.rows <= ROWS
    statistics = generate(wish).manifest.statistics
    assert found.of_all(found.sample.tokens) == pytest.approx(statistics["tokens"], rel=0.1)
    loss = next(loss for loss in found.sample.losses if loss.truncation == found.truncation)
    assert found.bytes(loss) == pytest.approx(statistics["bytes"], rel=0.1)
    assert loss.captured == pytest.approx(statistics["captured_mass"]["8"], abs=0.02)
    assert found.sample.p_original[None] == pytest.approx(statistics["p_original"]["mean"], abs=0.02)


def test_long_rows_in_windows(teacher: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "long.jsonl", rows(30, 4, longest=30))
    wish = options(corpus, teacher, tmp_path / "out", max_length=12, long="window", stride=3)
    found = preview(wish)
    made = generate(wish).manifest
    assert found.sample is not None
    assert found.sample.lines == sum(shard.samples for shard in made.shards) > 30
    assert found.sample.tokens == made.statistics["tokens"]
    assert f"windows, {significant(found.sample.lines / 30)} per row, {found.sample.lines}" in preview_text(found)


# --- the sample ------------------------------------------------------------------------------------------------------------------


def units(sizes: list[int]) -> list[Unit]:
    place = {"file": "a", "row": 0, "offset": None, "rows_sha256": "", "id": ""}
    return [Unit(split="train", number=i, start=0, stop=size, **place) for i, size in enumerate(sizes)]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 600))
def test_a_draw_is_a_set_of_rows_and_the_same_each_time(sizes: list[int], wanted: int) -> None:
    found = draw(units(sizes), wanted)
    count = sum(len(rows) for _, rows in found)
    assert count == sum(sizes) if sum(sizes) <= wanted else 0 < count <= max(wanted, 1) * 16
    numbers = [unit.number for unit, _ in found]
    assert numbers == sorted(set(numbers))
    for unit, chosen in found:
        assert list(chosen) == sorted(set(chosen))
        assert chosen[0] >= 0 and chosen[-1] < unit.rows
    again = draw(units(sizes), wanted)
    assert [(unit.number, list(chosen)) for unit, chosen in found] == [(unit.number, list(chosen)) for unit, chosen in again]


def test_a_draw_reads_a_few_places_all_over_the_corpus() -> None:
    found = draw(units([2048] * 100))
    assert len(found) == 16 and sum(len(chosen) for _, chosen in found) == ROWS
    assert np.diff([unit.number for unit, _ in found]).max() <= 7
    assert sum(len(chosen) for _, chosen in draw(units([8] * 1000))) == ROWS
    assert sum(len(chosen) for _, chosen in draw(units([1_000_000]))) == ROWS


def test_the_same_rows_each_time(teacher: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "many.jsonl", rows(700, 5))
    first, second = (preview(options(corpus, teacher, tmp_path / "out")).sample for _ in range(2))
    assert first is not None and second is not None
    assert replace(first, tokens_per_s=0) == replace(second, tokens_per_s=0)


def test_the_rows_are_those_of_the_corpus(hub_folder: Path, teacher: Path, tmp_path: Path) -> None:
    many = rows(700, 6)
    corpora = {"jsonl": write_jsonl(tmp_path / "a.jsonl", many), "parquet": write_parquet(tmp_path / "a.parquet", many, group=90)}
    drawn = {}
    for name, corpus in corpora.items():
        asked = options(corpus, teacher, tmp_path / "out", keep_columns=("idx",), rows_per_shard=50)
        resolved = resolve(asked, Progress("none"), Inline())
        found = rows_of(resolved.plan, resolved.request.sources)
        assert found["text"] == [many[i]["text"] for i in found["idx"]]
        assert set(found["idx"]) == {int(unit.row + i) for unit, chosen in draw(resolved.plan.units) for i in chosen}
        assert found["idx"] != sorted(found["idx"])
        drawn[name] = found["idx"]
    assert drawn["jsonl"] == drawn["parquet"]


def test_a_corpus_that_shrank_meanwhile_is_an_error(teacher: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", rows(20))
    resolved = resolve(options(corpus, teacher, tmp_path / "out"), Progress("none"), Inline())
    write_jsonl(corpus, rows(10))
    with pytest.raises(CorpusError, match=r"a\.jsonl ends before row 16"):
        rows_of(resolved.plan, resolved.request.sources)


def test_a_slow_teacher_reads_fewer_rows(reviews: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "SCORE_S", 0.0)
    found = preview(options(reviews, teacher, tmp_path / "out"))
    assert found.sample is not None
    assert (found.sample.rows, found.sample.scored_rows) == (40, 32)
    assert f"By all 40 rows; 32 of them, {found.sample.scored_tokens} tokens, read by the teacher:" in preview_text(found)
    monkeypatch.setattr(previews, "TOKENIZE_S", 0.0)
    found = preview(options(reviews, teacher, tmp_path / "out"))
    assert found.sample is not None and found.sample.rows == 32 and not found.exact
    assert "By a sample of 32 rows; all of them" in preview_text(found)


# --- what is printed -------------------------------------------------------------------------------------------------------------


def test_it_fits_a_terminal(hub_folder: Path, teacher: Path, tmp_path: Path) -> None:
    wish = options(Path(f"{hub_folder}:single"), teacher, tmp_path / "out", mass=0.97, temperatures=(0.5, 1.0, 2.0))
    text = preview_text(preview(wish), 3.5)
    lines = text.splitlines()
    assert len(lines) <= 44 and max(map(len, lines)) <= 100
    table = [line for line in lines if re.match(r"[> ] (k|mass) \d", line)]
    assert len(table) == 10
    assert [line for line in table if line.startswith(">")] == [line for line in table if "mass 0.97" in line]
    assert len({tuple(m.end() for m in re.finditer(r"\S(?=  |$)", line))[1:] for line in table}) == 1, "columns end alike"


@pytest.mark.docs
def test_the_docs_show_what_is_printed(gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "dry-run.md").read_text(encoding="utf-8")
    command, shown = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("bash", "text"))  # type: ignore[index]
    monkeypatch.chdir(tmp_path)
    ran = gen(*command.split()[1:], "--teacher", "demo")
    here, there = shown.splitlines(), ran.out.splitlines()
    assert [line.split()[:2] for line in here] == [line.split()[:2] for line in there]
    for a, b in zip(here[-12:-2], there[-12:-2], strict=True):
        numbers = [[float(word) for word in re.findall(r"[\d.]+", line[12:])] for line in (a, b)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02), (a, b)


def test_time_and_cost_are_those_of_what_is_left(reviews: Path, teacher: Path, tmp_path: Path) -> None:
    found = preview(options(reviews, teacher, tmp_path / "out"))
    assert found.sample is not None and found.sample.tokens_per_s > 0
    timed = replace(found, sample=replace(found.sample, tokens=7200, tokens_per_s=2.0))
    assert timed.seconds == 3600
    assert "time         about 60.0 min on this device, at 2.00 tokens/s" in preview_text(timed)
    assert "cost         about 2.50 at 2.5 per hour, 347 per million tokens" in preview_text(timed, 2.5)
    assert "cost   " not in preview_text(timed)
    half = replace(timed, rows_left=20)
    assert half.seconds == 1800
    assert "1.25 at 2.5 per hour, 347 per million" in preview_text(half, 2.5)


def test_blank_rows(gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "blank.jsonl", [{"text": ""}, {"text": "  "}])
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--dry-run", "--price-per-hour", 1)
    assert ran.code == 0
    assert "tokens       4" in ran.out and "No token would be smoothed: the rows are blank" in ran.out
    assert "nan" not in ran.out and "p(original)" not in ran.out


def test_pairs(gen: Callable[..., Ran], hub_folder: Path, tmp_path: Path) -> None:
    ran = gen("--corpus", f"{hub_folder}:pair", "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0 and "By all 21 rows; all of them" in ran.out


def test_a_span_task(gen: Callable[..., Ran], tmp_path: Path) -> None:
    rng = random.Random(1)
    lines = [
        {
            "id": f"q{i}",
            "question": sentence(rng, 3),
            "context": f"cat {sentence(rng, 30)}",
            "answers": {"text": ["cat"], "answer_start": [0]},
        }
        for i in range(20)
    ]
    corpus = write_parquet(tmp_path / "squad.parquet", lines, group=100)
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--stride", 6, "--dry-run")
    assert ran.code == 0, ran.err
    assert "label answers (span)" in ran.out and "windows, " in ran.out and "> k 32" in ran.out
