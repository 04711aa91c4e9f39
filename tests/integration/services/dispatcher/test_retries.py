"""`retry_job` is a short statement whatever the size of the job: planning removes the rows of failed images."""

import json
import uuid

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import finalizer, planner
from services.job_queue import jobs, leases
from services.job_queue.leases import Lease
from tests.support.job_queue import call_function, claim, end_shards, settle_shard, stop_jobs
from tests.support.stack import Stack
from tests.support.tenants import administrator

pytestmark = pytest.mark.usefixtures("small_batches")

REQUEST = {"items": [{"class_label": 1}] * 50, "images_per_item": 2, "steps": 1, "guidance_scale": 1}


class Interrupted(Exception):
    """Stands for a crash between two batches."""


def count(stack: Stack, job_id: uuid.UUID) -> tuple[int, int]:
    """Return how many images of a job have a row, and how many of these rows its client sees."""
    query = "SELECT count(*) AS rows FROM outputs WHERE job_id = "
    with administrator(stack) as owner, stack.engine("submitter").connect() as client:
        stored = owner.execute(query + "%s", (job_id,)).fetchall()[0].rows
        return stored, client.execute(text(query + ":id"), {"id": job_id}).one().rows


def retry_after_failures(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> Lease:
    """Retry a job of 100 images, of which the first 16 are stored and the others have failed. Return its planning."""
    job_id = stack.submit(REQUEST)
    (lease,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), lease) is None
    finalize = end_shards(engine, worker_id, lambda shard: shard.start == 0)
    assert finalizer.finalize(engine, stack.store(), finalize) == "partial"
    assert call_function(stack, "retry_job", job_id) == 2
    assert count(stack, job_id) == (100, 16)
    assert (stack.job(job_id).succeeded, stack.job(job_id).failed) == (16, 0)
    (lease,) = claim(engine, worker_id, "plan")
    return lease


def plan_one_batch(stack: Stack, engine: Engine, worker_id: uuid.UUID, lease: Lease) -> Lease:
    """Plan the first 32 images, and make them. Return the rest of planning, leased anew."""

    def crash() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        planner.plan_job(engine, stack.store(), lease, crash)
    assert count(stack, lease.job_id) == (84, 16)
    with engine.begin() as connection:
        leases.release_lease(connection, lease)
    for shard in claim(engine, worker_id):
        settle_shard(engine, shard)
    assert count(stack, lease.job_id) == (100, 32)
    (again,) = claim(engine, worker_id, "plan")
    return again


def test_planning_removes_the_rows_of_a_batch(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    lease = plan_one_batch(stack, engine, worker_id, retry_after_failures(stack, engine, worker_id))
    assert planner.plan_job(engine, stack.store(), lease) is None
    assert count(stack, lease.job_id) == (32, 32)
    finalize = end_shards(engine, worker_id, lambda shard: True)
    assert finalizer.finalize(engine, stack.store(), finalize) == "succeeded"


def test_what_a_cancelled_retry_has_not_planned_is_missing(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    lease = plan_one_batch(stack, engine, worker_id, retry_after_failures(stack, engine, worker_id))
    call_function(stack, "cancel_job", lease.job_id)
    with engine.begin() as connection:
        stop_jobs(connection)
    planner.plan_job(engine, stack.store(), lease)
    (finalize,) = claim(engine, worker_id, "finalize")
    assert finalizer.finalize(engine, stack.store(), finalize) == "cancelled"
    job = stack.job(lease.job_id)
    assert (job.succeeded, job.failed, count(stack, job.id)[1]) == (32, 0, 32)
    assert stack.store().get(json.loads(stack.store().get(job.manifest_key))["errors"]) == b""
    assert call_function(stack, "retry_job", job.id) == 3
    (lease,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), lease) is None
    assert count(stack, job.id) == (32, 32)


def test_what_a_failed_planning_has_not_planned_fails_anew(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    lease = plan_one_batch(stack, engine, worker_id, retry_after_failures(stack, engine, worker_id))
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET state = 'failed', owner = NULL, lease_until = NULL WHERE id = :id"),
                           {"id": lease.id})  # fmt: skip
        jobs.fail_job(connection, lease.job_id, "planning failed")
    (finalize,) = claim(engine, worker_id, "finalize")
    assert finalizer.finalize(engine, stack.store(), finalize) == "partial"
    job = stack.job(lease.job_id)
    assert (job.succeeded, job.failed, count(stack, job.id)) == (32, 68, (100, 100))
    listed = stack.store().get(json.loads(stack.store().get(job.manifest_key))["errors"]).splitlines()
    assert [json.loads(line)["error"] for line in listed] == ["planning failed"] * 68
