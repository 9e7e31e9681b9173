"""Checkpoints: everything back to the bit, whole or not at all, the last two and the best kept."""

import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import DatasetError, StorageError
from textsmooth.stages.training import checkpoint
from textsmooth.stages.training.checkpoint import TrainState, checkpoints, read_state, restore, save


def model(kit: ModuleType, seed: int = 0, **changes: Any) -> Any:
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(seed)
    return AutoModelForMaskedLM.from_config(kit.config("bert", num_hidden_layers=1, **changes))  # its head is tied to the embeddings


def optimizer(student: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(student.parameters(), lr=1e-2, fused=True)


def step(student: Any, adam: torch.optim.AdamW) -> float:
    student.eval()
    loss = student(input_ids=torch.arange(12).view(2, 6), labels=torch.arange(12).view(2, 6)).loss
    loss.backward()
    adam.step()
    adam.zero_grad()
    return float(loss.detach())


def state(update: int = 1, **changes: Any) -> TrainState:
    return TrainState(options={"lr": 0.1}, dataset="d" * 64, student="a" * 64, versions={"torch": "2"}, update=update, **changes)


def test_weights_moments_and_state_come_back_to_the_bit(kit: ModuleType, tmp_path: Path) -> None:
    student = model(kit)
    adam = optimizer(student)
    step(student, adam)
    stored = state(
        history=[{"metrics": {"accuracy": None}}], losses={"plain": [0.1 + 0.2, 3]}, best_score=0.1, tokens=7, stream={"epoch": 1}
    )
    place = save(tmp_path, student, adam, stored)
    expected = [step(student, adam) for _ in range(4)]
    other = model(kit, seed=1)
    again = optimizer(other)
    restore(place, other, again)
    assert [step(other, again) for _ in range(4)] == expected
    assert read_state(place) == stored
    assert sorted(path.name for path in place.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]


def test_the_last_two_and_the_best_are_kept(kit: ModuleType, tmp_path: Path) -> None:
    student = model(kit)
    adam = optimizer(student)
    for update in (5, 10, 15, 20):
        save(tmp_path, student, adam, state(update, best_update=5))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000005", "step-00000015", "step-00000020"]
    save(tmp_path, student, adam, state(25, best_update=25))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000020", "step-00000025"]


@pytest.mark.parametrize("name", ["sync", "_weights", "_moments", "pretty_json"])
def test_what_fails_leaves_what_was_there(kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    student = model(kit)
    adam = optimizer(student)
    save(tmp_path, student, adam, state(1))

    def full(*args: object) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, name, full)
        with pytest.raises(
            StorageError,
            match=r"cannot write the checkpoint .*step-00000002: .*No space left.*; make room; the run goes on",
        ):
            save(tmp_path, student, adam, state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    restore(tmp_path / "step-00000001", student, adam)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_file_is_told_in_one_line(kit: ModuleType, tmp_path: Path, file: str) -> None:
    student = model(kit)
    adam = optimizer(student)
    step(student, adam)
    place = save(tmp_path, student, adam, state())
    whole = (place / file).read_bytes()
    for kept in random.Random(0).sample(range(len(whole) - 1), 5):
        (place / file).write_bytes(whole[:kept])
        with pytest.raises(DatasetError) as caught:
            read_state(place)
            restore(place, student, adam)
        assert "\n" not in str(caught.value)
    for at in random.Random(1).sample(range(len(whole)), 20):
        (place / file).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(DatasetError, match="step-00000001 is damaged"):
            read_state(place)
            restore(place, student, adam)
    (place / file).unlink()
    with pytest.raises(DatasetError, match="step-00000001 is damaged"):
        read_state(place)
        restore(place, student, adam)


def test_a_state_of_another_version_is_refused(kit: ModuleType, tmp_path: Path) -> None:
    place = save(tmp_path, model(kit), optimizer(model(kit)), state())
    found = json.loads((place / "state.json").read_text())
    value = {"state": {**found["state"], "more": 1}, "files": found["files"]}
    (place / "state.json").write_text(json.dumps({**value, "digest": digest(value)}))
    with pytest.raises(DatasetError, match="is no state of this version of textsmooth"):
        read_state(place)


ODD_FIELDS: list[dict[str, Any]] = [
    {"update": -1},
    {"update": "3"},
    {"update": 2**62},
    {"epoch": 1.5},
    {"rows": None},
    {"student": "nobody"},
    {"options": []},
    {"stream": 3},
    {"losses": {"smoothed": [1.0]}},
    {"losses": {"smoothed": ["a", 2]}},
    {"history": [3]},
    {"best_update": -2},
    {"best_score": "high"},
    {"ended": 1},
]


@pytest.mark.parametrize("changes", ODD_FIELDS, ids=str)
def test_a_state_with_values_that_it_cannot_have_is_refused_though_its_digest_fits(
    changes: dict[str, Any], kit: ModuleType, tmp_path: Path
) -> None:
    place = save(tmp_path, model(kit), optimizer(model(kit)), state())
    found = json.loads((place / "state.json").read_text())
    value = {"state": {**found["state"], **changes}, "files": found["files"]}
    (place / "state.json").write_text(json.dumps({**value, "digest": digest(value)}))
    with pytest.raises(DatasetError, match=f"is no state of this version of textsmooth .*{next(iter(changes))}.*remove its folder"):
        read_state(place)


@pytest.mark.parametrize("value", [{}, {"files": {}}, {"state": None, "files": {}}, {"state": [], "files": 3}], ids=str)
def test_a_checkpoint_without_its_parts_is_refused(value: dict[str, Any], kit: ModuleType, tmp_path: Path) -> None:
    student = model(kit)
    place = save(tmp_path, student, optimizer(student), state())
    (place / "state.json").write_text(json.dumps({**value, "digest": digest(value)}))
    with pytest.raises(DatasetError) as caught:
        read_state(place)
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="step-00000001 is damaged"):
        restore(place, student)


@pytest.mark.parametrize(
    "text", ['{"digest": "x", "state": Infinity}', "[" * 100_000, '{"digest": 1}', "[]", '{"digest": "\\ud800", "state": {}}']
)
def test_a_state_that_is_no_json_of_ours_is_one_line(text: str, kit: ModuleType, tmp_path: Path) -> None:
    place = save(tmp_path, model(kit), optimizer(model(kit)), state())
    (place / "state.json").write_text(text)
    with pytest.raises(DatasetError, match="step-00000001 is damaged") as caught:
        read_state(place)
    assert "\n" not in str(caught.value)


def test_another_student_is_refused(kit: ModuleType, tmp_path: Path) -> None:
    student = model(kit)
    place = save(tmp_path, student, optimizer(student), state())
    with pytest.raises(DatasetError, match="is of another student"):
        restore(place, model(kit, hidden_size=32))
