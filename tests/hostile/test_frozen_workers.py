"""A worker that freezes between any two of its statements holds up nobody, and changes nothing when it wakes."""

import hashlib
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.freezing import freeze_in, thaw, wait_until_frozen
from tests.support.stack import Process, Stack
from tests.support.tenants import QUICK, Tenant, end_open_jobs
from tests.support.thoroughness import THOROUGH

pytestmark = pytest.mark.long

LARGE = {"items": [{"class_label": 1}], "images_per_item": 48, "steps": 4, "guidance_scale": 1.0, "seed": 5}

# A module, a function that sends a statement or a request, and whether the worker freezes before it.
BOUNDARIES = [
    ("services.job_queue.jobs", "begin_shards", True),  # claimed, and not known to be
    ("services.storage.object_store", "ObjectStore.put_if_absent", False),
    ("services.job_queue.outputs", "settle_images", False),
]
if THOROUGH:
    BOUNDARIES += [
        ("services.job_queue.jobs", "begin_shards", False),
        ("services.storage.object_store", "ObjectStore.put_if_absent", True),
        ("services.job_queue.outputs", "settle_images", True),
        ("services.job_queue.processes", "record_heartbeat", False),
    ]


@contextmanager
def frozen_worker(stack: Stack, tenant: Tenant, first: str, **environment: str) -> Iterator[tuple[Process, Any]]:
    """A worker that has frozen while it worked on a job of the tenant, and the job."""
    with stack.process("worker", first=first, **environment) as victim:
        victim.wait_for("serves queues")
        job_id = tenant.submit(LARGE)
        try:
            wait_until_frozen(victim)
            yield victim, job_id
        finally:
            thaw(victim)


@pytest.fixture
def queue(stack: Stack, hostile_dispatcher: Process) -> Iterator[None]:
    """A dispatcher, and after the test an empty queue."""
    yield
    end_open_jobs(stack)


def sampled(stack: Stack, job_id: Any) -> tuple[list[Any], dict[int, bytes]]:
    """Return the rows and the objects of a job's images."""
    with stack.engine("migrator").connect() as connection:
        query = text("SELECT * FROM outputs WHERE job_id = :id ORDER BY index")
        rows: list[Any] = list(connection.execute(query, {"id": job_id}))
    return rows, {row.index: stack.store().get(row.key) for row in rows}


@pytest.mark.parametrize(("module", "function", "before"), BOUNDARIES)
def test_a_worker_that_freezes_anywhere_holds_up_nobody_and_writes_nothing_later(
    stack: Stack, attacker: Tenant, neighbour: Tenant, queue: None, module: str, function: str, before: bool
) -> None:
    call = 3 if function in ("record_heartbeat", "ObjectStore.put_if_absent") else 1
    first = freeze_in(module, function, before=before, call=call)
    with frozen_worker(stack, attacker, first, **QUICK) as (victim, job_id):
        with stack.process("worker", **QUICK) as heir:
            heir.wait_for("serves queues")
            neighbour.assert_served(timeout=15)
            row = attacker.wait(job_id, timeout=90)
            assert (row.state, row.succeeded, row.failed) == ("succeeded", 48, 0)
            before_waking = sampled(stack, job_id)
            thaw(victim)
            time.sleep(3)
            assert victim.child.poll() is None
            assert sampled(stack, job_id) == before_waking
            assert attacker.job(job_id) == row
        rows, images = before_waking
        assert [hashlib.sha256(images[row.index]).hexdigest() for row in rows] == [row.sha256 for row in rows]
        neighbour.assert_served(timeout=30)  # by the worker that woke


def test_a_job_whose_worker_froze_can_be_cancelled_at_once(
    stack: Stack, attacker: Tenant, neighbour: Tenant, queue: None
) -> None:
    first = freeze_in("services.job_queue.outputs", "settle_images")
    with frozen_worker(stack, attacker, first, **QUICK) as (_, job_id), stack.process("worker", **QUICK) as heir:
        heir.wait_for("serves queues")
        began = time.monotonic()
        with attacker.connect(options="-c statement_timeout=2000") as connection:
            connection.execute("SELECT cancel_job(%s)", (job_id,))
        assert attacker.wait(job_id, timeout=30).state == "cancelled"
        assert time.monotonic() - began < 20
        neighbour.assert_served(timeout=15)


def test_a_worker_that_freezes_while_it_stops_a_job_holds_up_nobody(
    stack: Stack, attacker: Tenant, neighbour: Tenant, queue: None
) -> None:
    first = freeze_in("services.job_queue.stopping", "stop_shard")
    with stack.process("worker", first=first, **QUICK) as victim:
        victim.wait_for("serves queues")
        job_id = attacker.submit({**LARGE, "steps": 300})
        attacker.wait(job_id, "running")
        with attacker.connect() as connection:
            connection.execute("SELECT cancel_job(%s)", (job_id,))
        wait_until_frozen(victim)
        try:
            with stack.process("worker", **QUICK) as heir:
                heir.wait_for("serves queues")
                neighbour.assert_served(timeout=15)
                assert attacker.wait(job_id, timeout=30).state == "cancelled"
        finally:
            thaw(victim)


def test_at_default_settings_the_work_of_a_frozen_worker_is_under_way_elsewhere_within_45_seconds(
    stack: Stack, attacker: Tenant, neighbour: Tenant
) -> None:
    first = freeze_in("services.job_queue.outputs", "settle_images", call=2)
    with (
        stack.process("dispatcher") as dispatcher,
        frozen_worker(stack, attacker, first) as (victim, job_id),
        stack.process("worker") as heir,
    ):
        frozen_at = time.monotonic()
        dispatcher.wait_for("serves")
        heir.wait_for("serves queues")
        neighbour.assert_served(timeout=15)
        query = text("""
            SELECT count(*) FROM work WHERE job_id = :id AND state = 'leased'
                AND owner = (SELECT id FROM workers WHERE pid = :pid ORDER BY started_at DESC LIMIT 1)
        """)
        values = {"id": job_id, "pid": victim.child.pid}
        while True:
            with stack.engine("migrator").connect() as connection:
                if not connection.scalar(query, values):
                    break
            assert time.monotonic() - frozen_at < 45
            time.sleep(0.2)
        assert attacker.wait(job_id, timeout=45 - (time.monotonic() - frozen_at)).state == "succeeded"
        victim.child.send_signal(signal.SIGKILL)
