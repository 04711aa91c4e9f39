"""Archives of a job's images: files of bounded size, beside the images and their listings.

{prefix}/{job_id}/archive-00000.tar        00000000.png, 00000000.json, 00000001.png, ...
{prefix}/{job_id}/archive-00000.parquet    a row for each image

Where one archive ends follows from what the database knows of its images. So an attempt that was interrupted is resumed
at the archive that is missing, and no attempt holds more than a few images and the rows of one archive.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from services.dispatcher.archive_formats import FORMATS, image_line, sample_size
from services.job_queue.outputs import Output
from services.job_queue.plan import Item, Plan
from services.job_requests.items import EchoReader, archived_fields
from services.job_requests.output_options import ARCHIVE_MIB, ARCHIVES
from services.storage.errors import refusal
from services.storage.object_store import ObjectStore
from services.storage.reading import read_pieces
from services.storage.streaming import StreamedObject, marked_size
from services.storage.tar import END
from services.storage.transient import is_transient

MAX_IMAGES = 10_000  # of an archive: their rows are held
READS = 8  # images that are read at the same time
READ_BYTES = 32 * 2**20  # of images that are read ahead; one that is larger is read alone
ARCHIVE = re.compile(r"/archive-(?:r(?P<revision>[0-9]+)-)?[0-9]+\.(?:tar|parquet)$")

ReadItem = Callable[[int], Item]  # returns the fields of an item; called with numbers in ascending order


class ImageGone(Exception):
    """An image was removed or replaced before its archive was written."""


@dataclass
class Archive:
    """An archive to write: its images in their order, the bytes of their tar, and the digest of what is in it."""

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


def cut_archives(images: Iterable[Output], read_item: ReadItem, limit: int) -> Iterator[Archive]:
    """Yield archives of at most `limit` bytes and MAX_IMAGES images; one image alone may be larger."""
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
    options = plan.get("output", {})
    limit = int(options.get("archive_mib", ARCHIVE_MIB)) * 2**20
    open_items = partial(EchoReader, store, plan, tick, archived_fields)
    writer = ArchiveWriter(store, prefix, options.get("archive", ARCHIVES[0]), open_items, tick)
    for archive in cut_archives(images, open_items(), limit):
        yield writer.write(archive)


class ArchiveWriter:
    """Writes the archives of one revision of a job.

    prefix: of their keys, such as PREFIX/JOB/archive-. suffix: "tar" or "parquet". open_items: begins to read the
    items. tick: called for each image; may raise to end the attempt.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        suffix: str,
        open_items: Callable[[], ReadItem],
        tick: Callable[[], None],
    ) -> None:
        self._store, self._prefix, self._suffix, self._tick = store, prefix, suffix, tick
        self._open_items, self._read_item = open_items, open_items()

    def write(self, archive: Archive) -> StoredArchive:
        """Write an archive, unless an earlier attempt has stored it whole."""
        key, contents = f"{self._prefix}{archive.number:05d}.{self._suffix}", archive.digest.hexdigest()
        size = marked_size(self._store, key, contents)
        if size is not None:
            return StoredArchive(key, len(archive.images), size)
        try:
            return self._write(key, archive.images, self._read_item, mark=contents)
        except ImageGone:  # an archive that lacks images has no mark, so that each attempt counts them
            return self._write(key, archive.images, self._open_items(), mark=None)

    def _write(self, key: str, images: Sequence[Output], read_item: ReadItem, *, mark: str | None) -> StoredArchive:
        """Write an archive. With a mark, raises ImageGone if an image cannot be in it."""
        missing, made = 0, FORMATS[self._suffix]
        with (
            StreamedObject(self._store, key, content_type=made.content_type, mark=mark) as stored,
            closing(self._read(images)) as read,
        ):
            archive = made(stored.write)
            for image, body in read:
                self._tick()
                if body is not None:
                    archive.add(image, body, read_item(image.item))
                elif mark is None:
                    missing += 1
                else:
                    raise ImageGone
            archive.close()
        return StoredArchive(key, len(images) - missing, stored.size, missing)

    def _read(self, images: Sequence[Output]) -> Generator[tuple[Output, bytes | None]]:
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
        assert image.key is not None
        try:
            answer = self._store.client.get_object(Bucket=self._store.bucket, Key=image.key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            if is_transient(error):
                raise
            raise refusal(self._store.uri(image.key), error) from None
        with closing(answer["Body"]):
            if answer["ContentLength"] != image.bytes:
                return None
            body = b"".join(read_pieces(answer, image.key, 2**20))
        return body if hashlib.sha256(body).hexdigest() == image.sha256 else None
