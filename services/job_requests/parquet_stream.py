"""Parquet files as a stream of lines of JSON. A process of its own reads each one, since the reader is C++.

The file is copied to a temporary file without a name, which is the only thing that this process has. One file is read
at a time, so that the memory and the disk that they take are those of one.
"""

import ctypes
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from services.job_requests.gzip_stream import check_unpacked
from services.job_requests.parquet_rows import REFUSED
from services.job_requests.strict_json import RequestError

PARQUET = b"PAR1"
MAX_PARQUET = 512 * 2**20  # bytes of a file: a pod of the dispatcher has 2 GiB for temporary files
LIMIT_S = 120.0  # how long this process waits for the other one
TICK_S = 1.0
PIECE = 2**20  # bytes that are read at once
KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")  # of the environment; the rest may be secret
DUMPABLE = 4  # PR_SET_DUMPABLE of prctl(2)
CODE = "services.job_requests.parquet_rows"
ADVICE = (
    "permitted: one that is read within the limits of memory and time; write it again, in smaller row groups or files"
)

_turn = threading.Lock()


def read_parquet(name: str, chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the rows of a Parquet file of `size` bytes as lines of JSON; empty pieces while nothing has come.

    name: of the file, for messages. Raises RequestError for a file that is too large, cannot be read, has columns that
    JSON has no counterpart for, or unpacks to too much.
    """
    if size > MAX_PARQUET:
        raise RequestError(
            f"input_uri: {name} has {size} bytes; permitted: Parquet files of at most {MAX_PARQUET} bytes, "
            "and several of them under a prefix"
        )
    while not _turn.acquire(timeout=TICK_S):
        yield b""
    try:
        with tempfile.TemporaryFile() as copy, tempfile.TemporaryFile() as said:
            for chunk in chunks:
                copy.write(chunk)
                yield b""
            copy.seek(0)
            yield from _read_apart(name, copy, said, size)
    finally:
        _turn.release()


def hide_memory() -> None:
    """Close the memory and the environment of this process, which have secrets, to other processes of its user."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DUMPABLE, 0, 0, 0, 0)


def _read_apart(name: str, copy: IO[bytes], said: IO[bytes], size: int) -> Iterator[bytes]:
    environment = {key: os.environ[key] for key in KEPT if key in os.environ}
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve memory, which counts
    hide_memory()
    process = subprocess.Popen(
        [sys.executable, "-m", CODE], stdin=copy, stdout=subprocess.PIPE, stderr=said, env=environment,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    unpacked, waits = 0, 0
    try:
        while True:
            if not select.select([process.stdout], [], [], TICK_S)[0]:
                waits += 1
                if waits * TICK_S > LIMIT_S:
                    raise RequestError(f"input_uri: {name} is a Parquet file that takes too long to read; {ADVICE}")
                yield b""
                continue
            piece = os.read(process.stdout.fileno(), PIECE)
            if not piece:
                break
            unpacked += len(piece)
            check_unpacked(name, size, unpacked)
            yield piece
        while (code := process.poll()) is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(TICK_S)
            yield b""
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        process.stdout.close()
    if code == REFUSED:
        said.seek(0)
        reason = said.read()[-2_000:].decode(errors="replace").strip().split("\n")[-1]
        raise RequestError(f"input_uri: {name} is a Parquet file that cannot be read: {reason}")
    if code:
        why = f"code {code}" if code > 0 else f"signal {-code}"
        raise RequestError(f"input_uri: {name} is a Parquet file that ended the process that read it ({why}); {ADVICE}")
