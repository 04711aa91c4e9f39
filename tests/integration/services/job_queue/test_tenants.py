"""Tenants share the workers by weight."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import planner
from services.job_queue import claims
from services.job_queue.tenants import ensure_tenant
from tests.support.job_queue import REQUEST, claim, empty_queue, job_state, settle_shard, stop_jobs
from tests.support.stack import Stack


@pytest.fixture
def tenants(engine: Engine) -> Iterator[None]:
    """Two tenants that have used nothing yet: ant with weight 1, bee with weight 3."""
    names = {"ant": 1, "bee": 3}
    with engine.begin() as connection:
        for name, weight in names.items():
            ensure_tenant(connection, name, login=f"login_{name}")
            connection.execute(text("UPDATE tenants SET weight = :w WHERE name = :n"), {"w": weight, "n": name})
    yield
    empty_queue(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM tenants WHERE name IN ('ant', 'bee')"))


def set_tenant(engine: Engine, tenant: str, **columns: Any) -> None:
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE tenants SET {assignments} WHERE name = :tenant"), {**columns, "tenant": tenant}
        )


def assign_to_tenant(engine: Engine, job_id: uuid.UUID, tenant: str) -> None:
    """Give an unplanned job to another tenant."""
    with engine.begin() as connection:
        for table, key in (("jobs", "id"), ("work", "job_id")):
            connection.execute(
                text(f"UPDATE {table} SET tenant = :tenant WHERE {key} = :id"), {"tenant": tenant, "id": job_id}
            )


def submit_planned_for(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenant: str, images: int, steps: int = 2, **columns: Any
) -> uuid.UUID:
    """A planned job of a tenant; each image costs `steps` evaluations."""
    job_id = stack.submit({**REQUEST, "images_per_item": images, "steps": steps, "guidance_scale": 1}, **columns)
    assign_to_tenant(engine, job_id, tenant)
    (lease,) = [lease for lease in claim(engine, worker_id, "plan") if lease.job_id == job_id]
    assert planner.plan_job(engine, stack.store(), lease) is None
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


@pytest.mark.parametrize("weight", [1, 100])
def test_priority_passes_no_other_tenant(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None, weight: int
) -> None:
    """One image beside a backlog of the highest priority waits for at most two shards, again and again."""
    for _ in range(2):
        submit_planned_for(stack, engine, worker_id, "ant", 1000, priority=100)
    set_tenant(engine, "bee", weight=weight)
    serve(engine, worker_id, 20)
    for priority in (0, -100, 100):
        bee = submit_planned_for(stack, engine, worker_id, "bee", 1, priority=priority)
        assert bee in serve(engine, worker_id, 3)
        submit_planned_for(stack, engine, worker_id, "ant", 100, priority=100)


def test_a_higher_priority_goes_first_within_a_tenant(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None
) -> None:
    """Also past work that is already waiting. Work of equal priority is served in the order of its planning."""
    low = submit_planned_for(stack, engine, worker_id, "ant", 160, priority=-1)
    early = submit_planned_for(stack, engine, worker_id, "ant", 160)
    serve(engine, worker_id, 1)
    urgent = submit_planned_for(stack, engine, worker_id, "ant", 160, priority=7)
    late = submit_planned_for(stack, engine, worker_id, "ant", 160)
    assert serve(engine, worker_id) == [urgent] * 10 + [early] * 9 + [late] * 10 + [low] * 10


def test_urgent_work_costs_its_tenant_what_it_takes(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None
) -> None:
    """Cheap shards that wait do not pay for expensive urgent ones: the tenant's share stays that of its weight."""
    set_tenant(engine, "bee", weight=1)
    submit_planned_for(stack, engine, worker_id, "bee", 16 * 60, steps=10)
    submit_planned_for(stack, engine, worker_id, "ant", 16 * 60, steps=1)
    urgent = submit_planned_for(stack, engine, worker_id, "ant", 16 * 50, steps=100, priority=100)
    order = serve(engine, worker_id, 44)
    assert order.count(urgent) == pytest.approx(4, abs=1)  # a shard of it costs as much as ten of bee's


def test_cancelled_urgent_work_leaves_its_turns_to_its_tenant(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None
) -> None:
    set_tenant(engine, "bee", weight=1)
    ant = submit_planned_for(stack, engine, worker_id, "ant", 640)
    submit_planned_for(stack, engine, worker_id, "bee", 640)
    urgent = submit_planned_for(stack, engine, worker_id, "ant", 640, priority=1)
    assert urgent in serve(engine, worker_id, 2)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET cancel_requested_at = now() WHERE id = :id"), {"id": urgent})
        stop_jobs(connection)
    assert serve(engine, worker_id, 20).count(ant) == pytest.approx(10, abs=2)


def test_a_head_start_is_bounded(stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None) -> None:
    """bee may pass 320 evaluations, which are ten shards; after these the weights decide."""
    set_tenant(engine, "bee", weight=1, head_start=320)
    submit_planned_for(stack, engine, worker_id, "ant", 1000)
    serve(engine, worker_id, 20)
    bee = submit_planned_for(stack, engine, worker_id, "bee", 1000)
    assert serve(engine, worker_id, 10).count(bee) >= 9
    assert serve(engine, worker_id, 40).count(bee) == pytest.approx(20, abs=2)


def test_each_queue_has_its_own_turns(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None, other_queue: str
) -> None:
    """Much work in one queue takes no turns in another, where the backlog of another tenant has hardly begun."""
    submit_planned_for(stack, engine, worker_id, "ant", 1000, queue=other_queue)
    bee = submit_planned_for(stack, engine, worker_id, "bee", 1000)
    assert serve(engine, worker_id, 60).count(bee) == 60
    bee = submit_planned_for(stack, engine, worker_id, "bee", 16, queue=other_queue)
    with engine.begin() as connection:
        found = claims.claim_sampling(connection, worker_id, queues=[other_queue], count=2)
    assert bee in [lease.job_id for lease in found]


def test_planning_alternates_between_tenants(stack: Stack, engine: Engine, worker_id: uuid.UUID, tenants: None) -> None:
    for _ in range(50):
        assign_to_tenant(engine, stack.submit(REQUEST), "ant")
    bee = stack.submit(REQUEST)
    assign_to_tenant(engine, bee, "bee")
    assert bee in [lease.job_id for lease in claim(engine, worker_id, "plan", count=16)]
