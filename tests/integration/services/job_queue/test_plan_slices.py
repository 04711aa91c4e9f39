"""A worker reads the items of its shard, and not a whole request of 4 MiB."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from services.job_queue import jobs
from services.job_queue.leases import Lease
from services.job_requests.items import read_items
from tests.support.job_queue import claim
from tests.support.stack import Stack

ITEMS = [{"class_label": number % 10, "id": f"n{number}", "metadata": {"x": "y" * 700}} for number in range(4_000)]


@pytest.fixture
def shard(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> Lease:
    """A leased shard, images 32 to 47, of a job with 4,000 items of three images."""
    request = {"items": ITEMS, "images_per_item": 3, "steps": 1}
    with stack.process("dispatcher"):
        job_id = stack.submit(request)
        stack.wait(job_id, "planned")
    (lease,) = [lease for lease in claim(engine, worker_id, count=10) if lease.start == 32]
    return replace(lease, job_id=job_id)


def plan_of(connection: Connection, lease: Lease) -> Any:
    return connection.scalar(text("SELECT plan FROM jobs WHERE id = :id"), {"id": lease.job_id})


def test_the_items_are_those_of_the_whole_plan(stack: Stack, engine: Engine, shard: Lease) -> None:
    with engine.connect() as connection:
        whole = plan_of(connection, shard)
        (job,) = jobs.begin_shards(connection, [shard])
        assert job.plan["first_item"] == 10
        assert len(job.plan["items"]) == 6
        assert len(json.dumps(job.plan)) < 10_000
        assert read_items(stack.store(), job.plan, shard) == read_items(stack.store(), whole, shard)
        assert {**job.plan, "items": [], "first_item": 0} == {**whole, "items": [], "first_item": 0}
        last = replace(shard, start=11_984, stop=12_000)
        (job,) = jobs.begin_shards(connection, [last])
        assert read_items(stack.store(), job.plan, last) == {number: ITEMS[number] for number in range(3_994, 4_000)}


@pytest.mark.parametrize("damaged", ["null", "[]", '{"items": 3}', '{"images_per_item": "many", "items": []}'])
def test_a_damaged_plan_is_returned_as_it_is(engine: Engine, shard: Lease, damaged: str) -> None:
    with engine.begin() as connection:
        values = {"id": shard.job_id, "plan": damaged}
        connection.execute(
            text("UPDATE jobs SET plan = CAST(:plan AS jsonb), images_per_item = NULL WHERE id = :id"), values
        )
        assert jobs.begin_shards(connection, [shard])[0].plan == json.loads(damaged)
