"""Archives of a job's images: tars of bounded size, as WebDataset reads them, beside the images and their listings.

{prefix}/{job_id}/archive-00000.tar    00000000.png, 00000000.json, 00000001.png, ...

Where one archive ends follows from what the database knows of its images. So an attempt that was interrupted is resumed
at the archive that is missing, and no attempt holds more than a few images and the rows of one archive.
"""

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from services.job_queue.outputs import Output
from services.job_queue.plan import Item, Plan
from services.job_requests.items import EchoReader, archived_fields
from services.job_requests.output_options import ARCHIVE_MIB
from services.storage.object_store import ObjectStore
from services.storage.streaming import StreamedObject, is_marked
from services.storage.tar import END, member_bytes, padded_size

MAX_IMAGES = 10_000  # of an archive: their rows are held
READS = 8  # images that are read at the same time
READ_BYTES = 32 * 2**20  # of images that are read ahead; one that is larger is read alone
CONTENT_TYPE = "application/x-tar"
ARCHIVE = re.compile(r"/archive-(?:r(?P<revision>[0-9]+)-)?[0-9]+\.tar$")


@dataclass
class Archive:
    """An archive to write: its images in their order, its bytes, and the digest of what is in it."""

    number: int
    images: list[Output] = field(default_factory=list)
    size: int = len(END)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, image: Output, line: bytes) -> None:
        """Append an image and the JSON that describes it."""
        self.images.append(image)
        self.size += sample_size(image, line)
        self.digest.update(f"{image.index} {image.sha256} {hashlib.sha256(line).hexdigest()}\n".encode())


@dataclass(frozen=True)
class StoredArchive:
    """An archive in S3. missing: images that it lacks, because they were removed or replaced before it was written."""

    key: str
    images: int
    bytes: int
    missing: int = 0


def archive_revision(key: str) -> int:
    """Return the revision of the job that wrote this archive, or 0 if it is none."""
    match = ARCHIVE.search(key)
    return int(match["revision"] or 1) if match else 0


def sample_size(image: Output, line: bytes) -> int:
    """Return the bytes of an image and its JSON in an archive."""
    assert image.bytes is not None
    return padded_size(image.bytes) + padded_size(len(line))


def image_line(image: Output, item: Item) -> bytes:
    """Return the JSON beside an image in an archive: its line of the listing, and the short fields of its item."""
    own = {"index": image.index, "item": image.item, "seed": image.seed, "key": image.key}
    return json.dumps({**item, **own, "sha256": image.sha256, "profile": image.profile}).encode()


def cut_archives(images: Iterable[Output], read_item: Callable[[int], Item], limit: int) -> Iterator[Archive]:
    """Yield archives of at most `limit` bytes and MAX_IMAGES images; one image alone may be larger.

    read_item: returns the fields of an item. It is called with numbers in ascending order.
    """
    archive = Archive(0)
    for image in images:
        line = image_line(image, read_item(image.item))
        is_full = len(archive.images) == MAX_IMAGES or archive.size + sample_size(image, line) > limit
        if archive.images and is_full:
            yield archive
            archive = Archive(archive.number + 1)
        archive.add(image, line)
    if archive.images:
        yield archive


def write_archives(
    store: ObjectStore, plan: Plan, prefix: str, images: Iterable[Output], tick: Callable[[], None]
) -> Iterator[StoredArchive]:
    """Write images of a job, by index, to archives. Yields each archive when it is stored; see `ArchiveWriter`."""
    limit = int(plan.get("output", {}).get("archive_mib", ARCHIVE_MIB)) * 2**20
    writer = ArchiveWriter(store, prefix, EchoReader(store, plan, archived_fields), tick)
    for archive in cut_archives(images, EchoReader(store, plan, archived_fields), limit):
        yield writer.write(archive)


class ArchiveWriter:
    """Writes the archives of one revision of a job.

    prefix: of their keys, such as PREFIX/JOB/archive-. read_item: as for `cut_archives`, but another reader, since that
    one has read further. tick: called for each image; may raise to end the attempt.
    """

    def __init__(
        self, store: ObjectStore, prefix: str, read_item: Callable[[int], Item], tick: Callable[[], None]
    ) -> None:
        self._store, self._prefix, self._read_item, self._tick = store, prefix, read_item, tick

    def write(self, archive: Archive) -> StoredArchive:
        """Write an archive, unless an earlier attempt has stored it whole."""
        key, contents = f"{self._prefix}{archive.number:05d}.tar", archive.digest.hexdigest()
        if is_marked(self._store, key, contents, archive.size):
            return StoredArchive(key, len(archive.images), archive.size)
        missing, size = 0, len(END)
        with StreamedObject(self._store, key, content_type=CONTENT_TYPE, mark=contents) as tar:
            for image, body in self._read(archive.images):
                self._tick()
                if body is None:
                    missing += 1
                    continue
                assert image.key is not None
                line = image_line(image, self._read_item(image.item))
                tar.write(member_bytes(f"{image.index:08d}.{image.key.rsplit('.', 1)[1]}", body))
                tar.write(member_bytes(f"{image.index:08d}.json", line))
                size += sample_size(image, line)
            tar.write(END)
        return StoredArchive(key, len(archive.images) - missing, size, missing)

    def _read(self, images: Sequence[Output]) -> Iterator[tuple[Output, bytes | None]]:
        """Yield the images with their files in their order, and read the next ones meanwhile."""
        with ThreadPoolExecutor(READS, thread_name_prefix="archive") as threads:
            ahead: deque[tuple[Output, Future[bytes | None]]] = deque()
            size = 0
            try:
                for image in images:
                    size += image.bytes or 0
                    while ahead and (len(ahead) == READS or size > READ_BYTES):
                        first, body = ahead.popleft()
                        yield first, body.result()
                        size -= first.bytes or 0
                    ahead.append((image, threads.submit(self._read_image, image)))
                for first, body in ahead:
                    yield first, body.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _read_image(self, image: Output) -> bytes | None:
        """Return the file of an image, or None if it was removed or replaced."""
        try:
            answer = self._store.client.get_object(Bucket=self._store.bucket, Key=image.key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        with closing(answer["Body"]) as content:
            if answer["ContentLength"] != image.bytes:
                return None
            body = bytes(content.read())
        return body if hashlib.sha256(body).hexdigest() == image.sha256 else None
