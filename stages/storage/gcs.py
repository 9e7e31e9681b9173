"""Google Cloud Storage through gcsfs, and what its errors mean."""

import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Any

from textsmooth.stages.storage.async_store import TEMPORARY_STATUS, AsyncStore, one_line, time_limit_s
from textsmooth.stages.storage.object_store import (
    CONNECT_S,
    ONE_PUT,
    SILENCE_S,
    ByteRange,
    Failure,
    ObjectChanged,
    ObjectInfo,
)
from textsmooth.stages.storage.retry import GCS

NO_GCS_CREDENTIALS = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"


class GcsStore(AsyncStore):
    """Google Cloud Storage, through gcsfs, which retries by itself."""

    scheme, extra = "gs", "gcs"
    environment = ("GOOGLE_", "STORAGE_EMULATOR_HOST", "CLOUDSDK_", "GCSFS_")
    retries = GCS

    def connect(self) -> Any:
        import aiohttp
        from gcsfs.core import GCSFileSystem  # not the one for zonal buckets, which asks another service about each bucket

        logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # errors are reported once, in one line
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=SILENCE_S)
        token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None  # an emulator needs no credentials
        return GCSFileSystem(token=token, skip_instance_cache=True, use_listings_cache=False, requests_timeout=timeout)

    def close(self) -> None:
        session = self.fs._session
        if session is not None and not session.closed:
            self._sync(session.close, seconds=5.0)

    def tag(self, info: dict[str, Any]) -> str:
        return str(info.get("generation", ""))

    def head(self, path: str) -> ObjectInfo | None:
        if "/" not in path:
            return None
        try:
            return self._info(self._sync(self.fs._get_object, path, seconds=time_limit_s()))
        except FileNotFoundError:
            return None

    def any_below(self, path: str) -> bool:
        try:
            return bool(self._sync(self.fs._list_objects, path, max_results=1, seconds=time_limit_s()))
        except FileNotFoundError:
            return False

    async def _get_one(self, byte_range: ByteRange) -> bytes:
        path, start, stop, tag = byte_range
        generation = {} if tag is None else {"generation": tag}
        try:
            data: bytes = await self.fs._cat_file(path, start=start, end=stop, **generation)
        except FileNotFoundError:
            if tag is not None:
                raise ObjectChanged(path) from None
            raise
        return data

    def put_options(self, size: int) -> dict[str, Any]:
        return {**super().put_options(size), "chunksize": ONE_PUT}

    def delete(self, paths: Sequence[str]) -> None:
        with contextlib.suppress(FileNotFoundError):  # none of them exists
            self.fs.rm(list(paths), timeout=time_limit_s())

    def explain(self, error: Exception, uri: str) -> Failure | None:
        import aiohttp
        import requests
        from gcsfs.retry import ChecksumError, HttpError
        from google.auth.exceptions import GoogleAuthError

        message = one_line(error)
        if isinstance(error, HttpError):
            status = int(error.code or 0)
            if status in (401, 403):
                return Failure(message=f"access denied ({message})", advice=NO_GCS_CREDENTIALS)
            return Failure(message=message, temporary=status in TEMPORARY_STATUS or status >= 500)
        if isinstance(error, GoogleAuthError):
            return Failure(message=f"no credentials ({message})", advice=NO_GCS_CREDENTIALS)
        if isinstance(error, OSError) and message.startswith("Forbidden"):
            needs = "permission to list, read, create and delete objects there"
            return Failure(message=f"access denied ({message})", advice=f"the account needs {needs}")
        if isinstance(error, (aiohttp.ClientError, requests.RequestException, ChecksumError)):
            return Failure(message=message, temporary=True)
        return super().explain(error, uri)
