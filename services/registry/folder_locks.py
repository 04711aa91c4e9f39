"""Locks on folders, which the kernel drops when the process that holds them ends."""

import fcntl
import os
from pathlib import Path


def lock_folder(folder: Path, kind: int) -> int:
    """Lock a folder, waiting for it. kind: LOCK_SH or LOCK_EX of `fcntl`. Returns what `unlock` takes."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, kind)
    except BaseException:
        os.close(lock)
        raise
    return lock


def try_lock_folder(folder: Path, kind: int) -> int | None:
    """Lock a folder, or return None if it does not exist, is renamed meanwhile, or is locked by another process."""
    try:
        lock = lock_folder(folder, kind | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError, BlockingIOError):
        return None
    try:
        if os.path.samestat(os.stat(folder), os.fstat(lock)):
            return lock
    except FileNotFoundError:
        pass
    unlock(lock)
    return None


def unlock(lock: int) -> None:
    """End a lock."""
    os.close(lock)
