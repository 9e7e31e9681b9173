"""A copy in the cache is whole or fetched again, fetched once by whoever wants it, and removed only when nobody uses it."""

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from textsmooth.schemas.errors import StorageError, UsageError
from textsmooth.stages.storage import cache


class Source:
    """Files elsewhere, by content; counts what is fetched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched: list[bytes] = []
        monkeypatch.setattr(cache, "HELD", 0)  # only a test looks for the room that the last ones take

    def want(self, data: bytes, *, comes: Callable[[], bytes] | None = None) -> Path:
        def fill(file: BinaryIO) -> None:
            got = comes() if comes else data
            self.fetched.append(got)
            file.write(got)

        key = hashlib.sha256(data).hexdigest()
        return cache.local_copy(key, size=len(data), sha256=key, fill=fill)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Source:
    monkeypatch.setenv("TEXTSMOOTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEXTSMOOTH_CACHE_GB", "1e-5")  # 10 kB
    return Source(monkeypatch)


def there(tmp_path: Path) -> set[bytes]:
    return {path.read_bytes()[:1] for path in (tmp_path / "cache/files").iterdir()}


def test_a_copy_is_fetched_once_and_named_by_its_content(source: Source, tmp_path: Path) -> None:
    path = source.want(b"content")
    assert path == tmp_path / "cache/files" / hashlib.sha256(b"content").hexdigest() and path.read_bytes() == b"content"
    assert source.want(b"content") == path and source.fetched == [b"content"]


@pytest.mark.parametrize("damage", [b"CONTENT", b"conte", b"content and more", b""])
def test_a_damaged_copy_is_fetched_again(damage: bytes, source: Source) -> None:
    path = source.want(b"content")
    path.write_bytes(damage)
    os.utime(path, ns=(1, 1))
    assert source.want(b"content").read_bytes() == b"content"
    assert len(source.fetched) == 2


@pytest.mark.parametrize("damage", [b"CONTENT", b"conte", b"content and more", b""])
def test_what_arrives_damaged_is_fetched_again_then_told_and_never_kept(damage: bytes, source: Source, tmp_path: Path) -> None:
    comes = iter([damage, b"content"])
    assert source.want(b"content", comes=lambda: next(comes)).read_bytes() == b"content"
    with pytest.raises(cache.Damaged):
        source.want(b"another", comes=lambda: damage)
    assert len(source.fetched) == 4
    assert there(tmp_path) == {b"c"}


def test_a_fetch_that_fails_leaves_nothing(source: Source, tmp_path: Path) -> None:
    def fail() -> bytes:
        raise StorageError("no")

    with pytest.raises(StorageError, match="no"):
        source.want(b"content", comes=fail)
    assert there(tmp_path) == set()


def test_the_least_recently_asked_for_makes_room(source: Source, tmp_path: Path) -> None:
    for name in (b"a", b"b", b"c"):
        source.want(name * 3000)
    source.want(b"a" * 3000)
    source.want(b"d" * 3000)
    assert there(tmp_path) == {b"a", b"c", b"d"}
    source.want(b"e" * 50_000)  # larger than the limit: alone
    assert there(tmp_path) == {b"e"}
    source.want(b"f")
    assert there(tmp_path) == {b"f"}


def test_one_that_is_in_use_stays(source: Source, tmp_path: Path) -> None:
    with source.want(b"a" * 4000).open("rb") as mine:
        cache.hold(mine.fileno())
        for name in (b"b", b"c", b"d"):
            source.want(name * 4000)
        assert there(tmp_path) == {b"a", b"d"}
    source.want(b"e" * 4000)
    assert there(tmp_path) == {b"d", b"e"}


def test_the_last_ones_asked_for_stay_until_they_can_be_opened(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "HELD", 2)
    for name in (b"a", b"b", b"c", b"d"):
        source.want(name * 9000)
    assert there(tmp_path) == {b"c", b"d"} | {b"b"}  # b was still held when room was made for d
    monkeypatch.setattr(cache, "HELD", 0)
    for _ in range(3):
        source.want(b"z")


def test_one_on_its_way_is_left_alone_and_one_of_a_dead_process_goes(source: Source, tmp_path: Path) -> None:
    source.want(b"a")
    files = tmp_path / "cache/files"
    (files / ".tmp-dead").write_bytes(b"x" * 100)
    with (files / ".tmp-alive").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        source.want(b"b" * 9000)
        assert {path.name for path in files.glob(".tmp-*")} == {".tmp-alive"}


def test_of_many_threads_one_fetches(source: Source) -> None:
    barrier = threading.Barrier(6)

    def want() -> Path:
        barrier.wait()
        return source.want(b"content" * 100)

    with ThreadPoolExecutor(6) as threads:
        assert len({future.result() for future in [threads.submit(want) for _ in range(6)]}) == 1
    assert len(source.fetched) == 1


PROCESS = """
import hashlib, sys, time
from textsmooth.stages.storage import cache
def fill(file):
    print("fetched", flush=True)
    time.sleep(0.2)
    file.write(b"content")
key = hashlib.sha256(b"content").hexdigest()
assert cache.local_copy(key, size=7, sha256=key, fill=fill).read_bytes() == b"content"
"""


def test_of_several_processes_one_fetches(source: Source) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS], stdout=subprocess.PIPE) for _ in range(2)]
    assert sorted(process.communicate()[0] for process in processes) == [b"", b"fetched\n"]
    assert source.want(b"content").read_bytes() == b"content" and source.fetched == []


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_told(text: str, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTSMOOTH_CACHE_GB", text)
    with pytest.raises(UsageError, match=rf"TEXTSMOOTH_CACHE_GB is '{text}': a number of gigabytes is needed"):
        source.want(b"content")


def test_a_cache_that_cannot_be_written_is_told(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TEXTSMOOTH_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        StorageError, match=r"cannot use the cache in .*file: Not a directory; set TEXTSMOOTH_CACHE to a folder you may write"
    ):
        source.want(b"content")


def test_a_full_disk_is_told(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> bytes:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"No space left on device; make room, set TEXTSMOOTH_CACHE_GB lower"):
        source.want(b"content", comes=full)
    assert there(tmp_path) == set()


@pytest.mark.parametrize("key", ["../../victim", "/victim", ""])
def test_a_key_cannot_lead_out_of_the_cache(key: str, source: Source, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    with pytest.raises(cache.Damaged):
        cache.local_copy(key, size=3, sha256="0" * 64, fill=lambda file: None)
    assert victim.read_bytes() == b"mine"
