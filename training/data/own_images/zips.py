"""Reads zips on disk, and the tables next to them."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from training.data.image_set import DataError
from training.data.own_images.names import clean, is_hidden_path, is_image, is_table
from training.data.own_images.source import Entry, Member, Source, Wanted, folders_of_archives

LARGEST = 1 << 30  # bytes of a member; a zip of megabytes can claim more and exhaust memory


class Zips(Source):
    """The members of zips, the tables first. Where zips are splits or classes, names begin with that of the zip.

    tables: those next to the zips, by their names.
    """

    complete_metadata = True

    def __init__(self, url: str, paths: Sequence[Path], tables: Mapping[str, Path]) -> None:
        statuses = [(path, path.stat()) for path in (*tables.values(), *paths)]
        entries = [Entry(str(path), status.st_size, str(status.st_mtime_ns)) for path, status in statuses]
        listings = [list_zip(path) for path in paths]
        pictures = [[name for name, _ in listing if is_image(name)] for listing in listings]
        folders = folders_of_archives(list(map(str, paths)), lambda: pictures)
        self.listing = [
            (folder + name, path, info)
            for path, folder, listing in zip(paths, folders, listings, strict=True)
            for name, info in listing
        ]
        self.listing.sort(key=lambda one: (not is_table(one[0]), str(one[1]), one[0]))
        super().__init__(url, entries)
        inside = {name for name, _, _ in self.listing}
        self.tables = {name: path for name, path in tables.items() if name not in inside}  # often extracted from them
        self.total = sum(info.compress_size for _, _, info in self.listing)

    @property
    def names(self) -> Iterator[str]:
        """See Source."""
        return chain(self.tables, (name for name, _, _ in self.listing))

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source."""
        for name, path in self.tables.items():
            yield Member(name, path, str(path))
        current: tuple[Path, zipfile.ZipFile] | None = None
        try:
            for name, path, info in self.listing:
                if current is None or current[0] != path:
                    if current is not None:
                        current[1].close()
                    current = path, open_zip(path)
                yield Member(name, read_member(current[1], path, info) if wanted(name) else None, f"{path}: {name}")
                self.position += info.compress_size
        finally:
            if current is not None:
                current[1].close()


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip. Raises DataError."""
    try:
        try:  # Macs write names in UTF-8 without the flag that says so
            return zipfile.ZipFile(path, metadata_encoding="utf-8")
        except UnicodeDecodeError:
            return zipfile.ZipFile(path)
    except OSError as error:
        raise DataError(f"data.root: {path} cannot be read ({error.strerror})") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"data.root: {path} is not a complete zip ({error}); it is damaged, copy it again") from None


def list_zip(path: Path) -> list[tuple[str, zipfile.ZipInfo]]:
    """Return the files of a zip that are not hidden, with their names. Raises DataError."""
    with open_zip(path) as archive:
        named = [(clean(slashes(info.filename)), info) for info in archive.infolist() if not info.is_dir()]
    return [(name, info) for name, info in named if not is_hidden_path(name)]


def slashes(name: str) -> str:
    """Return the name of a member with slashes between its folders: some programs for Windows write backslashes."""
    return name if "/" in name else name.replace("\\", "/")


def read_member(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a member. Raises DataError."""
    if info.flag_bits & 1:
        raise DataError(f"data.root: {path} is encrypted; unpack it, and give the folder")
    if info.file_size > LARGEST:
        raise DataError(f"data.root: {path}: {info.filename} unpacks to {info.file_size / 1e9:.2f} GB, and no picture "
                        f"is larger than {LARGEST / 1e9:.2f} GB; remove it")  # fmt: skip
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"data.root: {path} is not a complete zip ({info.filename}: {error}); it is damaged, copy it again"
        ) from None
