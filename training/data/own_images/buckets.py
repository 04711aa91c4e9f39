"""Opens sources in S3: tars are streamed, loose images are read one by one, other archives are downloaded first."""

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from training.data.image_set import DataError
from training.data.own_images import object_storage
from training.data.own_images.idx import is_idx
from training.data.own_images.names import clean, is_hidden_path, is_image, is_table, is_tar
from training.data.own_images.parquet import is_parquet
from training.data.own_images.source import Entry, Member, Source, Wanted
from training.data.own_images.tars import bucket_tars

READERS = 16  # objects that are read at once
CHUNK = 1 << 20  # bytes

OpenArchives = Callable[[str, Sequence[Path], Path], Source | None]
Object = dict[str, Any]  # Key, Size and ETag


def open_bucket(url: str, open_archives: OpenArchives) -> Source:
    """Open s3://bucket/key of an archive, or s3://bucket/prefix/ with tars, images or other archives below it.

    open_archives: opens archives on disk. Raises DataError.
    """
    client = object_storage.connect()
    bucket, key = object_storage.split_url(url)
    if is_tar(key):
        return bucket_tars(url)
    alone = is_archive(key)
    prefix = f"{key.rpartition('/')[0]}/".lstrip("/") if alone else f"{key.rstrip('/')}/" if key else ""
    listed = sorted(object_storage.list_objects(client, bucket, prefix), key=lambda one: str(one["Key"]))
    found = {clean(one["Key"].removeprefix(prefix)): one for one in listed if not one["Key"].endswith("/")}
    found = {name: one for name, one in found.items() if not is_hidden_path(name)}
    if alone:
        labels = "idx1" if is_idx(key) else "/"  # the labels of an IDX file lie beside it
        found = {name: one for name, one in found.items() if one["Key"] == key or labels in name}
        if not any(one["Key"] == key for one in found.values()):
            raise DataError(f"data.root: {url} does not exist")
        return Downloads(url, client, bucket, found, open_archives)
    if tar := next(filter(is_tar, found), None):
        if (loose := next(filter(is_image, found), None)) is not None:
            raise DataError(f"data.root: {url} holds both tars ({tar}) and images ({loose}); keep them apart")
        return bucket_tars(url)
    if any(map(is_image, found)):
        return Objects(url, client, bucket, found)
    if any(map(is_archive, found)):
        needed = {
            name: one for name, one in found.items() if is_archive(name) or is_table(name) or "idx1-ubyte" in name
        }
        return Downloads(url, client, bucket, needed, open_archives)
    raise DataError(f"data.root: there are no images under s3://{bucket}/{prefix}, nor a tar, zip, parquet or IDX file")


def is_archive(name: str) -> bool:
    """Return whether an object of this name is downloaded before it is read."""
    return name.lower().endswith(".zip") or is_parquet(name) or is_idx(name)


class Objects(Source):
    """All objects under a prefix, the tables first, as the files of a folder."""

    complete_metadata = True

    def __init__(self, url: str, client: Any, bucket: str, found: dict[str, Object]) -> None:
        self.client, self.bucket = client, bucket
        self.found = dict(sorted(found.items(), key=lambda pair: (not is_table(pair[0]), pair[0])))
        super().__init__(url, [Entry(name, one["Size"], one["ETag"]) for name, one in self.found.items()])

    @property
    def names(self) -> Iterator[str]:
        """See Source."""
        return iter(self.found)

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source. The next objects are read while a member is in use."""
        reading: deque[tuple[str, Object, Future[bytes] | None]] = deque()
        with ThreadPoolExecutor(READERS) as threads:
            try:
                for name, one in self.found.items():
                    reading.append((name, one, threads.submit(self._read, one) if wanted(name) else None))
                    if len(reading) > READERS:
                        yield self._member(*reading.popleft())
                while reading:
                    yield self._member(*reading.popleft())
            finally:
                threads.shutdown(cancel_futures=True)

    def _read(self, one: Object) -> bytes:
        stream = object_storage.ObjectStream(self.client, self.bucket, one)
        try:
            return b"".join(iter(lambda: stream.read(CHUNK), b""))
        finally:
            stream.close()

    def _member(self, name: str, one: Object, body: "Future[bytes] | None") -> Member:
        self.position += one["Size"]
        return Member(name, None if body is None else body.result(), f"s3://{self.bucket}/{one['Key']}")


class Downloads(Source):
    """Archives that cannot be read as a stream. They are downloaded to the temporary folder while they are read."""

    def __init__(
        self, url: str, client: Any, bucket: str, found: dict[str, Object], open_archives: OpenArchives
    ) -> None:
        super().__init__(url, [Entry(name, one["Size"], one["ETag"]) for name, one in found.items()])
        self.client, self.bucket, self.found, self.open_archives = client, bucket, found, open_archives

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source."""
        with tempfile.TemporaryDirectory(prefix="darkroom-pictures-") as folder:
            if shutil.disk_usage(folder).free < self.total:
                raise DataError(
                    f"data.root: {self.url} has {self.total / 1e9:.2g} GB, which do not fit into {folder}; set TMPDIR "
                    "to a folder on a larger disk"
                )
            paths = [self._download(one, Path(folder) / name) for name, one in self.found.items()]
            inner = self.open_archives(self.url, paths, Path(folder))
            if inner is None:
                raise DataError(f"data.root: {self.url} holds no images")
            for member in inner.members(wanted):
                yield member
                self.position = self.total * inner.position // max(1, inner.total)

    def _download(self, one: Object, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = object_storage.ObjectStream(self.client, self.bucket, one)
        try:
            with path.open("wb") as file:
                for part in iter(lambda: stream.read(CHUNK), b""):
                    file.write(part)
        except OSError as error:
            raise DataError(f"data.root: {path} cannot be written ({error.strerror})") from None
        finally:
            stream.close()
        return path
