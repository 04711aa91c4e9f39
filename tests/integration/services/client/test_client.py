"""The Python client, as a tenant's program uses it: its own login, real processes, connections that break."""

import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from services.client import ClientError, Darkroom, JobFilter, JobNotFound
from services.settings import SettingsError
from tests.support.stack import Process, Stack
from tests.support.tenants import make_tenant

REQUEST = {"items": [{"class_label": 1}, {"class_label": 2}], "images_per_item": 3, "steps": 2}


@pytest.fixture
def client(stack: Stack) -> Iterator[Darkroom]:
    """A client with the settings of the local stack, as a program on a laptop has them."""
    with Darkroom() as darkroom:
        yield darkroom


def end_sessions(stack: Stack) -> int:
    """End the sessions of the tenant's login, as a failover does. Returns how many there were."""
    login = stack.engine("submitter").url.username
    with stack.engine("migrator").begin() as connection:
        ended = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :login")
        return len(connection.execute(ended, {"login": login}).all())


def test_images_arrive_once_each_and_hold_what_was_stored(
    stack: Stack, client: Darkroom, dispatcher: Process, worker: Process, tmp_path: Path
) -> None:
    job = client.submit("tiny@production", {**REQUEST, "output": {"archive": "tar"}})
    images = list(job.images())
    status = job.status()
    assert job.archives() == [f"s3://darkroom/outputs/default/{job.id}/archive-00000.tar"]
    assert (status.state, status.succeeded, status.total) == ("succeeded", 6, 6)
    assert sorted(image.index for image in images) == list(range(6))
    assert [image.item for image in sorted(images, key=lambda image: image.index)] == [0, 0, 0, 1, 1, 1]
    image = images[0]
    saved = image.save(tmp_path / "pictures")
    assert (saved.name, saved.read_bytes(), saved.stat().st_size) == (
        f"{image.index:08d}.png",
        image.read(),
        image.size,
    )
    assert (image.open().size, image.open().mode) == ((32, 32), "L")
    assert image.uri == f"s3://darkroom/{image.key}"
    assert "secret" not in repr(image).lower()
    assert list(job.failures()) == []
    assert status.id in {row.id for row in client.jobs(limit=100)}
    assert client.job(str(job.id)).status() == status


def test_a_link_opens_without_credentials_until_it_expires(
    stack: Stack, client: Darkroom, dispatcher: Process, worker: Process
) -> None:
    image = next(client.submit("tiny", {**REQUEST, "images_per_item": 1}).images())
    with urllib.request.urlopen(image.link()) as answer:
        assert answer.read() == image.read()
    short = image.link(timedelta(seconds=1))
    time.sleep(2.1)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(short)
    with pytest.raises(ValueError, match=r"lifetime: 8 days.* permitted: 1 second to 7 days"):
        image.link(timedelta(days=8))


def test_a_program_that_waits_outlives_a_failover(
    stack: Stack, client: Darkroom, dispatcher: Process, worker: Process
) -> None:
    job = client.submit("tiny", REQUEST, run_after=datetime.now(UTC) + timedelta(seconds=1.5))
    ended: list[str] = []
    waiting = threading.Thread(target=lambda: ended.append(job.wait(60).state))
    waiting.start()
    time.sleep(0.5)
    assert end_sessions(stack) >= 1
    waiting.join(60)
    assert ended == ["succeeded"]


def test_a_client_that_is_closed_ends_the_waits_of_its_threads(stack: Stack) -> None:
    """It opens no connection again."""
    client, said = Darkroom(), []
    job = client.submit("tiny", REQUEST, run_after=datetime.now(UTC) + timedelta(days=1))

    def wait() -> None:
        try:
            job.wait(120)
        except ClientError as error:
            said.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    client.close()
    waiting.join(60)
    assert said == ["the client is closed; use it within its `with` block, or make another one"]
    for call in (job.status, job.retry, lambda: list(job.images()), lambda: client.submit("tiny", REQUEST)):
        with pytest.raises(ClientError, match="the client is closed"):
            call()
    with Darkroom() as another:
        another.job(job.id).cancel()


def test_an_image_that_was_replaced_is_refused(
    stack: Stack, client: Darkroom, dispatcher: Process, worker: Process
) -> None:
    image = next(client.submit("tiny", {**REQUEST, "images_per_item": 1}).images())
    stack.store().put(image.key, b"another", content_type="image/png")
    with pytest.raises(ClientError, match="sha256 differs from the record"):
        image.read()


def test_a_key_names_one_job(stack: Stack, client: Darkroom) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    key = f"key-{uuid.uuid4()}"
    first = client.submit("tiny", REQUEST, run_after=later, idempotency_key=key)
    assert client.submit("tiny", REQUEST, run_after=later, idempotency_key=key).id == first.id
    assert client.submit("tiny", REQUEST, run_after=later).id != first.id
    with pytest.raises(ClientError, match=f'idempotency_key: "{key}" is that of job {first.id}'):
        client.submit("tiny", {"items": []}, idempotency_key=key)
    status = first.status()
    assert status.run_after == later
    for job in client.jobs(limit=10):
        client.job(job.id).cancel()


def test_jobs_are_found_by_a_filter_changed_and_cancelled(stack: Stack, client: Darkroom) -> None:
    tag, later = f"tag-{uuid.uuid4()}", datetime.now(UTC) + timedelta(days=1)
    jobs = [client.submit("tiny", REQUEST, run_after=later, tags=[tag]) for _ in range(2)]
    which = JobFilter(tags=[tag])
    assert {row.id for row in client.jobs(which=which)} == {job.id for job in jobs}
    jobs[0].change(priority=3, deadline=later + timedelta(days=1), tags=[tag, "x"])
    jobs[0].pause()
    with pytest.raises(ClientError, match="priority: 101 is not allowed; permitted: an integer from -100 to 100"):
        jobs[0].change(priority=101)
    assert client.count_open(which) == 2
    assert client.cancel_many(which) == 2
    assert client.retry_many(which) == 0


def test_what_is_refused_is_said_in_words(stack: Stack, client: Darkroom) -> None:
    with pytest.raises(ClientError, match='queue: "nowhere" does not exist'):
        client.submit("tiny", REQUEST, queue="nowhere")
    with pytest.raises(ClientError, match=r"jobs\[1\]: colour is not a known field; permitted: model, request"):
        client.submit_many([{"model": "tiny", "request": REQUEST}, {"model": "tiny", "request": {}, "colour": 1}])
    with pytest.raises(JobNotFound, match="you have no job"):
        client.job(uuid.UUID(int=7)).status()
    with pytest.raises(JobNotFound, match="you have no job"):
        client.job(uuid.UUID(int=7)).progress()
    job = client.submit("tiny", REQUEST, run_after=datetime.now(UTC) + timedelta(days=1))
    assert str(job.progress().waits_because).startswith("it starts at")
    with pytest.raises(TimeoutError, match=rf"job {job.id} is submitted after 0.2 s"):
        job.wait(0.2)
    with pytest.raises(ClientError):
        job.retry()
    job.cancel()


def test_another_tenants_job_is_not_found(stack: Stack, client: Darkroom) -> None:
    job_id = make_tenant(stack, f"t{uuid.uuid4().hex[:8]}").submit(run_after=datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(JobNotFound):
        client.job(job_id).status()


def test_a_database_that_is_away_is_said_without_its_password(stack: Stack) -> None:
    url = "postgresql://me:hunter2@127.0.0.1:1/darkroom"
    with Darkroom(database_url=url, patience_s=0) as away, pytest.raises(ClientError, match="does not answer") as error:
        away.jobs()
    assert "hunter2" not in str(error.value)
    with pytest.raises(SettingsError, match="DARKROOM_S3_BUCKET"):
        Darkroom(s3_bucket="not a bucket!")
