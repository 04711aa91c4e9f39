"""Finished images are settled together, whatever one of them or its job's row is like."""

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from services.database import connections
from services.job_queue.outputs import Output
from services.worker.held_shards import HeldShard, HeldShards
from services.worker.settler import Settler
from tests.support.job_queue import claim, empty_queue, submit_planned
from tests.support.stack import Stack


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    engine = connections.connect(stack.settings("worker").database_url.get_secret_value())
    empty_queue(stack.engine("migrator"))
    yield engine
    engine.dispose()
    empty_queue(stack.engine("migrator"))


@pytest.fixture
def shards(engine: Engine) -> HeldShards:
    return HeldShards(engine, on_removed=lambda: None)


@pytest.fixture
def statements(engine: Engine) -> list[str]:
    """The statements that settle images."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "settle_images" in statement:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    return seen


def hold_job(stack: Stack, shards: HeldShards, worker_id: uuid.UUID) -> list[HeldShard]:
    """Submit a job of 40 images in three shards, and hold them."""
    owner = stack.engine("migrator")
    submit_planned(stack, owner, worker_id)
    held = [HeldShard(lease) for lease in claim(owner, worker_id)]
    for shard in held:
        shard.unsettled = set(range(shard.lease.start, shard.lease.stop))
        shards.add(shard)
    return held


def image(index: int, **values: Any) -> Output:
    return Output(index, 0, 5 + index, f"k{index}", "0" * 64, 1, **{"profile": "p", **values})


def add_all(settler: Settler, held: list[HeldShard]) -> None:
    for shard in held:
        for index in range(shard.lease.start, shard.lease.stop):
            settler.add(shard, image(index))


def wait_until_ended(shards: HeldShards, held: list[HeldShard]) -> None:
    deadline = time.monotonic() + 20
    while any(shard in shards for shard in held):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_locked_job_is_settled_later_in_one_statement_and_delays_no_other(
    stack: Stack, shards: HeldShards, worker_id: uuid.UUID, statements: list[str]
) -> None:
    locked, other = hold_job(stack, shards, worker_id), hold_job(stack, shards, worker_id)
    settler = Settler(shards)
    settler.start()
    with stack.engine("migrator").connect() as owner, owner.begin():
        owner.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": locked[0].lease.job_id})
        settler.add(locked[0], image(0))
        time.sleep(0.3)  # its statement waits
        add_all(settler, [*locked, *other])
        began = time.monotonic()
        wait_until_ended(shards, other)
        assert time.monotonic() - began < 2
        time.sleep(2)
        assert all(shard in shards for shard in locked)
        statements.clear()
    wait_until_ended(shards, locked)
    assert len(statements) <= 2
    settler.stop()
    for row in (stack.job(held[0].lease.job_id) for held in (locked, other)):
        assert (row.state, row.succeeded) == ("finalizing", 40)


def test_images_that_arrive_during_a_statement_are_settled_together(
    stack: Stack, shards: HeldShards, worker_id: uuid.UUID, statements: list[str]
) -> None:
    held = hold_job(stack, shards, worker_id)
    settler = Settler(shards)
    add_all(settler, held)
    settler.start()
    settler.stop()
    assert len(statements) == 1
    assert stack.job(held[0].lease.job_id).succeeded == 40
    assert len(shards) == 0


def test_a_lost_shard_is_dropped_and_the_others_are_settled(
    stack: Stack, shards: HeldShards, worker_id: uuid.UUID
) -> None:
    held = hold_job(stack, shards, worker_id)
    with stack.engine("migrator").begin() as connection:
        connection.execute(text("UPDATE work SET token = 0 WHERE id = :id"), {"id": held[1].lease.id})
    settler = Settler(shards)
    add_all(settler, held)
    settler.start()
    settler.stop()
    assert len(shards) == 0
    assert [row.index for row in stack.outputs(held[0].lease.job_id)] == [*range(16), *range(32, 40)]


def test_an_image_that_cannot_be_recorded_fails_its_shard_alone(
    stack: Stack, shards: HeldShards, worker_id: uuid.UUID
) -> None:
    held = hold_job(stack, shards, worker_id)
    settler = Settler(shards)
    settler.add(held[0], image(3, profile="\0"))
    add_all(settler, held)
    settler.start()
    settler.stop()
    assert len(shards) == 0
    assert [row.index for row in stack.outputs(held[0].lease.job_id)] == list(range(16, 40))
    with stack.engine("migrator").connect() as connection:
        query = text("SELECT state, attempts, error FROM work WHERE id = :id")
        row = connection.execute(query, {"id": held[0].lease.id}).one()
    assert (row.state, row.attempts) == ("delayed", 1)
    assert "could not be recorded" in row.error


@pytest.mark.parametrize("error", ["a\0b", "a\ud800b", "x" * 10_000])
def test_an_error_that_the_database_cannot_hold_is_recorded_all_the_same(
    stack: Stack, shards: HeldShards, worker_id: uuid.UUID, error: str
) -> None:
    held = hold_job(stack, shards, worker_id)
    settler = Settler(shards)
    settler.start()
    settler.add(held[0], Output.failure(0, 0, error))
    settler.stop()
    shards.fail_attempt(held[0], error)
    (row,) = stack.outputs(held[0].lease.job_id)
    assert row.error[:1] == error[:1]
    with stack.engine("migrator").connect() as connection:
        query = text("SELECT state, error FROM work WHERE id = :id")
        work = connection.execute(query, {"id": held[0].lease.id}).one()
    assert (work.state, work.error) == ("delayed", row.error)


def test_a_shard_ends_once_whichever_thread_settles_its_last_image(
    stack: Stack, shards: HeldShards, worker_id: uuid.UUID
) -> None:
    held = hold_job(stack, shards, worker_id)
    settler = Settler(shards)
    settler.start()
    threads = [threading.Thread(target=add_all, args=(settler, [shard])) for shard in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settler.stop()
    row = stack.job(held[0].lease.job_id)
    assert (row.state, row.succeeded, len(shards)) == ("finalizing", 40, 0)
