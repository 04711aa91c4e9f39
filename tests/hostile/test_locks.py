"""Whatever a client locks or keeps open, other tenants are served."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from tests.support.stack import Process
from tests.support.tenants import Tenant

READ = ("jobs", "outputs")
LOCK_MODES = (
    "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE", "ACCESS EXCLUSIVE",
)  # fmt: skip


@contextmanager
def open_transaction(tenant: Tenant) -> Iterator[psycopg.Connection]:
    """A transaction that its client leaves open."""
    with tenant.connect(autocommit=False) as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize("table", READ)
def test_a_client_gets_only_table_locks_that_let_the_service_work(
    attacker: Tenant, neighbour: Tenant, service: tuple[Process, Process], table: str
) -> None:
    with ExitStack() as transactions:
        held = []
        for mode in LOCK_MODES:
            connection = transactions.enter_context(open_transaction(attacker))
            try:
                connection.execute(f"LOCK TABLE {table} IN {mode} MODE NOWAIT")
                held.append(mode)
            except psycopg.errors.InsufficientPrivilege:
                connection.rollback()
        assert set(held) <= {"ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE"}
        neighbour.assert_served(timeout=20)


@pytest.mark.parametrize("clause", ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"])
@pytest.mark.parametrize("table", READ)
def test_a_client_cannot_lock_rows(attacker: Tenant, table: str, clause: str) -> None:
    with attacker.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT FROM {table} FOR {clause}")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO jobs (model, request) VALUES ('tiny', '{}')",
        'SELECT submit_job(\'{"model": "tiny", "request": {}, "idempotency_key": "held"}\')',
        "SELECT cancel_job(%(job)s)",
        "SELECT * FROM cancel_jobs(ARRAY[%(job)s]::uuid[])",
        "SELECT FROM jobs WHERE id = %(job)s",
    ],
)
def test_an_open_transaction_delays_neither_its_own_jobs_nor_others(
    attacker: Tenant, neighbour: Tenant, service: tuple[Process, Process], statement: str
) -> None:
    job_id = attacker.submit({"items": [{"class_label": 1}], "images_per_item": 64, "steps": 4})
    with open_transaction(attacker) as connection:
        connection.execute(statement, {"job": job_id})
        neighbour.assert_served(timeout=20)
        assert attacker.wait(job_id, timeout=30).state == "succeeded"  # a cancel that is not committed stops nothing


def test_a_retry_that_stays_open_delays_nobody(
    attacker: Tenant, neighbour: Tenant, service: tuple[Process, Process]
) -> None:
    job_id = attacker.submit({"items": [{"class_label": 1}], "images_per_item": 400, "steps": 50})
    attacker.wait(job_id, "planned", "running")
    with attacker.connect() as connection:
        connection.execute("SELECT cancel_job(%s)", (job_id,))
    attacker.wait(job_id)
    with open_transaction(attacker) as connection:
        connection.execute("SELECT retry_job(%s)", (job_id,))
        neighbour.assert_served(timeout=20)
