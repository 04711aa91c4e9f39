"""What a tenant uses is counted once, with its images, and a tenant sees its own alone."""

import json
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import planner
from services.exporter import QueueCollector
from services.job_queue import claims, outputs
from services.job_queue.leases import Lease
from services.job_queue.outputs import Output, Settling
from services.job_queue.usage import read_usage
from tests.support.commands import Darkroom
from tests.support.gauges import read_gauges
from tests.support.job_queue import REQUEST, empty_queue
from tests.support.stack import Stack
from tests.support.tenants import Tenant, make_tenant

ALL = {"since": date(2000, 1, 1), "until": date(9999, 1, 1)}


@pytest.fixture
def tenant(stack: Stack, engine: Engine) -> Tenant:
    """A tenant that has used nothing yet."""
    empty_queue(engine)
    return make_tenant(stack, f"t{uuid.uuid4().hex[:8]}")


def images_of(lease: Lease, failed: int = -1) -> list[Output]:
    made = [
        Output(i, 0, i, f"k{i}", "0" * 64, 100, "cpu", evaluations=4, gpu_seconds=0.25)
        for i in range(lease.start, lease.stop)
    ]
    return [Output.failure(one.index, 0, "bad luck") if one.index == failed else one for one in made]


def claim_shards(stack: Stack, engine: Engine, worker_id: uuid.UUID, tenant: Tenant) -> list[Lease]:
    """Submit, plan and claim a job of 40 images: 0-15, 16-31, 32-39."""
    tenant.submit(REQUEST)
    with engine.begin() as connection:
        (lease,) = claims.claim_planning(connection, worker_id)
    assert planner.plan_job(engine, stack.store(), lease) is None
    with engine.begin() as connection:
        return list(claims.claim_sampling(connection, worker_id, queues=["default"], count=9))


def used(tenant: Tenant) -> list[Any]:
    with tenant.connect() as client:
        query = "SELECT tenant, images, evaluations, gpu_seconds, bytes FROM tenant_usage ORDER BY day"
        return [tuple(row) for row in client.execute(query).fetchall()]


def test_stored_images_count_once_however_often_they_are_recorded(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenant: Tenant
) -> None:
    first, second, third = claim_shards(stack, engine, worker_id, tenant)
    with engine.connect() as connection:  # and dies before its commit
        outputs.settle_images(connection, [Settling(first, images_of(first))])
    assert used(tenant) == []
    for is_last in (False, True):
        with engine.begin() as connection:
            outputs.settle_images(connection, [Settling(first, images_of(first, failed=3), is_last)])
    with engine.begin() as connection:
        outputs.settle_jobs(connection, [Settling(second, images_of(second)), Settling(third, images_of(third))])
    with engine.begin() as connection:  # a zombie, whose lease is another's
        stale = replace(second, token=second.token - 1)
        outputs.settle_jobs(connection, [Settling(stale, images_of(second))])
    assert used(tenant) == [(tenant.name, 39, 4 * 39, 0.25 * 39, 3900)]


def test_a_tenant_sees_its_own_usage_alone_and_an_administrator_all(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenant: Tenant, darkroom_here: Darkroom
) -> None:
    (shard, *_) = claim_shards(stack, engine, worker_id, tenant)
    with engine.begin() as connection:
        outputs.settle_images(connection, [Settling(shard, images_of(shard))])
    assert used(make_tenant(stack, f"t{uuid.uuid4().hex[:8]}")) == []
    with engine.connect() as connection:
        (usage,) = read_usage(connection, tenant=tenant.name, **ALL)
    today = datetime.now(UTC).date()
    assert today - timedelta(days=1) <= usage.day <= today
    listed = json.loads(darkroom_here("tenants", "usage", tenant.name, "--json").stdout)
    assert listed == [
        {"tenant": tenant.name, "day": str(usage.day), "images": 16, "evaluations": 64, "gpu_seconds": 4, "bytes": 1600}
    ]
    assert (
        f"{usage.day}  {tenant.name}  16      64           4.0          1600"
        in darkroom_here("tenants", "usage").stdout
    )
    nothing = darkroom_here("tenants", "usage", tenant.name, "--until", "2000-01-02", "--since", "2000-01-01")
    assert nothing.stdout == "Nothing was used from 2000-01-01 to 2000-01-02.\n"
    seen = read_gauges(QueueCollector(stack.engine("observer"), 30))
    assert seen[f"darkroom_usage_today,tenant={tenant.name},unit=images"] == 16


def test_usage_stays_when_its_job_is_removed(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tenant: Tenant
) -> None:
    (shard, *_) = claim_shards(stack, engine, worker_id, tenant)
    with engine.begin() as connection:
        outputs.settle_images(connection, [Settling(shard, images_of(shard))])
        connection.execute(text("DELETE FROM outputs WHERE job_id = :id"), {"id": shard.job_id})
        connection.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": shard.job_id})
    assert [row[1] for row in used(tenant)] == [16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "tenant: 'nobody' does not exist; permitted: "),
        (["--since", "monday"], "--since: 'monday' is not a day; permitted: such as 2030-01-31"),
    ],
)
def test_mistakes_are_named(stack: Stack, darkroom_here: Darkroom, arguments: list[str], message: str) -> None:
    done = darkroom_here("tenants", "usage", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
