"""The sources of the user's own images: a folder, or tars on disk or in S3, as one stream of named files.

In every source, the name of a file is its path below the folder or in the tar, with slashes and no leading "./".
"""

import glob
import lzma
import os
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from training.data.image_set import DataError
from training.data.own_images import object_storage

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
METADATA = "metadata.jsonl"

Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Entry:
    """A file or object in a source's listing. version: changes with its content."""

    name: str
    size: int
    version: str


@dataclass(frozen=True)
class Member:
    """A file of a source. body: its bytes, or its path on disk; None for a file that is not wanted."""

    name: str
    body: bytes | Path | None
    origin: str  # its location, for messages
    link: bool = False  # a link inside a tar, which cannot be followed in a stream

    def read(self) -> bytes:
        """Return the bytes of a wanted file. Raises OSError."""
        return self.body.read_bytes() if isinstance(self.body, Path) else self.body or b""


@dataclass(frozen=True)
class Archive:
    """One tar. open: a stream of its bytes."""

    url: str
    open: Callable[[], Any]


class Source(ABC):
    """A sequence of files in reading order. position: the number of bytes of `total` that have been read."""

    complete_metadata = False  # whether every metadata.jsonl comes before the first image

    def __init__(self, url: str, entries: Sequence[Entry]) -> None:
        self.url, self.entries = url, entries
        self.total, self.position = sum(entry.size for entry in entries), 0

    @abstractmethod
    def members(self, wanted: Wanted) -> Iterator[Member]:
        """Yield each file, without the body of those whose name is not wanted. Raises DataError."""


class Folder(Source):
    """All files below a folder, the metadata first."""

    complete_metadata = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: dict[str, Path] = {}
        super().__init__(str(root), sorted(self._list(), key=lambda entry: (not is_metadata(entry.name), entry.name)))

    def _list(self) -> Iterator[Entry]:
        for folder, folders, files in os.walk(self.root, onerror=raise_unlistable):
            folders[:] = [name for name in folders if not is_hidden(name)]
            for file in files:
                path = Path(folder, file)
                if is_hidden(file) or not path.is_file():
                    continue
                status = path.stat()
                name = clean(path.relative_to(self.root).as_posix())
                self.paths[name] = path
                yield Entry(name, status.st_size, str(status.st_mtime_ns))

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source. Bodies are paths, so that threads read them."""
        for entry in self.entries:
            path = self.paths[entry.name]
            yield Member(entry.name, path if wanted(entry.name) else None, str(path))
            self.position += entry.size


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
            yield Member(METADATA, b"".join(iter(partial(stream.read, 1 << 20), b"")), file.url)
            stream.close()
        for archive in self.archives:
            stream = self._count(archive.open())
            try:
                with tarfile.open(mode="r|*", fileobj=stream, tarinfo=CheckedHeader) as tar:  # type: ignore[call-overload]
                    yield from stream_members(tar, archive.url, wanted)
            except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise DataError(
                    f"data.root: {archive.url} is not a complete tar ({error}); it is damaged, copy it again"
                ) from None
            finally:
                stream.close()

    def _count(self, stream: Any) -> "CountingStream":
        return CountingStream(stream, self)


class CountingStream:
    """A stream that updates the position of its source."""

    def __init__(self, stream: Any, source: Source) -> None:
        self.stream, self.source = stream, source

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        data: bytes = self.stream.read(size)
        self.source.position += len(data)
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
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def stream_members(tar: tarfile.TarFile, url: str, wanted: Wanted) -> Iterator[Member]:
    """Yield the files of a tar that is open as a stream."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep the header of every file
        name = clean(info.name)
        if info.isdir() or any(is_hidden(part) for part in name.split("/")):
            continue
        content = tar.extractfile(info) if info.isreg() and wanted(name) else None
        body = None if content is None else content.read()
        if body is not None and len(body) < info.size:
            raise tarfile.ReadError("unexpected end of data")
        yield Member(name, body, f"{url}: {name}", link=info.islnk() or info.issym())


def open_source(source: str) -> Source:
    """Open a source: a folder, a tar, a folder of tars, a pattern of tars, or tars in S3.

    Raises DataError if there is none.
    """
    if source.startswith("s3://"):
        return bucket_tars(source)
    path = Path(source).expanduser()
    if path.is_dir():
        inner = sorted(file for file in path.iterdir() if is_tar(file.name) and not is_hidden(file.name))
        if not inner:
            return Folder(path)
        if loose := [file.name for file in path.iterdir() if file.suffix.lower() in IMAGE_ENDINGS]:
            raise DataError(
                f"data.root: {path} holds both tars ({inner[0].name}) and images ({min(loose)}); keep them apart"
            )
        return disk_tars(source, inner)
    if path.is_file():
        if not is_tar(path.name):
            raise DataError(f"data.root: {path} is neither a folder nor a tar ({', '.join(TAR_ENDINGS)})")
        return disk_tars(source, [path])
    if glob.has_magic(source):
        found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if is_tar(file))
        if not found:
            raise DataError(f"data.root: no tar matches {source}")
        return disk_tars(source, found)
    raise DataError(f"data.root: {source} does not exist")


def disk_tars(url: str, paths: Sequence[Path]) -> Tars:
    """Return the source of tars on disk and of the metadata next to them."""
    candidates = sorted({path.parent / METADATA for path in paths})
    metadata = [path for path in candidates if path.is_file()]
    entries = [
        Entry(str(path), status.st_size, str(status.st_mtime_ns))
        for path in (*metadata, *paths)
        for status in [path.stat()]
    ]
    return Tars(
        url, entries, *([Archive(str(path), partial(open_file, path)) for path in part] for part in (paths, metadata))
    )


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
        metadata = [entry for entry in found if entry["Key"] == f"{prefix}{METADATA}"]
        if not tars:
            raise DataError(f"data.root: there is no tar under s3://{bucket}/{prefix}")

    def archives(objects: Sequence[dict[str, Any] | None]) -> list[Archive]:
        return [
            Archive(f"s3://{bucket}/{entry['Key']}", partial(object_storage.ObjectStream, client, bucket, entry))
            for entry in objects
            if entry
        ]

    entries = [Entry(entry["Key"], entry["Size"], entry["ETag"]) for entry in (*metadata, *tars) if entry]
    return Tars(url, entries, archives(tars), archives(metadata))


def is_tar(name: str) -> bool:
    """Return whether a file of this name is a tar."""
    return name.lower().endswith(TAR_ENDINGS)


def is_metadata(name: str) -> bool:
    """Return whether a file of this name describes images."""
    return name.rpartition("/")[2] == METADATA


def is_hidden(part: str) -> bool:
    """Return whether a file manager or an editor wrote the file of this name for itself."""
    return part.startswith(".") or part == "__MACOSX"


def clean(name: str) -> str:
    """Return a path as the name of an image: without "./", and with bytes that are not UTF-8 replaced."""
    while name.startswith("./"):
        name = name[2:]
    return os.fsencode(name).decode("utf-8", "replace")


def raise_unlistable(error: OSError) -> None:
    """Raise DataError for a folder that cannot be listed."""
    raise DataError(f"data.root: {error.filename} cannot be listed ({error.strerror})")
