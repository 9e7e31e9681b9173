"""Google Cloud Storage through gcsfs."""

import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Any

from textsmooth.stages.storage.async_store import PASSING, AsyncStore, _flat, _seconds
from textsmooth.stages.storage.object_store import (
    CONNECT_S,
    ONE_PUT,
    SILENCE_S,
    Changed,
    Found,
    Part,
    Trouble,
)

NO_GCS_CREDENTIALS = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"


class GcsStore(AsyncStore):
    """Google Cloud Storage, through gcsfs, which tries again by itself."""

    scheme = "gs"
    environment = ("GOOGLE_", "STORAGE_EMULATOR_HOST", "CLOUDSDK_", "GCSFS_")
    tries = 2

    def connect(self) -> Any:
        import aiohttp
        from gcsfs.core import GCSFileSystem  # not the one for zonal buckets, which asks another service about each bucket

        logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # errors are told once, in one line
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=SILENCE_S)
        token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None  # an emulator asks for none; else the usual ways
        return GCSFileSystem(token=token, skip_instance_cache=True, use_listings_cache=False, requests_timeout=timeout)

    def close(self) -> None:
        session = self.fs._session
        if session is not None and not session.closed:
            self._sync(session.close, seconds=5.0)

    def tag(self, info: dict[str, Any]) -> str:
        return str(info.get("generation", ""))

    def head(self, path: str) -> Found | None:
        if "/" not in path:
            return None
        try:
            return self._found(self._sync(self.fs._get_object, path, seconds=_seconds()))
        except FileNotFoundError:
            return None

    def any_below(self, path: str) -> bool:
        try:
            return bool(self._sync(self.fs._list_objects, path, max_results=1, seconds=_seconds()))
        except FileNotFoundError:
            return False

    async def _get_one(self, part: Part) -> bytes:
        generation = {} if part.tag is None else {"generation": part.tag}
        try:
            data: bytes = await self.fs._cat_file(part.path, start=part.start, end=part.stop, **generation)
        except FileNotFoundError:
            if part.tag is not None:
                raise Changed(part.path) from None
            raise
        return data

    def put_options(self, size: int) -> dict[str, Any]:
        return {**super().put_options(size), "chunksize": ONE_PUT}

    def delete(self, paths: Sequence[str]) -> None:
        with contextlib.suppress(FileNotFoundError):  # none of them is there
            self.fs.rm(list(paths), timeout=_seconds())

    def trouble(self, error: Exception, uri: str) -> Trouble | None:
        import aiohttp
        import requests
        from gcsfs.retry import ChecksumError, HttpError
        from google.auth.exceptions import GoogleAuthError

        said = _flat(error)
        if isinstance(error, HttpError):
            status = int(error.code or 0)
            if status in (401, 403):
                return Trouble(said=f"access denied ({said})", advice=NO_GCS_CREDENTIALS)
            return Trouble(said=said, again=status in PASSING or status >= 500)
        if isinstance(error, GoogleAuthError):
            return Trouble(said=f"no credentials ({said})", advice=NO_GCS_CREDENTIALS)
        if isinstance(error, OSError) and said.startswith("Forbidden"):
            return Trouble(said=f"access denied ({said})", advice="who is asking needs to list, read, create and delete objects there")
        if isinstance(error, (aiohttp.ClientError, requests.RequestException, ChecksumError)):
            return Trouble(said=said, again=True)
        return super().trouble(error, uri)
