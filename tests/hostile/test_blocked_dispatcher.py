"""A dispatcher whose statements fail or are blocked, whose broker hangs, or whose upkeep kills it."""

import time
from pathlib import Path

import pytest

from services.local_stack import processes
from services.process.watchdog import EXIT_HUNG
from tests.support.http import HealthClient, free_port, scrape_metrics
from tests.support.processes import Supervised
from tests.support.stack import Stack
from tests.support.tenants import QUICK, Tenant, administrator, end_open_jobs

pytestmark = pytest.mark.long


def test_a_blocked_part_is_named_and_in_the_end_the_process_exits(
    stack: Stack, attacker: Tenant, neighbour: Tenant
) -> None:
    """Meanwhile the other parts go on."""
    health = HealthClient(free_port())
    settings = {**QUICK, "DARKROOM_METRICS_PORT": str(health.port), "DARKROOM_STEP_LIMIT_S": "30"}
    with attacker.connect() as connection:
        connection.execute("SELECT cancel_job(%s)", (attacker.submit(run_after="2100-01-01"),))
    with administrator(stack) as holder, holder.transaction():
        holder.execute("LOCK TABLE cancel_requests IN EXCLUSIVE MODE")  # it can be read, and no request accepted
        with stack.process("dispatcher", **settings) as process:
            job = neighbour.submit()
            neighbour.wait(job, "planned", timeout=20)
            (reason,) = health.wait_until("readyz", lambda reasons: any("in a row" in one for one in reasons))
            assert reason.startswith("stopping jobs has failed 3 times in a row: ")
            assert "lock timeout" in reason
            assert health.reasons("healthz") == []
            assert scrape_metrics(health.port)["darkroom_loop_failures_total,loop=stopping jobs"] >= 3
            assert process.child.wait(60) == EXIT_HUNG
            assert "stopping jobs has only failed for 30 s" in process.log.read_text()
    end_open_jobs(stack)


def test_a_read_only_database_is_waited_for(stack: Stack, neighbour: Tenant) -> None:
    health = HealthClient(free_port())
    settings = {**QUICK, "DARKROOM_METRICS_PORT": str(health.port), "DARKROOM_STEP_LIMIT_S": "5"}

    def set_read_only(value: str) -> None:
        with administrator(stack) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")

    with stack.process("dispatcher", **settings) as process:
        health.wait_until("readyz", lambda reasons: not reasons)
        job = neighbour.submit(run_after="2100-01-01")
        with neighbour.connect() as connection:
            connection.execute("SELECT cancel_job(%s)", (job,))
        set_read_only("on")
        try:
            time.sleep(10)  # twice the step limit
            assert process.child.poll() is None, process.log.read_text()
            assert health.reasons("readyz")
        finally:
            set_read_only("off")
        job = neighbour.submit()
        neighbour.wait(job, "planned", timeout=60)
        health.wait_until("readyz", lambda reasons: not reasons)
    end_open_jobs(stack)


def plan_jobs(tenant: Tenant, count: int) -> float:
    """Submit jobs. Returns the seconds until all are planned."""
    began = time.monotonic()
    for job in [tenant.submit() for _ in range(count)]:
        tenant.wait(job, "planned", timeout=30)
    return time.monotonic() - began


def test_a_broker_that_hangs_delays_no_planning(stack: Stack, neighbour: Tenant) -> None:
    broker = processes.find(stack.root, "broker")
    assert broker is not None
    port = free_port()
    with stack.process("dispatcher", **QUICK, DARKROOM_METRICS_PORT=str(port)) as process:
        process.wait_for("serves")
        usual = plan_jobs(neighbour, 64)
        broker.suspend()
        try:
            took = plan_jobs(neighbour, 64)
            deadline = time.monotonic() + 30
            while scrape_metrics(port)["darkroom_broker_up"] and time.monotonic() < deadline:
                time.sleep(0.2)
            assert scrape_metrics(port)["darkroom_broker_up"] == 0
        finally:
            broker.resume()
        print(f"64 jobs are planned in {usual:.1f} s, and in {took:.1f} s beside a broker that hangs")
        assert took < 2 * usual + 5
        neighbour.wait(neighbour.submit(), "planned", timeout=60)
        deadline = time.monotonic() + 30
        while not scrape_metrics(port)["darkroom_broker_up"] and time.monotonic() < deadline:
            time.sleep(0.2)
        assert scrape_metrics(port)["darkroom_broker_up"] == 1
    end_open_jobs(stack)


def test_upkeep_that_kills_its_process_is_tried_a_few_times(
    stack: Stack, attacker: Tenant, neighbour: Tenant, tmp_path: Path
) -> None:
    """Stopping one job kills the dispatcher each time. That job is set aside; those beside it are cancelled."""
    deadly = tmp_path / "deadly"
    deadly.write_text("none")
    kill = f"""
import os, signal
from services.job_queue import stopping
original = stopping.stop_jobs
def stop_jobs(connection, job_ids):
    if any(str(job_id) in open({str(deadly)!r}).read() for job_id in job_ids):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(connection, job_ids)
stopping.stop_jobs = stop_jobs
"""
    jobs = [attacker.submit(run_after="2100-01-01") for _ in range(12)]
    deadly.write_text(str(jobs[5]))
    with attacker.connect() as connection:
        connection.execute("SELECT count(*) FROM cancel_jobs(%s)", (jobs,))
    supervised = Supervised(stack.root, "dispatcher", QUICK, first=kill)
    try:
        neighbour.wait(neighbour.submit(), "planned", timeout=90)
        for job in jobs:
            row = attacker.wait(job, timeout=90)
            assert row.state == ("failed" if job == jobs[5] else "cancelled"), row
        assert attacker.job(jobs[5]).reason == (
            "set aside by the service: 3 attempts at stopping failed or ended their process"
        )
        assert supervised.starts == 4
    finally:
        supervised.stop()
    end_open_jobs(stack)
