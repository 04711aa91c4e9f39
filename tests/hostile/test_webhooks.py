"""Receivers of one tenant's events that hang: another tenant's events arrive, and old events do not pile up."""

import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, text

from services.dispatcher import delivery
from services.dispatcher.webhook_sender import WebhookSender
from services.job_queue import webhooks
from services.job_queue.webhooks import EACH, TOGETHER
from tests.support.receiver import receiver
from tests.support.stack import Stack
from tests.support.tenants import Tenant


@pytest.fixture
def owner(stack: Stack) -> Engine:
    return stack.engine("migrator")


@contextmanager
def hanging_receiver() -> Iterator[str]:
    """A receiver that accepts every connection and never answers, until the context ends. Yields its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=2 * TOGETHER) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@contextmanager
def sending(owner: Engine) -> Iterator[None]:
    """Send what is due until the context ends."""
    sender = WebhookSender(owner)
    sender.start()
    try:
        yield
    finally:
        sender.stop()


def add(owner: Engine, tenant: Tenant, url: str, events: int) -> None:
    with owner.begin() as connection:
        webhooks.add_webhook(connection, tenant.name, url, "secret", may_be_private=True)
        add_events(owner, tenant, url, events)


def add_events(owner: Engine, tenant: Tenant, url: str, events: int, state: str = "waiting", days: int = 0) -> None:
    """Add events of jobs that ended `days` ago."""
    add_event = """
        INSERT INTO webhook_events (id, tenant, url, job_id, data, state) SELECT (rpad(lpad(to_hex((extract(
            epoch FROM now() - make_interval(days => :days)) * 1000)::bigint), 12, '0'), 24, '0')
            || lpad(to_hex(number), 8, '0'))::uuid, :tenant, :url, uuidv7(), '{}', :state
        FROM generate_series(:first, :first + :events - 1) AS number
    """
    values = {"tenant": tenant.name, "url": url, "events": events, "state": state, "days": days}
    with owner.begin() as connection:
        connection.execute(text(add_event), {**values, "first": uuid.uuid4().int % 2**30})


def count(owner: Engine, tenant: Tenant, condition: str) -> int:
    with owner.connect() as connection:
        query = text(f"SELECT count(*) FROM webhook_events WHERE tenant = :tenant AND {condition}")
        return int(connection.scalar(query, {"tenant": tenant.name}) or 0)


@pytest.fixture(autouse=True)
def no_webhooks_stay(owner: Engine) -> Iterator[None]:
    yield
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM webhooks WHERE tenant IN ('attacker', 'neighbour')"))
        connection.execute(text("DELETE FROM webhook_events WHERE tenant IN ('attacker', 'neighbour')"))


def test_receivers_that_hang_delay_no_other_tenant(
    owner: Engine, attacker: Tenant, neighbour: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_S", 600.0)
    monkeypatch.setattr(delivery, "TOTAL_S", 600.0)
    with receiver() as heard, sending(owner), hanging_receiver() as hanging:
        add(owner, attacker, hanging, 3_000)
        add(owner, neighbour, heard.url, 4 * EACH)
        deadline = time.monotonic() + 120
        while count(owner, neighbour, "state = 'delivered'") < 4 * EACH:
            assert time.monotonic() < deadline, "the neighbour waits for the attacker's receiver"
            time.sleep(0.05)
        assert count(owner, attacker, "attempts > 0") == EACH
        assert count(owner, attacker, "state <> 'waiting'") == 0
    assert len(heard.arrived) == 4 * EACH


def test_events_of_a_webhook_that_was_removed_meanwhile_keep_no_others_back(owner: Engine, attacker: Tenant) -> None:
    """A job that ends while its webhook is being removed leaves an event for it."""
    add(owner, attacker, "http://127.0.0.1:1/here", 0)
    add_events(owner, attacker, "http://127.0.0.1:1/gone", 2 * EACH)
    add_events(owner, attacker, "http://127.0.0.1:1/here", 1)
    claimed = []
    with owner.begin() as connection:
        for _ in range(4):
            claimed += [event.url for event in webhooks.claim_events(connection) if event.tenant == attacker.name]
    assert claimed == ["http://127.0.0.1:1/here"]


def test_a_receiver_that_is_away_is_tried_seldom_and_holds_up_no_other_one(owner: Engine, attacker: Tenant) -> None:
    """Not as often as it refuses a connection, though thousands of events are due for it."""
    with receiver() as heard, sending(owner):
        add(owner, attacker, "http://127.0.0.1:1/", 3_000)
        add(owner, attacker, heard.url, 50)
        deadline = time.monotonic() + 120
        while count(owner, attacker, "state = 'delivered'") < 50:
            assert time.monotonic() < deadline, "it waits for the receiver that is away"
            time.sleep(0.05)
    # At most EACH of the first claim, and one after each pause.
    assert 1 <= count(owner, attacker, "url = 'http://127.0.0.1:1/' AND attempts > 0") < 30


def test_old_events_are_deleted_whether_they_arrived_or_not(owner: Engine, attacker: Tenant) -> None:
    for state in ("delivered", "dead", "waiting"):
        add_events(owner, attacker, "http://127.0.0.1:1/", 600, state, days=webhooks.KEPT_DAYS + 1)
        add_events(owner, attacker, "http://127.0.0.1:1/", 1, state, days=webhooks.KEPT_DAYS - 1)
    with owner.begin() as connection:
        assert webhooks.delete_old(connection)  # there may be more
        assert not webhooks.delete_old(connection)
    assert count(owner, attacker, "true") == 3
