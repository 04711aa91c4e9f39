"""A dispatcher that freezes within any of its transactions delays the others by a few seconds."""

import time
import uuid

import pytest

from tests.support.freezing import freeze_in, thaw, wait_until_frozen
from tests.support.stack import Process, Stack
from tests.support.tenants import QUICK, Tenant, administrator, end_open_jobs
from tests.support.thoroughness import THOROUGH

pytestmark = pytest.mark.long

BOUNDARIES = ["maintenance.rescue", "stopping.stop_jobs"]
if THOROUGH:
    BOUNDARIES += [
        "claims.claim_planning",
        "maintenance.wake_delayed",
        "stopping.accept_cancel_requests",
        "stopping.begin_attempt",
    ]


def make_work(stack: Stack, attacker: Tenant) -> dict[str, uuid.UUID]:
    """Make work of every kind for a dispatcher: a cancelled job, a delayed one that is due, one of a lost process."""
    found = {name: attacker.submit(run_after="2100-01-01") for name in ("cancelled", "delayed", "lost")}
    with administrator(stack) as connection:
        connection.execute("UPDATE work SET run_after = now() WHERE job_id = %s", (found["delayed"],))
        connection.execute(
            "UPDATE work SET state = 'leased', run_after = NULL, owner = gen_random_uuid(), token = -1, "
            "lease_until = now() + interval '1 hour' WHERE job_id = %s",
            (found["lost"],),
        )
    with attacker.connect() as connection:
        connection.execute("SELECT cancel_job(%s)", (found["cancelled"],))
    return found


def assert_all_is_done(attacker: Tenant, neighbour: Tenant, found: dict[str, uuid.UUID], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    neighbour.assert_served(timeout=within_s)
    for name, job in found.items():
        row = attacker.wait(job, timeout=max(0.1, deadline - time.monotonic()))
        assert row.state == ("cancelled" if name == "cancelled" else "succeeded"), name


def end(process: Process) -> None:
    process.child.kill()
    thaw(process)
    process.child.wait()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_frozen_dispatcher_delays_another_by_seconds(
    stack: Stack, attacker: Tenant, neighbour: Tenant, hostile_worker: Process, boundary: str
) -> None:
    module, function = boundary.split(".")
    found = make_work(stack, attacker)
    with stack.process("dispatcher", first=freeze_in(f"services.job_queue.{module}", function), **QUICK) as first:
        wait_until_frozen(first)
        with stack.process("dispatcher", **QUICK) as second:
            second.wait_for("serves")
            assert_all_is_done(attacker, neighbour, found, within_s=30)
            end(first)
    assert hostile_worker.child.poll() is None
    end_open_jobs(stack)


def test_with_default_settings_a_frozen_dispatcher_delays_another_by_less_than_45_s(
    stack: Stack, attacker: Tenant, neighbour: Tenant, hostile_worker: Process
) -> None:
    found = make_work(stack, attacker)
    with stack.process("dispatcher", first=freeze_in("services.job_queue.maintenance", "rescue")) as first:
        wait_until_frozen(first)
        with stack.process("dispatcher") as second:
            second.wait_for("serves")
            assert_all_is_done(attacker, neighbour, found, within_s=45)
            end(first)
    assert hostile_worker.child.poll() is None
    end_open_jobs(stack)
