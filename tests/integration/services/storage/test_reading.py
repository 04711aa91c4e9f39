"""An object that trickles in is given up, however often a byte of it comes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import IncompleteReadError, ReadTimeoutError

from services.storage import reading
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient
from tests.support.s3_proxy import S3Proxy, s3_proxy
from tests.support.stack import Stack

KEY = "trickling/object"


def stream(store: ObjectStore, size: int) -> Iterator[bytes]:
    return store.stream(KEY, etag=store.etag(KEY) or "", chunk=size)


@pytest.mark.parametrize(
    "read",
    [lambda store: store.get_at_most(KEY, 2**20), lambda store: list(stream(store, 2**20))],
    ids=["all", "stream"],
)
def test_a_body_that_trickles_is_given_up(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, read: Callable[[ObjectStore], Any]
) -> None:
    """The whole of it would take an hour."""
    monkeypatch.setattr(reading, "PATIENCE_S", 0.5)
    stack.store().put(KEY, bytes(36_000), content_type="")
    slow, name = S3Proxy(trickles=lambda request: True), "s3://darkroom/trickling/object"
    with s3_proxy(stack.settings("worker"), slow) as store, pytest.raises(ReadTimeoutError, match=name) as error:
        read(store)
    assert is_transient(error.value)


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 5 * 2**20])
def test_pieces_have_the_size_that_was_asked_for(stack: Stack, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    stack.store().put(KEY, content[:size], content_type="")
    pieces = list(stream(stack.store(), 2**20))
    assert b"".join(pieces) == content[:size] == stack.store().get_at_most(KEY, size)
    assert [len(piece) for piece in pieces] == [min(2**20, size - start) for start in range(0, size, 2**20)]


@pytest.mark.parametrize("read", [lambda store: store.get_at_most(KEY, 100), lambda store: list(stream(store, 10))])
def test_a_body_that_ends_early_is_not_taken_for_the_object(stack: Stack, read: Callable[[ObjectStore], Any]) -> None:
    stack.store().put(KEY, bytes(90), content_type="")
    half = S3Proxy(cuts=lambda request: request.method == "GET")
    with (
        s3_proxy(stack.settings("worker"), half) as store,
        pytest.raises(IncompleteReadError, match="45 read") as error,
    ):
        read(store)
    assert is_transient(error.value)
