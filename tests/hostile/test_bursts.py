"""A hundred thousand jobs in one statement, and a million images beside a thousand of one: slower, never wrong."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.processes import peak_memory_mib
from tests.support.stack import Process, Stack
from tests.support.tenants import QUICK, SMALL, Tenant, administrator, end_open_jobs
from tests.support.thoroughness import THOROUGH

pytestmark = pytest.mark.long

BURST = 100_000 if THOROUGH else 2_000  # 100,000 is what a tenant may have open unless an administrator says otherwise
LARGE = 1_000_000 if THOROUGH else 48_000
SINGLE = 1_000 if THOROUGH else 40
PERMITTED_MIB = 400
INSERT = "INSERT INTO jobs (model, request) SELECT 'tiny@production', %s FROM generate_series(1, %s) RETURNING id"
# The images of each job beside what its row says of them.
WRONG = """
    SELECT id, state, total, succeeded, failed, images FROM jobs
    CROSS JOIN LATERAL (SELECT count(*) AS images FROM outputs WHERE job_id = jobs.id) AS own
    WHERE id = ANY(%s) AND (images <> succeeded + failed OR failed > 0 OR state NOT IN ('succeeded', 'cancelled')
        OR (state = 'succeeded' AND succeeded <> total))
"""


def count_open(stack: Stack, jobs: list[uuid.UUID]) -> int:
    with administrator(stack) as owner:
        query = "SELECT count(*) FROM jobs WHERE id = ANY(%s) AND finished_at IS NULL"
        return int(owner.execute(query, (jobs,)).fetchall()[0][0])


def find_wrong(stack: Stack, jobs: list[uuid.UUID]) -> list[Any]:
    with administrator(stack) as owner:
        return owner.execute(WRONG, (jobs,)).fetchall()


@pytest.fixture
def quota(stack: Stack, attacker: Tenant) -> Iterator[None]:
    """The attacker may have BURST jobs open."""
    with administrator(stack) as owner:
        owner.execute("UPDATE tenants SET max_open_jobs = %s WHERE name = 'attacker'", (BURST,))
        yield
        owner.execute("UPDATE tenants SET max_open_jobs = DEFAULT WHERE name = 'attacker'")


def test_a_burst_in_one_statement_delays_others_by_seconds_and_ends_when_it_is_cancelled(
    stack: Stack, attacker: Tenant, neighbour: Tenant, hostile_worker: Process, quota: None
) -> None:
    own = {"before_imports": "pass"}  # The pages of a process that others are forked from would count, too.
    with stack.process("dispatcher", **own, **QUICK) as dispatcher, attacker.connect() as client:
        dispatcher.wait_for("serves")
        with pytest.raises(psycopg.Error, match=f'tenant "attacker" would have more than its {BURST} open jobs'):
            client.execute(INSERT, (Jsonb(SMALL), BURST + 1))
        began = time.monotonic()
        jobs = [row.id for row in client.execute(INSERT, (Jsonb(SMALL), BURST)).fetchall()]
        submitted_s = time.monotonic() - began
        waited = [neighbour.assert_served(timeout=30) for _ in range(3)]
        began = time.monotonic()
        client.execute("SELECT count(*) FROM cancel_jobs(%s)", (jobs,))
        waited.append(neighbour.assert_served(timeout=60))
        while left := count_open(stack, jobs):
            assert time.monotonic() - began < 1200, left
            time.sleep(0.5)
        ended_s = time.monotonic() - began
        assert find_wrong(stack, jobs) == []
        for process in (dispatcher, hostile_worker):
            assert process.child.poll() is None, process.log.read_text()[-4000:]
        memory = peak_memory_mib(dispatcher.child.pid)
    figures = f"submitted in {submitted_s:.1f} s, cancelled in {ended_s:.1f} s, others waited {waited}"
    print(f"{BURST} jobs: {figures}, dispatcher {memory:.0f} MiB")
    assert memory < PERMITTED_MIB
    assert attacker.submit(run_after="2100-01-01"), "the quota is free again"
    end_open_jobs(stack)
    with administrator(stack) as owner:
        owner.execute("DELETE FROM outputs WHERE job_id = ANY(%s)", (jobs,))
        owner.execute("DELETE FROM jobs WHERE id = ANY(%s)", (jobs,))


def test_a_large_job_and_many_of_one_image_are_both_done(
    stack: Stack, attacker: Tenant, neighbour: Tenant, service: tuple[Process, Process]
) -> None:
    request = {
        "items": [{"class_label": 1}] * (LARGE // 1000),
        "images_per_item": 1000,
        "steps": 1,
        "guidance_scale": 1,
    }
    large = attacker.submit(request)
    attacker.wait(large, "running")
    with neighbour.connect() as client:
        single = Jsonb({"items": [{"class_label": 1}], "steps": 1, "guidance_scale": 1})
        jobs = [row.id for row in client.execute(INSERT, (single, SINGLE)).fetchall()]
    before, began = attacker.job(large).succeeded, time.monotonic()
    while left := count_open(stack, jobs):
        assert time.monotonic() - began < 600, left
        time.sleep(0.2)
    took, done = time.monotonic() - began, attacker.job(large).succeeded
    print(f"{SINGLE} jobs in {took:.1f} s, meanwhile {done - before} images of the large one")
    assert done > before, "the large job stood still meanwhile"
    with attacker.connect() as client:
        client.execute("SELECT cancel_job(%s)", (large,))
    assert attacker.wait(large, timeout=300).state == "cancelled"
    assert find_wrong(stack, [large, *jobs]) == []
    assert count_open(stack, jobs) == 0
