"""What push and pull leave alone: files of others, other datasets, finished ones; and what they say of those that are there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Ran, files_of
from helpers_share import rewrite

from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.share.push import push
from textsmooth.schemas.errors import ConflictError, UsageError
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage.transfer import FolderTarget


def test_a_folder_with_something_else_is_left_alone(made: Path, smoothed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConflictError, match=r"contains other files \(letter.txt\)"):
            pull(made, out, overwrite=overwrite)
    (out / "letter.txt").unlink()
    (out / "train").mkdir()
    (out / "train/00000-0123456789ab.arrow").write_bytes(b"of another")
    with pytest.raises(ConflictError, match=r"contains a part of another dataset \(train/00000-0123456789ab.arrow\)"):
        pull(made, out)
    pull(made, out, overwrite=True)
    assert files_of(out) == files_of(made)
    with pytest.raises(ConflictError, match="has another dataset"):
        push(smoothed, out)
    (out / "notes.txt").write_text("mine")
    push(smoothed, out, overwrite=True)
    assert files_of(out) == {**files_of(smoothed), "notes.txt": b"mine"}
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        push(made, tmp_path / "file")
    for place in (made, made / "inside", made.parent):
        with pytest.raises(UsageError, match="overlap"):
            push(made, place)


@pytest.mark.parametrize("bring", [push, pull])
def test_files_of_the_same_names_are_not_replaced_unasked(made: Path, tmp_path: Path, bring: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    (out / "tokenizer").mkdir(parents=True)
    mine = {"README.md": b"my own notes", "tokenizer/tokenizer.json": b"{}", ".tmp-mine": b"x"}
    for name, data in mine.items():
        (out / name).write_bytes(data)
    for overwrite in (False, True):
        with pytest.raises(ConflictError, match=r"contains other files \(.tmp-mine\)"):
            bring(made, out, overwrite=overwrite)
    (out / ".tmp-mine").rename(tmp_path / "mine")
    with pytest.raises(
        ConflictError, match=r"different files with the same names \(README.md, tokenizer/tokenizer.json\): replace them with"
    ):
        bring(made, out)
    (tmp_path / "mine").rename(out / ".tmp-mine")
    assert files_of(out) == mine
    (out / ".tmp-mine").unlink()
    bring(made, out, overwrite=True)
    (out / "train/.tmp-mine").write_bytes(b"x")
    bring(made, out)
    assert files_of(out) == {**files_of(made), "train/.tmp-mine": b"x"}


def test_one_made_again_is_compared_whole(made: Path, tmp_path: Path, textsmooth: Callable[..., Ran], bucket: str) -> None:
    out = tmp_path / "out"
    pull(made, out)
    manifest = json.loads((out / MANIFEST).read_bytes())
    rewrite(out, {**manifest, "created": "2020-01-01T00:00:00+00:00"})
    assert pull(made, out).already
    path = out / "tokenizer/tokenizer.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = pull(made, out)
    assert found.files == 1 and not found.already and files_of(out) == files_of(made)
    assert "nothing to do: it is already there, every sha256 compared" in pull(made, out).summary()
    assert ", every sha256 compared" in pull(made, f"{bucket}/set").summary()
    assert "already there, existing shards compared by name and size, the rest by sha256" in pull(made, f"{bucket}/set").summary()


def test_nothing_is_written_into_a_finished_dataset(made: Path, smoothed: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(made, tmp_path / "whole")
    for bring in (push, pull):
        with pytest.raises(UsageError, match=r"is inside the smoothed dataset .*/whole; choose another target"):
            bring(smoothed, whole / "some/where")
    assert files_of(whole) == files_of(made)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / MANIFEST).write_text('{"name": "an app"}')
    pull(made, tmp_path / "app/inside")


def test_a_path_with_an_at_sign_keeps_its_name(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "a@b/ds")
    assert pull("a@b/ds").out == "smoothed/ds"
    monkeypatch.chdir("a@b/ds")
    with pytest.raises(UsageError, match="overlap"):
        pull(".")


def test_a_manifest_of_somebody_else_is_not_replaced(made: Path, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"name": "an app"}')
    with pytest.raises(ConflictError, match="is not the manifest of a smoothed dataset"):
        push(made, tmp_path)
    assert (tmp_path / MANIFEST).read_text() == '{"name": "an app"}'


def test_what_another_process_puts_in_place_meanwhile_is_not_somebody_elses(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, out = FolderTarget.files, tmp_path / "out"

    def files(target: FolderTarget) -> dict[str, int]:
        out.mkdir(exist_ok=True)
        shutil.copyfile(made / "README.md", out / "README.md")
        return real(target)

    monkeypatch.setattr(FolderTarget, "files", files)
    assert pull(made, out).dataset == read_manifest(made).dataset
