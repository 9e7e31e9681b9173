"""The object stores by the scheme of their URIs: how each is reached through its fsspec library, and what its errors mean."""

from collections.abc import Sequence
from typing import Any

from textsmooth.schemas.errors import UsageError, first_line
from textsmooth.stages.storage.async_store import PASSING, AsyncStore, _flat, _no_bucket, _seconds
from textsmooth.stages.storage.object_store import (
    CONCURRENT,
    CONNECT_S,
    ONE_PUT,
    SILENCE_S,
    Changed,
    Found,
    Part,
    Trouble,
)

PASSING_CODES = ("BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "XAmzContentSHA256Mismatch")
REGION_CODES = ("301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect")
KEY_CODES = ("InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "UnrecognizedClientException")
NO_S3_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role gives them"
AGAIN_TOO = "then run the same command again: what is finished is kept"


class S3Store(AsyncStore):
    """Amazon S3 and what speaks its protocol, through s3fs."""

    scheme = "s3"
    environment = ("AWS_",)

    def connect(self) -> Any:
        import s3fs

        once = {"retries": {"total_max_attempts": 1, "mode": "standard"}, "max_pool_connections": CONCURRENT}
        config = {**once, "connect_timeout": CONNECT_S, "read_timeout": SILENCE_S}
        found = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=config)
        found.retries = 1
        return found

    def close(self) -> None:
        if self.fs._s3 is not None:
            self._sync(self.fs._s3creator.__aexit__, None, None, None, seconds=5.0)
            self.fs._s3 = None

    def tag(self, info: dict[str, Any]) -> str:
        return str(info.get("ETag", "")).strip('"')

    def _key(self, path: str) -> dict[str, str]:
        bucket, key, _ = self.fs.split_path(path)
        return {"Bucket": bucket, "Key": key}

    def head(self, path: str) -> Found | None:
        if "/" not in path:
            return None
        try:
            info = self.fs.call_s3("head_object", **self._key(path), timeout=_seconds())
        except FileNotFoundError:
            return None
        return Found(size=int(info["ContentLength"]), tag=self.tag(info))

    def _list(self, path: str, **more: Any) -> Any:
        bucket, key, _ = self.fs.split_path(path)
        return self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", timeout=_seconds(), **more)

    def page(self, path: str, after: str | None) -> tuple[dict[str, Found], str | None]:
        answer = self._list(path, **({} if after is None else {"ContinuationToken": after}))
        bucket = path.partition("/")[0]
        entries = [entry for entry in answer.get("Contents", []) if not entry["Key"].endswith("/")]
        found = {f"{bucket}/{entry['Key']}": Found(size=int(entry["Size"]), tag=self.tag(entry)) for entry in entries}
        return found, answer["NextContinuationToken"] if answer.get("IsTruncated") else None

    def any_below(self, path: str) -> bool:
        return bool(self._list(path, MaxKeys=1).get("Contents"))

    async def _get_one(self, part: Part) -> bytes:
        more = {} if part.start is None or part.stop is None else {"Range": f"bytes={part.start}-{part.stop - 1}"}
        if part.tag is not None:
            more["IfMatch"] = f'"{part.tag}"'
        try:
            answer = await self.fs._call_s3("get_object", **self._key(part.path), **more)
        except OSError as error:
            if _answer(error)[0] in (412, 416):
                raise Changed(part.path) from None
            raise
        try:
            data: bytes = await answer["Body"].read()
        finally:
            answer["Body"].close()
        return data

    def put(self, path: str, data: bytes, *, exclusive: bool) -> bool:
        try:
            return super().put(path, data, exclusive=exclusive)
        except OSError as error:
            if exclusive and _answer(error)[0] == 412:  # not every store names the condition that failed
                return False
            raise

    def put_options(self, size: int) -> dict[str, Any]:
        return {**super().put_options(size), "chunksize": ONE_PUT // 2}  # s3fs: in parts from twice the size of one

    def delete(self, paths: Sequence[str]) -> None:
        objects = [{"Key": self._key(path)["Key"]} for path in paths]
        bucket = self._key(paths[0])["Bucket"]
        answer = self.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True}, timeout=_seconds())
        errors = answer.get("Errors") or []
        if any(error.get("Code") == "AccessDenied" for error in errors):
            raise PermissionError(f"{errors[0].get('Message')}: {errors[0].get('Key')}")
        if errors:
            raise ConnectionError(f"{errors[0].get('Code')}: {len(errors)} of {len(objects)} files were not removed")

    def trouble(self, error: Exception, uri: str) -> Trouble | None:
        from aiohttp import ClientError as HTTPError
        from botocore import exceptions as boto
        from botocore.parsers import ResponseParserError

        status, code, message = _answer(error)
        if status:
            return _s3_trouble(error, uri, status, code, message)
        if isinstance(error, boto.ProfileNotFound):
            return Trouble(said=first_line(error), advice="name another with AWS_PROFILE", kind=UsageError)
        credentials = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError)
        if isinstance(error, (*credentials, boto.SSOError, boto.UnauthorizedSSOTokenError)):
            return Trouble(said=f"no credentials ({first_line(error)})", advice=NO_S3_CREDENTIALS)
        if isinstance(error, boto.ParamValidationError):
            return Trouble(said=_flat(error), advice="name another bucket or folder", kind=UsageError)
        if isinstance(error, ValueError) and "Invalid endpoint" in str(error):
            return Trouble(said=first_line(error), advice="set AWS_ENDPOINT_URL to http(s)://host:port, or unset it", kind=UsageError)
        broken = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.FlexibleChecksumError)
        if isinstance(error, (*broken, HTTPError, ResponseParserError)):
            return Trouble(said=_flat(error), again=True, advice=f"check AWS_ENDPOINT_URL and the network, {AGAIN_TOO}")
        return super().trouble(error, uri)


def _answer(error: BaseException) -> tuple[int, str, str]:
    """HTTP status, code and message of an S3 error, as s3fs passes it on; 0 if the store did not answer."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict) and "Error" in response:
            said = response["Error"]
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0), str(said.get("Code")), str(said.get("Message"))
    return 0, "", ""


def _s3_trouble(error: Exception, uri: str, status: int, code: str, message: str) -> Trouble | None:
    said = f"HTTP {status} {'' if code == str(status) else code}".strip() + (f" ({message})" if message else "")
    if code == "NoSuchBucket":
        return _no_bucket(uri)
    if isinstance(error, FileNotFoundError):
        return None
    if code in ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"):
        return Trouble(said=f"the credentials have expired ({message})", advice="renew them and run the same command again")
    if code in KEY_CODES:
        return Trouble(said=f"the store does not know these credentials ({code})", advice=NO_S3_CREDENTIALS)
    if code == "RequestTimeTooSkewed":
        return Trouble(said=said, advice="set this machine's clock")
    if code in REGION_CODES:
        return Trouble(said=said, advice="the bucket is in another region: set AWS_DEFAULT_REGION, or AWS_ENDPOINT_URL", kind=UsageError)
    if code == "InvalidBucketName":
        return Trouble(said=said, advice="name another bucket", kind=UsageError)
    if status == 501:
        return Trouble(said=said, advice="this store cannot create files exclusively (If-None-Match), which is needed; use another")
    if status in PASSING or status > 501 or status == 500 or code in PASSING_CODES or "Throttl" in code:
        return Trouble(said=said, again=True)
    if status == 403:
        needs = "s3:ListBucket, s3:GetObject, and to write s3:PutObject and s3:DeleteObject"
        return Trouble(said=f"access denied ({code}{f': {message}' if message else ''})", advice=f"who is asking needs {needs} there")
    return Trouble(said=said, advice="see to it, or use another place")
