"""Compile caches in S3: one worker compiles, the others load, and what cannot be trusted is made again."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.observability import metrics
from services.worker.compile_cache import Cache, CompileCache, cache_key, entry_key
from tests.support.policies import assert_permitted
from tests.support.s3_proxy import S3Proxy, s3_proxy
from tests.support.stack import Stack


@pytest.fixture
def key(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A key of this test alone."""
    return {"profile": "cuda/one-card/torch-2.13", "rows": [8, 4, 1], "test": request.node.name}


@pytest.fixture
def caches(stack: Stack) -> CompileCache:
    return CompileCache(stack.store())


def unused() -> bytes:
    raise AssertionError("it compiles although there is a cache")


def count(outcome: str) -> float:
    return float(metrics.COMPILE_CACHE.labels(outcome)._value.get())


def test_the_first_worker_compiles_and_the_others_load_within_the_policy(
    caches: CompileCache, key: dict[str, Any], stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, record = type(stack.store().client), tmp_path / "calls"
    call = client._make_api_call

    def recording(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        with record.open("a") as file:
            file.write(f"{operation} {arguments.get('Key', '')}\n")
        return call(self, operation, arguments)

    monkeypatch.setattr(client, "_make_api_call", recording)
    made = caches.get(key, lambda: b"first")
    assert made == Cache.of(b"first")
    assert CompileCache(stack.store()).get(key, unused) == made
    assert CompileCache(stack.store()).get({**key, "rows": [16, 4, 1]}, lambda: b"other rows").content == b"other rows"
    assert_permitted(record, "A worker")


def test_of_two_workers_that_compile_at_once_the_first_writer_wins(
    caches: CompileCache, key: dict[str, Any], stack: Stack
) -> None:
    def compile_slowly() -> bytes:
        assert CompileCache(stack.store()).get(key, lambda: b"fast").content == b"fast"
        return b"slow"

    assert caches.get(key, compile_slowly).content == b"fast"
    assert caches.get(key, unused).content == b"fast"


@pytest.mark.parametrize("field", ["profile", "rows"])
def test_a_cache_that_was_made_for_something_else_is_refused_and_made_again(
    caches: CompileCache, key: dict[str, Any], stack: Stack, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As an entry that was copied from another bucket to this name."""
    other = caches.get({**key, field: "another"}, lambda: b"another").sha256
    entry = {"format": 1, "key": {**key, field: "another"}, "sha256": other, "bytes": 7}
    stack.store().put(entry_key(key), json.dumps(entry).encode(), content_type="application/json")
    before = count("refused")
    assert caches.get(key, lambda: b"again").content == b"again"
    assert count("refused") == before + 1
    assert f"was made for another {field}; the networks are compiled again" in caplog.text
    assert caches.get(key, unused).content == b"again"


@pytest.mark.parametrize("fault", ["content", "missing", "entry"])
def test_a_damaged_cache_is_made_again(
    caches: CompileCache, key: dict[str, Any], stack: Stack, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, store = f"whole {fault}".encode(), stack.store()
    path = cache_key(caches.get(key, lambda: content).sha256)
    if fault == "content":
        store.put(path, b"damaged", content_type="application/octet-stream")
    elif fault == "missing":
        store.client.delete_object(Bucket=store.bucket, Key=path)
    else:
        store.put(entry_key(key), b'{"key": ', content_type="application/json")
    before = count("damaged")
    assert caches.get(key, lambda: content).content == content
    assert count("damaged") == before + 1
    assert "the networks are compiled again" in caplog.text
    assert caches.get(key, unused).content == content


def test_a_worker_that_may_not_write_compiles_for_itself(
    key: dict[str, Any], stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = S3Proxy(refuse=lambda request: 403 if request.method == "PUT" else None)
    with s3_proxy(stack.settings("worker"), proxy) as store:
        before = count("not_stored")
        assert CompileCache(store).get(key, lambda: b"own").content == b"own"
        assert count("not_stored") == before + 1
    assert "no permission to write compiled/*" in caplog.text
