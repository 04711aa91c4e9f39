"""The listings of a job name every image once, whatever failed before, in bounded memory."""

import itertools
import json
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import finalizer, listings, planner
from services.job_queue import jobs, leases
from services.job_queue.leases import Lease, LeaseLost
from services.storage.streaming import StreamedObject
from tests.support.job_queue import call_function, claim, end_shards, settle_shard, submit_planned
from tests.support.stack import Stack

pytestmark = pytest.mark.usefixtures("small_batches")

MIB = 2**20


def listed(stack: Stack, job_id: uuid.UUID) -> list[int]:
    """The images that the listings of the job's manifest name, in order."""
    store = stack.store()
    manifest = json.loads(store.get(stack.job(job_id).manifest_key))
    return [json.loads(line)["index"] for key in manifest["outputs"] for line in store.get(key).splitlines()]


def give_up(engine: Engine, lease: Lease) -> None:
    """Fail the job's finalizing for good."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET attempts = 2 WHERE id = :id"), {"id": lease.id})
    with engine.begin() as connection:
        leases.fail_attempt(connection, lease, "boom")
        connection.execute(text("UPDATE work SET state = 'failed', run_after = NULL WHERE id = :id"), {"id": lease.id})
        jobs.fail_job(connection, lease.job_id, "finalizing failed")


def retry(stack: Stack, engine: Engine, worker_id: uuid.UUID, job_id: uuid.UUID) -> Lease:
    """Begin the next revision, make its images, and claim its finalizing."""
    call_function(stack, "retry_job", job_id)
    (lease,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), lease) is None
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    (finalize,) = claim(engine, worker_id, "finalize")
    return finalize


def test_images_of_a_revision_without_a_manifest_are_listed_by_the_next(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    (finalize,) = claim(engine, worker_id, "finalize")
    give_up(engine, finalize)
    assert stack.job(job_id).state == "failed"
    assert finalizer.finalize(engine, stack.store(), retry(stack, engine, worker_id, job_id)) == "succeeded"
    assert listed(stack, job_id) == list(range(40))
    assert stack.job(job_id).reason is None


NO_MANIFESTS = [
    b"",
    b"[]",
    b'{"outputs": 5}',
    b'{"outputs": [5]}',
    b'{"outputs": [], "archives": [{}]}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("manifest", ["stored", "removed", *NO_MANIFESTS, bytes(17 * MIB)], ids=range(9))
def test_each_image_is_listed_once_over_three_revisions(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, manifest: str | bytes
) -> None:
    """The first revision is listed, the second is not, and the third lists what the first did not."""
    job_id = submit_planned(stack, engine, worker_id)
    finalize = end_shards(engine, worker_id, lambda shard: shard.start == 0)
    assert finalizer.finalize(engine, stack.store(), finalize) == "partial"
    assert listed(stack, job_id) == list(range(16))
    give_up(engine, retry(stack, engine, worker_id, job_id))
    if manifest == "removed":
        stack.store().delete([stack.job(job_id).manifest_key])
    elif isinstance(manifest, bytes):  # who may write to the bucket has replaced it
        stack.store().put(stack.job(job_id).manifest_key, manifest, content_type="")
    assert finalizer.finalize(engine, stack.store(), retry(stack, engine, worker_id, job_id)) == "succeeded"
    assert listed(stack, job_id) == list(range(40))


def test_finalizing_again_after_a_crash_writes_the_same(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    (finalize,) = claim(engine, worker_id, "finalize")

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "end_job", crash)
        with pytest.raises(KeyboardInterrupt):
            finalizer.finalize(engine, stack.store(), finalize)
    store, prefix = stack.store(), f"outputs/default/{job_id}/"
    before = {key: store.get(key) for key in store.keys(prefix)}
    assert finalizer.finalize(engine, stack.store(), finalize) == "succeeded"
    assert {key: store.get(key) for key in store.keys(prefix)} == before


def test_a_finalizer_that_wakes_late_does_not_replace_the_manifest_of_a_later_revision(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    """It froze after its last page, when nothing but the manifest was left to write."""
    job_id = submit_planned(stack, engine, worker_id)
    finalize = end_shards(engine, worker_id, lambda shard: shard.start == 0)
    pages = itertools.count(1)

    def freeze() -> None:
        if next(pages) == 4:
            with engine.begin() as connection:
                leases.release_lease(connection, finalize)
            (again,) = claim(engine, worker_id, "finalize")
            assert finalizer.finalize(engine, stack.store(), again) == "partial"
            assert finalizer.finalize(engine, stack.store(), retry(stack, engine, worker_id, job_id)) == "succeeded"

    with pytest.raises(LeaseLost):
        finalizer.finalize(engine, stack.store(), finalize, tick=freeze)
    assert listed(stack, job_id) == list(range(40))


def test_a_manifest_whose_answer_was_lost_counts_as_stored(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit_planned(stack, engine, worker_id)
    finalize, store = end_shards(engine, worker_id, lambda shard: True), stack.store()
    put = store.put_if_unchanged

    def put_twice(*arguments: Any, **options: Any) -> str | None:
        put(*arguments, **options)
        return put(*arguments, **options)  # the client of S3 repeats a request without an answer

    monkeypatch.setattr(store, "put_if_unchanged", put_twice)
    assert finalizer.finalize(engine, store, finalize) == "succeeded"
    assert listed(stack, job_id) == list(range(40))


def test_a_job_whose_input_was_removed_after_its_images_were_made_is_listed_without_what_was_in_it(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    uri = stack.upload("removed-late.jsonl", b'{"class_label": 1, "id": "a"}\n' * 1 + b'{"class_label": 2}\n' * 39)
    job_id = stack.submit({"input_uri": uri})
    (planning,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), planning) is None
    finalize = end_shards(engine, worker_id, lambda shard: True)
    stack.store().delete(["inputs/default/removed-late.jsonl"])
    assert finalizer.finalize(engine, stack.store(), finalize) == "succeeded"
    assert listed(stack, job_id) == list(range(40))
    job = stack.job(job_id)
    assert job.reason == (
        f"its listings have no ids and metadata: {uri} was replaced or removed after the job was planned"
    )


def test_a_listing_is_cut_into_files(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "LINES_PER_FILE", 20)
    job_id = submit_planned(stack, engine, worker_id)
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    (finalize,) = claim(engine, worker_id, "finalize")
    finalizer.finalize(engine, stack.store(), finalize)
    assert listed(stack, job_id) == list(range(40))
    manifest = json.loads(stack.store().get(stack.job(job_id).manifest_key))
    assert [key.rsplit("/")[-1] for key in manifest["outputs"]] == ["outputs-00000.jsonl", "outputs-00001.jsonl"]
    assert stack.store().get(manifest["errors"]) == b""
    assert manifest["plan"] == stack.job(job_id).plan
    assert manifest["request"] == stack.job(job_id).request


# -- streamed objects --------------------------------------------------------------------------


def uploads(stack: Stack, prefix: str) -> list[Any]:
    store = stack.store()
    found: list[Any] = store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=prefix).get("Uploads", [])
    return found


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 20 * MIB])
def test_a_streamed_object_has_every_byte(stack: Stack, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with StreamedObject(stack.store(), f"streamed/{size}", content_type="text/plain") as streamed:
        for start in range(0, size, 3 * MIB):
            streamed.write(content[start : start + 3 * MIB])
    assert stack.store().get(f"streamed/{size}") == content
    assert uploads(stack, "streamed/") == []


def test_an_error_leaves_neither_an_object_nor_parts(stack: Stack) -> None:
    def write() -> None:
        with StreamedObject(stack.store(), "streamed/broken", content_type="text/plain") as streamed:
            streamed.write(bytes(17 * MIB))
            assert len(uploads(stack, "streamed/broken")) == 1
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write()
    assert stack.store().etag("streamed/broken") is None
    assert uploads(stack, "streamed/broken") == []
