"""Object stores whose library has coroutines: several requests at a time, and a time limit for each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.storage.object_store import (
    CALL_S,
    CONCURRENT,
    LEAST_RATE,
    Part,
    Store,
    Trouble,
)

PASSING = (408, 409, 425, 429)  # and whatever is above 500, but 501


def _seconds(size: int = 0) -> float:
    """After which a request that moves so many bytes is given up."""
    return CALL_S + size / LEAST_RATE


def _no_bucket(uri: str) -> Trouble:
    scheme, _, path = uri.partition("://")
    return Trouble(said=f"there is no bucket {path.partition('/')[0]!r}", advice=f"make it, or name another {scheme}://", kind=UsageError)


class AsyncStore(Store, ABC):
    """A store whose library has coroutines: several requests at a time, and a limit to the time of each."""

    def _sync(self, call: Any, *args: Any, seconds: float, **named: Any) -> Any:
        from fsspec.asyn import sync

        return sync(self.fs.loop, call, *args, timeout=seconds, **named)

    def get(self, parts: Sequence[Part]) -> list[bytes | Exception]:
        found: list[bytes | Exception] = self._sync(self._get_all, parts, seconds=_seconds(sum(p.stop or 0 for p in parts)))
        return found

    async def _get_all(self, parts: Sequence[Part]) -> list[bytes | Exception]:
        from fsspec.asyn import _run_coros_in_chunks

        calls = [self._get_one(part) for part in parts]
        found: list[bytes | Exception] = await _run_coros_in_chunks(calls, batch_size=CONCURRENT, return_exceptions=True)
        return found

    @abstractmethod
    async def _get_one(self, part: Part) -> bytes: ...

    def put_options(self, size: int) -> dict[str, Any]:
        return {"timeout": _seconds(size)}


def _flat(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
