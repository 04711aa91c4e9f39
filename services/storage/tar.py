"""Tar archives that are written piece by piece: the same members give the same bytes (POSIX.1-1988 ustar)."""

import tarfile

BLOCK = tarfile.BLOCKSIZE  # bytes
END = bytes(2 * BLOCK)  # of an archive


def padded_size(size: int) -> int:
    """Return the bytes that a file of `size` bytes takes in an archive, with its header."""
    return BLOCK + -(-size // BLOCK) * BLOCK


def member_bytes(name: str, body: bytes) -> bytes:
    """Return a file of an archive: its header, its content, and zeros to the next block."""
    header = tarfile.TarInfo(name)  # mode 0644, owner 0, time 0
    header.size = len(body)
    return header.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % BLOCK)
