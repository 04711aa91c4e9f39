"""Writes an object of any size while its content is made, with one part of it in memory."""

import logging
from types import TracebackType
from typing import Any, Self

from services.storage.content import PART_BYTES
from services.storage.object_store import ObjectStore

MARK = "contents"  # the name of metadata

log = logging.getLogger("darkroom.storage")


class StreamedObject:
    """An object that is written piece by piece, and exists once the `with` block has ended without an error.

    Content that fits one part is written by one request, more by a multipart upload, which an error aborts.
    mark: a text that tells what the object has, for `marked_size`.
    """

    def __init__(self, store: ObjectStore, key: str, *, content_type: str, mark: str | None = None) -> None:
        self.key = key
        self._store, self._type = store, content_type
        self._metadata = {} if mark is None else {MARK: mark}
        self._buffer = bytearray()
        self.size = 0  # bytes that were written
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []

    def write(self, content: bytes) -> None:
        """Append to the object."""
        self._buffer += content
        self.size += len(content)
        while len(self._buffer) > PART_BYTES:
            self._upload_part(bytes(memoryview(self._buffer)[:PART_BYTES]))
            del self._buffer[:PART_BYTES]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._abort()
        elif self._upload is None:
            self._store.put(self.key, bytes(self._buffer), content_type=self._type, metadata=self._metadata)
        else:
            try:
                self._upload_part(bytes(self._buffer))
                self._store.client.complete_multipart_upload(
                    **self._place(), UploadId=self._upload, MultipartUpload={"Parts": self._parts}
                )
            except BaseException:
                self._abort()
                raise
            self._store.check_size(self.key, self.size)

    def _place(self) -> dict[str, str]:
        return {"Bucket": self._store.bucket, "Key": self.key}

    def _upload_part(self, body: bytes) -> None:
        client = self._store.client
        if self._upload is None:
            arguments = {**self._place(), "ContentType": self._type, "Metadata": self._metadata}
            self._upload = client.create_multipart_upload(**arguments)["UploadId"]
        number = len(self._parts) + 1
        answer = client.upload_part(**self._place(), UploadId=self._upload, PartNumber=number, Body=body)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def _abort(self) -> None:
        """Drop the parts that were uploaded. If that fails too, the first error is the one to tell."""
        if self._upload is not None:
            try:
                self._store.client.abort_multipart_upload(**self._place(), UploadId=self._upload)
            except Exception as error:
                log.warning("%s: the parts of a failed upload could not be removed: %s", self.key, error)


def marked_size(store: ObjectStore, key: str, mark: str) -> int | None:
    """Return the bytes of the object of a key if its writer has marked it so, else None."""
    head = store.head(key)
    if head is None or {name.lower(): text for name, text in head.get("Metadata", {}).items()}.get(MARK) != mark:
        return None
    return int(head["ContentLength"])
