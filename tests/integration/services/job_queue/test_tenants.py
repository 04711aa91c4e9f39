"""Tenants share the workers by weight."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import planner
from services.job_queue import planning
from services.job_queue.tenants import ensure_tenant
from tests.support.job_queue import REQUEST, claim, empty_queue, job_state, settle_shard
from tests.support.stack import Stack


@pytest.fixture
def tenants(engine: Engine) -> Iterator[None]:
    """Two tenants that have used nothing yet: ant with weight 1, bee with weight 3."""
    names = {"ant": 1, "bee": 3}
    with engine.begin() as connection:
        connection.execute(text("UPDATE tenants SET virtual_time = 0"))
        for name, weight in names.items():
            ensure_tenant(connection, name, login=f"login_{name}")
            connection.execute(text("UPDATE tenants SET weight = :w WHERE name = :n"), {"w": weight, "n": name})
    yield
    empty_queue(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM tenants WHERE name IN ('ant', 'bee')"))


def assign_to_tenant(engine: Engine, job_id: uuid.UUID, tenant: str) -> None:
    """Give an unplanned job to another tenant."""
    with engine.begin() as connection:
        for table, key in (("jobs", "id"), ("work", "job_id")):
            connection.execute(
                text(f"UPDATE {table} SET tenant = :tenant WHERE {key} = :id"), {"tenant": tenant, "id": job_id}
            )


def submit_planned_for(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenant: str, images: int, **columns: Any
) -> uuid.UUID:
    """A planned job of a tenant; each image costs two evaluations."""
    job_id = stack.submit({**REQUEST, "images_per_item": images, "guidance_scale": 1}, **columns)
    assign_to_tenant(engine, job_id, tenant)
    (lease,) = [lease for lease in claim(engine, worker_id, "plan") if lease.job_id == job_id]
    with engine.begin() as connection:
        assert planner.plan_job(connection, stack.store(), lease) is None
    return job_id


def serve(engine: Engine, worker_id: uuid.UUID, count: int = 1000) -> list[uuid.UUID]:
    """Claim and settle shards one after another. Returns their jobs in order."""
    order: list[uuid.UUID] = []
    while len(order) < count and (held := claim(engine, worker_id, count=1)):
        order.append(held[0].job_id)
        settle_shard(engine, held[0])
    return order


def test_tenants_are_served_by_their_weights(stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None) -> None:
    """Of the first 40 shards about 10 are ant's and 30 bee's, although ant came first."""
    ant = submit_planned_for(stack, engine, worker_id, "ant", 640)
    bee = submit_planned_for(stack, engine, worker_id, "bee", 640)
    first = serve(engine, worker_id, 40)
    assert first.count(bee) == pytest.approx(30, abs=2)
    assert len(serve(engine, worker_id)) == 40
    with engine.connect() as connection:
        assert {job_state(connection, job) for job in (ant, bee)} == {"finalizing"}


def test_a_small_job_does_not_wait_for_the_big_one_of_another_tenant(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None
) -> None:
    submit_planned_for(stack, engine, worker_id, "ant", 1000)
    serve(engine, worker_id, 20)
    bee = submit_planned_for(stack, engine, worker_id, "bee", 16)
    assert bee in serve(engine, worker_id, 2)


def test_an_idle_tenant_saves_nothing_up(stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None) -> None:
    """bee was idle while ant used much. It gets its share from now on, and not more."""
    submit_planned_for(stack, engine, worker_id, "ant", 1000)
    serve(engine, worker_id, 40)
    with engine.begin() as connection:
        connection.execute(text("UPDATE tenants SET weight = 1 WHERE name = 'bee'"))
    bee = submit_planned_for(stack, engine, worker_id, "bee", 1000)
    assert serve(engine, worker_id, 40).count(bee) == pytest.approx(20, abs=2)


def test_the_lowest_priority_does_not_starve(stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None) -> None:
    """Next to an endless stream of higher priorities it waits for the head start and not longer."""
    low = submit_planned_for(stack, engine, worker_id, "ant", 16, priority=-1)
    cost = 1000 * 2
    before = 0
    submit_planned_for(stack, engine, worker_id, "ant", 1000, priority=1)
    while low not in serve(engine, worker_id, 63):
        before += cost
        submit_planned_for(stack, engine, worker_id, "ant", 1000, priority=1)
    assert 2 * planning.HEAD_START - cost <= before <= 2 * planning.HEAD_START + cost


def test_planning_alternates_between_tenants(stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None) -> None:
    for _ in range(50):
        assign_to_tenant(engine, stack.submit(REQUEST), "ant")
    bee = stack.submit(REQUEST)
    assign_to_tenant(engine, bee, "bee")
    assert bee in [lease.job_id for lease in claim(engine, worker_id, "plan", count=16)]
