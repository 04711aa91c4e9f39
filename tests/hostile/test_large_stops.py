"""Jobs of any size and number stop in bounded transactions, which delay nobody."""

import json
import time
import uuid

import pytest
from sqlalchemy import Engine, text

from services.job_queue import stopping
from tests.support.stack import Process, Stack
from tests.support.tenants import QUICK, Tenant, administrator, end_open_jobs
from tests.support.thoroughness import THOROUGH

pytestmark = pytest.mark.long

IMAGES = 1_000_000 if THOROUGH else 200_000
PLAN = {"images_per_item": 1000, "items": []}


def add_planned_job(stack: Stack, tenant: Tenant, images: int = IMAGES) -> uuid.UUID:
    """Add a job that is planned, as planning would do in minutes."""
    job_id = tenant.submit(run_after="2100-01-01", deadline="2100-01-02")
    with administrator(stack) as connection:
        connection.execute("DELETE FROM work WHERE job_id = %s", (job_id,))
        connection.execute(
            "UPDATE jobs SET state = 'planned', plan = %s, total = %s, run_after = NULL WHERE id = %s",
            (json.dumps(PLAN), images, job_id),
        )
        connection.execute(
            """
            INSERT INTO work (job_id, kind, queue, tenant, start, stop, cost, rank)
            SELECT %s, 'sample', 'default', %s, n, n + 16, 64, n FROM generate_series(0, %s - 1, 16) AS n
            """,
            (job_id, tenant.name, images),
        )
    return job_id


def one_round(engine: Engine) -> tuple[int, float]:
    """Do one round of stopping. Returns how many pieces of work it ended, and the seconds of its transaction."""
    with engine.begin() as connection:
        stopping.accept_cancel_requests(connection, stopping.find_cancel_requests(connection))
    with engine.begin() as connection:
        found = [job.id for job in stopping.find_jobs_to_stop(connection)]
        begun = stopping.begin_attempt(connection, found)
    began = time.monotonic()
    with engine.begin() as connection:
        _, pieces = stopping.stop_jobs(connection, begun)
    return pieces, time.monotonic() - began


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_large_job_stops_in_time_proportional_to_its_images(
    stack: Stack, attacker: Tenant, neighbour: Tenant, how: str
) -> None:
    """A dispatcher whose watchdog ends it after ten seconds without progress stops the job, and serves others."""
    job_id = add_planned_job(stack, attacker)
    with administrator(stack) as connection:
        if how == "deadline":
            connection.execute("UPDATE jobs SET deadline = now() WHERE id = %s", (job_id,))
        else:
            with attacker.connect() as client:
                client.execute("SELECT cancel_job(%s)", (job_id,))
    engine, seconds, pieces = stack.engine("dispatcher"), [], 0
    for _ in range(10):
        ended, spent = one_round(engine)
        seconds.append(spent)
        pieces += ended
    assert pieces == 10 * stopping.MAX_SHARDS
    assert max(seconds) < 2, seconds
    began = time.monotonic()
    with stack.process("dispatcher", **QUICK, DARKROOM_STEP_LIMIT_S="10") as process:
        process.wait_for("serves")
        waited = []
        while attacker.job(job_id).state == "planned":
            started = time.monotonic()
            neighbour.wait(neighbour.submit(), "planned", timeout=10)
            waited.append(time.monotonic() - started)
            assert time.monotonic() - began < 240, attacker.job(job_id)
        print(how, round(time.monotonic() - began, 1), "s; one round", max(seconds), "; waits", max(waited))
        assert process.child.poll() is None, process.log.read_text()
    row = attacker.job(job_id)
    assert (row.state, row.failed) == ("finalizing", IMAGES if how == "deadline" else 0)
    end_open_jobs(stack)


def test_cancelling_thousands_of_jobs_does_not_delay_one_of_another_tenant(
    stack: Stack, attacker: Tenant, neighbour: Tenant, hostile_dispatcher: Process
) -> None:
    count = 20_000 if THOROUGH else 5_000
    with attacker.connect() as connection:
        ids = [row.id for row in connection.execute(
            "INSERT INTO jobs (model, request, run_after) SELECT 'tiny', '{}', '2100-01-01' "
            "FROM generate_series(1, %s) RETURNING id", (count,))]  # fmt: skip
        connection.execute("SELECT count(*) FROM cancel_jobs(%s)", (ids,))
    began = time.monotonic()
    mine = neighbour.submit(run_after="2100-01-01")
    with neighbour.connect() as connection:
        connection.execute("SELECT cancel_job(%s)", (mine,))
    assert neighbour.wait(mine, timeout=30).state == "cancelled"
    neighbours = time.monotonic() - began
    with stack.engine("migrator").connect() as connection:
        query = text("SELECT count(*) FROM jobs WHERE tenant = 'attacker' AND finished_at IS NULL")
        while left := connection.scalar(query):
            connection.rollback()
            assert time.monotonic() - began < 120, left
            time.sleep(0.1)
    print(count, "jobs", round(time.monotonic() - began, 1), "s; the neighbour's", round(neighbours, 1), "s")
    with administrator(stack) as connection:
        connection.execute("DELETE FROM work")
        connection.execute("DELETE FROM jobs WHERE tenant = 'attacker'")
