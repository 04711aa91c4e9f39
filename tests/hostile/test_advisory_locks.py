"""Advisory locks are open to every login where no superuser has closed them, so the service uses none."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.support.stack import Process, Stack
from tests.support.tenants import Tenant, administrator

ADVISORY = ("darkroom reconcile", "darkroom migrations", "darkroom blobs", "release tiny")


@pytest.fixture(autouse=True)
def open_locks(stack: Stack, attacker: Tenant) -> Iterator[None]:
    """Let the attacker take advisory locks."""
    function = "FUNCTION pg_advisory_lock(bigint)"
    with administrator(stack) as owner:
        owner.execute(f"GRANT EXECUTE ON {function} TO tenant_attacker".encode())
        yield
        owner.execute(f"REVOKE EXECUTE ON {function} FROM tenant_attacker".encode())


def test_advisory_locks_hinder_nobody(
    stack: Stack, attacker: Tenant, neighbour: Tenant, service: tuple[Process, Process]
) -> None:
    with attacker.connect() as connection:
        for key in ADVISORY:
            connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (key,))
        neighbour.assert_served(timeout=20)
        with stack.process("worker", DARKROOM_STALE_S="4", DARKROOM_HEARTBEAT_S="0.5") as killed:
            killed.wait_for("serves queues")
            job_id = neighbour.submit({"items": [{"class_label": 1}], "images_per_item": 64, "steps": 20})
            killed.wait_for(f"of job {job_id} starts")
            killed.child.kill()
            killed.child.wait()
        assert neighbour.wait(job_id, timeout=60).state == "succeeded"  # somebody has taken the lost leases back


def test_a_publisher_a_pruner_and_an_upgrade_do_not_wait_for_a_clients_advisory_lock(
    stack: Stack, attacker: Tenant
) -> None:
    from services import retention
    from services.database import schema
    from services.registry import aliases, releases

    with attacker.connect() as connection:
        for key in ADVISORY:
            connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (key,))
        with stack.engine("publisher").begin() as publisher:
            publisher.exec_driver_sql("SET LOCAL statement_timeout = '5s'")
            name, version = releases.publish(publisher, stack.store(), stack.root / "tiny-release")
            aliases.promote(publisher, f"{name}@{version}", "production")
        assert retention.prune_blobs(stack.engine("pruner"), stack.store(), timedelta()) is not None
        assert schema.upgrade(stack.engine("migrator")) == schema.newest_revision()
