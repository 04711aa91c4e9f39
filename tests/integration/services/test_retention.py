"""Expired jobs are deleted completely, and blobs that a release needs stay, even during a concurrent publish."""

import gzip
import io
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from services import retention
from services.job_queue import expiry
from services.registry import releases
from services.registry.release_cache import ReleaseCache
from services.storage import layout
from services.storage.object_store import ObjectStore
from tests.support.releases import make_tiny_release
from tests.support.stack import Process, Stack
from training.model import release

NOW = timedelta(0)


@pytest.fixture
def job(stack: Stack, dispatcher: Process, worker: Process) -> uuid.UUID:
    """An ended job with four images."""
    job_id = stack.submit({"items": [{"class_label": 1}], "images_per_item": 4, "steps": 1})
    assert stack.wait(job_id).state == "succeeded"
    return job_id


@pytest.fixture
def kept_for_a_day(stack: Stack) -> Iterator[None]:
    """The retention of the jobs' tenant."""
    set_retention(stack, 1)
    yield
    set_retention(stack, None)


def set_retention(stack: Stack, days: int | None) -> None:
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE tenants SET retention_days = :days WHERE name = 'default'"), {"days": days})


def age(stack: Stack, job_id: uuid.UUID, hours: int) -> None:
    """Set the end of a job to some hours ago."""
    with stack.engine("migrator").begin() as connection:
        connection.execute(
            text("UPDATE jobs SET finished_at = now() - make_interval(hours => :hours) WHERE id = :id"),
            {"hours": hours, "id": job_id},
        )


def left_of(stack: Stack, job_id: uuid.UUID) -> dict[str, int]:
    """Count what exists of a job: rows of three tables, and objects."""
    with stack.engine("migrator").connect() as connection:
        counts = {
            name: connection.scalar(text(f"SELECT count(*) FROM {name} WHERE {column} = :id"), {"id": job_id})
            for name, column in (("jobs", "id"), ("outputs", "job_id"), ("work", "job_id"))
        }
    return {**counts, "objects": len(list(stack.store().keys(f"outputs/default/{job_id}/")))}


@pytest.mark.usefixtures("kept_for_a_day")
def test_images_with_names_and_thumbnails_are_deleted_too(
    stack: Stack, dispatcher: Process, worker: Process, darkroom_here: Any
) -> None:
    output = {"format": "webp", "quality": 50, "name": "{metadata.sku}-{seed}", "thumbnail": 16, "metadata": True}
    item = {"class_label": 1, "metadata": {"sku": "A-1"}}
    job_id = stack.submit({"items": [item], "images_per_item": 2, "steps": 1, "seed": 7, "output": output})
    assert stack.wait(job_id).state == "succeeded"
    store, prefix = stack.store(), f"outputs/default/{job_id}"
    keys = [row.key for row in stack.outputs(job_id)]
    assert keys == [f"{prefix}/images/A-1-7.webp", f"{prefix}/images/A-1-8.webp"]
    digest = json.loads(store.get(f"{prefix}/manifest.json"))["release"]["digest"]
    with Image.open(io.BytesIO(store.get(keys[1]))) as image:
        assert json.loads(image.getexif()[0x010E]) == {
            "job": str(job_id), "index": 1, "release": digest, "seed": 8
        }  # fmt: skip
    with Image.open(io.BytesIO(store.get(f"{prefix}/thumbnails/A-1-7.webp"))) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (16, 16))
    age(stack, job_id, 25)
    assert f"deleted job {job_id}" in darkroom_here("prune").stdout
    assert left_of(stack, job_id) == {"jobs": 0, "outputs": 0, "work": 0, "objects": 0}


@pytest.mark.usefixtures("kept_for_a_day")
def test_archives_and_unpacked_inputs_are_deleted_too(
    stack: Stack, dispatcher: Process, worker: Process, darkroom_here: Any
) -> None:
    """Those of a job that was never planned, too; nothing else under their prefix, and no input of the tenant's own."""
    uri = stack.upload("expiring/input-7.jsonl", gzip.compress(b'{"class_label": 1}\n'))
    job_id = stack.submit({"input_uri": f"{uri.rsplit('/', 1)[0]}/", "steps": 1, "output": {"archive": "tar"}})
    plain = stack.submit({"input_uri": stack.upload("input-8.jsonl", b'{"class_label": 1}\n'), "steps": 1})
    rejected = stack.submit({"input_uri": uri, "images_per_item": 0})
    for each in (job_id, plain, rejected):
        stack.wait(each)
    store = stack.store()
    names = sorted(key.rsplit("/", 1)[1] for key in store.keys(f"outputs/default/{job_id}/"))
    assert [re.sub(r"-\d+\.", "-N.", name) for name in names] == [
        "00000000.png", "archive-N.tar", "errors.jsonl", "input-N.json", "input-N.jsonl", "manifest.json",
        "outputs-N.jsonl",
    ]  # fmt: skip
    store.put(f"outputs/default/{job_id}/archive-r2-00000.parquet", b"PAR1", content_type="application/octet-stream")
    store.put(f"outputs/default/{rejected}/input-12.jsonl", b"{}\n", content_type="text/plain")
    store.put(other := f"outputs/default/{job_id}/notes.txt", b"mine", content_type="text/plain")
    for each in (job_id, plain, rejected):
        age(stack, each, 25)
    darkroom_here("prune")
    assert list(store.keys(f"outputs/default/{job_id}/")) == [other]
    assert left_of(stack, plain)["objects"] == left_of(stack, rejected)["objects"] == 0
    kept = {"inputs/default/expiring/input-7.jsonl", "inputs/default/input-8.jsonl"}
    assert kept <= set(store.keys("inputs/default/"))
    store.delete([other, *kept])


@pytest.mark.usefixtures("kept_for_a_day")
def test_an_expired_job_is_deleted_with_its_images(stack: Stack, job: uuid.UUID, darkroom_here: Any) -> None:
    younger = stack.submit({"items": [{"class_label": 1}], "steps": 1})
    stack.wait(younger)
    age(stack, job, 25)
    age(stack, younger, 23)
    before = left_of(stack, younger)
    assert left_of(stack, job) == {"jobs": 1, "outputs": 4, "work": 3, "objects": 7}
    told = darkroom_here("prune", "--dry-run").stdout
    assert f"job {job} of default, 4 images\n1 jobs and 0 blobs would be deleted." in told
    assert left_of(stack, job)["objects"] == 7
    told = darkroom_here("prune").stdout
    assert f"deleted job {job} of default, 4 images" in told
    assert left_of(stack, job) == {"jobs": 0, "outputs": 0, "work": 0, "objects": 0}
    assert left_of(stack, younger) == before


def test_without_a_retention_a_job_stays(stack: Stack, job: uuid.UUID) -> None:
    age(stack, job, 24 * 3650)
    assert list(retention.prune_jobs(stack.engine("pruner"), stack.store())) == []
    age(stack, job, 0)


@pytest.mark.usefixtures("kept_for_a_day")
def test_interrupted_pruning_is_completed_next_time(
    stack: Stack, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store fails after some objects are deleted. The job's row stays for the next time."""
    age(stack, job, 25)
    store, delete = stack.store(), ObjectStore.delete

    def halfway(self: ObjectStore, keys: Any) -> None:
        delete(self, list(keys)[:3])
        raise ConnectionError

    monkeypatch.setattr(ObjectStore, "delete", halfway)
    with suppress(ConnectionError):
        list(retention.prune_jobs(stack.engine("pruner"), store))
    assert left_of(stack, job) == {"jobs": 1, "outputs": 4, "work": 3, "objects": 4}
    monkeypatch.undo()
    assert [job] == [gone.id for gone in retention.prune_jobs(stack.engine("pruner"), store)]
    assert left_of(stack, job) == {"jobs": 0, "outputs": 0, "work": 0, "objects": 0}


@pytest.mark.usefixtures("kept_for_a_day")
def test_a_job_that_is_retried_meanwhile_stays(stack: Stack, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    age(stack, job, 25)
    found = expiry.expired_jobs

    def and_then_it_is_retried(connection: Any) -> Any:
        expired = found(connection)
        with stack.engine("migrator").begin() as other:
            other.execute(text("UPDATE jobs SET finished_at = NULL WHERE id = :id"), {"id": job})
        return expired

    monkeypatch.setattr(expiry, "expired_jobs", and_then_it_is_retried)
    assert list(retention.prune_jobs(stack.engine("pruner"), stack.store())) == []
    assert left_of(stack, job)["objects"] == 7
    age(stack, job, 0)


def test_only_blobs_that_no_release_needs_are_deleted(stack: Stack) -> None:
    store = stack.store()
    retention.prune_blobs(stack.engine("pruner"), store, NOW)  # those of other tests
    orphan = layout.blob_key("0" * 64)
    store.put_if_absent(orphan, b"of a publish that was killed")
    needed = set(store.keys("blobs/")) - {orphan}
    assert retention.prune_blobs(stack.engine("pruner"), store, timedelta(hours=1)) == 0
    assert retention.prune_blobs(stack.engine("pruner"), store, NOW) == 1
    assert set(store.keys("blobs/")) == needed


def test_no_blob_is_deleted_while_a_release_is_published(stack: Stack, tmp_path: Path) -> None:
    """The publisher has found its blobs in the store and not committed yet."""
    folder = make_tiny_release(tmp_path / "late", seed=5, name="late")
    with stack.engine("publisher").begin() as connection:
        releases.publish(connection, stack.store(), folder)
        assert retention.prune_blobs(stack.engine("pruner"), stack.store(), NOW) is None
    assert retention.prune_blobs(stack.engine("pruner"), stack.store(), NOW) == 0


def test_releases_published_while_blobs_are_pruned_are_complete(stack: Stack, tmp_path: Path) -> None:
    """Each release's blobs exist before it, as after a killed publish, so the pruner tries to delete them."""
    folders = [make_tiny_release(tmp_path / f"r{seed}", seed=seed, name=f"race{seed}") for seed in range(10, 16)]
    stop, removed, refused = threading.Event(), 0, 0

    def prune() -> None:
        nonlocal removed, refused
        while not stop.is_set():
            count = retention.prune_blobs(stack.engine("pruner"), stack.store(), NOW)
            removed, refused = removed + (count or 0), refused + (count is None)

    pruner = threading.Thread(target=prune)
    pruner.start()
    store = stack.store()
    try:
        for folder in folders:
            for file in sorted(folder.glob("*.safetensors")):
                body = file.read_bytes()
                store.put_if_absent(layout.blob_key(release.sha256_of(file)), body)
            with stack.engine("publisher").begin() as connection:
                releases.publish(connection, store, folder)
    finally:
        stop.set()
        pruner.join()
    assert removed > 0
    with stack.engine("worker").connect() as connection:
        for folder in folders:
            row = releases.find(connection, f"race{folder.name[1:]}@1")
            with ReleaseCache(store, tmp_path / "cache", 1.0).hold(row.manifest) as copy:
                assert copy.is_dir()


def test_rows_of_processes_that_stopped_long_ago_are_deleted(stack: Stack) -> None:
    with stack.engine("migrator").begin() as connection:
        for days in (1, 8):
            connection.execute(
                text("INSERT INTO workers (id, kind, host, pid, heartbeat_at) "
                     "VALUES (gen_random_uuid(), 'worker', 'here', 1, now() - make_interval(days => :days))"),
                {"days": days},
            )  # fmt: skip
    assert retention.prune_processes(stack.engine("pruner")) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET state = 'failed'",
        "INSERT INTO jobs (model, request) VALUES ('m', '{}')",
        "DELETE FROM releases",
        "DELETE FROM work",
        "UPDATE tenants SET retention_days = 1",
        "SELECT * FROM aliases",
    ],
)
def test_the_pruner_may_do_nothing_else(stack: Stack, statement: str) -> None:
    with stack.engine("pruner").begin() as connection, pytest.raises(ProgrammingError, match="permission denied"):
        connection.execute(text(statement))
