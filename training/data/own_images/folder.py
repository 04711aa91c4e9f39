"""Reads the files below a folder."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from training.data.image_set import DataError
from training.data.own_images.names import clean, is_hidden, is_table
from training.data.own_images.source import Entry, Member, Source, Wanted

Place = tuple[int, int]  # the disk of a folder, and its number there


class Folder(Source):
    """All files below a folder, the tables first. Links to folders are followed, unless they lead back."""

    complete_metadata = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: dict[str, str] = {}  # of files whose path is not their name
        super().__init__(str(root), sorted(self._list(), key=lambda entry: (not is_table(entry.name), entry.name)))

    def _list(self) -> Iterator[Entry]:
        start = len(os.path.join(self.root, ""))
        above: dict[str, tuple[Place, ...]] = {str(self.root): (place_of(str(self.root)),)}  # a folder and its holders
        for folder, folders, files in os.walk(self.root, onerror=raise_unlistable, followlinks=True):
            holders = above.pop(folder)
            inner = {name: place_of(os.path.join(folder, name)) for name in folders if not is_hidden(name)}
            folders[:] = [name for name, place in inner.items() if place not in holders]
            above |= {os.path.join(folder, name): (*holders, inner[name]) for name in folders}
            for file in files:
                path = os.path.join(folder, file)
                if is_hidden(file) or (status := file_status(path)) is None:
                    continue
                relative = path[start:]
                name = clean(relative)
                if name != relative:
                    if name in self.paths or os.path.isfile(os.path.join(self.root, name)):
                        raise DataError(f"data.root: two files are called {name} in {self.root}, once with composed "
                                        "and once with decomposed characters; rename one of them")  # fmt: skip
                    self.paths[name] = relative
                yield Entry(name, status.st_size, str(status.st_mtime_ns))

    @property
    def names(self) -> Iterator[str]:
        """See Source."""
        return (entry.name for entry in self.entries)

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """See Source. Bodies are paths, so that threads read them."""
        for entry in self.entries:
            path = os.path.join(self.root, self.paths.get(entry.name, entry.name))
            yield Member(entry.name, Path(path) if wanted(entry.name) else None, path)
            self.position += entry.size


def place_of(folder: str) -> Place:
    """Return what a folder is on its disk, by whatever path. Raises DataError."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise DataError(f"data.root: {folder} cannot be listed ({error.strerror})") from None
    return status.st_dev, status.st_ino


def file_status(path: str) -> os.stat_result | None:
    """Return the status of a regular file, or None: a link may lead nowhere, and a pipe would never end."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def raise_unlistable(error: OSError) -> None:
    """Raise DataError for a folder that cannot be listed."""
    raise DataError(f"data.root: {error.filename} cannot be listed ({error.strerror})")
