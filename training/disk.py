"""Files that survive a crash of the machine, and disks that are full."""

import errno
import os
from pathlib import Path


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
