"""Uploads take turns by tenant, within a bound of memory, and none occupies a thread while it waits."""

import threading
import time
import uuid
from typing import Any

import numpy as np
import pytest

from services.job_queue.leases import Lease
from services.job_queue.states import WorkKind
from services.job_requests.image_spec import ImageSpec
from services.worker import upload_queue
from services.worker.held_shards import HeldShard
from services.worker.images import Developed
from services.worker.upload_queue import AT_ONCE, MAX_BYTES, MAX_SLOW, MIN_BYTES, Upload, UploadQueue

SPEC = ImageSpec(0, 0, 1, 1, "ddim", 1.0)


def make_shard(tenant: str) -> HeldShard:
    return HeldShard(
        Lease(1, 1, uuid.uuid4(), WorkKind.SAMPLE, "default", tenant, 0, 16, None, 0, False, None, None, None)
    )


def make_upload(shard: HeldShard, size: int = 8) -> Upload:
    return Upload(Developed(shard, SPEC, np.zeros((size, size, 3), np.uint8), "cpu"), "cpu")


@pytest.fixture
def held() -> set[HeldShard]:
    return {make_shard("slow"), make_shard("other")}


@pytest.fixture
def queue(held: Any) -> UploadQueue:
    return UploadQueue(held)


def of(held: set[HeldShard], tenant: str) -> HeldShard:
    return next(shard for shard in held if shard.lease.tenant == tenant)


def test_memory_is_counted_in_bytes_and_one_image_always_fits(queue: UploadQueue, held: set[HeldShard]) -> None:
    shard, megabytes = of(held, "other"), 3 * 2**20
    accepted = 0
    while queue.put(make_upload(shard, 1024), 0.01):
        accepted += 1
    assert accepted == MAX_BYTES // megabytes
    assert not queue.put(make_upload(shard, 1024), 0.01)
    for _ in range(accepted):
        upload = queue.take()
        assert upload is not None
        queue.finish(upload, stored=True)
    assert queue.put(make_upload(shard, 16 * 1024), 0.01)  # 768 MiB
    assert not queue.put(make_upload(shard), 0.01)


def test_small_images_are_bounded_in_number(queue: UploadQueue, held: set[HeldShard]) -> None:
    shard = of(held, "other")
    for _ in range(MAX_BYTES // MIN_BYTES):
        assert queue.put(make_upload(shard), 0.01)
    assert not queue.put(make_upload(shard), 0.01)


def test_slow_uploads_of_one_tenant_leave_threads_to_others(
    queue: UploadQueue, held: set[HeldShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_queue, "SLOW_S", 0.2)
    for _ in range(3 * AT_ONCE):
        queue.put(make_upload(of(held, "slow")), 1.0)
    stuck = [queue.take() for _ in range(AT_ONCE)]  # none of them ends
    assert {upload.tenant for upload in stuck if upload} == {"slow"}
    queue.put(make_upload(of(held, "other")), 1.0)
    began = time.monotonic()
    upload = queue.take()
    assert upload is not None
    assert upload.tenant == "other"
    assert time.monotonic() - began < 1.0
    queue.finish(upload, stored=True)
    found: list[Upload | None] = []
    taker = threading.Thread(target=lambda: found.append(queue.take()), daemon=True)
    taker.start()
    taker.join(1.0)
    assert found == [], f"the slow tenant got another thread beside its {AT_ONCE}, of {MAX_SLOW}"


def test_an_upload_that_failed_occupies_no_thread_until_it_is_due(queue: UploadQueue, held: set[HeldShard]) -> None:
    queue.put(make_upload(of(held, "slow")), 1.0)
    failed = queue.take()
    assert failed is not None
    assert queue.retry(failed, "503")
    queue.put(make_upload(of(held, "other")), 1.0)
    other = queue.take()
    assert other is not None
    assert other.tenant == "other"
    queue.finish(other, stored=True)
    began = time.monotonic()
    assert queue.take() is failed
    assert 0.3 < time.monotonic() - began < 2.0


def test_images_that_cannot_be_stored_while_others_can_are_given_up(
    queue: UploadQueue, held: set[HeldShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_queue, "GRACE_S", 0.1)
    slow, other = of(held, "slow"), of(held, "other")
    queue.put(make_upload(slow), 1.0)
    failed = queue.take()
    assert failed is not None
    assert queue.retry(failed, "503")
    time.sleep(0.2)
    assert queue.hopeless() == {}, "an outage is waited for"
    queue.put(make_upload(other), 1.0)
    stored = queue.take()
    assert stored is not None
    queue.finish(stored, stored=True)
    assert queue.hopeless() == {slow: "503"}
    held.remove(slow)
    queue.discard_ended()
    queue.close()
    assert queue.take() is None


def test_an_upload_is_not_tried_for_ever(
    queue: UploadQueue, held: set[HeldShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_queue, "LONGEST_WAIT_S", 0.0)
    queue.put(make_upload(of(held, "slow")), 1.0)
    upload = queue.take()
    assert upload is not None
    time.sleep(0.01)
    assert not queue.retry(upload, "503")


def test_what_the_store_has_accepted_occupies_no_thread_until_it_is_checked(
    queue: UploadQueue, held: set[HeldShard]
) -> None:
    shard = of(held, "other")
    for _ in range(AT_ONCE + 1):
        assert queue.put(make_upload(shard), 0.01)
    uploads = [queue.take() for _ in range(AT_ONCE)]
    assert queue._next(time.monotonic()) is None
    first = uploads[0]
    assert first is not None
    queue.accept(first)
    assert queue.is_storing
    assert shard.storing == AT_ONCE
    last = queue.take()
    assert last is not None
    queue.accept(last)
    for upload in uploads[1:]:
        assert upload is not None
        queue.accept(upload)
    assert not queue.is_storing
    assert shard.storing == 0
    queue.check_again(first)
    assert queue.is_storing
    assert shard.storing == 1
    assert queue.take() is first
    assert first.is_doubtful
    queue.finish(first, stored=False)
    assert shard.storing == 0
