"""The Python client over the HTTP API: the same methods, the same words, and no access to Postgres or S3."""

import socket
import threading
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.client import ClientError, Darkroom, JobFilter, JobNotFound
from services.console.app import make_app
from services.console.sign_in import SignInLinks
from services.job_queue import tokens
from tests.support.browser import served
from tests.support.console import console_settings, make_job, remove_jobs
from tests.support.stack import Process, Stack
from tests.support.tenants import make_tenant

REQUEST = {"items": [{"class_label": 1}, {"class_label": 2}], "images_per_item": 2, "steps": 2}


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[str]:
    app = make_app(console_settings(stack), stack.engine("console"), stack.store(), SignInLinks())
    with served(app) as running:
        yield running


def make_token(stack: Stack, tenant: str = "default", scopes: tuple[str, ...] = ("read", "submit")) -> str:
    with stack.engine("migrator").begin() as connection:
        return tokens.create_token(connection, tenant, "a program", scopes, timedelta(hours=1))[1]


def ask(address: str, token: str, path: str) -> Any:
    answer = httpx.get(f"{address}/api/v1{path}", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def client(stack: Stack, address: str) -> Iterator[Darkroom]:
    with Darkroom(url=address, token=make_token(stack)) as darkroom:
        yield darkroom


def test_images_arrive_once_each_and_hold_what_was_stored(
    stack: Stack, client: Darkroom, address: str, dispatcher: Process, worker: Process, tmp_path: Path
) -> None:
    token = make_token(stack)
    job = client.submit("tiny@production", {**REQUEST, "output": {"archive": "tar"}}, tags=["over-http"])
    images = sorted(job.images(), key=lambda image: image.index)
    status = job.status()
    assert (status.state, status.succeeded, status.tags) == ("succeeded", 4, ["over-http"])
    assert [(image.index, image.item) for image in images] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert images[0].save(tmp_path).read_bytes() == images[0].read()
    assert images[0].open().size == (32, 32)
    assert list(job.failures()) == []
    assert job.archives() == [f"outputs/default/{job.id}/archive-00000.tar"]
    with Darkroom() as by_sql:
        assert by_sql.job(job.id).status() == status
        assert [image.read() for image in sorted(by_sql.job(job.id).images(), key=lambda one: one.index)] == [
            image.read() for image in images
        ]
    made = ask(address, token, f"/jobs/{job.id}/outputs/3")
    (again,) = client.submit(made["model"], made["request"]).images()
    assert (again.sha256, again.seed) == (images[3].sha256, images[3].seed)  # the same bytes
    stack.store().put(images[1].key, b"another", content_type="image/png")
    with pytest.raises(ClientError, match="was replaced after it was made"):
        images[1].read()
    with pytest.raises(ClientError, match="needs access to the bucket"):
        images[0].link()
    assert client.estimate("tiny@production", REQUEST)["images"] == 4
    with pytest.raises(ClientError, match="steps: 0 is not allowed"):
        client.estimate("tiny@production", {**REQUEST, "steps": 0})


def test_jobs_are_found_changed_cancelled_and_named_by_keys(stack: Stack, client: Darkroom) -> None:
    tag, later = f"tag-{uuid.uuid4()}", datetime.now(UTC) + timedelta(days=1)
    document = {"model": "tiny", "request": REQUEST, "run_after": later, "tags": [tag]}
    jobs = client.submit_many([document, document, {**document, "priority": 2}])
    which = JobFilter(tags=[tag])
    found = client.jobs(which=which)
    assert [row.id for row in found] == [job.id for job in jobs[::-1]]
    assert found[0] == jobs[2].status()
    assert (found[0].run_after, found[0].priority) == (later, 2)
    assert [row.id for row in client.jobs(limit=2, which=which)] == [jobs[2].id, jobs[1].id]
    assert client.jobs(which=JobFilter(tags=[tag], words=str(jobs[0].id)))[0].id == jobs[0].id
    assert client.jobs(which=JobFilter(tags=[tag], until=later - timedelta(days=2))) == []
    key = f"key-{uuid.uuid4()}"
    first = client.submit("tiny", REQUEST, run_after=later, idempotency_key=key, tags=[tag])
    assert client.submit("tiny", REQUEST, run_after=later, idempotency_key=key, tags=[tag]).id == first.id
    with pytest.raises(ClientError, match=f'idempotency_key: "{key}" is that of job {first.id}'):
        client.submit("tiny", {"items": []}, idempotency_key=key)
    jobs[0].change(priority=3, deadline=later + timedelta(days=1))
    jobs[0].change(deadline="none")
    jobs[0].pause()
    jobs[0].resume()
    with pytest.raises(ClientError, match="priority: 101 is not allowed; permitted: an integer from -100 to 100"):
        jobs[0].change(priority=101)
    assert str(jobs[1].progress().waits_because).startswith("it starts at")
    with pytest.raises(ClientError, match="only what is partial, failed or cancelled"):
        jobs[1].retry()
    jobs[1].cancel()
    assert client.count_open(which) == 4
    assert (client.cancel_many(which), client.retry_many(which)) == (4, 0)


def test_jobs_are_compared_rated_and_their_best_images_saved(stack: Stack, client: Darkroom, tmp_path: Path) -> None:
    left, right = (client.job(make_job(stack, 5, failures=failures)) for failures in ((), (2,)))
    pairs = list(left.pairs(right))
    assert [(pair.index, pair.right is None) for pair in pairs] == [(n, n == 2) for n in range(5)]
    with Darkroom() as by_sql:
        assert list(by_sql.job(left.id).pairs(by_sql.job(right.id))) == pairs
        with pytest.raises(ClientError, match="over its HTTP API"):
            by_sql.job(left.id).rate(1, 5)
    left.rate(1, 5)
    left.rate(3, 2)
    with zipfile.ZipFile(left.save_picks(tmp_path / "picks.zip", rating=4)) as archive:
        assert sorted(archive.namelist()) == ["images/00000001.png", "metadata.jsonl"]
    with pytest.raises(ClientError, match="rating"):
        left.rate(1, 6)
    with pytest.raises(JobNotFound):
        client.job(uuid.uuid4()).save_picks(tmp_path / "none.zip")
    remove_jobs(stack)


def test_what_is_refused_is_said_in_words(stack: Stack, client: Darkroom, address: str) -> None:
    with pytest.raises(ClientError, match='queue: "nowhere" does not exist'):
        client.submit("tiny", REQUEST, queue="nowhere")
    with pytest.raises(ClientError, match="at most 1000 at once over HTTP"):
        client.submit_many([{"model": "tiny", "request": REQUEST}] * 1001)
    assert client.submit_many([]) == []
    other = make_tenant(stack, f"t{uuid.uuid4().hex[:8]}").submit(run_after=datetime.now(UTC) + timedelta(days=1))
    for job_id in (other, uuid.UUID(int=7)):
        with pytest.raises(JobNotFound, match="you have no job"):
            client.job(job_id).status()
        with pytest.raises(JobNotFound):
            client.job(job_id).cancel()
    with Darkroom(url=address, token=make_token(stack, scopes=("read",))) as reader:
        reader.jobs()
        with pytest.raises(ClientError, match="'submit'"):
            reader.submit("tiny", REQUEST)
    with Darkroom(url=address, token="darkroom_wrong") as stranger, pytest.raises(ClientError, match="is unknown"):
        stranger.jobs()
    for url, token, words in (
        ("ftp://x", "t", "url: "), ("http://me:hunter2@x", "t", "url: "), ("http://x", "a b", "token: "),
        ("http://x", "a\r\nX: y", "token: "), ("http://x", None, "given together"),
    ):  # fmt: skip
        with pytest.raises(ClientError, match=words) as error:
            Darkroom(url=url, token=token)
        assert "hunter2" not in str(error.value)


def test_a_console_that_is_away_is_waited_for(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    token = make_token(stack)
    with Darkroom(url=f"http://127.0.0.1:{port}", token=token, patience_s=0) as away:
        with pytest.raises(ClientError, match="does not answer") as error:
            away.jobs()
        assert token not in str(error.value)
    app = make_app(console_settings(stack), stack.engine("console"), stack.store(), SignInLinks())
    found: list[int] = []
    with Darkroom(url=f"http://127.0.0.1:{port}", token=token, patience_s=120) as patient:
        waiting = threading.Thread(target=lambda: found.append(len(patient.jobs(limit=1))))
        waiting.start()
        with served(app, port=port):
            waiting.join(120)
    assert len(found) == 1
