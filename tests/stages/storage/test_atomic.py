"""A file is there whole or not at all, once where only the first may win; what the storage refuses is told in one line."""

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from textsmooth.schemas.errors import DatasetError, StorageError, UsageError
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage import atomic as storage
from textsmooth.stages.storage.atomic import put, put_exclusive, read_json, remove

PUTS: list[Callable[[Path, bytes], Any]] = [put, put_exclusive]


@pytest.mark.parametrize("place", PUTS)
def test_a_file_is_put_in_place_with_its_folders_and_no_temp_is_left(place: Any, tmp_path: Path) -> None:
    path = tmp_path / "a/b/file"
    place(path, b"content")
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_without_hard_links_the_first_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert put_exclusive(tmp_path / "file", b"first") is True
    assert put_exclusive(tmp_path / "file", b"second") is False
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"first")]


def test_put_replaces_and_put_exclusive_does_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert put_exclusive(path, b"first") is True
    assert put_exclusive(path, b"second") is False
    assert path.read_bytes() == b"first"
    put(path, b"third")
    assert path.read_bytes() == b"third"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def race(workers: list[Callable[[], None]]) -> None:
    """Run all at once; the first error is raised."""
    barrier = threading.Barrier(len(workers))
    errors: list[BaseException] = []

    def start(work: Callable[[], None]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(work,)) for work in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def test_of_many_at_once_exactly_one_is_first(tmp_path: Path) -> None:
    for number in range(30):
        path = tmp_path / str(number) / "file"
        won: list[int] = []

        def work(mine: int, path: Path = path, won: list[int] = won) -> None:
            if put_exclusive(path, b"%d" % mine):
                won.append(mine)

        race([partial(work, i) for i in range(4)])
        (winner,) = won
        assert path.read_bytes() == b"%d" % winner
        assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_reader_sees_one_whole_file_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([i]) * 100_000 for i in range(4)]
    put(path, contents[0])
    seen: set[bytes] = set()
    race([lambda: [put(path, c) for _ in range(10) for c in contents], lambda: [seen.add(path.read_bytes()) for _ in range(200)]])  # type: ignore[list-item]
    assert seen <= set(contents)


def test_writing_in_threads_leaves_the_umask_alone(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        race([lambda i=i: [put(tmp_path / f"{i}", b"x") for _ in range(200)] for i in range(4)])  # type: ignore[misc,list-item]
        assert os.umask(0o027) == 0o027
        assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o640}
    finally:
        os.umask(before)


@pytest.mark.parametrize("place", PUTS)
def test_a_temp_that_another_driver_tidied_away_is_written_again(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, swept = os.fsync, []

    def fsync(descriptor: int) -> None:
        real(descriptor)
        for temp in tmp_path.glob(f"{storage.TEMP_PREFIX}*"):
            if len(swept) < 2:
                swept.append(temp)
                temp.unlink()

    monkeypatch.setattr(os, "fsync", fsync)
    place(tmp_path / "file", b"content")
    assert len(swept) == 2
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("place", PUTS)
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room and run the same command again"),
        (errno.EDQUOT, "make room and run the same command again"),
        (errno.EACCES, "choose a folder you may write to"),
        (errno.EROFS, "choose a folder you may write to"),
        (errno.EIO, "check the storage"),
    ],
)
def test_what_the_storage_refuses_is_told_and_no_temp_is_left(
    number: int, advice: str, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=advice) as error:
        place(tmp_path / "file", b"content")
    assert os.strerror(number) in str(error.value) and str(tmp_path / "file") in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", PUTS)
def test_a_file_where_a_folder_is_needed_is_told(place: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file/x", tmp_path / "file/x/y"):
        with pytest.raises(StorageError, match="a file stands where a folder is needed"):
            place(path, b"content")


@pytest.mark.parametrize("place", [*PUTS, lambda path, data: storage.put_stream(path, lambda file: file.write(data))])
def test_a_link_to_nothing_is_named(place: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone/away")
    for below in ("file", "far/file"):
        with pytest.raises(StorageError) as told:
            place(tmp_path / "link" / below, b"x")
        assert str(told.value) == (
            f"cannot write {tmp_path}/link/{below}: {tmp_path}/link is a link to gone/away, which does not exist; make that folder, or "
            "choose another"
        )


@pytest.mark.parametrize("place", PUTS)
def test_a_place_that_takes_no_files_is_told(place: Any) -> None:
    with pytest.raises(StorageError, match="cannot write /proc/textsmooth/x"):
        place(Path("/proc/textsmooth/x"), b"content")


def test_a_full_device_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = Path.open

    def full(self: Path, *args: Any, **named: Any) -> Any:
        return real(Path("/dev/full"), "wb") if self.name.startswith(storage.TEMP_PREFIX) else real(self, *args, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match="No space left on device; make room"):
        put(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_remove_takes_files_and_folders_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "folder/deep/file").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("folder", "file", "link", "nothing"):
        remove(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_only_an_empty_folder_is_removed_as_empty(tmp_path: Path) -> None:
    """Another driver may fill it, or remove it, at any moment."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name in ("full", "empty", "gone", "full/x"):
        storage.remove_empty(tmp_path / name)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["full", "x"]


def test_json_that_is_none_is_told(tmp_path: Path) -> None:
    for content in (b"", b"{", b"\xff"):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(DatasetError, match=r"x\.json is damaged"):
            read_json(tmp_path / "x.json")


def test_a_folder_without_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="not a smoothed dataset, or not finished"):
        read_manifest(tmp_path)
