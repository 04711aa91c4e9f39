"""News of jobs as server-sent events: a browser that loses the connection comes back and gets the present state.

A stream ends after a minute, and the browser opens the next: so it does not outlive a session that has ended meanwhile.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Collection
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from services.console.live import Full, Subscriber
from services.console.page import Page, PageRequest
from services.job_queue import viewing

router = APIRouter()

MOST_JOBS = 64
RETRY_MS = 3_000
LEAST_PAUSE_S = 0.5  # between two events of one job
UNBUFFERED = {"X-Accel-Buffering": "no"}  # nginx would keep events until it has some kilobytes
LASTS_S = 60.0  # a stream; then the browser asks for another one, with the session that it has then


@router.get("/events")
async def send_events(
    page: Page, job: Annotated[list[uuid.UUID], Query(min_length=1, max_length=MOST_JOBS)]
) -> StreamingResponse:
    """Send an event for each job now, and whenever one of them has changed."""
    try:
        subscriber = page.parts.news.subscribe(job)
    except Full:
        raise HTTPException(503, "Too many pages are open. Reload this one later.", {"Retry-After": "30"}) from None
    return StreamingResponse(_events(page, subscriber), headers=UNBUFFERED, media_type="text/event-stream")


async def _events(page: PageRequest, subscriber: Subscriber) -> AsyncIterator[str]:
    news, sent, ends_at = page.parts.news, dict[uuid.UUID, viewing.JobCounts](), time.monotonic() + LASTS_S
    try:
        yield f"retry: {RETRY_MS}\n\n"
        while (left_s := ends_at - time.monotonic()) > 0:
            changed = await subscriber.wait(min(news.pause_s, left_s))
            try:
                lines = await run_in_threadpool(_read, page, changed or subscriber.jobs)
            except SQLAlchemyError:
                return  # The browser comes back, and so does Postgres.
            for counts in lines:
                if sent.get(counts.id) != counts:
                    sent[counts.id] = counts
                    yield f"event: job\ndata: {json.dumps({**asdict(counts), 'id': str(counts.id)})}\n\n"
            yield "event: still-here\ndata: -\n\n"  # a browser notices a connection that has died
            await asyncio.sleep(LEAST_PAUSE_S)
    finally:
        news.leave(subscriber)
    yield "event: again\ndata: -\n\n"


def _read(page: PageRequest, jobs: Collection[uuid.UUID]) -> list[viewing.JobCounts]:
    with page.database() as connection:
        viewing.watch_jobs(connection, jobs)
    with page.database() as connection:  # What changes from the first transaction's end on is announced.
        return viewing.list_counts(connection, jobs)
