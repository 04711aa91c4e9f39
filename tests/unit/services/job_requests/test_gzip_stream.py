"""Gzip files are unpacked whole, however they are cut, in bounded memory, or refused with a reason."""

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from services.job_requests import gzip_stream
from services.job_requests.gzip_stream import gunzip
from services.job_requests.strict_json import RequestError


def cut(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    start = 0
    for size in sizes:
        yield body[start : start + size]
        start += size
    yield body[start:]


def test_members_are_unpacked_one_after_another_however_the_stream_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_stream, "PIECE", 100)
    draw = random.Random(0)
    for _ in range(200):
        monkeypatch.setattr(gzip_stream, "SLICE", draw.choice([1, 10, 64, 1_000]))
        members = [draw.randbytes(draw.choice([0, 1, 99, 100, 101, 700])) * draw.choice([1, 5]) for _ in range(3)]
        padding = bytes(draw.choice([0, 1, 20]))
        body = b"".join(gzip.compress(member) + padding for member in members)
        pieces = list(gunzip("x", cut(body, draw.choices(range(1, 90), k=8)), len(body)))
        assert b"".join(pieces) == b"".join(members)
        assert max(map(len, pieces)) <= 100


def test_a_bomb_is_refused_before_it_is_unpacked_and_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_stream, "FREE", 2 * 2**20)
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 70_000
    tracemalloc.start()
    sizes: list[int] = []
    with pytest.raises(RequestError) as error:
        sizes.extend(len(piece) for piece in gunzip("'inputs/a/b.gz'", iter([bomb]), len(bomb)))
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
    most = max(2 * 2**20, 100 * len(bomb))
    assert 2**20 <= sum(sizes) <= most
    assert str(error.value) == (
        f"input_uri: 'inputs/a/b.gz' has {len(bomb)} bytes and unpacks to more than {most}; permitted: {2 * 2**20}, "
        "or 100 times its own size"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (gzip.compress(b"abc" * 100, mtime=0)[:-9], "x is a gzip file that ends early; upload it again"),
        (gzip.compress(b"abc", mtime=0)[:12], "x is a gzip file that ends early"),
        (gzip.compress(b"abc", mtime=0)[:-8] + b"\1" * 8, "x is a damaged gzip file"),
        (gzip.compress(b"abc", mtime=0) + b"more", "x is a damaged gzip file"),
        (b"\x1f\x8b" + b"\0" * 30, "x is a damaged gzip file"),
    ],
)
def test_a_damaged_file_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as error:
        list(gunzip("x", iter([body]), len(body)))
    assert message in str(error.value)
