"""Flushing files to disk, and the messages for disks that are full and paths that cannot be used."""

import errno
import os
from pathlib import Path

UNUSABLE = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


def sync_to_disk(path: Path) -> None:
    """Flush a file or folder to disk, so that its content, or a rename inside the folder, survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: Exception) -> bool:
    """Return whether writing failed for lack of room. The safetensors library says so only in its message."""
    number = getattr(error, "errno", None)
    words = ("No space left", "quota exceeded")
    return number in (errno.ENOSPC, errno.EDQUOT) or any(part in str(error) for part in words)


def describe_file_error(error: Exception) -> str | None:
    """Return the message for a full disk or a path that cannot be used, or None for an error that may be a bug."""
    if is_disk_full(error):
        return f"the disk is full ({error}); make room and run the same command again"
    if not isinstance(error, OSError) or not isinstance(error.filename, str | os.PathLike):
        return None
    if error.errno == errno.ENOENT and not os.path.isdir(folder := os.path.dirname(os.path.abspath(error.filename))):
        return f"the folder {folder} does not exist; if it was deleted meanwhile, run the same command again"
    is_file_for_a_folder = error.errno == errno.EEXIST and os.path.isfile(error.filename)
    if not is_file_for_a_folder and error.errno not in UNUSABLE:
        return None
    return (
        f"{os.fspath(error.filename)} cannot be used ({error.strerror}); give another path, or correct its type or "
        "permissions"
    )
