"""Jobs, claims and settled shards of a real queue."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, text

from services.dispatcher import planner
from services.job_queue import claims, jobs, maintenance, outputs, stopping
from services.job_queue.leases import Lease, lease_lost
from services.job_queue.outputs import Output, Settling
from services.job_queue.states import WorkState
from services.job_queue.stopping import StopRequest
from tests.support.stack import Stack

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 40, "steps": 2, "seed": 5}


def empty_queue(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outputs"))
        connection.execute(text("DELETE FROM jobs"))


def claim(engine: Engine, worker_id: uuid.UUID, kind: str = "sample", count: int = 100) -> list[Lease]:
    with engine.begin() as connection:
        if kind != "sample":
            return list(claims.claim_planning(connection, worker_id, count=count))
        return list(claims.claim_sampling(connection, worker_id, queues=["default"], count=count))


def submit_planned(stack: Stack, engine: Engine, worker_id: uuid.UUID, **columns: Any) -> uuid.UUID:
    """Submit a job of 40 images and plan it into three shards: images 0-15, 16-31, 32-39."""
    job_id = stack.submit(REQUEST, **columns)
    (lease,) = [lease for lease in claim(engine, worker_id, "plan") if lease.job_id == job_id]
    assert planner.plan_job(engine, stack.store(), lease) is None
    return job_id


def stop_jobs(connection: Connection) -> list[StopRequest]:
    """Accept all requests to cancel, and do one round of stopping. Returns the jobs that must stop."""
    stopping.accept_cancel_requests(connection, stopping.find_cancel_requests(connection))
    found = stopping.find_jobs_to_stop(connection)
    requests, _ = stopping.stop_jobs(connection, stopping.begin_attempt(connection, [job.id for job in found]))
    return requests


def wake_delayed(connection: Connection) -> int:
    return maintenance.wake_delayed(connection, maintenance.find_due_work(connection))


def rescue(connection: Connection, stale_s: float) -> tuple[list[Lease], list[Lease]]:
    return maintenance.rescue(connection, maintenance.find_lost_work(connection, stale_s), stale_s=stale_s)


def job_state(connection: Connection, job_id: uuid.UUID) -> str:
    return str(connection.scalar(text("SELECT state FROM jobs WHERE id = :id"), {"id": job_id}))


def settle_shard(engine: Engine, lease: Lease) -> None:
    records = [Output(i, 0, 5 + i, f"k{i}", "0" * 64, 1, "p") for i in range(lease.start, lease.stop)]
    with engine.begin() as connection:
        settle(connection, lease, records, is_last=True)


def settle(connection: Connection, lease: Lease, records: list[Output], *, is_last: bool = False) -> None:
    """Settle images of one shard. Raises LeaseLost."""
    if not outputs.settle_images(connection, [Settling(lease, records, is_last)]):
        raise lease_lost(lease)


def call_function(stack: Stack, function: str, job_id: uuid.UUID) -> Any:
    with stack.engine("submitter").begin() as connection:
        return connection.scalar(text(f"SELECT {function}(:id)"), {"id": job_id})


def fetch_value(connection: psycopg.Connection, statement: str, values: tuple[object, ...] = ()) -> Any:
    """Run a statement that returns one value."""
    row = connection.execute(statement, values).fetchone()
    assert row is not None
    (value,) = row
    return value


def end_shards(engine: Engine, worker_id: uuid.UUID, is_settled: Callable[[Lease], bool]) -> Lease:
    """Settle the ready shards of which `is_settled` is true, and fail the others. Return the finalizing, leased."""
    for shard in claim(engine, worker_id):
        if is_settled(shard):
            settle_shard(engine, shard)
        else:
            with engine.begin() as connection:
                jobs.end_shard(connection, shard, WorkState.FAILED, "bad luck")
    (finalize,) = claim(engine, worker_id, "finalize")
    return finalize
