"""Objects in S3 as streams: credentials, region and endpoint come from the standard AWS_* variables."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from training.data.image_set import DataError

RESUMES = 5  # attempts to take a broken stream up again at one place
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403")


def connect() -> Any:
    """A client; opens nothing yet."""
    from boto3.session import Session
    from botocore.config import Config

    own = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return Session().client(  # not boto3's default session, which remembers the credentials it first saw
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


def split(url: str) -> tuple[str, str]:
    """s3://bucket/key -> bucket, key. Raises DataError."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise DataError(f"data.root: {url} names no bucket; write s3://bucket/prefix/ or s3://bucket/key.tar")
    return bucket, key


@contextmanager
def explained(client: Any, url: str) -> Iterator[None]:
    """What S3 refuses, as a DataError of one line that names the URL."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        raise DataError(f"data.root: {url} {refusal(error)}") from None
    except NoCredentialsError:
        raise DataError(
            f"data.root: {url} needs credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except BotoCoreError as error:
        address = urlsplit(client.meta.endpoint_url)
        host = address.netloc.rpartition("@")[2]  # without a password that someone put into the URL
        raise DataError(
            f"data.root: {url} cannot be read: {address.scheme}://{host} does not answer "
            f"({type(error).__name__}); check AWS_ENDPOINT_URL"
        ) from None


def refusal(error: Any) -> str:
    """What a ClientError means, to be put after a URL."""
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    if code == "NoSuchBucket":
        return "cannot be read: there is no such bucket"
    if code in ("NoSuchKey", "404", "NotFound"):
        return "does not exist"
    if code in REFUSED:
        return f"may not be read with these credentials ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if code in ("PreconditionFailed", "412"):
        return "was replaced while it was read; begin again"
    return f"cannot be read ({code})"


def listing(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Key, Size and ETag of each object under `prefix`. Raises DataError."""
    with explained(client, f"s3://{bucket}/{prefix}"):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from page.get("Contents", [])


def head(client: Any, bucket: str, key: str, *, optional: bool = False) -> dict[str, Any] | None:
    """Key, Size and ETag of one object; None where there is none and it is optional. Raises DataError."""
    from botocore.exceptions import ClientError

    with explained(client, f"s3://{bucket}/{key}"):
        try:
            answer = client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            # Without the right to list, S3 answers 403 for what does not exist.
            if optional and error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
                return None
            raise
    return {"Key": key, "Size": answer["ContentLength"], "ETag": answer["ETag"]}


class ObjectStream:
    """An object read once from its beginning; a broken connection is taken up where it broke."""

    def __init__(self, client: Any, bucket: str, entry: dict[str, Any], *, pause: float = 0.5) -> None:
        self.client, self.bucket, self.entry, self.pause = client, bucket, entry, pause
        self.place = 0  # bytes handed out
        self.body: Any = None

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end. Raises DataError."""
        if self.place >= self.entry["Size"]:
            return b""
        with explained(self.client, f"s3://{self.bucket}/{self.entry['Key']}"):
            for attempt in range(RESUMES + 1):
                try:
                    if data := self._body().read(size):
                        self.place += len(data)
                        return bytes(data)
                    raise ConnectionError("the stream ended early")
                except Exception as error:
                    self.close()
                    if not lost(error):
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
        """Let the connection go."""
        if self.body is not None:
            self.body.close()
            self.body = None


def lost(error: Exception) -> bool:
    """Whether a connection broke, as opposed to being refused."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from urllib3.exceptions import HTTPError

    return isinstance(error, OSError | HTTPClientError | IncompleteReadError | HTTPError)
