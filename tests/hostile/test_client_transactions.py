"""A client that keeps a transaction open loses its session, and a full queue of notifications stops no INSERT."""

import time
from contextlib import closing

import psycopg
import pytest

from services.exporter import QueueCollector
from tests.support.job_queue import fetch_value
from tests.support.notification_queue import fill_queue, listen_without_end, make_small_queue
from tests.support.stack import Stack, fresh_stack
from tests.support.tenants import QUICK, Tenant, make_tenant

SOON = "from services.dispatcher import upkeep\nupkeep.CLIENT_TRANSACTION_S = 3.0\n"


def test_a_session_that_idles_in_a_transaction_is_ended(stack: Stack, attacker: Tenant, neighbour: Tenant) -> None:
    """The client has raised its own time-outs. One that ends its transactions keeps its session."""
    with attacker.connect(autocommit=False) as idle, neighbour.connect() as other:
        idle.execute("SET idle_in_transaction_session_timeout = 0")
        idle.commit()
        idle.execute("SELECT count(*) FROM jobs")
        with stack.process("dispatcher", first=SOON, **QUICK) as process:
            process.wait_for("ended 1 sessions of clients with a transaction older than 3 s")
            with pytest.raises(psycopg.OperationalError):
                idle.execute("SELECT 1")
            assert fetch_value(other, "SELECT 1") == 1


def test_a_full_queue_of_notifications_stops_no_insert() -> None:
    with fresh_stack() as stack:
        make_small_queue(stack)
        attacker, neighbour = make_tenant(stack, "attacker"), make_tenant(stack, "neighbour")
        with closing(attacker.connect()) as listener, attacker.connect() as sender:
            listen_without_end(listener)
            usage = fill_queue(sender, 0.9)
            assert usage > 0.9
            jobs = [neighbour.submit() for _ in range(3)]
            collector = QueueCollector(stack.engine("observer"), 30)
            seen = {family.name: family.samples for family in collector.collect()}
            assert seen["darkroom_notification_queue_usage"][0].value == usage
            with stack.process("dispatcher", first=SOON, **QUICK):
                for job in jobs:
                    neighbour.wait(job, "planned", timeout=30)
                deadline = time.monotonic() + 30
                while fetch_value(sender, "SELECT pg_notification_queue_usage()") > 0.1:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
