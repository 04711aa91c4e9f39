"""The queue's SQL on real Postgres: leases, fencing, retries, rescue, and the end of a job."""

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from services.database import logins
from services.dispatcher import planner
from services.job_queue import jobs, leases, maintenance
from services.job_queue.jobs import OutputRecord
from services.job_queue.leases import Lease, LeaseLost
from tests.support.stack import Stack

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 40, "steps": 2, "seed": 5}


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    """An empty queue, before and after, with the rights of its owner."""
    engine = stack.engine("migrator")
    empty(engine)
    yield engine
    empty(engine)


def empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outputs"))
        connection.execute(text("DELETE FROM jobs"))


@pytest.fixture
def worker(engine: Engine) -> uuid.UUID:
    with engine.begin() as connection:
        return leases.register(connection, "worker")


def claim(engine: Engine, worker: uuid.UUID, kind: str = "sample", count: int = 100) -> list[Lease]:
    with engine.begin() as connection:
        if kind != "sample":
            return leases.claim_planning(connection, worker, count=count)
        return leases.claim_sampling(connection, worker, queues=["default"], count=count)


def submit_planned(stack: Stack, engine: Engine, worker: uuid.UUID, **columns: Any) -> uuid.UUID:
    """A job with three shards ready: images 0-15, 16-31, 32-39."""
    job_id = stack.submit(REQUEST, **columns)
    (lease,) = [lease for lease in claim(engine, worker, "plan") if lease.job_id == job_id]
    with engine.begin() as connection:
        assert planner.plan_job(connection, stack.store(), lease) is None
    return job_id


def state(connection: Connection, job_id: uuid.UUID) -> str:
    return str(connection.scalar(text("SELECT state FROM jobs WHERE id = :id"), {"id": job_id}))


def settle(engine: Engine, lease: Lease) -> None:
    records = [OutputRecord(i, 0, 5 + i, f"k{i}", "0" * 64, 1, "p") for i in range(lease.start, lease.stop)]
    with engine.begin() as connection:
        jobs.record(connection, lease, records)
        jobs.finish_shard(connection, lease)


def test_planning_cuts_a_job_into_shards_with_their_cost(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    leases = claim(engine, worker)
    assert [(lease.start, lease.stop) for lease in leases] == [(0, 16), (16, 32), (32, 40)]
    with engine.connect() as connection:
        costs = connection.scalars(text("SELECT cost FROM work WHERE kind = 'sample' ORDER BY id")).all()
    assert costs == [16 * 4, 16 * 4, 8 * 4]  # two steps, each with and without the condition


def test_no_work_is_leased_twice_by_claimers_at_once(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    for _ in range(10):
        submit_planned(stack, engine, worker)
    taken: list[Lease] = []
    barrier = threading.Barrier(8)

    def claimer() -> None:
        barrier.wait()
        while mine := claim(engine, worker, count=1):
            taken.extend(mine)

    threads = [threading.Thread(target=claimer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 30
    assert len({lease.id for lease in taken}) == 30
    assert len({lease.token for lease in taken}) == 30


def test_higher_priority_first_then_older_first(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    low = submit_planned(stack, engine, worker, priority=-1)
    old, young = (submit_planned(stack, engine, worker) for _ in range(2))
    urgent = submit_planned(stack, engine, worker, priority=5)
    order = []
    while leases := claim(engine, worker, count=1):
        order.append(leases[0].job_id)
    assert list(dict.fromkeys(order)) == [urgent, old, young, low]


def test_a_paused_queue_is_not_claimed_from(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    with engine.begin() as connection:
        connection.execute(text("UPDATE queues SET paused = true"))
    try:
        assert claim(engine, worker) == []
    finally:
        with engine.begin() as connection:
            connection.execute(text("UPDATE queues SET paused = false"))
    assert len(claim(engine, worker)) == 3


def test_a_stale_holder_can_neither_record_nor_finish_nor_release(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    job_id = submit_planned(stack, engine, worker)
    stale = claim(engine, worker, count=1)[0]
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET heartbeat_at = now() - interval '1 hour'"))
        ready, failed = maintenance.rescue(connection, stale_s=30)
        assert ([lease.id for lease in ready], failed) == ([stale.id], [])
        connection.execute(text("UPDATE workers SET heartbeat_at = now()"))
    fresh = claim(engine, worker, count=1)[0]
    assert fresh.id == stale.id
    assert fresh.token != stale.token
    for write in (
        lambda c: jobs.record(c, stale, [OutputRecord(0, 0, 5, "k", "0" * 64, 1, "p")]),
        lambda c: jobs.finish_shard(c, stale),
        lambda c: leases.retry_later(c, stale, "x"),
        lambda c: leases.release(c, stale),
        lambda c: leases.isolate(c, stale),
    ):
        with pytest.raises(LeaseLost), engine.begin() as connection:
            write(connection)
    settle(engine, fresh)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT succeeded FROM jobs WHERE id = :id"), {"id": job_id}) == 16


def test_an_index_is_recorded_once_and_counted_once(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    job_id = submit_planned(stack, engine, worker)
    lease = claim(engine, worker, count=1)[0]
    for sha in ("0" * 64, "1" * 64):
        with engine.begin() as connection:
            jobs.record(connection, lease, [OutputRecord(0, 0, 5, "k", sha, 1, "p")])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT sha256 FROM outputs WHERE job_id = :id"), {"id": job_id}) == "0" * 64
        assert connection.scalar(text("SELECT succeeded FROM jobs WHERE id = :id"), {"id": job_id}) == 1
        assert jobs.recorded(connection, job_id, lease.start, lease.stop) == {0}


def test_the_last_shard_opens_finalizing_once_even_when_two_finish_at_once(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    for _ in range(10):
        job_id = submit_planned(stack, engine, worker)
        leases = claim(engine, worker)
        barrier = threading.Barrier(len(leases))

        def finish(lease: Lease, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            settle(engine, lease)

        threads = [threading.Thread(target=finish, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with engine.connect() as connection:
            assert state(connection, job_id) == "finalizing"
        (finalize,) = claim(engine, worker, "finalize")
        with engine.begin() as connection:
            assert jobs.finalized(connection, finalize, "manifest") == "succeeded"


def test_an_error_is_tried_three_times_with_pauses_and_then_fails_its_images(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    job_id = submit_planned(stack, engine, worker)
    bad, *good = claim(engine, worker)
    for lease in good:
        settle(engine, lease)
    for attempt in range(leases.MAX_ATTEMPTS):
        with engine.begin() as connection:
            again = leases.retry_later(connection, bad, "boom")
            if not again:
                jobs.fail_images(connection, bad, "boom")
        assert again == (attempt + 1 < leases.MAX_ATTEMPTS)
        if again:
            assert claim(engine, worker) == [], "a pause comes first"
            with engine.begin() as connection:
                connection.execute(text("UPDATE work SET run_after = now() WHERE state = 'delayed'"))
                assert maintenance.wake_delayed(connection) == 1
            (bad,) = claim(engine, worker)
    (finalize,) = claim(engine, worker, "finalize")
    with engine.begin() as connection:
        assert jobs.finalized(connection, finalize, "manifest") == "partial"
        row = connection.execute(text("SELECT succeeded, failed FROM jobs WHERE id = :id"), {"id": job_id}).one()
        assert (row.succeeded, row.failed) == (24, 16)
        assert connection.scalar(text("SELECT count(*) FROM outputs WHERE error = 'boom'")) == 16


# -- losses, suspects ------------------------------------------------------------------------------


def lose(engine: Engine) -> tuple[list[Lease], list[Lease]]:
    """All leases run out, as if their owners had died."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET lease_until = now() - interval '1 s' WHERE state = 'leased'"))
        return maintenance.rescue(connection, stale_s=30)


def test_a_lease_lasts_as_long_as_its_work_may_take(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    """A thousand guided steps of sixteen images are not taken from a slow device that is alive."""
    submit_planned(stack, engine, worker)
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET cost = 32000 WHERE kind = 'sample'"))
    claim(engine, worker)
    with engine.connect() as connection:
        lasts = connection.scalars(text("SELECT lease_until - now() FROM work WHERE state = 'leased'")).all()
    assert {round(duration.total_seconds(), -2) for duration in lasts} == {900 + 5 * 32_000}


def test_work_lost_in_company_spends_no_attempt_and_becomes_a_suspect(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    submit_planned(stack, engine, worker)
    for loss in range(1, 5):
        held = claim(engine, worker)
        assert [lease.suspect for lease in held] == [loss > leases.MAX_LOSSES] * 3
        again, failed = lose(engine)
        assert (len(again), failed) == (3, [])
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT attempts, losses FROM work WHERE kind = 'sample'")).all()
        assert [tuple(row) for row in rows] == [(0, loss)] * 3


def test_one_image_that_kills_its_process_fails_alone(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    """Image 21 kills whoever samples it. Its shard is cut until it is alone; everything else succeeds."""
    job_id = submit_planned(stack, engine, worker)
    crashes = 0
    while held := claim(engine, worker, count=1):
        (lease,) = held
        if lease.suspect:
            with engine.begin() as connection:
                leases.isolate(connection, lease)
        if lease.start <= 21 < lease.stop:
            crashes += 1
            _, failed = lose(engine)
            for one in failed:
                with engine.begin() as connection:
                    jobs.fail_images(connection, one, "it kills")
        else:
            settle(engine, lease)
    assert crashes == leases.MAX_LOSSES + 4 + leases.MAX_ATTEMPTS  # 16 images are one after four cuts
    (finalize,) = claim(engine, worker, "finalize")
    with engine.begin() as connection:
        assert jobs.finalized(connection, finalize, "manifest") == "partial"
        assert connection.scalars(text("SELECT index FROM outputs WHERE error IS NOT NULL")).all() == [21]
        assert connection.scalar(text("SELECT succeeded FROM jobs WHERE id = :id"), {"id": job_id}) == 39


def test_a_suspect_of_planning_is_claimed_alone(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    for _ in range(3):
        stack.submit(REQUEST)
    for _ in range(leases.MAX_LOSSES):
        assert len(claim(engine, worker, "plan")) == 3
        lose(engine)
    for _ in range(leases.MAX_ATTEMPTS):  # each crashes alone now
        for _ in range(3):
            assert len(claim(engine, worker, "plan")) == 1
        again, failed = lose(engine)
    assert (again, len(failed)) == ([], 3)


def test_a_retired_process_gives_its_work_back_untouched(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    claim(engine, worker)
    with engine.begin() as connection:
        leases.retire(connection, worker)
        rows = connection.execute(text("SELECT state, attempts, losses FROM work WHERE kind = 'sample'")).all()
    assert [tuple(row) for row in rows] == [("ready", 0, 0)] * 3


def test_queues_with_work_are_hinted(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    with engine.begin() as connection:
        assert maintenance.queues_with_work(connection) == []
    submit_planned(stack, engine, worker)
    with engine.begin() as connection:
        assert maintenance.queues_with_work(connection) == ["default"]
    claim(engine, worker)
    with engine.begin() as connection:
        assert maintenance.queues_with_work(connection) == []


def test_a_lease_that_its_process_does_not_know_of_is_given_back(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    """A claim whose answer was lost with the connection; one that is being made just now is left alone."""
    submit_planned(stack, engine, worker)
    known, lost = claim(engine, worker, count=2)
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET lease_until = lease_until - interval '20 s' WHERE state = 'leased'"))
    (fresh,) = claim(engine, worker, count=1)
    with engine.begin() as connection:
        assert leases.give_back_forgotten(connection, worker, [known.token]) == 1
        rows = connection.execute(text("SELECT id, state, attempts, losses FROM work WHERE kind = 'sample'")).all()
    assert {row.id: row.state for row in rows} == {known.id: "leased", lost.id: "ready", fresh.id: "leased"}
    assert all((row.attempts, row.losses) == (0, 0) for row in rows)


def test_work_that_is_put_off_spends_no_attempt(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    submit_planned(stack, engine, worker)
    (lease,) = claim(engine, worker, count=1)
    with engine.begin() as connection:
        leases.postpone(connection, lease, "S3 is away")
        row = connection.execute(text("SELECT * FROM work WHERE id = :id"), {"id": lease.id}).one()
    assert (row.state, row.attempts, row.losses, row.error) == ("delayed", 0, 0, "S3 is away")


# -- turns -----------------------------------------------------------------------------------------


@pytest.fixture
def tenants(engine: Engine) -> Iterator[None]:
    """ant weighs 1, bee weighs 3; both as new as the default tenant."""
    names = {"ant": 1, "bee": 3}
    with engine.begin() as connection:
        connection.execute(text("UPDATE tenants SET virtual_time = 0"))
        for name, weight in names.items():
            logins.ensure_tenant(connection, name, login=f"login_{name}")
            connection.execute(text("UPDATE tenants SET weight = :w WHERE name = :n"), {"w": weight, "n": name})
    yield
    empty(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM tenants WHERE name IN ('ant', 'bee')"))


def give(engine: Engine, job_id: uuid.UUID, tenant: str) -> None:
    """Let a job that is not planned yet be another tenant's."""
    with engine.begin() as connection:
        for table, key in (("jobs", "id"), ("work", "job_id")):
            connection.execute(
                text(f"UPDATE {table} SET tenant = :tenant WHERE {key} = :id"), {"tenant": tenant, "id": job_id}
            )


def planned_of(stack: Stack, engine: Engine, worker: uuid.UUID, tenant: str, images: int, **columns: Any) -> uuid.UUID:
    """A planned job of a tenant; each image costs two evaluations."""
    job_id = stack.submit({**REQUEST, "images_per_item": images, "guidance_scale": 1}, **columns)
    give(engine, job_id, tenant)
    (lease,) = [lease for lease in claim(engine, worker, "plan") if lease.job_id == job_id]
    with engine.begin() as connection:
        assert planner.plan_job(connection, stack.store(), lease) is None
    return job_id


def served(engine: Engine, worker: uuid.UUID, count: int = 1000) -> list[uuid.UUID]:
    """Whose shards are claimed, in order; each is done before the next one is."""
    order = []
    while len(order) < count and (held := claim(engine, worker, count=1)):
        order.append(held[0].job_id)
        settle(engine, held[0])
    return order


def test_tenants_are_served_by_their_weights(stack: Stack, engine: Engine, worker: uuid.UUID, tenants: None) -> None:
    """Whoever came first: of the first 40 shards about 10 are ant's and 30 bee's."""
    ant = planned_of(stack, engine, worker, "ant", 640)
    bee = planned_of(stack, engine, worker, "bee", 640)
    first = served(engine, worker, 40)
    assert first.count(bee) == pytest.approx(30, abs=2)
    assert len(served(engine, worker)) == 40
    with engine.connect() as connection:
        assert {state(connection, job) for job in (ant, bee)} == {"finalizing"}


def test_a_small_job_does_not_wait_for_the_big_one_of_another_tenant(
    stack: Stack, engine: Engine, worker: uuid.UUID, tenants: None
) -> None:
    planned_of(stack, engine, worker, "ant", 1000)
    served(engine, worker, 20)
    bee = planned_of(stack, engine, worker, "bee", 16)
    assert bee in served(engine, worker, 2)


def test_who_was_idle_has_saved_nothing_up(stack: Stack, engine: Engine, worker: uuid.UUID, tenants: None) -> None:
    """bee slept while ant used much: it has its share from now on, and no more."""
    planned_of(stack, engine, worker, "ant", 1000)
    served(engine, worker, 40)
    with engine.begin() as connection:
        connection.execute(text("UPDATE tenants SET weight = 1 WHERE name = 'bee'"))
    bee = planned_of(stack, engine, worker, "bee", 1000)
    assert served(engine, worker, 40).count(bee) == pytest.approx(20, abs=2)


def test_nothing_starves_whatever_comes_before_it(
    stack: Stack, engine: Engine, worker: uuid.UUID, tenants: None
) -> None:
    """The lowest priority beside an endless stream of higher ones: it waits for what the head start is worth."""
    low = planned_of(stack, engine, worker, "ant", 16, priority=-1)
    cost = 1000 * 2
    before = 0
    planned_of(stack, engine, worker, "ant", 1000, priority=1)
    while low not in served(engine, worker, 63):
        before += cost
        planned_of(stack, engine, worker, "ant", 1000, priority=1)
    assert 2 * leases.HEAD_START - cost <= before <= 2 * leases.HEAD_START + cost


def test_planning_goes_round_the_tenants(stack: Stack, engine: Engine, worker: uuid.UUID, tenants: None) -> None:
    for _ in range(50):
        give(engine, stack.submit(REQUEST), "ant")
    bee = stack.submit(REQUEST)
    give(engine, bee, "bee")
    assert bee in [lease.job_id for lease in claim(engine, worker, "plan", count=16)]


def test_the_loaded_release_goes_on_within_its_quantum(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    first = submit_planned(stack, engine, worker)
    second = submit_planned(stack, engine, worker)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET pack_key = 'other' WHERE job_id = :id AND kind = 'sample'"), {"id": first}
        )
        release = connection.scalar(
            text("SELECT pack_key FROM work WHERE job_id = :id AND kind = 'sample'"), {"id": second}
        )

    def claimed() -> uuid.UUID:
        with engine.begin() as connection:
            (lease,) = leases.claim_sampling(connection, worker, queues=["default"], release=release)
        return lease.job_id

    assert claimed() == second
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE work SET rank = rank + :far WHERE job_id = :id"), {"far": leases.QUANTUM + 1_000, "id": second}
        )
    assert [claimed() for _ in range(3)] == [first] * 3
    assert claimed() == second


# -- when, and until when --------------------------------------------------------------------------


def test_a_job_for_later_waits(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    job_id = stack.submit(REQUEST, run_after="2100-01-01")
    with engine.begin() as connection:
        assert maintenance.wake_delayed(connection) == 0
    assert claim(engine, worker, "plan") == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE work SET run_after = now() WHERE job_id = :id"), {"id": job_id})
        assert maintenance.wake_delayed(connection) == 1
    assert [lease.job_id for lease in claim(engine, worker, "plan")] == [job_id]


def test_what_is_not_done_by_its_deadline_fails_and_what_is_done_stays(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    job_id = submit_planned(stack, engine, worker, deadline="2100-01-01")
    done, held = claim(engine, worker, count=2)
    settle(engine, done)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET deadline = now()"))
    with engine.begin() as connection:
        (ending,) = maintenance.stop_jobs(connection)
        assert state(connection, job_id) == "planned", "one shard is still held"
        assert maintenance.endings(connection, [job_id]) == [ending]
        maintenance.stop_shard(connection, held, ending)
    (finalize,) = claim(engine, worker, "finalize")
    with engine.begin() as connection:
        assert jobs.finalized(connection, finalize, "manifest") == "partial"
        errors = connection.scalars(text("SELECT error FROM outputs WHERE error IS NOT NULL")).all()
    assert len(errors) == 24
    assert all(error.startswith("its deadline, 20") for error in errors)


def test_a_deadline_before_planning_fails_the_job(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    job_id = stack.submit(REQUEST, deadline="2020-01-01")
    with engine.begin() as connection:
        maintenance.stop_jobs(connection)
        row = connection.execute(text("SELECT state, reason FROM jobs WHERE id = :id"), {"id": job_id}).one()
    assert row.state == "failed"
    assert row.reason == "its deadline, 2020-01-01 00:00:00 UTC, has passed"
    assert claim(engine, worker, "plan") == []


# -- cancelling, and trying again ------------------------------------------------------------------


def call(stack: Stack, function: str, job_id: uuid.UUID) -> Any:
    with stack.engine("submitter").begin() as connection:
        return connection.scalar(text(f"SELECT {function}(:id)"), {"id": job_id})


def test_a_cancelled_job_keeps_its_images_and_pays_for_no_others(
    stack: Stack, engine: Engine, worker: uuid.UUID
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE tenants SET virtual_time = 0"))
    job_id = submit_planned(stack, engine, worker)
    done, held = claim(engine, worker, count=2)
    settle(engine, done)
    assert call(stack, "cancel_job", job_id) == "planned"
    with engine.begin() as connection:
        (ending,) = maintenance.stop_jobs(connection)
        maintenance.stop_shard(connection, held, ending)
        assert maintenance.stop_jobs(connection) == []
        assert connection.scalar(text("SELECT virtual_time FROM tenants WHERE name = 'default'")) == 2 * 16 * 4
    (finalize,) = claim(engine, worker, "finalize")
    with engine.begin() as connection:
        assert jobs.finalized(connection, finalize, "manifest") == "cancelled"
        assert connection.scalar(text("SELECT count(*) FROM outputs")) == 16


def test_a_job_that_is_not_planned_is_cancelled_at_once(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    job_id = stack.submit(REQUEST)
    call(stack, "cancel_job", job_id)
    with engine.begin() as connection:
        maintenance.stop_jobs(connection)
        assert state(connection, job_id) == "cancelled"
    assert claim(engine, worker, "plan") == []


def test_a_new_revision_makes_what_is_missing(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    job_id = submit_planned(stack, engine, worker)
    with pytest.raises(DBAPIError, match="only what is partial, failed or cancelled"):
        call(stack, "retry_job", job_id)
    for lease in claim(engine, worker):
        if lease.start == 16:
            with engine.begin() as connection:
                jobs.record(connection, lease, [OutputRecord(20, 0, None, error="bad luck")])
                settled = [OutputRecord(i, 0, 5 + i, f"k{i}", "0" * 64, 1, "p") for i in range(16, 32)]
                jobs.record(connection, lease, settled)
                jobs.finish_shard(connection, lease)
        else:
            settle(engine, lease)
    (finalize,) = claim(engine, worker, "finalize")
    with engine.begin() as connection:
        assert jobs.finalized(connection, finalize, "manifest") == "partial"
    assert call(stack, "retry_job", job_id) == 2
    (lease,) = claim(engine, worker, "plan")
    with engine.begin() as connection:
        assert planner.plan_job(connection, stack.store(), lease) is None
    (lease,) = claim(engine, worker)
    assert (lease.start, lease.stop) == (16, 32)
    with engine.begin() as connection:
        assert set(range(16, 32)) - jobs.recorded(connection, job_id, 16, 32) == {20}
        jobs.record(connection, lease, [OutputRecord(20, 0, 25, "k20", "1" * 64, 1, "p")])
        jobs.finish_shard(connection, lease)
        revisions = connection.execute(text("SELECT index, revision FROM outputs ORDER BY index")).all()
    assert [tuple(row) for row in revisions] == [(i, 2 if i == 20 else 1) for i in range(40)]
    (finalize,) = claim(engine, worker, "finalize")
    with engine.begin() as connection:
        assert jobs.finalized(connection, finalize, "manifest") == "succeeded"


def test_an_end_is_announced(stack: Stack, engine: Engine, worker: uuid.UUID) -> None:
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN darkroom_job_ended")
        job_id = stack.submit(REQUEST)
        call(stack, "cancel_job", job_id)
        with engine.begin() as connection:
            maintenance.stop_jobs(connection)
        (notice,) = listener.notifies(timeout=10, stop_after=1)
    assert notice.payload == str(job_id)


# -- the plan of the claims ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (leases.CLAIM_SAMPLING, "work_to_sample"),
        (leases.CLAIM_SAMPLING_OF_RELEASE, "work_to_sample_by_release"),
        (leases.CLAIM_PLANNING, "work_to_dispatch"),
    ],
)
def test_a_claim_reads_no_more_than_it_takes(million: Engine, statement: Any, index: str) -> None:
    """Among a million shards: by its index, in the order of the turns."""
    with million.begin() as connection:
        worker = leases.register(connection, "worker")
    values = {"queues": ["default"], "worker": worker, "count": 1, "release": "r7"}
    with million.connect() as connection:
        found = connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.text}"), values).scalar()
        connection.rollback()
    plan = found[0]["Plan"]
    assert plan["Actual Rows"] == 1
    nodes = list(nodes_of(plan))
    assert any(node.get("Index Name") == index for node in nodes), json.dumps(found)
    assert not any(node["Node Type"] == "Seq Scan" and node["Relation Name"] == "work" for node in nodes)
    assert sum(node.get("Rows Removed by Filter", 0) for node in nodes) < 10
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 200


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes_of(part)


@pytest.fixture(scope="module")
def million(stack: Stack) -> Iterator[Engine]:
    """A million shards of ten releases, half of them done, and a few thousand jobs to plan."""
    engine = stack.engine("migrator")
    empty(engine)
    job_id = stack.submit(REQUEST)
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO work (job_id, kind, queue, tenant, state, stop, pack_key, rank)
                SELECT :id, 'sample', 'default', 'default', CASE WHEN n % 2 = 0 THEN 'done' ELSE 'ready' END, 1,
                       'r' || n % 10, n FROM generate_series(1, 1000000) AS n
            """),
            {"id": job_id},
        )
        connection.execute(
            text("INSERT INTO work (job_id, kind, queue, tenant, rank) "
                 "SELECT :id, 'plan', 'default', 'default', n FROM generate_series(1, 5000) AS n"),
            {"id": job_id},
        )  # fmt: skip
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE work"))
    yield engine
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE work"))
    empty(engine)
