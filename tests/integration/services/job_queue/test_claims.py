"""Planning cuts jobs into shards; claims lease each of them to one worker, in order."""

import threading
import uuid

from sqlalchemy import Engine, text

from services.job_queue import claims, queues
from services.job_queue.leases import Lease
from tests.support.job_queue import claim, submit_planned
from tests.support.stack import Stack


def test_planning_cuts_a_job_into_shards_with_their_cost(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    submit_planned(stack, engine, worker_id)
    leases = claim(engine, worker_id)
    assert [(lease.start, lease.stop) for lease in leases] == [(0, 16), (16, 32), (32, 40)]
    with engine.connect() as connection:
        costs = connection.scalars(text("SELECT cost FROM work WHERE kind = 'sample' ORDER BY id")).all()
    assert costs == [16 * 4, 16 * 4, 8 * 4]  # two steps, each with and without the condition


def test_concurrent_claims_lease_no_work_twice(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    for _ in range(10):
        submit_planned(stack, engine, worker_id)
    taken: list[Lease] = []
    barrier = threading.Barrier(8)

    def claimer() -> None:
        barrier.wait()
        while mine := claim(engine, worker_id, count=1):
            taken.extend(mine)

    threads = [threading.Thread(target=claimer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 30
    assert len({lease.id for lease in taken}) == 30
    assert len({lease.token for lease in taken}) == 30


def test_claims_take_higher_priorities_and_then_older_jobs(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    low = submit_planned(stack, engine, worker_id, priority=-1)
    old, young = (submit_planned(stack, engine, worker_id) for _ in range(2))
    urgent = submit_planned(stack, engine, worker_id, priority=5)
    order = []
    while leases := claim(engine, worker_id, count=1):
        order.append(leases[0].job_id)
    assert list(dict.fromkeys(order)) == [urgent, old, young, low]


def test_nothing_is_claimed_from_a_paused_queue(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    submit_planned(stack, engine, worker_id)
    with engine.begin() as connection:
        connection.execute(text("UPDATE queues SET paused = true"))
    try:
        assert claim(engine, worker_id) == []
    finally:
        with engine.begin() as connection:
            connection.execute(text("UPDATE queues SET paused = false"))
    assert len(claim(engine, worker_id)) == 3


def test_shards_of_releases_that_a_process_cannot_load_are_left(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    unloadable, other = (submit_planned(stack, engine, worker_id) for _ in range(2))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET pack_key = 'unloadable' WHERE job_id = :id AND kind = 'sample'"), {"id": unloadable}
        )
        leases = claims.claim_sampling(
            connection, worker_id, queues=["default"], count=10, without=["unloadable", "another"]
        )
    assert {lease.job_id for lease in leases} == {other}
    assert len(leases) == 3
    assert {lease.job_id for lease in claim(engine, worker_id)} == {unloadable}


def test_the_loaded_release_continues_within_its_quantum(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    first = submit_planned(stack, engine, worker_id)
    second = submit_planned(stack, engine, worker_id)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET pack_key = 'other' WHERE job_id = :id AND kind = 'sample'"), {"id": first}
        )
        release = connection.scalar(
            text("SELECT pack_key FROM work WHERE job_id = :id AND kind = 'sample'"), {"id": second}
        )

    def claimed() -> uuid.UUID:
        with engine.begin() as connection:
            (lease,) = claims.claim_sampling(connection, worker_id, queues=["default"], release=release)
        return lease.job_id

    assert claimed() == second
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET rank = rank + :far WHERE job_id = :id"), {"far": claims.QUANTUM + 1_000, "id": second}
        )
    assert [claimed() for _ in range(3)] == [first] * 3
    assert claimed() == second


def test_only_queues_with_ready_shards_are_hinted(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        assert queues.queues_with_work(connection) == []
    submit_planned(stack, engine, worker_id)
    with engine.begin() as connection:
        assert queues.queues_with_work(connection) == ["default"]
    claim(engine, worker_id)
    with engine.begin() as connection:
        assert queues.queues_with_work(connection) == []
