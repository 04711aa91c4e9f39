"""Parquet files that are hostile or damaged, read by the real process: it may end, and its parent says why."""

import io
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from services.job_requests import parquet_stream
from services.job_requests.parquet_stream import CODE, read_parquet
from services.job_requests.strict_json import RequestError


def write(columns: dict[str, Any], **options: Any) -> bytes:
    pq.write_table(pa.table(columns), buffer := io.BytesIO(), **options)
    return buffer.getvalue()


opened = list[Iterator[bytes]]()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """One file is read at a time: a test that fails gives its turn back."""
    yield
    while opened:
        opened.pop().close()  # type: ignore[attr-defined]


def read(body: bytes) -> Iterator[bytes]:
    opened.append(read_parquet("'x.parquet'", iter([body]), len(body)))
    return opened[-1]


def refusal_of(pieces: Iterator[bytes]) -> str:
    """Read to the end, and return why that is refused."""
    with pytest.raises(RequestError) as error:
        for _ in pieces:
            pass
    return str(error.value)


def refusal(body: bytes) -> str:
    reason = refusal_of(read(body))
    assert reason.startswith("input_uri: 'x.parquet' "), reason
    assert "\n" not in reason
    assert len(reason) < 800
    return reason


def child(pieces: Iterator[bytes]) -> psutil.Process:
    """Read until the process runs, and return it."""
    while True:
        next(pieces)
        for one in psutil.Process().children():
            with suppress(psutil.Error):  # of another test, and ended
                if CODE in one.cmdline():
                    return one


def repeated(values: Any, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0]).take(pa.nulls(count, pa.int32()).fill_null(0)), values)


LONG = {"seed": list(range(400_000))}


def test_the_rows_are_the_lines() -> None:
    body = write({"class_label": [1, 2], "caption": ["a", None]})
    assert b"".join(read(body)) == b'{"class_label": 1, "caption": "a"}\n{"class_label": 2}\n'


def test_the_process_has_no_secrets_and_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_S3_SECRET_ACCESS_KEY", "hush")
    with closing(read(write(LONG))) as pieces:  # type: ignore[type-var]
        process = child(pieces)
        while not next(pieces):  # it has set its limits once it writes
            pass
        assert not [name for name in process.environ() if name.startswith(("DARKROOM", "AWS"))]
        assert process.rlimit(psutil.RLIMIT_AS)[0] < 4 * 2**30
        assert process.rlimit(psutil.RLIMIT_CPU)[0] == 180
        assert process.rlimit(psutil.RLIMIT_FSIZE)[0] == 2**16
        assert process.rlimit(psutil.RLIMIT_NOFILE) == (16, 16)
        assert process.rlimit(psutil.RLIMIT_NPROC) == (0, 0)
        assert "NoNewPrivs:\t1" in Path(f"/proc/{process.pid}/status").read_text()
        assert not [one for one in process.open_files() if "(deleted)" not in one.path]
    assert not process.is_running()


# A child of the same user looks at its parent, before and after the parent hides.
LOOKING = """
import ctypes, os
from services.job_requests.parquet_stream import hide_memory

def is_open():
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        open(f"/proc/{os.getppid()}/environ").read()
        open(f"/proc/{os.getppid()}/mem", "rb").close()
    except PermissionError:
        os._exit(1)
    os._exit(0)

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # another user may be looked at, as at the start of a program
print(is_open())
hide_memory()
print(is_open())
"""


def test_the_memory_of_the_dispatcher_is_closed_to_the_process() -> None:
    answer = subprocess.run([sys.executable, "-c", LOOKING], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "False"]


def test_a_process_that_is_killed_rejects_the_input_and_the_next_one_is_read() -> None:
    pieces = read(write(LONG))
    process = child(pieces)
    process.kill()
    assert refusal_of(pieces) == (
        "input_uri: 'x.parquet' is a Parquet file that ended the process that read it (signal 9); permitted: one that "
        "is read within the limits of memory and time; write it again, in smaller row groups or files"
    )
    assert b"".join(read(write({"seed": [1]}))) == b'{"seed": 1}\n'


def test_a_process_that_hangs_is_ended_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_stream, "LIMIT_S", 2.0)
    pieces = read(write(LONG))
    process = child(pieces)
    process.suspend()
    assert "is a Parquet file that takes too long to read; permitted: one that is read within" in refusal_of(pieces)
    assert not process.is_running()


def test_a_reader_waits_for_its_turn_with_steps_and_an_abandoned_one_gives_it_back() -> None:
    first, second = read(write(LONG)), read(write({"seed": [1]}))
    process = child(first)
    assert [next(second) for _ in range(2)] == [b"", b""]
    first.close()  # type: ignore[attr-defined]
    assert not process.is_running()
    assert b"".join(second) == b'{"seed": 1}\n'


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pieces = read(write(LONG))
    child(pieces)
    assert list(tmp_path.iterdir()) == []


def test_a_bomb_of_repeated_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.job_requests.gzip_stream.FREE", 4 * 2**20)
    body = write({"caption": repeated(["x" * 1_000], 1_000_000)})
    assert len(body) < 2**20
    assert "and unpacks to more than" in refusal(body)


@pytest.mark.parametrize(
    "columns",
    [
        {"boxes": pa.ListArray.from_arrays(pa.array([0, 60_000_000], pa.int32()), repeated([0], 60_000_000))},
        {"caption": ["x" * 500_000_000]},
    ],
    ids=["a row of millions", "a value of 500 MB"],
)
def test_a_row_that_does_not_fit_in_memory_is_refused(columns: dict[str, Any]) -> None:
    body = write(columns, compression="ZSTD")
    assert len(body) < 2**20
    reason = refusal(body)
    assert (
        "takes more than 402653184 bytes of memory; permitted: smaller pages and rows" in reason or "signal" in reason
    )


def test_what_is_damaged_is_refused() -> None:
    body = write({"caption": ["some words"] * 100, "seed": list(range(100))})
    footer = struct.unpack("<I", body[-8:-4])[0]
    for broken in (
        body[: len(body) // 2],
        b"PAR1",
        b"PAR1" + bytes(100),
        body[:-8] + struct.pack("<I", 2**32 - 1) + b"PAR1",
        body[: -8 - footer] + os.urandom(footer) + body[-8:],
        b"PAR1" + bytes(300) + body[304:],
    ):
        assert "is a Parquet file that" in refusal(broken)


def test_a_claim_of_rows_is_not_believed() -> None:
    """The footer says 2**60 rows, and there are three."""
    body = write({"seed": [1, 2, 3]}, use_dictionary=False, write_statistics=False, store_schema=False)
    footer = struct.unpack("<I", body[-8:-4])[0]
    thrift, three, many = body[-8 - footer : -8], b"\x06", bytearray()
    claim = 2**60 << 1  # as thrift writes an i64
    while claim:
        many.append(claim & 127 | (128 if claim > 127 else 0))
        claim >>= 7
    claimed = thrift.replace(b"\x16" + three, b"\x16" + bytes(many))
    assert claimed != thrift
    reason = refusal(body[: -8 - footer] + claimed + struct.pack("<I", len(claimed)) + b"PAR1")
    assert "row group 0 has 3 rows, and its footer says 1152921504606846976; write it again" in reason


class _Keys(encryption.KmsClient):
    def __init__(self, config: Any) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, name: str) -> bytes:
        return key.hex().encode()

    def unwrap_key(self, wrapped: bytes, name: str) -> bytes:
        return bytes.fromhex(wrapped.decode())


def test_encrypted_columns_are_refused() -> None:
    factory = encryption.CryptoFactory(_Keys)
    rules = encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": ["seed"]}, plaintext_footer=True)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), rules)
    reason = refusal(write({"seed": [1, 2]}, encryption_properties=properties))
    assert "is a Parquet file that cannot be read: " in reason


def test_a_large_file_is_refused_unread() -> None:
    with pytest.raises(RequestError) as error:
        next(read_parquet("'x'", iter(()), 512 * 2**20 + 1))
    assert str(error.value) == (
        "input_uri: 'x' has 536870913 bytes; permitted: Parquet files of at most 536870912 bytes, and several of them "
        "under a prefix"
    )


PARENT = """
import psutil, sys, time
from services.job_requests.parquet_stream import CODE, read_parquet
body = open(sys.argv[1], "rb").read()
pieces = read_parquet("x", iter([body]), len(body))
while not next(pieces):
    pass
print(*[child.pid for child in psutil.Process().children() if CODE in child.cmdline()], flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    """Even one that is stopped, and would not notice that nobody reads."""
    path = tmp_path / "x.parquet"
    path.write_bytes(write(LONG))
    with subprocess.Popen([sys.executable, "-c", PARENT, path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        process.suspend()
        parent.kill()
    gone, _ = psutil.wait_procs([process], timeout=20)
    assert gone
