"""The commands as functions: the same names and defaults, nothing printed, exceptions instead of exits."""

import inspect
import pydoc
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textsmooth import pipeline
from textsmooth.pipeline import generate, make_student, train
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import ConflictError, UsageError
from textsmooth.schemas.options import REQUIRED
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages import SmoothedCollator, SmoothedDataset, SoftEmbedding


@pytest.mark.parametrize(("function", "options"), [(generate, GenerateOptions), (train, TrainOptions)])
def test_functions_have_the_options_of_the_commands_and_their_defaults(function: Any, options: Any) -> None:
    empty = inspect.Parameter.empty
    promised = {f.name: empty if f.default in (MISSING, REQUIRED) else f.default for f in fields(options)} | {"progress": "none"}
    assert {name: p.default for name, p in inspect.signature(function).parameters.items()} == promised


def test_help_lists_every_option_with_type_default_and_help() -> None:
    shown = pydoc.render_doc(generate, renderer=pydoc.plaintext)
    for text in ("topk: int = 32", "teacher: str | pathlib.Path | None = None", "progress: str = 'none'", "topk: Keep at most this many"):
        assert text in shown.replace("pathlib._local", "pathlib"), text


def test_wrong_arguments_are_type_errors() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_k'"):
        generate("demo", top_k=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing a required argument: 'corpus'"):
        generate()


def test_from_a_corpus_to_a_student_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = generate("demo", limit=40, topk=4, temperatures=[1, 2], out=tmp_path / "data", splits="train")
    student = make_student("demo", [0], tmp_path / "student")
    trained = train(tmp_path / "data", student=student, out=tmp_path / "trained", max_steps=2)
    assert capfd.readouterr() == ("", "")
    assert [*made.manifest.splits] == ["train"]
    assert (trained.steps, trained.rows) == (2, 40)

    dataset = SmoothedDataset(tmp_path / "data", "train")
    batch = SmoothedCollator.for_dataset(dataset, smoothing=Smoothing(lam=0.5))(dataset.batch(np.arange(2)))
    vocab_size = dataset.manifest.teacher["vocab_size"]
    soft = SoftEmbedding(torch.nn.Embedding(vocab_size, 3), vocab_size=vocab_size)
    assert batch.soft is not None
    assert soft(batch.soft).shape == (*batch.input_ids.shape, 3)


def test_what_goes_wrong_is_raised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="topk"):
        generate("demo", topk=0)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConflictError, match="holds no run"):
        generate("demo", limit=4, out=tmp_path)
    with pytest.raises(UsageError, match="no smoothed dataset"):
        train(tmp_path / "nowhere", student=tmp_path)
    with pytest.raises(UsageError, match="lr must be a number, not 'fast'"):
        train(tmp_path, student=tmp_path, lr="fast")  # type: ignore[arg-type]
    for layers in ("01", [0.5], 1):
        with pytest.raises(UsageError, match="layers must be a sequence of whole numbers"):
            make_student("demo", layers, tmp_path / "student")  # type: ignore[arg-type]


def test_a_number_of_workers_may_be_a_number(tmp_path: Path) -> None:
    made = generate("demo", limit=4, topk=2, num_workers=1, keep_columns=None, out=tmp_path / "data")  # type: ignore[arg-type]
    assert made.units == 2
    with pytest.raises(UsageError, match="num-workers '0' is neither"):
        generate("demo", num_workers=0)


def test_a_name_is_imported_when_it_is_used() -> None:
    code = "import sys, textsmooth.pipeline, textsmooth.stages; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pyarrow')))"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError):
        from textsmooth.pipeline import nothing  # type: ignore[attr-defined] # noqa: F401


def test_no_function_has_the_name_of_a_module_which_would_take_its_place() -> None:
    assert pipeline.__file__ is not None
    for name in set(pipeline.__all__) - {"__version__"}:
        place = Path(pipeline.__file__).parent
        assert not (place / f"{name}.py").exists() and not (place / name).exists()
        assert callable(getattr(pipeline, name)) and getattr(pipeline, name).__doc__
