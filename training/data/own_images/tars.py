"""Reads tars on disk or in S3: each is streamed once from start to end."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from training.data.image_set import DataError
from training.data.own_images import object_storage
from training.data.own_images.names import METADATA, clean, is_hidden_path, is_image, is_metadata, is_tar
from training.data.own_images.source import Entry, Member, Source, Wanted, folders_of_archives

PEEKED = 32  # files of a tar among which its first picture is looked for


@dataclass(frozen=True)
class Archive:
    """One tar, or a table next to tars. open: a stream of its bytes. prefix: of the names of its members."""

    url: str
    open: Callable[[], Any]
    prefix: str = ""


class Tars(Source):
    """The members of tars, each streamed once from start to end, after the metadata next to them."""

    def __init__(
        self, url: str, entries: Sequence[Entry], archives: Sequence[Archive], metadata: Sequence[Archive]
    ) -> None:
        super().__init__(url, entries)
        self.archives, self.metadata = archives, metadata

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source."""
        for file in self.metadata:
            stream = self._count(file.open())
            yield Member(file.url.rpartition("/")[2], b"".join(iter(partial(stream.read, 1 << 20), b"")), file.url)
            stream.close()
        for archive in self.archives:
            stream = self._count(archive.open())
            try:
                with tarfile.open(mode="r|*", fileobj=stream, tarinfo=CheckedHeader) as tar:  # type: ignore[call-overload]  # not in the stub
                    yield from stream_members(tar, archive, wanted)
            except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
                what = (
                    "; it is a zip: call it .zip" if stream.head.startswith(b"PK") else "; it is damaged, copy it again"
                )
                raise DataError(f"data.root: {archive.url} is not a complete tar ({error}){what}") from None
            finally:
                stream.close()

    def _count(self, stream: Any) -> "CountingStream":
        return CountingStream(stream, self)


class CountingStream:
    """A stream that updates the position of its source."""

    def __init__(self, stream: Any, source: Source) -> None:
        self.stream, self.source = stream, source
        self.head = b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        data: bytes = self.stream.read(size)
        self.source.position += len(data)
        self.head = self.head or data[:4]
        return data

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()


class CheckedHeader(tarfile.TarInfo):
    """A header whose damage, or a missing end mark, is an error; tarfile would take it for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "CheckedHeader":
        """Read the next header. Raises ReadError."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the stub leaves it out
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def stream_members(tar: tarfile.TarFile, archive: Archive, wanted: Wanted) -> Iterator[Member]:
    """Yield the files of a tar that is open as a stream."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep the header of every file
        name = archive.prefix + clean(info.name)
        if info.isdir() or is_hidden_path(name):
            continue
        content = tar.extractfile(info) if info.isreg() and wanted(name) else None
        body = None if content is None else content.read()
        if body is not None and len(body) < info.size:
            raise tarfile.ReadError("unexpected end of data")
        yield Member(name, body, f"{archive.url}: {name}", link=info.islnk() or info.issym())


def disk_tars(url: str, paths: Sequence[Path], tables: Sequence[Path] = ()) -> Tars:
    """Return the source of tars on disk, of the metadata next to them and of other tables."""
    folders = sorted({path.parent for path in paths})
    beside = [file for folder in folders for file in folder.iterdir() if is_metadata(file.name)]
    metadata = sorted({*beside, *tables})
    entries = [
        Entry(str(path), status.st_size, str(status.st_mtime_ns))
        for path in (*metadata, *paths)
        for status in [path.stat()]
    ]
    archives = add_folders([Archive(str(path), partial(open_file, path)) for path in paths])
    return Tars(url, entries, archives, [Archive(str(path), partial(open_file, path)) for path in metadata])


def add_folders(archives: Sequence[Archive]) -> list[Archive]:
    """Return archives with the folders that their names mean, if they are splits or classes."""
    folders = folders_of_archives([one.url for one in archives], lambda: list(map(first_picture, archives)))
    return [replace(one, prefix=folder) for one, folder in zip(archives, folders, strict=True)]


def first_picture(archive: Archive) -> list[str]:
    """Return the name of the first picture of a tar; none if it is not among the first files, or the tar is damaged."""
    stream = archive.open()
    try:
        with tarfile.open(mode="r|*", fileobj=stream) as tar:
            names = (clean(info.name) for info in islice(tar, PEEKED) if info.isreg())
            return list(islice((name for name in names if is_image(name) and not is_hidden_path(name)), 1))
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError):
        return []
    finally:
        stream.close()


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading. Raises DataError."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"data.root: {path} cannot be read ({error.strerror})") from None


def bucket_tars(url: str) -> Tars:
    """Return the source of s3://bucket/key.tar, or of all tars under s3://bucket/prefix/, and of their metadata."""
    client = object_storage.connect()
    bucket, key = object_storage.split_url(url)
    if is_tar(key):
        folder = key.rpartition("/")[0]
        tars = [object_storage.head(client, bucket, key)]
        metadata = [object_storage.head(client, bucket, f"{folder}/{METADATA}".lstrip("/"), optional=True)]
    else:
        prefix = f"{key.rstrip('/')}/" if key else ""
        found = sorted(object_storage.list_objects(client, bucket, prefix), key=lambda entry: str(entry["Key"]))
        tars = [entry for entry in found if is_tar(entry["Key"])]
        metadata = [
            entry
            for entry in found
            if is_metadata(entry["Key"].removeprefix(prefix)) and "/" not in entry["Key"].removeprefix(prefix)
        ]
        if not tars:
            raise DataError(f"data.root: there is no tar under s3://{bucket}/{prefix}")

    def archives(objects: Sequence[dict[str, Any] | None]) -> list[Archive]:
        return [
            Archive(f"s3://{bucket}/{entry['Key']}", partial(object_storage.ObjectStream, client, bucket, entry))
            for entry in objects
            if entry
        ]

    entries = [Entry(entry["Key"], entry["Size"], entry["ETag"]) for entry in (*metadata, *tars) if entry]
    return Tars(url, entries, add_folders(archives(tars)), archives(metadata))
