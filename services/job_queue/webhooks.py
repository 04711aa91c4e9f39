"""Webhooks of tenants, and the outbox of events for them."""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

EACH = 4  # events of one tenant that a process sends at the same time
TOGETHER = 32  # events that a process sends at the same time
LEASE_S = 120  # after which an event whose sender has died is sent again
MAX_ATTEMPTS = 12  # over about half a day
LONGEST_PAUSE_S = 3 * 3600
KEPT_DAYS = 7  # for which events are kept
CLEANED = 1_000  # events that are deleted together

Address = tuple[str, str]  # a webhook: its tenant and its URL


@dataclass(frozen=True)
class Webhook:
    """An address that a tenant's events are sent to. may_be_private: whether it may be one of a private network."""

    tenant: str
    url: str
    may_be_private: bool
    created_at: datetime


@dataclass(frozen=True)
class Event:
    """An event to send. secret: signs it, and is in no text of this object."""

    id: uuid.UUID
    tenant: str
    url: str
    job_id: uuid.UUID
    data: dict[str, Any]
    attempts: int
    created_at: datetime
    may_be_private: bool
    secret: str = field(repr=False)


@dataclass(frozen=True)
class EventSummary:
    """An event as a list shows it."""

    id: uuid.UUID
    tenant: str
    url: str
    job_id: uuid.UUID
    state: str  # waiting, delivered or dead
    attempts: int
    error: str | None
    created_at: datetime


def add_webhook(connection: Connection, tenant: str, url: str, secret: str, *, may_be_private: bool) -> None:
    """Add an address for a tenant's events, or give the one that exists another secret."""
    connection.execute(
        text("""
            INSERT INTO webhooks (tenant, url, secret, may_be_private) VALUES (:tenant, :url, :secret, :private)
            ON CONFLICT (tenant, url) DO UPDATE SET secret = excluded.secret, may_be_private = excluded.may_be_private
        """),
        {"tenant": tenant, "url": url, "secret": secret, "private": may_be_private},
    )


def remove_webhook(connection: Connection, tenant: str, url: str) -> bool:
    """Remove an address; its waiting events are never sent. Returns False if it does not exist."""
    values = {"tenant": tenant, "url": url}
    connection.execute(
        text("UPDATE webhook_events SET state = 'dead', error = 'its webhook was removed' "
             "WHERE tenant = :tenant AND url = :url AND state = 'waiting'"),
        values,
    )  # fmt: skip
    return connection.execute(text("DELETE FROM webhooks WHERE tenant = :tenant AND url = :url"), values).rowcount > 0


def list_webhooks(connection: Connection) -> list[Webhook]:
    """Return every webhook, without its secret."""
    query = text("SELECT tenant, url, may_be_private, created_at FROM webhooks ORDER BY tenant, url")
    return [Webhook(**row._mapping) for row in connection.execute(query)]


def list_events(connection: Connection, tenant: str | None, state: str | None, limit: int) -> list[EventSummary]:
    """Return up to `limit` events, newest first. tenant, state: None for all."""
    columns = ", ".join(EventSummary.__dataclass_fields__)
    query = text(f"""
        SELECT {columns} FROM webhook_events
        WHERE tenant = coalesce(:tenant, tenant) AND state = coalesce(:state, state)
        ORDER BY id DESC LIMIT :limit
    """)
    rows = connection.execute(query, {"tenant": tenant, "state": state, "limit": limit})
    return [EventSummary(**row._mapping) for row in rows]


def redeliver(connection: Connection, event_ids: Sequence[uuid.UUID] | None, tenant: str | None = None) -> int:
    """Send events again, given by their ids, or all dead ones of one tenant or of every one. Returns how many."""
    chosen = "state = 'dead'" if event_ids is None else "id = ANY(:ids)"
    return connection.execute(
        text(f"""
            UPDATE webhook_events SET state = 'waiting', attempts = 0, due_at = now(), error = NULL, delivered_at = NULL
            WHERE {chosen} AND tenant = coalesce(:tenant, tenant)
        """),
        {"ids": list(event_ids or ()), "tenant": tenant},
    ).rowcount


# -- sending -----------------------------------------------------------------------------------


def claim_events(
    connection: Connection,
    limit: int = TOGETHER,
    under_way: Mapping[str, int] | None = None,
    without: Collection[Address] = (),
) -> list[Event]:
    """Claim events that are due, a few of each tenant, in random order: no tenant's events are always the last.

    under_way: how many events of each tenant are being sent, which count towards EACH. without: webhooks of which none
    is claimed. An event whose sender dies is due again after LEASE_S seconds.
    """
    rows = connection.execute(
        text(f"""
            WITH due AS (
                SELECT id, row_number() OVER (PARTITION BY tenant ORDER BY random())
                    + coalesce((CAST(:under_way AS jsonb) ->> tenant)::integer, 0) AS place
                FROM webhooks CROSS JOIN LATERAL (
                    SELECT id FROM webhook_events AS event WHERE state = 'waiting' AND due_at <= now()
                        AND (event.tenant, event.url) = (webhooks.tenant, webhooks.url)
                    ORDER BY due_at LIMIT {EACH} FOR UPDATE SKIP LOCKED
                ) AS event WHERE NOT CAST(:without AS jsonb) @> jsonb_build_array(jsonb_build_array(tenant, url))
            ), chosen AS (SELECT id FROM due WHERE place <= {EACH} ORDER BY random() LIMIT :limit)
            UPDATE webhook_events AS event SET attempts = attempts + 1,
                due_at = now() + make_interval(secs => {LEASE_S})
            FROM chosen, webhooks
            WHERE event.id = chosen.id AND (webhooks.tenant, webhooks.url) = (event.tenant, event.url)
            RETURNING event.id, event.tenant, event.url, job_id, data, attempts, event.created_at, may_be_private,
                secret
        """),
        {"limit": limit, "under_way": json.dumps(dict(under_way or {})), "without": json.dumps(list(without))},
    )
    return [Event(**row._mapping) for row in rows]


def record_delivery(connection: Connection, event: Event) -> None:
    """Record that an event has arrived."""
    connection.execute(
        text("UPDATE webhook_events SET state = 'delivered', delivered_at = now(), error = NULL WHERE id = :id"),
        {"id": event.id},
    )


def record_failure(connection: Connection, event: Event, error: str) -> bool:
    """Record that an event has not arrived; it is tried again after a growing pause. Returns whether it is dead now."""
    is_dead = event.attempts >= MAX_ATTEMPTS
    connection.execute(
        text("""
            UPDATE webhook_events SET error = :error, state = CASE WHEN :dead THEN 'dead' ELSE 'waiting' END,
                due_at = now() + make_interval(secs => :pause * (0.5 + random()))
            WHERE id = :id AND state = 'waiting'
        """),
        {
            "id": event.id,
            "error": error[:500],
            "dead": is_dead,
            "pause": min(5 * 3 ** (event.attempts - 1), LONGEST_PAUSE_S),
        },
    )
    return is_dead


def delete_old(connection: Connection) -> bool:
    """Delete up to CLEANED events of jobs that ended KEPT_DAYS ago. Returns whether there may be more."""
    deleted = connection.execute(
        text(f"""
            WITH begin AS (SELECT extract(epoch FROM now() - interval '{KEPT_DAYS} days') * 1000 AS milliseconds)
            DELETE FROM webhook_events WHERE id IN (
                SELECT id FROM webhook_events  -- an id begins with its time
                WHERE id < (SELECT rpad(lpad(to_hex(milliseconds::bigint), 12, '0'), 32, '0')::uuid FROM begin)
                ORDER BY id LIMIT {CLEANED} FOR UPDATE SKIP LOCKED)
        """)
    ).rowcount
    return deleted == CLEANED
