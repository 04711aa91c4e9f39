"""Pruning deletes only what a job can have written, in steps of bounded size, and what killed processes left."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services import retention
from services.job_queue import expiry
from services.storage.layout import BLOBS
from tests.support.commands import Darkroom
from tests.support.job_queue import call_function
from tests.support.s3_proxy import Request, S3Proxy, s3_proxy
from tests.support.stack import Stack

NOW = timedelta(0)


@pytest.fixture(autouse=True)
def kept_for_a_day(stack: Stack) -> Iterator[None]:
    """The retention of the jobs' tenant."""
    statement = text("UPDATE tenants SET retention_days = :days WHERE name = 'default'")
    with stack.engine("migrator").begin() as connection:
        connection.execute(statement, {"days": 1})
    yield
    with stack.engine("migrator").begin() as connection:
        connection.execute(statement, {"days": None})


def ended_job(stack: Stack, images: int, state: str = "partial", prefix: str = "outputs/default") -> uuid.UUID:
    """A job that ended two days ago with rows for `images` images, in shards of 16, and without an object."""
    job_id = stack.submit({"items": [{"class_label": 1}]})
    with stack.engine("migrator").begin() as connection:
        values = {"id": job_id, "images": images, "state": state, "prefix": prefix}
        for statement in (
            "DELETE FROM work WHERE job_id = :id",
            """
            INSERT INTO outputs (job_id, index, item, seed, key, sha256, bytes, profile)
            SELECT :id, i, 0, i, 'k' || i, repeat('0', 64), 1, 'p' FROM generate_series(0, :images - 1) AS i
            """,
            """
            INSERT INTO work (job_id, kind, start, stop, queue, tenant, rank, state)
            SELECT :id, 'sample', i, least(i + 16, :images), 'default', 'default', 0, 'done'
            FROM generate_series(0, :images - 1, 16) AS i
            """,
            """
            UPDATE jobs SET state = :state, finished_at = now() - interval '2 days', total = :images,
                succeeded = :images, plan = jsonb_build_object('output_prefix', CAST(:prefix AS text), 'format', 'png')
            WHERE id = :id
            """,
        ):
            connection.execute(text(statement), values)
    return job_id


def rows_of(stack: Stack, job_id: uuid.UUID) -> list[Any]:
    with stack.engine("migrator").connect() as connection:
        return [
            connection.scalar(text(f"SELECT count(*) FROM {table} WHERE {column} = :id"), {"id": job_id})
            for table, column in (("jobs", "id"), ("outputs", "job_id"), ("work", "job_id"))
        ]


def put(stack: Stack, *keys: str) -> None:
    store = stack.store()
    for key in keys:
        store.put(key, b"x", content_type="text/plain")


def test_objects_that_a_job_cannot_have_written_stay(stack: Stack) -> None:
    job_id, other = ended_job(stack, 2), uuid.uuid4()
    folder = f"outputs/default/{job_id}"
    own = ["images/00000000.png", "images/00000001.png", "images/123456789.png", "manifest.json"]
    own += ["outputs-00000.jsonl", "outputs-r2-00001.jsonl", "errors.jsonl", "errors-r2.jsonl"]
    of_others = ["images/00000000.jpg", "images/notes.png", "images/1.png", "notes.txt", "manifest.json.bak"]
    of_others += [f"images/{other}/images/00000000.png", f"images/{other}/manifest.json", f"{other}/manifest.json"]
    of_others += [f"images/00000000.png/{other}/manifest.json", "outputs/manifest.json", "errors.jsonl/manifest.json"]
    put(stack, *(f"{folder}/{name}" for name in own + of_others), f"{folder}-2/manifest.json")
    assert [job.id for job in retention.prune_jobs(stack.engine("pruner"), stack.store())] == [job_id]
    left = {key.removeprefix(f"{folder}/") for key in stack.store().keys(f"{folder}/")}
    assert left == set(of_others)
    assert stack.store().etag(f"{folder}-2/manifest.json") is not None
    assert rows_of(stack, job_id) == [0, 0, 0]


def test_no_transaction_is_open_while_s3_is_asked(stack: Stack) -> None:
    job_id = ended_job(stack, 40)
    put(stack, f"outputs/default/{job_id}/images/00000000.png", f"outputs/default/{job_id}/manifest.json")
    engine = stack.engine("pruner")
    waiting: list[int] = []

    def look(request: Request) -> None:
        with stack.engine("migrator").connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE usename = :name AND xact_start IS NOT NULL"
            waiting.append(int(connection.scalar(text(query), {"name": engine.url.username}) or 0))

    with s3_proxy(stack.settings("pruner"), S3Proxy(accepted=look)) as store:
        assert [job.id for job in retention.prune_jobs(engine, store)] == [job_id]
    assert len(waiting) >= 3
    assert set(waiting) == {0}


def test_many_rows_are_deleted_in_batches(stack: Stack) -> None:
    images = 3 * expiry.BATCH + 1
    job_id, engine = ended_job(stack, images), stack.engine("pruner")
    for start in (0, expiry.BATCH):
        with engine.begin() as connection:
            expiry.delete_outputs(connection, job_id, start, start + expiry.BATCH)
    assert rows_of(stack, job_id) == [1, expiry.BATCH + 1, -(-images // 16)]
    assert [job.id for job in retention.prune_jobs(engine, stack.store())] == [job_id]
    assert rows_of(stack, job_id) == [0, 0, 0]


def test_a_job_that_is_being_deleted_cannot_be_retried_and_is_completed_next_time(stack: Stack) -> None:
    """Its tenant's retention may be raised meanwhile: some of its images are gone already."""
    job_id = ended_job(stack, 3)
    with stack.engine("pruner").begin() as connection:
        assert expiry.mark_expired(connection, job_id) == expiry.StoredJob("outputs/default", "png")
    with pytest.raises(DBAPIError, match=f"job: {job_id} is past its retention and is being deleted; submit it again"):
        call_function(stack, "retry_job", job_id)
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE tenants SET retention_days = NULL WHERE name = 'default'"))
    assert [job.id for job in retention.prune_jobs(stack.engine("pruner"), stack.store())] == [job_id]
    assert rows_of(stack, job_id) == [0, 0, 0]


def test_expired_jobs_are_listed_in_pages(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "PAGE", 2)
    jobs = [ended_job(stack, 1) for _ in range(5)]
    assert [job.id for job in retention.list_expired(stack.engine("pruner"))] == jobs
    assert [job.id for job in retention.prune_jobs(stack.engine("pruner"), stack.store())] == jobs


def test_unfinished_uploads_are_aborted(stack: Stack, darkroom_here: Darkroom) -> None:
    store = stack.store()
    darkroom_here("prune", "--blobs-older-than-hours", "0")  # what other tests left
    ours = [f"{BLOBS}/00/unfinished", "outputs/default/unfinished/outputs-00000.jsonl"]
    another = "of-another-program/unfinished"
    for key in (*ours, another):
        upload = store.client.create_multipart_upload(Bucket=store.bucket, Key=key)["UploadId"]
        store.client.upload_part(Bucket=store.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 100_000)

    def unfinished() -> set[str]:
        answer = store.client.list_multipart_uploads(Bucket=store.bucket)
        return {upload["Key"] for upload in answer.get("Uploads", ())} & {*ours, another}

    assert ", 0 unfinished uploads and" in darkroom_here("prune").stdout
    assert unfinished() == {*ours, another}
    assert ", 2 unfinished uploads and" in darkroom_here("prune", "--blobs-older-than-hours", "0").stdout
    assert unfinished() == {another}
