"""Object stores whose library is asynchronous: several requests at a time, and a time limit for each."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.storage.object_store import CALL_S, CONCURRENT, SLOWEST_RATE, ByteRange, Failure, Store

TEMPORARY_STATUS = (408, 409, 425, 429)  # HTTP; besides these, 500 and everything above 501


def time_limit_s(size: int = 0) -> float:
    """Seconds after which a request that moves this many bytes is given up."""
    return CALL_S + size / SLOWEST_RATE


def no_bucket(uri: str) -> Failure:
    """The failure of a bucket that does not exist."""
    scheme, _, path = uri.partition("://")
    return Failure(
        message=f"there is no bucket {path.partition('/')[0]!r}", advice=f"make it, or name another {scheme}://", error_type=UsageError
    )


def one_line(error: Exception) -> str:
    """The message of an error in one line; its type if it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


class AsyncStore(Store, ABC):
    """A store whose fsspec file system has coroutines; they run on fsspec's event loop."""

    def _sync(self, coroutine: Any, *args: Any, seconds: float, **named: Any) -> Any:
        from fsspec.asyn import sync

        return sync(self.fs.loop, coroutine, *args, timeout=seconds, **named)

    def get(self, ranges: Sequence[ByteRange]) -> list[bytes | Exception]:
        size = sum(byte_range.stop or 0 for byte_range in ranges)
        results: list[bytes | Exception] = self._sync(self._get_all, ranges, seconds=time_limit_s(size))
        return results

    async def _get_all(self, ranges: Sequence[ByteRange]) -> list[bytes | BaseException]:
        limit = asyncio.Semaphore(CONCURRENT)

        async def get(byte_range: ByteRange) -> bytes:
            async with limit:
                return await self._get_one(byte_range)

        return await asyncio.gather(*map(get, ranges), return_exceptions=True)

    @abstractmethod
    async def _get_one(self, byte_range: ByteRange) -> bytes: ...

    def put_options(self, size: int) -> dict[str, Any]:
        return {"timeout": time_limit_s(size)}
