"""A client that takes all of Postgres's locks, without which nobody can connect, loses its sessions."""

import time
from itertools import count
from typing import Any

import psycopg

from tests.support.stack import Process, Stack
from tests.support.tenants import Tenant, administrator

TAKE = "SELECT count(pg_advisory_lock(%s, key)) FROM generate_series(1, %s) AS key"


def take_all_locks(client: psycopg.Connection[tuple[object, ...]]) -> None:
    """Take locks until Postgres has no more."""
    numbers = count()
    for together in (1_000, 30, 1):
        try:
            while True:
                client.execute(TAKE, (next(numbers), together))
        except psycopg.errors.OutOfMemory:
            continue


def wait_for_a_look(owner: psycopg.Connection[Any]) -> None:
    """Wait until the dispatcher has looked at the sessions, and knows the logins."""
    (now,) = owner.execute("SELECT clock_timestamp()").fetchall()[0]
    looked = "SELECT FROM pg_stat_activity WHERE query ~ 'end_long_client' AND state = 'idle' AND query_start > %s"
    deadline = time.monotonic() + 120
    while not owner.execute(looked, (now,)).fetchall():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def is_open(client: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Return whether a session has not been ended."""
    try:
        client.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_a_client_that_takes_all_locks_loses_its_sessions(
    stack: Stack, service: tuple[Process, Process], attacker: Tenant, neighbour: Tenant
) -> None:
    """As on a server where nobody could deny it advisory locks."""
    with administrator(stack) as owner, attacker.connect() as client:
        wait_for_a_look(owner)
        owner.execute("GRANT EXECUTE ON FUNCTION pg_advisory_lock(integer, integer) TO tenant_attacker")
        take_all_locks(client)
        deadline = time.monotonic() + 120
        while is_open(client):
            assert time.monotonic() < deadline, "it keeps its session"
            time.sleep(0.2)
        neighbour.assert_served()
        owner.execute("REVOKE EXECUTE ON FUNCTION pg_advisory_lock(integer, integer) FROM tenant_attacker")
