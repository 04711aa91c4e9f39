"""Folder locks: of several processes that need a folder, one writes it while the others wait."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout


def lock_folder(folder: Path, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[object]:
    """Take the lock of a folder that is about to be written, and return a context that releases it.

    `on_wait` is called once if another process holds the lock. The lock is a hidden file next to the folder.
    Raises OSError if that file cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        return lock.acquire()
