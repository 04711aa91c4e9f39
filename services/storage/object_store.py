"""One S3 bucket: conditional writes, reads, and errors that say what to do."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from services.environment import advise
from services.s3_client import make_client
from services.settings import StoreSettings
from services.storage.content import PART_BYTES, Content, digest_of, recorded_sha256
from services.storage.deletion import abort_uploads, delete_objects
from services.storage.error_counts import count_errors
from services.storage.errors import ObjectReplaced, ObjectStoreError, refusal
from services.storage.reading import read_pieces
from services.storage.signed_requests import SignedRequests
from services.storage.transient import is_transient
from services.storage.uri import ObjectUri

ATTEMPTS = 5  # at writing an object that others write or that the store does not keep
READ_BYTES = 2**20
BINARY = "application/octet-stream"
LARGEST_KEPT_BYTES = 2**28  # of an object that an earlier writer may have written; no image is larger


@dataclass(frozen=True)
class Stored:
    """The object that a key holds now, which an earlier writer may have written.

    unchecked: its content, if the caller is to look whether the store keeps it.
    """

    sha256: str
    bytes: int
    unchecked: Content | None = None


class ObjectStore:
    """A bucket. Released files and images carry their sha256 as metadata, and the first object under a key stays."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket = client, bucket
        self.signed = SignedRequests(client, bucket)

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
        count_errors(client)
        return cls(client, bucket or settings.s3_bucket)

    def check(self) -> None:
        """Raise ObjectStoreError unless the bucket exists and these credentials may use it."""
        try:
            self.client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            why = {
                404: "does not exist; create it",
                403: "cannot be used with DARKROOM_S3_ACCESS_KEY_ID and DARKROOM_S3_SECRET_ACCESS_KEY; correct them",
            }
            raise ObjectStoreError(
                f"bucket {self.bucket!r} {why.get(status, f'answers {status}')}, or set DARKROOM_S3_BUCKET to another"
            ) from None
        except BotoCoreError as error:
            raise ObjectStoreError(
                f"S3 at {self.client.meta.endpoint_url} does not answer ({error}). {advise('DARKROOM_S3_ENDPOINT_URL')}"
            ) from None

    def put_if_absent(self, key: str, body: bytes, *, content_type: str = "", checked_later: bool = False) -> Stored:
        """Write an object unless the key already holds one whose content is that of its writer, which then stays.

        An object that is damaged, or that another program wrote, is replaced. Returns the object that the key holds.
        checked_later: leave it to `find_kept` whether the store keeps what it accepts; else raises ObjectStoreError.
        """
        content = Content.of_bytes(body)
        md5 = base64.b64encode(bytes.fromhex(content.md5)).decode()
        arguments = {"ContentType": content_type} if content_type else {}
        condition = {"IfNoneMatch": "*"}
        for attempt in range(ATTEMPTS):
            try:
                metadata = {"sha256": content.sha256}
                self.signed.put(key, body, Metadata=metadata, ContentMD5=md5, **condition, **arguments)
                if checked_later:
                    return Stored(content.sha256, content.size, content)
                if self.holds(key, content):
                    return Stored(content.sha256, content.size)
            except ClientError as error:
                match error.response["ResponseMetadata"]["HTTPStatusCode"]:
                    case 404 | 412:  # another object is there, or the one that was to be replaced no longer is
                        pass
                    case 409 if attempt + 1 < ATTEMPTS:  # two concurrent writers
                        continue
                    case _:
                        raise
            found = self._identify(key)
            if isinstance(found, Stored):
                return found
            condition = {"IfNoneMatch": "*"} if found is None else {"IfMatch": found}
        raise self._not_kept(key, content.size)

    def _identify(self, key: str) -> Stored | str | None:
        """Return the object of a key if it is what its writer has noted, else its ETag, or None if there is none."""
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        noted = recorded_sha256(answer)
        with closing(answer["Body"]) as body:
            if noted is None or answer["ContentLength"] > LARGEST_KEPT_BYTES:
                return str(answer["ETag"])
            sha256, size = digest_of(body.iter_chunks(READ_BYTES))
        return Stored(sha256, size) if sha256 == noted else str(answer["ETag"])

    def upload_if_absent(self, key: str, path: Path, *, sha256: str) -> None:
        """Upload a file of any size to a key that is named by its content, unless the key already holds it whole.

        A damaged object is replaced. Raises ObjectStoreError if the store does not keep what it accepts.
        """
        content = Content.of_file(path)
        if content.sha256 != sha256:
            raise ObjectStoreError(f"{path} was changed while it was being uploaded; upload it again")
        if self.holds(key, content):
            return
        self.upload(key, path, metadata={"sha256": sha256})
        if not self.holds(key, content):
            raise self._not_kept(key, content.size)

    def holds(self, key: str, content: Content) -> bool:
        """Return whether an object has this content. It is read only if its size and ETag do not decide."""
        head = self.signed.head(key) or self.head(key)
        if head is None:
            return False
        answer = content.is_in(head)
        if answer is None:
            with closing(self.client.get_object(Bucket=self.bucket, Key=key)["Body"]) as body:
                return digest_of(body.iter_chunks(READ_BYTES)) == (content.sha256, content.size)
        return answer

    def head(self, key: str) -> dict[str, Any] | None:
        """Return the answer to HeadObject, or None if the object does not exist or cannot be read."""
        try:
            return dict(self.client.head_object(Bucket=self.bucket, Key=key))
        except ClientError as error:  # 403: so answers AWS for a missing object to who may not list the bucket
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
                return None
            raise

    def check_size(self, key: str, size: int) -> None:
        """Raise ObjectStoreError unless the object has this many bytes."""
        head = self.head(key)
        if head is None or head["ContentLength"] != size:
            raise self._not_kept(key, size)

    def _not_kept(self, key: str, size: int) -> ObjectStoreError:
        return ObjectStoreError(
            f"{self.uri(key)}: the store accepted {size} bytes and does not return them; check the store, "
            "and that these credentials may read what they write"
        )

    def upload(self, key: str, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
        """Upload a file of any size, replacing what the key holds. Raises ObjectStoreError if it is not kept."""
        config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
        arguments = {"Metadata": dict(metadata or {})}
        try:
            self.client.upload_file(str(path), self.bucket, key, ExtraArgs=arguments, Config=config)
        except S3UploadFailedError as error:  # boto3 hides the answer of the store
            raise error.__context__ or error from None
        self.check_size(key, path.stat().st_size)

    def download(self, key: str, path: Path) -> None:
        """Download an object of any size to a file."""
        self.client.download_file(self.bucket, key, str(path))

    def put(self, key: str, body: bytes, *, content_type: str, metadata: Mapping[str, str] | None = None) -> None:
        """Write an object, replacing what the key holds. Raises ObjectStoreError if it is not kept."""
        arguments = {"ContentType": content_type, "Metadata": dict(metadata or {})}
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **arguments)
        self.check_size(key, len(body))

    def put_if_unchanged(self, key: str, body: bytes, *, etag: str | None, content_type: str = BINARY) -> str | None:
        """Replace the object with this ETag, or create one if `etag` is None. Returns the new ETag.

        Returns None if another writer was faster.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            put = {"Bucket": self.bucket, "Key": key, "Body": body, "ContentType": content_type}
            return str(self.client.put_object(**put, **condition)["ETag"])
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

    def get_at_most(self, key: str, limit: int, *, not_after: datetime | None = None) -> bytes:
        """Read a whole object.

        Raises ValueError if it does not exist, has more than `limit` bytes, or was written after `not_after`.
        """
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if is_transient(error):
                raise
            raise ValueError(f"{self.uri(key)} does not exist, or the service may not read it") from None
        with closing(answer["Body"]):
            if not_after is not None and answer["LastModified"] > not_after:
                raise ValueError(f"{self.uri(key)} was replaced after the job was planned; submit the job again")
            if answer["ContentLength"] > limit:
                raise ValueError(f"{self.uri(key)}: {answer['ContentLength']} bytes; permitted: at most {limit}")
            return b"".join(read_pieces(answer, self.uri(key), READ_BYTES))

    def now(self) -> datetime:
        """Return the time by the store's clock, in whole seconds, as `LastModified` of its objects."""
        head = self.client.head_bucket(Bucket=self.bucket)
        return parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])

    def age(self, key: str) -> tuple[str, float] | None:
        """Return the object's ETag and its age in seconds by the store's clock, or None if it does not exist."""
        if (head := self.head(key)) is None:
            return None
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return str(head["ETag"]), (now - head["LastModified"]).total_seconds()

    def etag(self, key: str) -> str | None:
        """Return the object's ETag, or None if it does not exist or cannot be read."""
        return str(head["ETag"]) if (head := self.head(key)) else None

    def stream(self, key: str, *, etag: str, start: int = 0, stop: int | None = None, chunk: int) -> Iterator[bytes]:
        """Yield bytes [start, stop) of the version with this ETag.

        Raises ObjectReplaced if it was replaced or removed, and ObjectStoreError if it may not be read.
        """
        if stop is not None and stop <= start:
            return
        until = "" if stop is None else str(stop - 1)
        arguments = {"Range": f"bytes={start}-{until}"} if start or stop is not None else {}
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key, IfMatch=etag, **arguments)
        except ClientError as error:
            if is_transient(error):
                raise
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412):
                raise ObjectReplaced(f"{self.uri(key)} was replaced or removed after the job was planned") from None
            raise refusal(self.uri(key), error) from None
        yield from read_pieces(answer, self.uri(key), chunk)

    def keys(self, prefix: str, *, before: datetime | None = None, direct: bool = False) -> Iterator[str]:
        """Yield the keys under a prefix, only of objects last written before `before` if that is given.

        direct: leave out keys with a further slash.
        """
        arguments = {"Delimiter": "/"} if direct else {}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, **arguments)
        for page in pages:
            for listed in page.get("Contents", ()):
                if before is None or listed["LastModified"] < before:
                    yield listed["Key"]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error. Raises ObjectStoreError for the first that cannot be deleted."""
        if refusal := delete_objects(self.client, self.bucket, keys):
            raise ObjectStoreError(f"{self.uri(refusal[0])} could not be deleted: {refusal[1]}")

    def abort_uploads(self, prefix: str, *, before: datetime) -> int:
        """Abort multipart uploads to keys under a prefix that began before `before`. Returns how many."""
        return abort_uploads(self.client, self.bucket, prefix, before)

    def uri(self, key: str) -> str:
        """Return s3://BUCKET/KEY."""
        return str(ObjectUri(self.bucket, key))
