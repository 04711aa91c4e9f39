"""Planning cuts jobs into shards; claims lease each of them to one worker, in order."""

import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from services.job_queue import claims, claims_by_id, leases, queues
from services.job_queue.leases import Lease
from services.job_queue.worker_claims import FULL_SCAN_S, WorkerClaims
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


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def claim_one(engine: Engine, claimer: WorkerClaims, worker_id: uuid.UUID, release: str | None = None) -> Lease | None:
    with engine.begin() as connection:
        found = claimer.claim(connection, worker_id, release=release)
    return found[0] if found else None


def set_release(engine: Engine, job_id: uuid.UUID, release: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET pack_key = :release WHERE job_id = :id AND kind = 'sample'"),
            {"id": job_id, "release": release},
        )


@pytest.mark.parametrize(("switch_s", "slice_s"), [(0.01, 1.0), (2.0, 20.0), (30.0, 60.0)])
def test_the_loaded_release_goes_first_for_a_slice_of_time(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, switch_s: float, slice_s: float
) -> None:
    """The slice is ten times as long as the switch to the release took, from a second to a minute."""
    jobs = {name: submit_planned(stack, engine, worker_id) for name in ("other", "loaded")}
    for name, job_id in jobs.items():
        set_release(engine, job_id, name)
    clock = Clock()
    claimer = WorkerClaims(["default"], now=clock)
    claimer.begin_slice(switch_s)
    for moment, expected in ((0.0, "loaded"), (slice_s - 0.01, "loaded"), (slice_s, "other"), (slice_s, "other")):
        clock.time = moment
        shard = claim_one(engine, claimer, worker_id, "loaded")
        assert shard is not None
        assert shard.job_id == jobs[expected], moment


def test_a_slice_is_renewed_when_the_loaded_release_is_next_in_turn(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    jobs = {name: submit_planned(stack, engine, worker_id) for name in ("loaded", "other")}
    for name, job_id in jobs.items():
        set_release(engine, job_id, name)
    with engine.begin() as connection:  # one of the other release's is second in turn
        connection.execute(
            text("UPDATE work SET rank = (SELECT min(rank) + 1 FROM work WHERE job_id = :loaded AND kind = 'sample') "
                 "WHERE job_id = :other AND kind = 'sample' AND start = 0"),
            jobs,
        )  # fmt: skip
    clock = Clock()
    claimer = WorkerClaims(["default"], now=clock)
    order = []
    for _ in range(6):
        shard = claim_one(engine, claimer, worker_id, "loaded")
        assert shard is not None
        order.append(shard.job_id)
    assert order == [jobs["loaded"]] * 3 + [jobs["other"]] * 3


def test_claims_read_on_from_the_last_one_and_look_back_within_a_second(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    """A shard that returns to the queue waits for at most a second, while work of higher ranks never ends."""
    with engine.begin() as connection:  # a claim looks back by the longest one
        connection.execute(text("UPDATE tenants SET head_start = 0"))
    for _ in range(10):
        submit_planned(stack, engine, worker_id)
    clock = Clock()
    claimer = WorkerClaims(["default"], now=clock)
    first = claim_one(engine, claimer, worker_id)
    second = claim_one(engine, claimer, worker_id)
    assert first is not None
    assert second is not None
    with engine.begin() as connection:
        leases.release_lease(connection, first)
    clock.time += FULL_SCAN_S - 0.01
    next_one = claim_one(engine, claimer, worker_id)
    assert next_one is not None
    assert next_one.id not in (first.id, second.id)
    clock.time += 0.02
    again = claim_one(engine, claimer, worker_id)
    assert again is not None
    assert again.id == first.id


def test_a_lower_rank_is_found_at_once_if_nothing_else_is_ready(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    submit_planned(stack, engine, worker_id)
    claimer = WorkerClaims(["default"], now=Clock())
    held = [claim_one(engine, claimer, worker_id) for _ in range(3)]
    assert held[0] is not None
    with engine.begin() as connection:
        leases.release_lease(connection, held[0])
    again = claim_one(engine, claimer, worker_id)
    assert again is not None
    assert again.id == held[0].id


def test_a_worker_serves_its_queues_equally(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, other_queue: str
) -> None:
    """One queue's ranks are far behind the other's, because it was paused for long. Neither starves."""
    jobs = [submit_planned(stack, engine, worker_id) for _ in range(8)]
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET queue = 'other', rank = rank - 1e9 WHERE job_id = ANY(:jobs)"), {"jobs": jobs[4:]}
        )
    claimer = WorkerClaims(["default", other_queue], now=Clock())
    order = []
    for _ in range(12):
        shard = claim_one(engine, claimer, worker_id)
        assert shard is not None
        order.append(shard.queue)
    assert order.count("other") == 6
    assert set(order[:2]) == {"default", "other"}


def test_several_shards_are_claimed_until_they_have_enough_images(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    """A job has shards of 16, 16 and 8 images. A suspect is claimed alone."""
    for _ in range(3):
        submit_planned(stack, engine, worker_id)

    def sizes(**options: Any) -> list[int]:
        with engine.begin() as connection:
            found = claims.claim_sampling(connection, worker_id, queues=["default"], **options)
        return [lease.stop - lease.start for lease in found]

    assert sizes(count=8, images=17) == [16, 16]
    assert sizes(count=8, images=8) == [8]
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET suspect = true WHERE id = "
                 "(SELECT id FROM work WHERE state = 'ready' AND kind = 'sample' ORDER BY rank, id OFFSET 1 LIMIT 1)")
        )  # fmt: skip
    assert sizes(count=8) == [16]
    assert sizes(count=8) == [16]
    assert sizes(count=2) == [8, 16]


def test_only_queues_with_ready_shards_are_hinted(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        assert queues.queues_with_work(connection) == []
    submit_planned(stack, engine, worker_id)
    with engine.begin() as connection:
        assert queues.queues_with_work(connection) == ["default"]
    claim(engine, worker_id)
    with engine.begin() as connection:
        assert queues.queues_with_work(connection) == []


@pytest.mark.parametrize(("suspect", "mode"), [(False, "off"), (True, "on")])
def test_only_the_claim_of_a_suspect_waits_for_the_disk(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, suspect: bool, mode: str
) -> None:
    submit_planned(stack, engine, worker_id)
    job_id = stack.submit({"items": [{"class_label": 1}]})
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET suspect = :suspect"), {"suspect": suspect})
    kinds: dict[str, Callable[[Connection, uuid.UUID], Sequence[Lease]]] = {
        "plan": claims.claim_planning,
        "sample": partial(claims.claim_sampling, queues=["default"]),
    }
    for kind, claim_kind in kinds.items():
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL synchronous_commit = on"))
            found = claim_kind(connection, worker_id)
            assert [lease.kind for lease in found] == [kind]
            assert connection.scalar(text("SHOW synchronous_commit")) == mode
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = on"))
        connection.execute(text(f"UPDATE work SET {leases.READY} WHERE job_id = :id"), {"id": job_id})
        (planning,) = claims_by_id.claim_work(connection, worker_id, claims_by_id.find_ready_planning(connection)[0])
        assert planning.job_id == job_id
        assert connection.scalar(text("SHOW synchronous_commit")) == mode


def test_no_token_is_given_again_when_postgres_loses_claims(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    """As in a crash: the claims, and the numbers that a sequence gave, are as they were before."""
    submit_planned(stack, engine, worker_id)
    with stack.engine("migrator").begin() as connection:
        last = connection.scalar(text("SELECT nextval('work_token')"))
    lost = claim(engine, worker_id)
    with stack.engine("migrator").begin() as connection:
        connection.execute(text(f"UPDATE work SET {leases.READY} WHERE state = 'leased'"))
        connection.execute(text("SELECT setval('work_token', :last)"), {"last": last})
    again = claim(engine, worker_id)
    assert {lease.id for lease in again} == {lease.id for lease in lost}
    assert not {lease.token for lease in again} & {lease.token for lease in lost}
