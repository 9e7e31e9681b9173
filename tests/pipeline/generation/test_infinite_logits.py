"""A teacher that rules most of the vocabulary out: logits of -inf. Every number that is stored, printed or trained on stays finite."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_gen import Ran, rows, write_jsonl

from textsmooth.pipeline.cli.app import run, textsmooth
from textsmooth.stages.dataset.dataset import SmoothedDataset

POSSIBLE = 20  # ids with a finite logit; fewer than --topk
TOPK = 24


@pytest.fixture(scope="module")
def strict_teacher(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForMaskedLM

    folder = tmp_path_factory.mktemp("strict") / "teacher"
    shutil.copytree(teacher, folder)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_output_embeddings().bias[POSSIBLE:] = -torch.inf
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("context", ["unmasked", "masked:2"])
def test_what_is_impossible_adds_nothing(
    context: str, strict_teacher: Path, gen: Callable[..., Ran], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, split in enumerate(("train", "validation")):
        write_jsonl(corpus / f"{split}.jsonl", [{**row, "label": n % 2} for n, row in enumerate(rows(24, number))])
    out = tmp_path / "out"
    ran = gen(
        "--corpus", corpus, "--teacher", strict_teacher, "--out", out, "--topk", TOPK, "--temperatures", "1,2", "--context", context
    )  # fmt: skip
    assert ran.code == 0, ran.err
    soft = SmoothedDataset(out, "train").batch(np.arange(4)).soft
    entries = soft.logprobs.reshape(-1, TOPK)
    assert np.isneginf(entries[:, POSSIBLE:]).all() and np.isfinite(entries[:, :POSSIBLE]).all()
    assert np.exp(entries.astype(np.float64)).sum(1) == pytest.approx(1, abs=2e-3) and np.isfinite(soft.log_partition).all()

    def said(*words: object) -> str:
        capsys.readouterr()
        code = run(textsmooth, "textsmooth", [str(word) for word in words])
        ran = Ran(code, *capsys.readouterr())
        assert ran.code == 0, ran.err
        return ran.out

    assert "no findings" in said("verify", out)
    assert "no findings" in said("verify", out, "--against-teacher", 8, "--teacher", strict_teacher)
    for words in (["stats", out], ["stats", out, "--json"], ["inspect", out, "--row", 0, "--temperature", 2], ["diff", out, out]):
        assert not re.search(r"\bnan\b", said(*words), re.IGNORECASE)
    said("report", out, "--out", tmp_path / "report.html")
    assert "NaN" not in (tmp_path / "report.html").read_text()
    said("student", "--from", strict_teacher, "--layers", "0", "--out", tmp_path / "student")
    objectives = [["--inputs", "smoothed", "--temperature", 1.5]]
    if context != "unmasked":
        objectives.append(["--objective", "mlm", "--kd-weight", 1])
    for number, words in enumerate(objectives):
        trained = tmp_path / f"trained{number}"
        said(
            "train",
            out,
            "--student",
            tmp_path / "student",
            "--out",
            trained,
            "--max-steps",
            2,
            "--threads",
            1,
            "--progress",
            "none",
            *words,
        )
        losses = [json.loads(line).get("loss") for line in (trained / "log.jsonl").read_text().splitlines()]
        assert losses and all(loss is None or np.isfinite(loss) for loss in losses)
