"""Streams objects from S3. Credentials, region and endpoint come from the standard AWS_* variables."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from training.data.image_set import DataError

RESUMES = 5  # attempts to resume a broken stream at one position
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403")


def connect() -> Any:
    """Return a client. It connects on first use."""
    from boto3.session import Session
    from botocore.config import Config

    own = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return Session().client(  # boto3's default session would keep the first credentials
        "s3",
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            # Stores on an own endpoint rarely have a host name for each bucket, and many know no checksums.
            s3={"addressing_style": "path" if own else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def split_url(url: str) -> tuple[str, str]:
    """Split s3://bucket/key into bucket and key. Raises DataError."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise DataError(f"data.root: {url} names no bucket; write s3://bucket/prefix/ or s3://bucket/key.tar")
    return bucket, key


@contextmanager
def convert_errors(client: Any, url: str) -> Iterator[None]:
    """Convert errors of S3 to a DataError of one line that names the URL."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        raise DataError(f"data.root: {url} {describe_refusal(error)}") from None
    except NoCredentialsError:
        raise DataError(
            f"data.root: {url} needs credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except BotoCoreError as error:
        address = urlsplit(client.meta.endpoint_url)
        host = address.netloc.rpartition("@")[2]  # without a password in the URL
        raise DataError(
            f"data.root: {url} cannot be read: {address.scheme}://{host} does not answer "
            f"({type(error).__name__}); check AWS_ENDPOINT_URL"
        ) from None


def describe_refusal(error: Any) -> str:
    """Return what a ClientError means, to follow a URL in a sentence."""
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    if code == "NoSuchBucket":
        return "cannot be read: there is no such bucket"
    if code in ("NoSuchKey", "404", "NotFound"):
        return "does not exist"
    if code in REFUSED:
        return f"may not be read with these credentials ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if code in ("PreconditionFailed", "412"):
        return "was replaced while it was read; run the command again"
    return f"cannot be read ({code})"


def list_objects(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield Key, Size and ETag of each object under `prefix`. Raises DataError."""
    with convert_errors(client, f"s3://{bucket}/{prefix}"):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from page.get("Contents", [])


def head(client: Any, bucket: str, key: str, *, optional: bool = False) -> dict[str, Any] | None:
    """Return Key, Size and ETag of an object, or None if it is missing and optional. Raises DataError."""
    from botocore.exceptions import ClientError

    with convert_errors(client, f"s3://{bucket}/{key}"):
        try:
            answer = client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            # Without permission to list, S3 answers 403 for missing objects.
            if optional and error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
                return None
            raise
    return {"Key": key, "Size": answer["ContentLength"], "ETag": answer["ETag"]}


class ObjectStream:
    """An object read once from start to end. A broken connection is resumed where it broke."""

    def __init__(self, client: Any, bucket: str, entry: dict[str, Any], *, pause: float = 0.5) -> None:
        self.client, self.bucket, self.entry, self.pause = client, bucket, entry, pause
        self.place = 0  # bytes returned so far
        self.body: Any = None

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end. Raises DataError."""
        if self.place >= self.entry["Size"]:
            return b""
        with convert_errors(self.client, f"s3://{self.bucket}/{self.entry['Key']}"):
            for attempt in range(RESUMES + 1):
                try:
                    if data := self._body().read(size):
                        self.place += len(data)
                        return bytes(data)
                    raise ConnectionError("the stream ended early")
                except Exception as error:
                    self.close()
                    if not is_connection_error(error):
                        raise
                    time.sleep(self.pause * 2**attempt if attempt < RESUMES else 0)
        raise DataError(
            f"data.root: s3://{self.bucket}/{self.entry['Key']} breaks off at byte {self.place:,} of "
            f"{self.entry['Size']:,}, {RESUMES + 1} times"
        )

    def _body(self) -> Any:
        if self.body is None:
            part = {"Range": f"bytes={self.place}-"} if self.place else {}
            answer = self.client.get_object(
                Bucket=self.bucket, Key=self.entry["Key"], IfMatch=self.entry["ETag"], **part
            )
            self.body = answer["Body"]
        return self.body

    def close(self) -> None:
        """Close the connection."""
        if self.body is not None:
            self.body.close()
            self.body = None


def is_connection_error(error: Exception) -> bool:
    """Return whether a connection broke, as opposed to being refused."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from urllib3.exceptions import HTTPError

    return isinstance(error, OSError | HTTPClientError | IncompleteReadError | HTTPError)
