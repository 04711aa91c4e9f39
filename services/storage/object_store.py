"""One S3 bucket: conditional writes, reads, and errors that a person can act on."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from services.observability import metrics
from services.settings import StoreSettings
from services.storage.transient import is_transient
from services.storage.uri import ObjectUri
from training.errors import DarkroomError

ATTEMPTS_ON_CONFLICT = 5
DELETED_TOGETHER = 1_000  # S3 takes no more


class ObjectStoreError(DarkroomError):
    """S3 does not do what was asked; the message names the bucket and what to check."""


@dataclass(frozen=True)
class Stored:
    """The object that is under a key now, whoever wrote it."""

    sha256: str
    bytes: int


class ObjectStore:
    """A bucket. Objects carry their sha256 as metadata, and the first one written under a key stays."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket = client, bucket

    @classmethod
    def connect(cls, settings: StoreSettings, bucket: str | None = None) -> "ObjectStore":
        """The bucket of the settings, or another of the same store. Opens nothing yet."""
        key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
        client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            region_name=settings.s3_region,
            aws_access_key_id=key.get_secret_value() if key else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 4},
                max_pool_connections=32,
                # Stores on an own endpoint rarely have a host name for each bucket.
                s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
                # Many S3-compatible stores refuse the checksums that newer SDKs send unasked.
                request_checksum_calculation="when_required",
            ),
        )
        client.meta.events.register("after-call.s3", _count)
        client.meta.events.register("after-call-error.s3", _count)
        return cls(client, bucket or settings.s3_bucket)

    def check(self) -> None:
        """Raise ObjectStoreError unless the bucket is there and may be used."""
        try:
            self.client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            why = {404: "does not exist; create it", 403: "may not be used with these credentials"}
            raise ObjectStoreError(
                f"bucket {self.bucket!r} {why.get(status, f'answers {status}')}, or set DARKROOM_S3_BUCKET to another"
            ) from None
        except BotoCoreError as error:
            raise ObjectStoreError(
                f"S3 at {self.client.meta.endpoint_url} does not answer ({error}). "
                "Start the local stack with `darkroom up`, or check DARKROOM_S3_ENDPOINT_URL."
            ) from None

    def put_if_absent(self, key: str, body: bytes, *, sha256: str | None = None, content_type: str = "") -> Stored:
        """Write once: the object that is there already stays, and its sha256 is returned."""
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
                    case 409 if attempt + 1 < ATTEMPTS_ON_CONFLICT:  # two writers at the same moment
                        continue
                    case _:
                        raise
        raise AssertionError("unreachable")

    def upload_if_absent(self, key: str, path: Path, *, sha256: str) -> None:
        """Store a file of any size under a key that names its content, unless it is there."""
        if self.etag(key) is None:
            self.upload(key, path, metadata={"sha256": sha256})

    def upload(self, key: str, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
        """Store a file of any size, over what is there."""
        try:
            self.client.upload_file(str(path), self.bucket, key, ExtraArgs={"Metadata": dict(metadata or {})})
        except S3UploadFailedError as error:  # boto3 hides what the store answered
            raise error.__context__ or error from None

    def download(self, key: str, path: Path) -> None:
        """Read an object of any size into a file."""
        self.client.download_file(self.bucket, key, str(path))

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        """Write, over what is there."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)

    def put_if_unchanged(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """Write over the object of this etag, or where there is none for None; its new etag.

        None where another writer came first.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            return str(self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **condition)["ETag"])
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                return None
            raise

    def delete_if_unchanged(self, key: str, *, etag: str) -> None:
        """Delete the object if it still has this etag."""
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key, IfMatch=etag)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 409, 412):
                raise

    def get(self, key: str) -> bytes:
        """Read a whole object."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def get_at_most(self, key: str, limit: int) -> bytes:
        """Read a whole object. Raises ValueError where there is none, or one of more than `limit` bytes."""
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
        """The object's etag, and seconds since it was written by the store's own clock; None where there is none."""
        try:
            head = self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return str(head["ETag"]), (now - head["LastModified"]).total_seconds()

    def etag(self, key: str) -> str | None:
        """What the store calls the object's present content; None where there is none."""
        try:
            return str(self.client.head_object(Bucket=self.bucket, Key=key)["ETag"])
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
                return None
            raise

    def stream(self, key: str, *, etag: str, start: int = 0, stop: int | None = None, chunk: int) -> Iterator[bytes]:
        """Bytes [start, stop) of the object as it was under `etag`. Raises ObjectStoreError where it was changed."""
        if stop is not None and stop <= start:
            return
        until = "" if stop is None else str(stop - 1)
        arguments = {"Range": f"bytes={start}-{until}"} if start or stop is not None else {}
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key, IfMatch=etag, **arguments)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412):
                raise ObjectStoreError(f"{self.uri(key)} was changed or removed since the job was planned") from None
            raise
        yield from answer["Body"].iter_chunks(chunk)

    def keys(self, prefix: str, *, before: datetime | None = None) -> Iterator[str]:
        """All keys that begin so, of objects that were last written before a moment."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for listed in page.get("Contents", ()):
                if before is None or listed["LastModified"] < before:
                    yield listed["Key"]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; it is no error if some are gone. Raises ObjectStoreError for the first that stays."""
        rest = iter(keys)
        while group := list(islice(rest, DELETED_TOGETHER)):
            answer = self.client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in group], "Quiet": True}
            )
            for error in answer.get("Errors", ()):
                raise ObjectStoreError(f"{self.uri(error['Key'])} could not be deleted: {error.get('Message', '')}")

    def uri(self, key: str) -> str:
        """s3://bucket/key."""
        return str(ObjectUri(self.bucket, key))


def _count(event_name: str, http_response: Any = None, **_: Any) -> None:
    if http_response is None or http_response.status_code >= 500 or http_response.status_code == 429:
        metrics.STORE_ERRORS.labels(event_name.rsplit(".", 1)[-1]).inc()  # after-call.s3.PutObject
