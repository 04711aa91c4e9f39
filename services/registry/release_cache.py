"""A cache of releases on disk: each is fetched from S3 once, and the least recently used are removed to make room.

Any number of processes share a folder, which must be on a local disk. A process that reads a release, or fetches it,
holds a shared lock on its folder, and what is locked is not removed. The kernel drops the locks of a process that
ends. A fetch counts with its full size from its start, so the releases never need more than the limit.
"""

import errno
import fcntl
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from services.registry import blobs
from services.registry.folder_locks import lock_folder, try_lock_folder, unlock
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError, first_line
from training.model import release as release_format
from training.model.release import Release, ReleaseError

log = logging.getLogger("darkroom.release_cache")

ATTEMPTS = 20  # at reading a release that others fetch and remove at the same time
RETRY_INTERVAL_S = 0.1
LOCK_TIMEOUT_S = 10.0  # for making room, in which no process waits for S3
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
GIB = 2**30
RELEASE = re.compile("[0-9a-f]{64}")  # the name of its folder

Loaded = TypeVar("Loaded")


class CacheError(DarkroomError):
    """The disk of this machine cannot hold a release. The message says what to do; the release is not to blame."""


class ReleaseCache:
    """The releases in `cache_dir`, which together need at most `limit_gb` GiB."""

    def __init__(self, store: ObjectStore, cache_dir: Path, limit_gb: float, seed: Path | None = None) -> None:
        """Cache releases in `cache_dir`. seed: the cache_dir of another cache that is only read and never changes."""
        self.store, self.folder, self.limit = store, cache_dir / "releases", int(limit_gb * GIB)
        self.seed = None if seed is None else seed / "releases"

    def check(self) -> None:
        """Log that the folder cannot be written. Raises CacheError if it never could be and there is no release."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            made = tempfile.mkdtemp(prefix="check-", dir=self.folder)
            with suppress(FileNotFoundError):  # another process has removed it to make room
                os.rmdir(made)
        except OSError as error:
            problem = f"DARKROOM_CACHE_DIR: {self.folder} cannot be written ({error.strerror})"
            if error.errno not in DISK_IS_FULL and not self._has_releases():
                raise CacheError(f"{problem}; set it to a folder that can be") from None
            log.warning("%s; only releases that are there can be served", problem)

    def _has_releases(self) -> bool:
        folders = [folder for folder in (self.folder, self.seed) if folder is not None and folder.is_dir()]
        return any(RELEASE.fullmatch(entry.name) for folder in folders for entry in folder.iterdir())

    def holds(self, digest: str) -> bool:
        """Whether a release is here already."""
        return any((folder / digest).is_dir() for folder in (self.folder, self.seed) if folder is not None)

    @contextmanager
    def hold(self, manifest: Mapping[str, Any]) -> Iterator[Path]:
        """Yield the folder of a release, fetched if it is not there. No process removes it within the block.

        Raises CacheError, ReleaseError if the release in S3 is incomplete or damaged, and errors of S3.
        """
        release = release_format.parse(manifest)
        if self.seed is not None and (self.seed / release.digest / release_format.MANIFEST).is_file():
            yield self.seed / release.digest
            return
        folder = self.folder / release.digest
        for _ in range(ATTEMPTS):
            lock = try_lock_folder(folder, fcntl.LOCK_SH)
            if lock is None and folder.is_dir():  # another process is removing it
                time.sleep(RETRY_INTERVAL_S)
                continue
            if lock is None:
                lock = self._fetch(release, manifest)
            if lock is None:  # another process has fetched it meanwhile
                continue
            try:
                with suppress(OSError):  # a read-only disk
                    os.utime(folder)
                yield folder
            finally:
                unlock(lock)
            return
        raise CacheError(
            f"{folder} cannot be locked: another process has begun to remove it and hangs; end that process"
        )

    def load(self, manifest: Mapping[str, Any], build: Callable[[Path], Loaded]) -> Loaded:
        """Return what `build` makes of the folder of a release. A damaged folder is removed and fetched once more.

        Raises what `hold` and `build` raise, and CacheError if the folder is damaged again.
        """
        for is_again in (False, True):
            with self.hold(manifest) as folder:
                try:
                    return build(folder)
                except (ReleaseError, OSError) as error:
                    if _is_whole(folder) or folder.parent == self.seed:
                        raise
                    problem = f"the copy of release {manifest['name']!r} in {folder} is damaged ({first_line(error)})"
                    if is_again:
                        raise CacheError(
                            f"{problem}, also after it was fetched again; check the disk of this worker"
                        ) from None
                    log.warning("%s; it is fetched again", problem)
                    _discard(folder)
        raise AssertionError("unreachable")

    def _fetch(self, release: Release, manifest: Mapping[str, Any]) -> int | None:
        """Fetch a release and return a lock on its folder, or None if another process has fetched it meanwhile.

        The complete folder is renamed into its place, so that a killed fetch leaves no incomplete release there.
        """
        document = json.dumps(manifest)
        size = sum(record.bytes for record in release.files.values()) + len(document.encode())
        if size > self.limit:
            raise CacheError(
                f"release {release.name!r} needs {size / GIB:.3f} GiB on disk; permitted by DARKROOM_CACHE_GB: "
                f"{self.limit / GIB:.3f}. Raise it, and the volume with it"
            )
        evict = 0
        while True:
            workplace, lock = None, None
            try:
                workplace, lock = self._reserve(release.name, size, evict)
                blobs.download(self.store, release, workplace)
                (workplace / release_format.MANIFEST).write_text(document)
                with self._changing():  # else a process that counts the folders would miss it under both names
                    workplace.rename(self.folder / release.digest)
                return lock
            except BaseException as error:
                if workplace is not None:
                    shutil.rmtree(workplace, ignore_errors=True)
                if lock is not None:
                    unlock(lock)
                if not isinstance(error, OSError) or isinstance(error, TimeoutError | ConnectionError):
                    raise
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return None
                if error.errno not in DISK_IS_FULL:
                    raise self._unusable(release.name, size, error.strerror or str(error)) from None
                evict += 1

    def _reserve(self, name: str, size: int, evict: int) -> tuple[Path, int]:
        """Make room for `size` bytes, removing at least `evict` releases because the disk was full without that.

        Returns a folder whose name keeps the bytes reserved, and a lock on it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._changing():
            entries, removed = self._entries(), 0
            total = sum(needed for _, needed, _ in entries)
            if _free(self.folder) + total < size:  # removing all of them would not help
                raise self._unusable(name, size, os.strerror(errno.ENOSPC))
            for _, needed, folder in entries:
                if total + size <= self.limit and removed >= evict and _free(self.folder) >= size:
                    break
                if self._remove(folder):
                    total, removed = total - needed, removed + 1
                    log.info("removed %s from the cache: %.3f GiB for another release", folder.name, needed / GIB)
            if total + size > self.limit:
                raise CacheError(
                    f"{self.folder} has no room for {size / GIB:.3f} GiB: DARKROOM_CACHE_GB permits "
                    f"{self.limit / GIB:.3f}, and other processes are reading {total / GIB:.3f} of it; raise it"
                )
            if removed < evict or _free(self.folder) < size:
                raise self._unusable(name, size, os.strerror(errno.ENOSPC))
            workplace = Path(tempfile.mkdtemp(prefix=f"fetch-{size}-", dir=self.folder))
            return workplace, lock_folder(workplace, fcntl.LOCK_SH)

    def _unusable(self, name: str, size: int, why: str) -> CacheError:
        return CacheError(
            f"{self.folder} cannot hold release {name!r}, {size / GIB:.3f} GiB: {why}; "
            "make room on that disk, or set DARKROOM_CACHE_DIR to a folder that can be written"
        )

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return when each folder was used last, what it needs, and its path; the least recently used first.

        Removes unused files of killed processes.
        """
        found = []
        for folder in self.folder.iterdir():
            is_release = RELEASE.fullmatch(folder.name)
            if not is_release and self._remove(folder):
                continue
            reserved = re.match("fetch-([0-9]+)-", folder.name)
            try:
                needed = sum(file.stat().st_size for file in folder.iterdir())
                used = folder.stat().st_mtime
            except OSError:  # a file of a fetch was given its name, or another process has removed the folder
                if reserved is None:
                    continue
                needed, used = 0, time.time()
            found.append((used, max(needed, int(reserved[1])) if reserved else needed, folder))
        return sorted(found)

    def _remove(self, folder: Path) -> bool:
        """Remove a folder unless a process holds it."""
        if (lock := try_lock_folder(folder, fcntl.LOCK_EX)) is None:
            return False
        try:
            _discard(folder)
            return True
        finally:
            unlock(lock)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let no other process make room within the block."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while (lock := try_lock_folder(self.folder, fcntl.LOCK_EX)) is None:
            if time.monotonic() > deadline:
                raise CacheError(f"another process has locked {self.folder} for {LOCK_TIMEOUT_S:.0f} s; end it")
            time.sleep(RETRY_INTERVAL_S)
        try:
            yield
        finally:
            unlock(lock)


def _discard(folder: Path) -> None:
    """Remove a folder. It is renamed first, so that no process finds a partial release."""
    doomed = folder.with_name(f"removed-{time.time_ns()}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _free(folder: Path) -> float:
    """Return how many bytes can be written; some file systems do not say."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else math.inf


def _is_whole(folder: Path) -> bool:
    try:
        release_format.read(folder)
    except (ReleaseError, OSError):
        return False
    return True
