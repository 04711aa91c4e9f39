"""News of jobs: as they change, after a lost connection, for those who may see them."""

import asyncio
import itertools
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from services.console.live import Full, News
from services.console.pages import events
from services.job_queue import viewing
from tests.support.browser import served
from tests.support.console import make_job, open_console
from tests.support.stack import Stack
from tests.support.tenants import administrator, make_tenant


@pytest.fixture
def console(stack: Stack) -> Iterator[tuple[Any, httpx.Client]]:
    """The application on a port, and a client with a session."""
    signed_in = open_console(stack)
    (cookie,) = signed_in.cookies.jar
    with (
        served(signed_in.app) as address,
        httpx.Client(base_url=address, cookies={cookie.name: str(cookie.value)}, timeout=60) as client,
    ):
        yield signed_in.app, client


def running_job(stack: Stack, **columns: Any) -> uuid.UUID:
    return make_job(stack, 100, pictures=1, state="running", succeeded=0, finished_at=None, **columns)


def settle(stack: Stack, job: uuid.UUID, count: int) -> None:
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE jobs SET succeeded = :n WHERE id = :id"), {"n": count, "id": job})


def told(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    kind = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        if line.startswith("data: ") and kind == "job":
            yield json.loads(line.removeprefix("data: "))


def test_changes_arrive_and_go_on_after_postgres_ends_the_connection(stack: Stack, console: Any) -> None:
    job, (_, client) = running_job(stack), console
    with client.stream("GET", "/events", params={"job": str(job)}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"  # a proxy would keep them
        news = told(answer)
        assert next(news) == {
            "id": str(job), "state": "running", "revision": 1, "total": 100, "succeeded": 0, "failed": 0
        }  # fmt: skip
        settle(stack, job, 7)
        assert next(news)["succeeded"] == 7
        with stack.engine("migrator").begin() as connection:
            ended = connection.scalars(
                text("""
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE usename = 'local_console' AND query = 'SELECT pg_backend_pid()'  -- the listener's last one
                """)
            ).all()
        assert any(ended)
        settle(stack, job, 9)
        assert next(news)["succeeded"] == 9


def test_others_jobs_are_no_news(stack: Stack, console: Any) -> None:
    make_tenant(stack, "secretive")
    theirs, own = running_job(stack, tenant="secretive"), running_job(stack)
    with console[1].stream("GET", "/events", params={"job": [str(theirs), str(own)]}) as answer:
        news = told(answer)
        assert next(news)["id"] == str(own)
        settle(stack, theirs, 5)
        settle(stack, own, 5)
        assert next(news)["id"] == str(own)


def test_only_watched_jobs_are_announced(stack: Stack) -> None:
    watched, other = running_job(stack), running_job(stack)
    with stack.engine("console").begin() as connection:
        viewing.set_viewer(connection, "default")
        viewing.watch_jobs(connection, [watched])
    with administrator(stack) as listener:
        listener.execute("LISTEN darkroom_progress")
        settle(stack, other, 1)
        settle(stack, watched, 1)
        with closing(listener.notifies(timeout=60)) as heard:
            payloads = (notification.payload for notification in heard)
            announced = list(itertools.takewhile(lambda job: job != str(watched), payloads))
    assert str(other) not in announced


def test_subscribers_are_bounded_and_ignore_what_is_no_id(stack: Stack) -> None:
    async def run() -> set[uuid.UUID]:
        job, news = uuid.uuid4(), News(stack.engine("console"), most=1)
        subscriber = news.subscribe([job])
        with pytest.raises(Full):
            news.subscribe([job])
        assert await subscriber.wait(1) == {job}
        while not news.hears:
            await asyncio.sleep(0.05)
        await subscriber.wait(0.2)
        with stack.engine("submitter").begin() as connection:
            connection.execute(
                text("SELECT pg_notify('darkroom_progress', 'no id'), pg_notify('darkroom_progress', '')")
            )
            connection.execute(text("SELECT pg_notify('darkroom_progress', :id)"), {"id": str(job)})
        changed = await subscriber.wait(20)
        news.leave(subscriber)
        news.subscribe([job])
        return changed

    assert len(asyncio.run(run())) == 1


def test_too_many_jobs_are_refused(stack: Stack) -> None:
    answer = open_console(stack).get("/events", params={"job": [str(uuid.uuid4())] * 65})
    assert answer.status_code == 422


def test_a_stream_ends_so_that_it_does_not_outlive_its_session(
    stack: Stack, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LASTS_S", 1.0)
    job, (_, client) = running_job(stack), console
    with client.stream("GET", "/events", params={"job": str(job)}) as answer:
        lines = list(itertools.islice(answer.iter_lines(), 30))
    assert lines[-3:] == ["event: again", "data: -", ""]
    client.cookies.clear()
    assert client.get("/events", params={"job": str(job)}).status_code == 401
