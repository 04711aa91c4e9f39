"""A shard of a chain goes through its stages one after the other, under the rules of every shard."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import planner
from services.job_queue import chains, jobs, leases, outputs
from services.job_queue.claims import claim_sampling
from services.job_queue.leases import Lease
from services.job_queue.outputs import Outcome, Output, Settling
from services.job_queue.states import WorkState
from services.retention import prune_stages
from tests.support.chains import FINISH, UP, publish_chain, submit_chain
from tests.support.job_queue import call_function, claim, job_state, settle_shard, stop_jobs
from tests.support.stack import Stack

REQUEST = {"items": [{"class_label": 3}], "images_per_item": 20, "guidance_scale": 1}
THEN = [{**UP, "guidance_scale": 1}, {**FINISH, "guidance_scale": 1, "keep": True}]  # 2, 2 and 2 evaluations an image


@pytest.fixture(scope="module", autouse=True)
def releases(stack: Stack) -> None:
    """The releases of a chain."""
    publish_chain(stack)


@pytest.fixture
def chain(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> uuid.UUID:
    """A planned job of two shards, images 0-15 and 16-19, and three stages."""
    job = submit_chain(stack, {**REQUEST, "then": THEN})
    plan(stack, engine, worker_id)
    return job


def plan(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    (lease,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), lease) is None


def settle_stage(engine: Engine, lease: Lease, failed: Sequence[int] = ()) -> Outcome:
    """Record all images of a shard in its stage."""
    assert lease.stage is not None
    made = [
        Output(index, 0, 7 + index, f"stage {lease.stage} {index}", "0" * 64, 9, "p", evaluations=2, gpu_seconds=0.5)
        for index in range(lease.start, lease.stop)
    ]
    images = [Output.failure(one.index, 0, "bad luck") if one.index in failed else one for one in made]
    with engine.begin() as connection:
        return outputs.settle_stages(connection, [Settling(lease, images, is_last=True)], waits=True)[lease.id]


def work_of(engine: Engine, job: uuid.UUID) -> list[dict[str, Any]]:
    query = text("""
        SELECT id, stage, state, cost, rank, pack_key, start, stop FROM work
        WHERE job_id = :id AND kind = 'sample' ORDER BY start
    """)
    with engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(query, {"id": job})]


def share(engine: Engine, job: uuid.UUID) -> float:
    query = text("SELECT share FROM job_progress WHERE id = :id")
    with engine.connect() as connection:
        return float(connection.execute(query, {"id": job}).scalar_one())


def test_a_shard_goes_on_when_its_last_image_is_recorded(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, chain: uuid.UUID
) -> None:
    planned = work_of(engine, chain)
    assert [(one["stage"], one["cost"]) for one in planned] == [(0, 16 * 6), (0, 4 * 6)]
    first, second = claim(engine, worker_id)
    stale = replace(first, token=first.token - 1)
    assert settle_stage(engine, stale) == Outcome.LOST
    assert settle_stage(engine, first, failed=[3]) == Outcome.SETTLED
    assert share(engine, chain) == pytest.approx((16 + 1 + 1) / (3 * 20))
    gone_on, waiting = work_of(engine, chain)
    assert gone_on == {**planned[0], "stage": 1, "state": "ready", "cost": 16 * 4, "pack_key": gone_on["pack_key"]}
    assert waiting["state"] == "leased"  # no stage waits for the whole job

    (again,) = claim(engine, worker_id)
    assert (again.stage, again.pack_key) == (1, gone_on["pack_key"])
    with engine.begin() as connection:
        (job,) = jobs.begin_shards(connection, [again])
    assert job.manifest["name"] == "tiny-up"
    assert list(job.settled) == [3]  # it failed, and is not sampled
    assert job.inputs["2"] == ["stage 0 2", "0" * 64]
    assert len(job.inputs) == 15
    assert settle_stage(engine, second, failed=range(16, 20)) == Outcome.SETTLED  # of which nothing is left
    assert [one["state"] for one in work_of(engine, chain)] == ["leased", "done"]
    assert settle_stage(engine, again) == Outcome.SETTLED
    (last,) = claim(engine, worker_id)
    settle_shard(engine, last)
    with engine.connect() as connection:
        assert job_state(connection, chain) == "finalizing"
        assert [one.made for one in chains.list_stages(connection, chain)] == [15, 16, 15]
        counts = connection.execute(text("SELECT succeeded, failed FROM jobs WHERE id = :id"), {"id": chain}).one()
        used = connection.execute(
            text("""
                SELECT name, sum(images), sum(evaluations) FROM usage_counts JOIN releases ON releases.id = release_id
                WHERE profile = 'p' AND name IN ('small', 'tiny-up') GROUP BY name ORDER BY name
            """)
        ).all()
    assert tuple(counts) == (15, 5)
    assert [tuple(row) for row in used] == [("small", 0, 30), ("tiny-up", 0, 32)]
    assert share(engine, chain) == 1


def test_older_code_claims_no_shard_of_a_chain(engine: Engine, worker_id: uuid.UUID, chain: uuid.UUID) -> None:
    old = text("UPDATE work SET state = 'leased', token = nextval('work_token'), owner = :id WHERE kind = 'sample'")
    with engine.begin() as connection:
        assert connection.execute(old, {"id": worker_id}).rowcount == 0
        (shard,) = claim_sampling(connection, worker_id, queues=["default"])
        leases.release_lease(connection, shard)
        assert connection.execute(old, {"id": worker_id}).rowcount == 0
    assert [one["state"] for one in work_of(engine, chain)] == ["ready", "ready"]


def test_a_suspect_is_cut_in_its_stage(engine: Engine, worker_id: uuid.UUID, chain: uuid.UUID) -> None:
    shard, _ = claim(engine, worker_id)
    settle_stage(engine, shard)
    for _ in range(3):
        (shard,) = [one for one in claim(engine, worker_id) if one.start == 0]
        with engine.begin() as connection:
            connection.execute(text("UPDATE work SET isolated = suspect WHERE id = :id"), {"id": shard.id})
            jobs.lose_shard(connection, shard, "the process died")
    halves = [(one["start"], one["stop"], one["stage"], one["cost"]) for one in work_of(engine, chain)]
    assert halves == [(0, 8, 1, 8 * 4), (8, 16, 1, 8 * 4), (16, 20, 0, 4 * 6)]


def test_a_cancelled_chain_ends_and_a_later_revision_uses_what_is_left(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, chain: uuid.UUID
) -> None:
    first, second = claim(engine, worker_id)
    settle_stage(engine, first)
    call_function(stack, "cancel_job", chain)
    with engine.begin() as connection:
        stop_jobs(connection)
        jobs.end_shard(connection, second, WorkState.CANCELLED, None)
    (finalize,) = claim(engine, worker_id, "finalize")
    with engine.begin() as connection:
        assert jobs.end_job(connection, finalize, "manifest") == "cancelled"
    assert call_function(stack, "retry_job", chain) == 2
    plan(stack, engine, worker_id)
    with engine.connect() as connection:
        assert [one.made for one in chains.list_stages(connection, chain)] == [16, 0, 0]
    again, other = claim(engine, worker_id)
    with engine.begin() as connection:
        found = jobs.begin_shards(connection, [again, other])
    assert [len(job.settled) for job in found] == [16, 0]

    with engine.begin() as connection:  # it has nothing to do in stage 0
        outputs.settle_stages(connection, [Settling(again, [], is_last=True)], waits=False)
    (kept,) = claim(engine, worker_id)
    settle_stage(engine, kept)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET state = 'failed', finished_at = now() WHERE id = :id"), {"id": chain})
    assert prune_stages(stack.engine("pruner"), stack.store()) == 16
    with engine.begin() as connection:
        found = jobs.begin_shards(connection, [again, kept])
    assert [len(job.settled) for job in found] == [0, 16]


def test_a_later_revision_makes_images_that_failed_from_the_first_stage(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, chain: uuid.UUID
) -> None:
    """The image that a stage takes may be what is damaged."""
    first, second = claim(engine, worker_id)
    settle_stage(engine, first)
    with engine.begin() as connection:
        jobs.end_shard(connection, second, WorkState.FAILED, "the process died")
    (again,) = claim(engine, worker_id)
    settle_stage(engine, again, failed=[3])
    (last,) = claim(engine, worker_id)
    with engine.begin() as connection:
        jobs.end_shard(connection, last, WorkState.CANCELLED, None)
        connection.execute(text("UPDATE jobs SET state = 'failed', finished_at = now() WHERE id = :id"), {"id": chain})
        connection.execute(text("DELETE FROM work WHERE kind = 'finalize'"))
    assert call_function(stack, "retry_job", chain) == 2
    plan(stack, engine, worker_id)
    with engine.connect() as connection:
        assert [one.made for one in chains.list_stages(connection, chain)] == [15, 15, 0]
        query = text("SELECT DISTINCT index FROM stage_outputs WHERE job_id = :id ORDER BY index")
        assert connection.scalars(query, {"id": chain}).all() == [*range(3), *range(4, 16)]
