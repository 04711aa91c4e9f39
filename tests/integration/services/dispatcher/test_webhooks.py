"""Ended jobs are told to the addresses of their tenant: at least once, until they arrive or are dead."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.job_queue import webhooks
from services.job_queue.webhooks import EACH, MAX_ATTEMPTS, TOGETHER, Event
from tests.support.commands import Darkroom
from tests.support.receiver import receiver
from tests.support.stack import Stack
from tests.support.tenants import Tenant, make_tenant

SECRET = "a-secret-that-nobody-may-read"


@pytest.fixture
def tenant(stack: Stack) -> Tenant:
    return make_tenant(stack, f"t{uuid.uuid4().hex[:8]}")


@pytest.fixture
def owner(stack: Stack) -> Engine:
    return stack.engine("migrator")


def end_a_job(owner: Engine, tenant: Tenant) -> uuid.UUID:
    job = tenant.submit({}, tags=["night"])
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM work WHERE job_id = :id"), {"id": job})
        connection.execute(
            text("UPDATE jobs SET state = 'rejected', reason = 'bad', finished_at = now() WHERE id = :id"), {"id": job}
        )
    return job


def add(owner: Engine, tenant: Tenant, url: str) -> None:
    with owner.begin() as connection:
        webhooks.add_webhook(connection, tenant.name, url, SECRET, may_be_private=True)


def claim(owner: Engine, tenant: Tenant) -> list[Event]:
    with owner.begin() as connection:
        return [event for event in webhooks.claim_events(connection) if event.tenant == tenant.name]


def let_due(owner: Engine, tenant: Tenant) -> None:
    with owner.begin() as connection:
        connection.execute(
            text("UPDATE webhook_events SET due_at = now() WHERE tenant = :tenant"), {"tenant": tenant.name}
        )


def seen(tenant: Tenant) -> list[Any]:
    """The events that the tenant sees: (state, attempts, error)."""
    with tenant.connect() as client:
        query = "SELECT state, attempts, error FROM webhook_events ORDER BY id"
        return [tuple(row) for row in client.execute(query).fetchall()]


def test_an_event_is_sent_again_if_its_sender_dies_and_is_dead_in_the_end(owner: Engine, tenant: Tenant) -> None:
    add(owner, tenant, "http://127.0.0.1:1/")
    end_a_job(owner, tenant)
    (first,) = claim(owner, tenant)
    assert claim(owner, tenant) == []  # another dispatcher finds nothing while the first one sends
    let_due(owner, tenant)  # as after the death of the first one
    (second,) = claim(owner, tenant)
    assert (second.id, second.attempts, second.data) == (first.id, 2, first.data)
    for attempt in range(2, MAX_ATTEMPTS):
        with owner.begin() as connection:
            assert not webhooks.record_failure(connection, second, "refused")
        assert claim(owner, tenant) == []  # for a while
        let_due(owner, tenant)
        (second,) = claim(owner, tenant)
        assert second.attempts == attempt + 1
    with owner.begin() as connection:
        assert webhooks.record_failure(connection, second, "refused")
    assert seen(tenant) == [("dead", MAX_ATTEMPTS, "refused")]
    let_due(owner, tenant)
    assert claim(owner, tenant) == []
    with owner.begin() as connection:
        assert webhooks.redeliver(connection, None, tenant.name) == 1
    (again,) = claim(owner, tenant)
    assert (again.id, again.attempts) == (first.id, 1)


def test_no_backlog_of_others_keeps_a_tenant_s_events_back(stack: Stack, owner: Engine) -> None:
    """Nine tenants have more events due than are claimed together."""
    tenants = [make_tenant(stack, f"t{number}{uuid.uuid4().hex[:8]}") for number in range(TOGETHER // EACH + 1)]
    for one in tenants:
        add(owner, one, "http://127.0.0.1:1/")
        with owner.begin() as connection:
            connection.execute(
                text("""
                    INSERT INTO webhook_events (tenant, url, job_id, data)
                    SELECT :tenant, 'http://127.0.0.1:1/', uuidv7(), '{}' FROM generate_series(1, 100)
                """),
                {"tenant": one.name},
            )
    served: set[str] = set()
    for _ in range(5):
        with owner.begin() as connection:
            served |= {event.tenant for event in webhooks.claim_events(connection)}
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM webhooks WHERE tenant = ANY(:t)"), {"t": [one.name for one in tenants]})
    assert served >= {one.name for one in tenants}


def test_a_job_that_does_not_end_leaves_no_event(owner: Engine, tenant: Tenant) -> None:
    add(owner, tenant, "http://127.0.0.1:1/")
    with owner.connect() as connection:
        job = tenant.submit({})
        connection.execute(text("UPDATE jobs SET finished_at = now(), state = 'failed' WHERE id = :id"), {"id": job})
        connection.rollback()
    assert seen(tenant) == []


def test_events_arrive_and_no_other_tenant_sees_them(
    stack: Stack, owner: Engine, tenant: Tenant, darkroom_here: Darkroom, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with receiver() as heard, stack.process("dispatcher") as dispatcher:
        dispatcher.wait_for("serves")
        added = darkroom_here(
            "webhooks", "add", tenant.name, f"{heard.url}/hook", "--secret-file", str(secret), "--private"
        )
        assert added.returncode == 0, added.stderr
        job = tenant.submit({"items": []}, tags=["night"])
        deadline = time.monotonic() + 60
        while [state for state, _, _ in seen(tenant)] != ["delivered"]:
            assert time.monotonic() < deadline, seen(tenant)
            time.sleep(0.05)
        assert SECRET not in dispatcher.log.read_text()
    data = json.loads(heard.arrived[0][2])["data"]
    assert (data["job"], data["state"], data["tags"]) == (str(job), "rejected", ["night"])
    assert "items: [] is not allowed" in data["reason"]
    assert seen(make_tenant(stack, f"t{uuid.uuid4().hex[:8]}")) == []
    listed = darkroom_here("webhooks", "list").stdout + darkroom_here("webhooks", "events", tenant.name).stdout
    assert f"{heard.url}/hook" in listed
    assert SECRET not in listed
    (event,) = json.loads(darkroom_here("webhooks", "events", tenant.name, "--json").stdout)
    assert darkroom_here("webhooks", "redeliver", event["id"]).stdout == "Events that are sent again: 1.\n"
    assert darkroom_here("webhooks", "remove", tenant.name, f"{heard.url}/hook").returncode == 0
    assert seen(tenant) == [("dead", 0, "its webhook was removed")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "default", "ftp://x", "--secret-file", "/nowhere"], "url: 'ftp://x' is not allowed; permitted: http"),
        (["add", "default", "https://x.org", "--secret-file", "/nowhere"], "--secret-file: /nowhere does not exist"),
        (["remove", "default", "https://x.org"], "url: tenant 'default' has no webhook 'https://x.org'"),
        (["events", "--state", "lost"], "--state: 'lost' is not allowed; permitted: waiting, delivered, dead"),
        (["redeliver"], "give the ids of events, or --dead"),
        (["redeliver", "x"], "event: not an id; list events with: darkroom webhooks events"),
    ],
)
def test_mistakes_are_named(stack: Stack, darkroom_here: Darkroom, arguments: list[str], message: str) -> None:
    done = darkroom_here("webhooks", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
