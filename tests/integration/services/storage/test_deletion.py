"""Objects are deleted on stores of every age: in batches with Content-MD5, or one by one."""

import base64
import hashlib
from typing import Any

import pytest

from services.storage.errors import ObjectStoreError
from tests.support.s3_proxy import Request, S3Proxy, s3_proxy
from tests.support.stack import Process, Stack


def insist_on_md5(request: Request) -> int | None:
    """Refuse a batch without Content-MD5 and any checksum header, as older stores do."""
    if not request.is_batch_delete:
        return None
    digest = base64.b64encode(hashlib.md5(request.body).digest()).decode()
    is_old = not any("checksum" in name for name in request.headers)
    return None if request.headers.get("content-md5") == digest and is_old else 400


@pytest.mark.parametrize("status", [None, 400, 405, 501])
def test_objects_are_deleted_in_batches_or_one_by_one(stack: Stack, status: int | None) -> None:
    """status: with which the store refuses batches; None if it accepts those with Content-MD5."""
    proxy = S3Proxy(refuse=lambda request: status if status and request.is_batch_delete else insist_on_md5(request))
    names = [f"deleting/{status}/{number} ü&<" for number in range(5)]
    with s3_proxy(stack.settings("pruner"), proxy) as store:
        for name in names:
            store.put(name, b"x", content_type="text/plain")
        store.delete([*names, "deleting/missing"])
        assert list(store.keys(f"deleting/{status}/")) == []
    singles = [request for request in proxy.requests if request.method == "DELETE"]
    assert len(singles) == (6 if status else 0)
    assert sum(request.is_batch_delete for request in proxy.requests) == 1


def test_a_store_that_permits_no_deleting(stack: Stack) -> None:
    proxy = S3Proxy(refuse=lambda request: 403 if request.method in ("POST", "DELETE") else None)
    with s3_proxy(stack.settings("pruner"), proxy) as store:
        store.put("kept/object", b"x", content_type="text/plain")
        with pytest.raises(ObjectStoreError, match=r"s3://.*kept/object could not be deleted: .*"):
            store.delete(["kept/object"])
        assert len(proxy.requests) < 10


@pytest.mark.usefixtures("dispatcher")
def test_check_and_prune_work_with_an_older_store(stack: Stack, darkroom_here: Any, dispatcher: Process) -> None:
    proxy = S3Proxy(refuse=insist_on_md5)
    orphan = "blobs/sha256/00/" + "0" * 64
    with s3_proxy(stack.settings("pruner"), proxy) as store:
        store.put(orphan, b"x", content_type="text/plain")
        endpoint = {"DARKROOM_S3_ENDPOINT_URL": store.client.meta.endpoint_url}
        done = darkroom_here("check", **endpoint)
        assert "objects can be written, read and deleted" in done.stdout, done.stdout
        done = darkroom_here("prune", "--blobs-older-than-hours", "0", **endpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert stack.store().etag(orphan) is None
    assert any(request.is_batch_delete for request in proxy.requests)
