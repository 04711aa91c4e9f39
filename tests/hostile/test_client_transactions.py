"""A client that keeps a transaction open loses its session, and a full queue of notifications stops no INSERT."""

import time
from contextlib import closing

import psycopg
import pytest

from services.exporter import QueueCollector
from services.local_stack import lifecycle, processes
from tests.support.job_queue import fetch_value
from tests.support.stack import Stack, fresh_stack
from tests.support.tenants import QUICK, Tenant, administrator, make_tenant

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
        with administrator(stack) as connection:
            connection.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
        stack.close()
        server = processes.find(stack.root, "postgres")
        assert server is not None
        server.send_signal(2)
        server.wait(30)
        lifecycle.start(stack.root)
        attacker, neighbour = make_tenant(stack, "attacker"), make_tenant(stack, "neighbour")
        with closing(attacker.connect()) as listener, attacker.connect() as sender:
            listener.execute("LISTEN noise")
            listener.execute("SET idle_in_transaction_session_timeout = 0")
            listener.execute("BEGIN")
            listener.execute("SELECT 1")
            fill = "SELECT pg_notify('noise', repeat('x', 7000))"
            while fetch_value(sender, "SELECT pg_notification_queue_usage()") < 0.9:
                sender.execute(fill)
            usage = fetch_value(sender, "SELECT pg_notification_queue_usage()")
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
