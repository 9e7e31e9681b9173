"""Every command reads every codec: what follows is the same for all of them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_gen import Ran

from textsmooth.pipeline import convert, diff, figures, generate, make_student, merge, pull, push, report, train, verify
from textsmooth.pipeline.commit.card import PLACE
from textsmooth.schemas.codecs import CODECS
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.stages import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest

OPTIONS: dict[str, Any] = {"topk": 4, "rows_per_shard": 20, "progress": "none"}
NAMES = [*CODECS, *(f"{name}:0.0005" for name, spec in CODECS.items() if spec.lossy)]


@pytest.fixture(params=NAMES)
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dataset(codec: str, tmp_path: Path) -> Path:
    generate("demo", out=tmp_path / "a", limit=40, codec=codec, **OPTIONS)
    return tmp_path / "a"


def soft_ids(folder: Path, rows: int = 40) -> bytes:
    soft = SmoothedDataset(folder, "train").batch(np.arange(rows)).soft
    return b"".join(array.tobytes() for array in vars(soft).values())


def test_look_share_and_grow(codec: str, dataset: Path, tmp_path: Path, textsmooth: Callable[..., Ran]) -> None:
    assert verify(dataset, against_teacher=20, teacher="demo").findings == ()
    assert figures(dataset).to_json()
    report(dataset, out=tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1000
    shown = textsmooth("inspect", dataset, "--row", 3)
    assert shown.code == 0 and "train row 3" in shown.out

    push(dataset, tmp_path / "there")
    pull(tmp_path / "there", tmp_path / "back")
    assert (tmp_path / "back" / MANIFEST).read_bytes() == (dataset / MANIFEST).read_bytes()
    assert diff(dataset, tmp_path / "back").same

    generate("demo", out=tmp_path / "b", limit=60, codec=codec, from_previous=dataset, **OPTIONS)
    grown = read_manifest(open_folder(tmp_path / "b"))
    assert grown.predecessor is not None and grown.predecessor["taken_over"]["units"] > 0
    assert soft_ids(tmp_path / "b") == soft_ids(dataset)
    assert verify(tmp_path / "b").findings == ()


def test_a_student_is_trained_on_it(dataset: Path, tmp_path: Path) -> None:
    make_student("demo", (0, 1), tmp_path / "student")
    result = train(dataset, student=tmp_path / "student", out=tmp_path / "out", epochs=1, progress="none")
    assert result.steps > 0


def test_merged_with_another_corpus(codec: str, tmp_path: Path) -> None:
    for name, text in (("a", "the river is cold"), ("b", "i chose this hotel")):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{text}", "n": {n}}}\n' for n in range(30)), encoding="utf-8")
        corpus = {"corpus": str(tmp_path / f"{name}.jsonl"), "teacher": "demo", "text_columns": "text"}
        generate(**corpus, out=tmp_path / name, codec=codec, **OPTIONS)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert soft_ids(tmp_path / "both", 30) == soft_ids(tmp_path / "a", 30) and len(SmoothedDataset(tmp_path / "both", "train")) == 60
    assert verify(tmp_path / "both").findings == ()


def test_pushed_as_another_codec(codec: str, dataset: Path, tmp_path: Path) -> None:
    if ":" in codec:
        pytest.skip("what is rounded is not converted")
    other = "plain" if codec == "compact" else "compact"
    push(dataset, tmp_path / "there", codec=other)
    assert read_manifest(open_folder(tmp_path / "there")).config["codec"] == other
    assert soft_ids(tmp_path / "there") == soft_ids(dataset)
    assert verify(tmp_path / "there").findings == ()
    assert push(dataset, tmp_path / "there", codec=other).already


def test_the_card_reads_a_compact_shard_without_textsmooth(tmp_path: Path) -> None:
    for mass in (1.0, 0.9):
        folder = tmp_path / str(mass)
        generate("demo", out=folder, limit=30, codec="compact", temperatures=(1, 2), mass=mass, topk=9, progress="none", splits="train")
        text = (folder / "README.md").read_text(encoding="utf-8")
        snippet = next(code for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "simple_decompress" in code)
        assert "textsmooth" not in snippet
        space: dict[str, Any] = {}
        exec(compile(snippet.replace(PLACE, str(folder)), "card", "exec"), space)
        soft = SmoothedDataset(folder, "train").batch(np.arange(30)).soft
        assert space["ids"][space["inside"]].tobytes() == soft.ids.tobytes()
        assert space["logprobs"][space["inside"]].tobytes() == soft.logprobs.tobytes()
        assert convert(folder, tmp_path / f"parquet{mass}", format="parquet").done == 1
