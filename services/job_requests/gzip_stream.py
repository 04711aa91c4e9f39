"""Gzip files that are unpacked as a stream (RFC 1952), and refused if they unpack to far more than they have."""

import zlib
from collections.abc import Iterator

from services.job_requests.strict_json import RequestError

GZIP = b"\x1f\x8b"
SLICE = 2**14  # bytes that are read at once
PIECE = 2**20  # bytes that are unpacked at once, at most
FREE = 256 * 2**20  # unpacked bytes that any file may have
RATIO = 100  # unpacked bytes for each packed one, beyond them
WINDOW = 16 + zlib.MAX_WBITS  # zlib's for the gzip format


def gunzip(name: str, chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield what a gzip file of `size` bytes has, in pieces of 0 to PIECE bytes; members follow each other.

    name: of the file, for messages. Raises RequestError for a file that is damaged, ends early or unpacks to too much.
    """
    unpacked = 0
    decoder = None
    # zlib copies what follows a member: of small slices, however many members a file has.
    for data in (chunk[start : start + SLICE] for chunk in chunks for start in range(0, len(chunk), SLICE)):
        while data or decoder is not None:
            if decoder is None:
                data = data.lstrip(b"\0")  # padding between members
                if not data:
                    yield b""  # a step all the same, for who counts them: padding may be all of a large file
                    break
                decoder = zlib.decompressobj(WINDOW)
            try:
                piece = decoder.decompress(data, PIECE)
            except zlib.error as error:
                raise RequestError(f"input_uri: {name} is a damaged gzip file ({error}); upload it again") from None
            unpacked += len(piece)
            check_unpacked(name, size, unpacked)
            yield piece
            data = decoder.unconsumed_tail
            if decoder.eof:
                data, decoder = decoder.unused_data, None
            elif not data and len(piece) < PIECE:
                break
    if decoder is not None:
        raise RequestError(f"input_uri: {name} is a gzip file that ends early; upload it again")


def check_unpacked(name: str, size: int, unpacked: int) -> None:
    """Raise RequestError if a file of `size` bytes may not unpack to this many."""
    most = max(FREE, RATIO * size)
    if unpacked > most:
        raise RequestError(
            f"input_uri: {name} has {size} bytes and unpacks to more than {most}; permitted: {FREE}, "
            f"or {RATIO} times its own size"
        )
