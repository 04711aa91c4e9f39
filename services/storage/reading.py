"""Reads the body of an answer, and gives up one that trickles: a time-out of the socket counts from its last byte."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import IncompleteReadError, ReadTimeoutError

PATIENCE_S = 60.0  # of waiting for the store, for any body
SLOWEST = 2**18  # bytes that must come in each further second of waiting


def read_pieces(answer: Mapping[str, Any], name: str, size: int) -> Iterator[bytes]:
    """Yield the body of boto3's answer in pieces of `size` bytes, the last one of fewer.

    name: of the object. Raises ReadTimeoutError for a body that comes too slowly, and IncompleteReadError for one that
    ends early; both are transient.
    """
    with answer["Body"] as stream:
        waited, received, is_open = 0.0, 0, True
        while is_open:
            kept: list[bytes] = []
            missing = size
            while missing and is_open:
                began = time.monotonic()
                part = stream.read1(missing)
                waited += time.monotonic() - began
                received, missing, is_open = received + len(part), missing - len(part), bool(part)
                kept.append(part)
                if waited > PATIENCE_S + received / SLOWEST:
                    raise ReadTimeoutError(endpoint_url=name)
            if piece := b"".join(kept):
                yield piece
        if received != answer["ContentLength"]:
            raise IncompleteReadError(actual_bytes=received, expected_bytes=answer["ContentLength"])
