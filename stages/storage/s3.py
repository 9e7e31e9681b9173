"""Amazon S3 and compatible stores through s3fs, and what their errors mean."""

from collections.abc import Sequence
from typing import Any

from textsmooth.schemas.errors import UsageError, first_line
from textsmooth.stages.storage.async_store import TEMPORARY_STATUS, AsyncStore, no_bucket, one_line, time_limit_s
from textsmooth.stages.storage.object_store import (
    CONCURRENT,
    CONNECT_S,
    ONE_PUT,
    SILENCE_S,
    ByteRange,
    Failure,
    ObjectChanged,
    ObjectInfo,
)

TEMPORARY_CODES = ("BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "XAmzContentSHA256Mismatch")
REGION_CODES = ("301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect")
KEY_CODES = ("InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "UnrecognizedClientException")
NO_S3_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role gives them"
NO_ENDPOINT = "set AWS_ENDPOINT_URL to http(s)://host:port, or unset it"
NO_CONNECTION = "check AWS_ENDPOINT_URL and the network, then run the same command again: what is finished is kept"
OTHER_REGION = "the bucket is in another region: set AWS_DEFAULT_REGION, or AWS_ENDPOINT_URL"


class S3Store(AsyncStore):
    """Amazon S3 and compatible stores, through s3fs with its retries off."""

    scheme = extra = "s3"
    environment = ("AWS_",)

    def connect(self) -> Any:
        import s3fs

        config = {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": CONCURRENT,
            "connect_timeout": CONNECT_S,
            "read_timeout": SILENCE_S,
        }
        fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=config)
        fs.retries = 1
        return fs

    def close(self) -> None:
        if self.fs._s3 is not None:
            self._sync(self.fs._s3creator.__aexit__, None, None, None, seconds=5.0)
            self.fs._s3 = None

    def tag(self, info: dict[str, Any]) -> str:
        return str(info.get("ETag", "")).strip('"')

    def _key(self, path: str) -> dict[str, str]:
        bucket, key, _ = self.fs.split_path(path)
        return {"Bucket": bucket, "Key": key}

    def head(self, path: str) -> ObjectInfo | None:
        if "/" not in path:
            return None
        try:
            info = self.fs.call_s3("head_object", **self._key(path), timeout=time_limit_s())
        except FileNotFoundError:
            return None
        return ObjectInfo(size=int(info["ContentLength"]), tag=self.tag(info))

    def _list(self, path: str, **more: Any) -> Any:
        bucket, key, _ = self.fs.split_path(path)
        return self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", timeout=time_limit_s(), **more)

    def list_page(self, path: str, token: str | None) -> tuple[dict[str, ObjectInfo], str | None]:
        answer = self._list(path, **({} if token is None else {"ContinuationToken": token}))
        bucket = path.partition("/")[0]
        entries = [entry for entry in answer.get("Contents", []) if not entry["Key"].endswith("/")]
        objects = {f"{bucket}/{entry['Key']}": ObjectInfo(size=int(entry["Size"]), tag=self.tag(entry)) for entry in entries}
        return objects, answer["NextContinuationToken"] if answer.get("IsTruncated") else None

    def any_below(self, path: str) -> bool:
        return bool(self._list(path, MaxKeys=1).get("Contents"))

    async def _get_one(self, byte_range: ByteRange) -> bytes:
        path, start, stop, tag = byte_range
        headers = {} if start is None or stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        if tag is not None:
            headers["IfMatch"] = f'"{tag}"'
        try:
            answer = await self.fs._call_s3("get_object", **self._key(path), **headers)
        except OSError as error:
            if _answer(error)[0] in (412, 416):
                raise ObjectChanged(path) from None
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
            if exclusive and _answer(error)[0] == 412:  # not every store answers with the code that s3fs expects
                return False
            raise

    def put_options(self, size: int) -> dict[str, Any]:
        return {**super().put_options(size), "chunksize": ONE_PUT // 2}  # s3fs uploads in parts from twice this size on

    def delete(self, paths: Sequence[str]) -> None:
        objects = [{"Key": self._key(path)["Key"]} for path in paths]
        bucket = self._key(paths[0])["Bucket"]
        answer = self.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True}, timeout=time_limit_s())
        errors = answer.get("Errors") or []
        if any(error.get("Code") == "AccessDenied" for error in errors):
            raise PermissionError(f"{errors[0].get('Message')}: {errors[0].get('Key')}")
        if errors:
            raise ConnectionError(f"{errors[0].get('Code')}: {len(errors)} of {len(objects)} files were not removed")

    def explain(self, error: Exception, uri: str) -> Failure | None:
        from aiohttp import ClientError as HTTPError
        from botocore import exceptions as boto
        from botocore.parsers import ResponseParserError

        status, code, message = _answer(error)
        if status:
            return _explain_answer(error, uri, status, code, message)
        if isinstance(error, boto.ProfileNotFound):
            return Failure(message=first_line(error), advice="name another with AWS_PROFILE", error_type=UsageError)
        credentials = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError)
        if isinstance(error, (*credentials, boto.SSOError, boto.UnauthorizedSSOTokenError)):
            return Failure(message=f"no credentials ({first_line(error)})", advice=NO_S3_CREDENTIALS)
        if isinstance(error, boto.ParamValidationError):
            return Failure(message=one_line(error), advice="name another bucket or folder", error_type=UsageError)
        if isinstance(error, ValueError) and "Invalid endpoint" in str(error):
            return Failure(message=first_line(error), advice=NO_ENDPOINT, error_type=UsageError)
        broken = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.FlexibleChecksumError)
        if isinstance(error, (*broken, HTTPError, ResponseParserError)):
            return Failure(message=one_line(error), temporary=True, advice=NO_CONNECTION)
        return super().explain(error, uri)


def _answer(error: BaseException) -> tuple[int, str, str]:
    """HTTP status, code and message of an S3 error, as s3fs passes it on; status 0 if the store did not answer."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict) and "Error" in response:
            details = response["Error"]
            status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
            return status, str(details.get("Code")), str(details.get("Message"))
    return 0, "", ""


def _explain_answer(error: Exception, uri: str, status: int, code: str, message: str) -> Failure | None:
    answer = f"HTTP {status} {'' if code == str(status) else code}".strip() + (f" ({message})" if message else "")
    if code == "NoSuchBucket":
        return no_bucket(uri)
    if isinstance(error, FileNotFoundError):
        return None
    if code in ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"):
        return Failure(message=f"the credentials have expired ({message})", advice="renew them and run the same command again")
    if code in KEY_CODES:
        return Failure(message=f"the store does not know these credentials ({code})", advice=NO_S3_CREDENTIALS)
    if code == "RequestTimeTooSkewed":
        return Failure(message=answer, advice="set this machine's clock")
    if code in REGION_CODES:
        return Failure(message=answer, advice=OTHER_REGION, error_type=UsageError)
    if code == "InvalidBucketName":
        return Failure(message=answer, advice="name another bucket", error_type=UsageError)
    if status == 501:
        return Failure(message=answer, advice="this store cannot create files exclusively (If-None-Match), which is needed; use another")
    if status in TEMPORARY_STATUS or status > 501 or status == 500 or code in TEMPORARY_CODES or "Throttl" in code:
        return Failure(message=answer, temporary=True)
    if status == 403:
        needs = "s3:ListBucket, s3:GetObject, and to write s3:PutObject and s3:DeleteObject"
        return Failure(message=f"access denied ({code}{f': {message}' if message else ''})", advice=f"the credentials need {needs} there")
    return Failure(message=answer, advice="fix that, or use another place")
