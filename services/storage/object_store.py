"""One S3 bucket: conditional writes, reads, and errors that say what to do."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError

from services.observability import metrics
from services.s3_client import make_client
from services.settings import StoreSettings
from services.storage.transient import is_transient
from services.storage.uri import ObjectUri
from training.errors import DarkroomError

ATTEMPTS_ON_CONFLICT = 5
DELETE_BATCH = 1_000  # the most keys of one request


class ObjectStoreError(DarkroomError):
    """S3 refuses a request. The message names the bucket and what to check."""


@dataclass(frozen=True)
class Stored:
    """The object that a key holds now, which an earlier writer may have written."""

    sha256: str
    bytes: int


class ObjectStore:
    """A bucket. Released files and images carry their sha256 as metadata, and the first object under a key stays."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket = client, bucket

    @classmethod
    def connect(cls, settings: StoreSettings, bucket: str | None = None) -> "ObjectStore":
        """Return the bucket of the settings, or another one of the same store. This opens no connection yet."""
        key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
        client = make_client(
            endpoint_url=settings.s3_endpoint_url,
            region=settings.s3_region,
            access_key_id=key.get_secret_value() if key else None,
            secret_access_key=secret.get_secret_value() if secret else None,
        )
        client.meta.events.register("after-call.s3", _count)
        client.meta.events.register("after-call-error.s3", _count)
        return cls(client, bucket or settings.s3_bucket)

    def check(self) -> None:
        """Raise ObjectStoreError unless the bucket exists and these credentials may use it."""
        try:
            self.client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            why = {404: "does not exist; create it", 403: "cannot be used with these credentials"}
            raise ObjectStoreError(
                f"bucket {self.bucket!r} {why.get(status, f'answers {status}')}, or set DARKROOM_S3_BUCKET to another"
            ) from None
        except BotoCoreError as error:
            raise ObjectStoreError(
                f"S3 at {self.client.meta.endpoint_url} does not answer ({error}). "
                "Start the local stack with `darkroom up`, or check DARKROOM_S3_ENDPOINT_URL."
            ) from None

    def put_if_absent(self, key: str, body: bytes, *, sha256: str | None = None, content_type: str = "") -> Stored:
        """Write an object unless the key already holds one, which then stays. Returns the object that the key holds."""
        sha256 = sha256 or hashlib.sha256(body).hexdigest()
        arguments = {"ContentType": content_type} if content_type else {}
        for attempt in range(ATTEMPTS_ON_CONFLICT):
            try:
                self.client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=body,
                    IfNoneMatch="*",
                    Metadata={"sha256": sha256},
                    ContentMD5=base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
                    **arguments,
                )
                return Stored(sha256, len(body))
            except ClientError as error:
                match error.response["ResponseMetadata"]["HTTPStatusCode"]:
                    case 412:
                        head = self.client.head_object(Bucket=self.bucket, Key=key)
                        return Stored(head["Metadata"]["sha256"], head["ContentLength"])
                    case 409 if attempt + 1 < ATTEMPTS_ON_CONFLICT:  # two concurrent writers
                        continue
                    case _:
                        raise
        raise AssertionError("unreachable")

    def upload_if_absent(self, key: str, path: Path, *, sha256: str) -> None:
        """Upload a file of any size to a key that is named by its content, unless the key already holds it."""
        if self.etag(key) is None:
            self.upload(key, path, metadata={"sha256": sha256})

    def upload(self, key: str, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
        """Upload a file of any size, replacing what the key holds."""
        try:
            self.client.upload_file(str(path), self.bucket, key, ExtraArgs={"Metadata": dict(metadata or {})})
        except S3UploadFailedError as error:  # boto3 hides the answer of the store
            raise error.__context__ or error from None

    def download(self, key: str, path: Path) -> None:
        """Download an object of any size to a file."""
        self.client.download_file(self.bucket, key, str(path))

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        """Write an object, replacing what the key holds."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)

    def put_if_unchanged(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """Replace the object with this ETag, or create one if `etag` is None. Returns the new ETag.

        Returns None if another writer was faster.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            return str(self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **condition)["ETag"])
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                return None
            raise

    def delete_if_unchanged(self, key: str, *, etag: str) -> None:
        """Delete the object if it still has this ETag."""
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key, IfMatch=etag)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 409, 412):
                raise

    def get(self, key: str) -> bytes:
        """Read a whole object."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def get_at_most(self, key: str, limit: int) -> bytes:
        """Read a whole object. Raises ValueError if it does not exist or has more than `limit` bytes."""
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if is_transient(error):
                raise
            raise ValueError(f"{self.uri(key)} does not exist, or the service may not read it") from None
        with answer["Body"] as body:
            if answer["ContentLength"] > limit:
                raise ValueError(f"{self.uri(key)}: {answer['ContentLength']} bytes; permitted: at most {limit}")
            return bytes(body.read())

    def age(self, key: str) -> tuple[str, float] | None:
        """Return the object's ETag and its age in seconds by the store's clock, or None if it does not exist."""
        try:
            head = self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return str(head["ETag"]), (now - head["LastModified"]).total_seconds()

    def etag(self, key: str) -> str | None:
        """Return the object's ETag, or None if it does not exist or cannot be read."""
        try:
            return str(self.client.head_object(Bucket=self.bucket, Key=key)["ETag"])
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
                return None
            raise

    def stream(self, key: str, *, etag: str, start: int = 0, stop: int | None = None, chunk: int) -> Iterator[bytes]:
        """Yield bytes [start, stop) of the version with this ETag. Raises ObjectStoreError if it was replaced."""
        if stop is not None and stop <= start:
            return
        until = "" if stop is None else str(stop - 1)
        arguments = {"Range": f"bytes={start}-{until}"} if start or stop is not None else {}
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key, IfMatch=etag, **arguments)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412):
                raise ObjectStoreError(f"{self.uri(key)} was replaced or removed after the job was planned") from None
            raise
        yield from answer["Body"].iter_chunks(chunk)

    def keys(self, prefix: str, *, before: datetime | None = None) -> Iterator[str]:
        """Yield the keys under a prefix, only of objects last written before `before` if that is given."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for listed in page.get("Contents", ()):
                if before is None or listed["LastModified"] < before:
                    yield listed["Key"]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error. Raises ObjectStoreError for the first that cannot be deleted."""
        rest = iter(keys)
        while group := list(islice(rest, DELETE_BATCH)):
            answer = self.client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in group], "Quiet": True}
            )
            for error in answer.get("Errors", ()):
                raise ObjectStoreError(f"{self.uri(error['Key'])} could not be deleted: {error.get('Message', '')}")

    def uri(self, key: str) -> str:
        """Return s3://BUCKET/KEY."""
        return str(ObjectUri(self.bucket, key))


def _count(event_name: str, http_response: Any = None, **_: Any) -> None:
    if http_response is None or http_response.status_code >= 500 or http_response.status_code == 429:
        metrics.STORE_ERRORS.labels(event_name.rsplit(".", 1)[-1]).inc()  # after-call.s3.PutObject
