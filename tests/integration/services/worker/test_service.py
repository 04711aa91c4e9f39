"""Jobs through a running dispatcher and a running worker: outputs, listings, cancellation and formats."""

import hashlib
import io
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image
from sqlalchemy import text

from services.storage import layout
from tests.support.job_requests import JOB, LONG
from tests.support.stack import Process, Stack


def test_a_job_leaves_images_listings_and_a_manifest(stack: Stack, dispatcher: Process, worker: Process) -> None:
    job_id = stack.submit(JOB)
    row = stack.wait(job_id)
    assert (row.state, row.total, row.succeeded, row.failed) == ("succeeded", 10, 10, 0)
    store, prefix = stack.store(), f"outputs/default/{job_id}"
    assert row.manifest_key == f"{prefix}/manifest.json"

    manifest = json.loads(store.get(row.manifest_key))
    assert manifest["counts"] == {"total": 10, "succeeded": 10, "failed": 0}
    assert manifest["request"] == JOB
    assert manifest["release"]["name"] == "tiny"
    assert len(manifest["release"]["digest"]) == 64
    assert manifest["outputs"] == [f"{prefix}/outputs-00000.jsonl"]

    lines = [json.loads(line) for line in store.get(manifest["outputs"][0]).decode().splitlines()]
    assert [line["index"] for line in lines] == list(range(10))
    assert [line["item"] for line in lines] == [0] * 5 + [1] * 5
    assert [line["seed"] for line in lines] == list(range(7, 17))
    assert lines[0]["id"] == "three"
    assert lines[0]["metadata"] == {"sku": "A-1"}
    for line in lines:
        assert line["key"] == f"{prefix}/images/{line['index']:08d}.png"
        body = store.get(line["key"])
        assert hashlib.sha256(body).hexdigest() == line["sha256"]
        assert len(body) == line["bytes"]
        assert Image.open(io.BytesIO(body)).size == (32, 32)
    assert len({line["sha256"] for line in lines}) == 10
    assert store.get(f"{prefix}/errors.jsonl") == b""


def test_a_drawn_seed_is_recorded_and_reproduces_the_images(stack: Stack, dispatcher: Process, worker: Process) -> None:
    first = stack.submit({"items": [{"class_label": 2}], "images_per_item": 3, "steps": 2})
    seeds = [row.seed for row in stack.outputs(stack.wait(first).id)]
    again = stack.submit({"items": [{"class_label": 2, "seed": seed} for seed in seeds], "steps": 2})
    stack.wait(again)
    assert stack.images(again) == stack.images(first)


def test_work_is_found_without_a_broker(stack: Stack, dispatcher: Process, worker: Process) -> None:
    """Messages are hints: with the broker wiped again and again, jobs still run."""
    import redis

    url = stack.settings("worker").broker_url
    assert url is not None
    broker = redis.Redis.from_url(url.get_secret_value())
    job_ids = []
    for seed in range(3):
        broker.flushall()
        job_ids.append(stack.submit({"items": [{"class_label": 1}], "steps": 2, "seed": seed}))
        broker.flushall()
    for job_id in job_ids:
        assert stack.wait(job_id, timeout=30).state == "succeeded"
    broker.close()


def test_a_release_that_cannot_be_loaded_fails_its_job(stack: Stack, dispatcher: Process, worker: Process) -> None:
    """Its weights are missing in S3: after three attempts every image fails with that error."""
    from services.registry import aliases, releases
    from tests.support.releases import make_tiny_release

    folder = make_tiny_release(stack.root / "lost-release", seed=1, name="lost")
    with stack.engine("publisher").begin() as connection:
        releases.publish(connection, stack.store(), folder)
        aliases.promote(connection, "lost@1", "production")
    manifest = json.loads((folder / "release.json").read_text())
    store = stack.store()
    key = layout.blob_key(manifest["files"]["unet.safetensors"]["sha256"])
    store.client.delete_object(Bucket=store.bucket, Key=key)
    row = stack.wait(stack.submit({"items": [{"class_label": 1}], "images_per_item": 2}, model="lost"))
    assert (row.state, row.failed) == ("failed", 2)
    assert all("cannot be loaded" in output.error for output in stack.outputs(row.id))
    errors = store.get(f"outputs/default/{row.id}/errors.jsonl").decode().splitlines()
    assert [json.loads(line)["index"] for line in errors] == [0, 1]
    # Nothing else stops.
    assert stack.wait(stack.submit({"items": [{"class_label": 1}], "steps": 1})).state == "succeeded"


def test_a_cancelled_job_is_completed_by_a_revision(stack: Stack, dispatcher: Process, worker: Process) -> None:
    job_id = stack.submit({**LONG, "steps": 40})
    deadline = time.monotonic() + 60
    while stack.job(job_id).succeeded == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with stack.engine("submitter").begin() as connection:
        connection.execute(text("SELECT cancel_job(:id)"), {"id": job_id})
    row = stack.wait(job_id, timeout=60)
    assert row.state == "cancelled"
    assert 0 < row.succeeded < 160
    manifest = json.loads(stack.store().get(row.manifest_key))
    assert manifest["counts"]["succeeded"] == row.succeeded
    kept = {output.index: output.created_at for output in stack.outputs(job_id)}
    with stack.engine("submitter").begin() as connection:
        assert connection.scalar(text("SELECT retry_job(:id)"), {"id": job_id}) == 2
    row = stack.wait(job_id, timeout=120)
    assert (row.state, row.succeeded) == ("succeeded", 160)
    after = {output.index: output.created_at for output in stack.outputs(job_id)}
    assert {index: after[index] for index in kept} == kept
    manifest = json.loads(stack.store().get(row.manifest_key))
    prefix = f"outputs/default/{job_id}"
    assert manifest["outputs"] == [f"{prefix}/outputs-00000.jsonl", f"{prefix}/outputs-r2-00000.jsonl"]
    lines = [json.loads(line) for key in manifest["outputs"] for line in stack.store().get(key).decode().splitlines()]
    assert sorted(line["index"] for line in lines) == list(range(160))


def test_a_deadline_ends_a_running_job(stack: Stack, dispatcher: Process, worker: Process) -> None:
    job_id = stack.submit({**LONG, "steps": 200}, deadline=f"{datetime.now(UTC) + timedelta(seconds=2):%F %T.%f+00}")
    row = stack.wait(job_id, timeout=30)
    assert row.state in ("failed", "partial")
    assert row.succeeded + row.failed == 160
    assert all("its deadline" in output.error for output in stack.outputs(job_id) if output.error)


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_other_formats(stack: Stack, dispatcher: Process, worker: Process, image_format: str) -> None:
    job_id = stack.submit({"items": [{"class_label": 1}], "steps": 1, "format": image_format})
    assert stack.wait(job_id).state == "succeeded"
    assert Image.open(io.BytesIO(stack.images(job_id)[0])).format == image_format.upper()
