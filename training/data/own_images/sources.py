"""Where the user's own pictures come from: a folder, or tars on disk or in S3, as one stream of named files.

Whatever the source, a file is called by its path below the folder or in the tar, with slashes and no leading "./".
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
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
METADATA = "metadata.jsonl"

Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Entry:
    """A file or object as its source lists it. version: changes when its content does."""

    name: str
    size: int
    version: str


@dataclass(frozen=True)
class Member:
    """A file of a source. body: its bytes, or where they are on disk; None for a file that is not wanted."""

    name: str
    body: bytes | Path | None
    origin: str  # where it is, for messages
    link: bool = False  # a link inside a tar, which cannot be followed in a stream

    def read(self) -> bytes:
        """The bytes of a wanted file. Raises OSError."""
        return self.body.read_bytes() if isinstance(self.body, Path) else self.body or b""


@dataclass(frozen=True)
class Archive:
    """One tar. open: a stream of its bytes."""

    url: str
    open: Callable[[], Any]


class Source(ABC):
    """Files in the order in which they come. position: how many bytes of `total` have been read."""

    complete_metadata = False  # whether every metadata.jsonl comes before the first picture

    def __init__(self, url: str, entries: Sequence[Entry]) -> None:
        self.url, self.entries = url, entries
        self.total, self.position = sum(entry.size for entry in entries), 0

    @abstractmethod
    def members(self, wanted: Wanted) -> Iterator[Member]:
        """Each file; the bodies of those whose name is not wanted are skipped. Raises DataError."""


class Folder(Source):
    """All files below a folder, the metadata first."""

    complete_metadata = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: dict[str, Path] = {}
        super().__init__(str(root), sorted(self._listed(), key=lambda entry: (not is_metadata(entry.name), entry.name)))

    def _listed(self) -> Iterator[Entry]:
        for folder, folders, files in os.walk(self.root, onerror=refuse):
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
    """The members of tars, each streamed once from its beginning to its end, after the metadata beside them."""

    def __init__(
        self, url: str, entries: Sequence[Entry], archives: Sequence[Archive], metadata: Sequence[Archive]
    ) -> None:
        super().__init__(url, entries)
        self.archives, self.metadata = archives, metadata

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source."""
        for file in self.metadata:
            stream = self._counted(file.open())
            yield Member(METADATA, b"".join(iter(partial(stream.read, 1 << 20), b"")), file.url)
            stream.close()
        for archive in self.archives:
            stream = self._counted(archive.open())
            try:
                with tarfile.open(mode="r|*", fileobj=stream, tarinfo=CheckedHeader) as tar:  # type: ignore[call-overload]
                    yield from streamed(tar, archive.url, wanted)
            except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise DataError(
                    f"data.root: {archive.url} is not a whole tar ({error}); it was cut short or damaged, copy it again"
                ) from None
            finally:
                stream.close()

    def _counted(self, stream: Any) -> "Counted":
        return Counted(stream, self)


class Counted:
    """A stream that tells its source how far it has been read."""

    def __init__(self, stream: Any, source: Source) -> None:
        self.stream, self.source = stream, source

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        data: bytes = self.stream.read(size)
        self.source.position += len(data)
        return data

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()


class CheckedHeader(tarfile.TarInfo):
    """A header for which damage, or the want of an end mark, is an error; tarfile takes them for the end of a tar."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "CheckedHeader":
        """The next header. Raises ReadError."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def streamed(tar: tarfile.TarFile, url: str, wanted: Wanted) -> Iterator[Member]:
    """The files of a tar that is open as a stream."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep the header of every file
        name = clean(info.name)
        if info.isdir() or any(is_hidden(part) for part in name.split("/")):
            continue
        content = tar.extractfile(info) if info.isreg() and wanted(name) else None
        body = None if content is None else content.read()
        if body is not None and len(body) < info.size:
            raise tarfile.ReadError("unexpected end of data")
        yield Member(name, body, f"{url}: {name}", link=info.islnk() or info.issym())


def open_source(source: str) -> Source:
    """The source that `source` names: a folder, a tar, a folder of tars, a pattern, or one of these in S3.

    Raises DataError where there is none.
    """
    if source.startswith("s3://"):
        return bucket_tars(source)
    path = Path(source).expanduser()
    if path.is_dir():
        inner = sorted(file for file in path.iterdir() if is_tar(file.name) and not is_hidden(file.name))
        if not inner:
            return Folder(path)
        if loose := [file.name for file in path.iterdir() if file.suffix.lower() in PICTURE_ENDINGS]:
            raise DataError(
                f"data.root: {path} holds both tars ({inner[0].name}) and pictures ({min(loose)}); keep them apart"
            )
        return disk_tars(source, inner)
    if path.is_file():
        if not is_tar(path.name):
            raise DataError(f"data.root: {path} is neither a folder nor a tar ({', '.join(TAR_ENDINGS)})")
        return disk_tars(source, [path])
    if glob.has_magic(source):
        found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if is_tar(file))
        if not found:
            raise DataError(f"data.root: no tar fits {source}")
        return disk_tars(source, found)
    raise DataError(f"data.root: {source} does not exist")


def disk_tars(url: str, paths: Sequence[Path]) -> Tars:
    """Tars on disk, and the metadata beside them."""
    beside = sorted({path.parent / METADATA for path in paths})
    metadata = [path for path in beside if path.is_file()]
    entries = [
        Entry(str(path), status.st_size, str(status.st_mtime_ns))
        for path in (*metadata, *paths)
        for status in [path.stat()]
    ]
    return Tars(
        url, entries, *([Archive(str(path), partial(opened, path)) for path in part] for part in (paths, metadata))
    )


def opened(path: Path) -> BinaryIO:
    """A file to read. Raises DataError."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"data.root: {path} cannot be read ({error.strerror})") from None


def bucket_tars(url: str) -> Tars:
    """The tar at s3://bucket/key.tar, or all under s3://bucket/prefix/, and the metadata beside them."""
    client = object_storage.connect()
    bucket, key = object_storage.split(url)
    if is_tar(key):
        folder = key.rpartition("/")[0]
        tars = [object_storage.head(client, bucket, key)]
        beside = [object_storage.head(client, bucket, f"{folder}/{METADATA}".lstrip("/"), optional=True)]
    else:
        prefix = f"{key.rstrip('/')}/" if key else ""
        found = sorted(object_storage.listing(client, bucket, prefix), key=lambda entry: str(entry["Key"]))
        tars = [entry for entry in found if is_tar(entry["Key"])]
        beside = [entry for entry in found if entry["Key"] == f"{prefix}{METADATA}"]
        if not tars:
            raise DataError(f"data.root: no tar lies under s3://{bucket}/{prefix}")

    def archives(objects: Sequence[dict[str, Any] | None]) -> list[Archive]:
        return [
            Archive(f"s3://{bucket}/{entry['Key']}", partial(object_storage.ObjectStream, client, bucket, entry))
            for entry in objects
            if entry
        ]

    entries = [Entry(entry["Key"], entry["Size"], entry["ETag"]) for entry in (*beside, *tars) if entry]
    return Tars(url, entries, archives(tars), archives(beside))


def is_tar(name: str) -> bool:
    """Whether a file of this name is a tar."""
    return name.lower().endswith(TAR_ENDINGS)


def is_metadata(name: str) -> bool:
    """Whether a file of this name describes the pictures."""
    return name.rpartition("/")[2] == METADATA


def is_hidden(part: str) -> bool:
    """Whether a name is one that file managers and editors write for themselves."""
    return part.startswith(".") or part == "__MACOSX"


def clean(name: str) -> str:
    """A path as pictures are called by it; bytes that are not UTF-8 are replaced."""
    while name.startswith("./"):
        name = name[2:]
    return os.fsencode(name).decode("utf-8", "replace")


def refuse(error: OSError) -> None:
    """Raise DataError for a folder that cannot be listed."""
    raise DataError(f"data.root: {error.filename} cannot be listed ({error.strerror})")
