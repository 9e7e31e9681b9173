"""`textsmooth verify --against-teacher`: what the numbers alone do not tell."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers_gen import make_model, make_tokenizer
from helpers_verify import Kinds, flip, remade, said

from textsmooth.pipeline.verification.run import verify
from textsmooth.schemas.errors import TeacherError, UsageError
from textsmooth.stages.soft_ids.codec import decode, encode
from textsmooth.stages.soft_ids.shard import shard_bytes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_teacher_in_another_number_format_is_within_its_limits(dtype: str, kinds: Kinds) -> None:
    found = verify(kinds["single"][0], against_teacher=30, teacher=kinds["single"][1][3], dtype=dtype)
    assert found.ok and found.teacher is not None
    assert 1e-4 < found.teacher.variation_max < found.teacher.variation_limit


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
    wrong = [f for f in found.findings if "differs from the teacher" in f.what]
    assert len(wrong) == 1 and wrong[0].row == 0 and wrong[0].token is not None
    advice = found.advice() or ""
    assert "--repair cannot fix this" in advice and "contradicts itself or its teacher" in advice
    assert found.teacher is not None and found.teacher.kl_max > found.teacher.kl_limit


def test_the_teacher_is_compared_before_it_is_asked(dataset: Path, where: dict[str, str], tmp_path: Path) -> None:
    make_model(hidden_size=16).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(TeacherError, match="is a different model, with digest"):
        verify(dataset, against_teacher=3, teacher=str(tmp_path / "other"))
    for asked in ({"against_teacher": 3}, {"repair": True}):
        (dataset / "tokenizer/tokenizer.json").unlink(missing_ok=True)  # so that --repair needs the teacher
        with pytest.raises(UsageError, match=r"^the manifest names teacher 'tiny-bert': give its path with --teacher$"):
            verify(dataset, **asked)
    shutil.copy(Path(where["teacher"]) / "tokenizer.json", dataset / "tokenizer")
    with pytest.raises(UsageError, match=r"no/such/one.*--teacher"):
        verify(dataset, against_teacher=3, teacher="no/such/one")
    flip(sorted((dataset / "train").iterdir())[0], 20_000)
    found = verify(dataset, against_teacher=3, teacher=where["teacher"])
    assert found.teacher is None and "not compared with the teacher" in found.summary()
