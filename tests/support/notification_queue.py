"""Postgres' queue of notifications, made small enough to be filled by a test."""

import signal

import psycopg

from services.local_stack import lifecycle, processes
from tests.support.job_queue import fetch_value
from tests.support.stack import Stack
from tests.support.tenants import administrator

PAGES = 64


def make_small_queue(stack: Stack) -> None:
    """Restart Postgres with a queue of PAGES pages."""
    with administrator(stack) as connection:
        connection.execute(f"ALTER SYSTEM SET max_notify_queue_pages = {PAGES}")
    stack.close()
    server = processes.find(stack.root, "postgres")
    assert server is not None
    server.send_signal(signal.SIGINT)
    server.wait(60)
    lifecycle.start(stack.root)


def listen_without_end(listener: psycopg.Connection) -> None:
    """Let a session listen in a transaction that stays open, so that Postgres keeps all later notifications."""
    listener.execute("LISTEN noise")
    listener.execute("SET idle_in_transaction_session_timeout = 0")
    listener.execute("BEGIN")
    listener.execute("SELECT 1")


def fill_queue(sender: psycopg.Connection, share: float) -> float:
    """Send notifications until the queue is at least that full. Returns how full it is, from 0 to 1."""
    while (usage := float(fetch_value(sender, "SELECT pg_notification_queue_usage()"))) < share:
        sender.execute("SELECT pg_notify('noise', repeat('x', 7000))")
    return usage
