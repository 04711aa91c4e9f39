"""Tenants, their queues, limits, usage, tokens and webhooks."""

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from migrations.tables.base import Table


class Tenant(Table):
    """A submitter of jobs: its login, its share and quotas, the releases and key prefixes that it may use."""

    __tablename__ = "tenants"
    name: Mapped[str] = mapped_column(primary_key=True)
    login: Mapped[str | None] = mapped_column(unique=True)
    permitted_releases: Mapped[list[str]]
    write_prefixes: Mapped[list[str]]
    read_prefixes: Mapped[list[str]]
    weight: Mapped[float]
    virtual_time: Mapped[float]
    max_open_jobs: Mapped[int]
    max_job_images: Mapped[int]
    retention_days: Mapped[int | None]
    permitted_queues: Mapped[list[str]]
    head_start: Mapped[int]
    max_open_bytes: Mapped[int] = mapped_column(BigInteger)
    max_daily_bytes: Mapped[int] = mapped_column(BigInteger)


class TenantSubmissions(Table):
    """Jobs that a tenant has opened since counting began, and the bytes of their requests.

    daily_bytes: what it has stored on `day`, the last day on which it submitted.
    """

    __tablename__ = "tenant_submissions"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    day: Mapped[date]
    daily_bytes: Mapped[int] = mapped_column(BigInteger)


class TenantEndings(Table):
    """Jobs of a tenant that have ended since counting began, and the bytes of their requests. The rest are open."""

    __tablename__ = "tenant_endings"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)


class TenantRows(Table):
    """Bytes that planning has stored for a tenant on `day`, the last day on which one of its jobs was planned."""

    __tablename__ = "tenant_rows"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date]
    bytes: Mapped[int] = mapped_column(BigInteger)


class Queue(Table):
    """A named line of work. Nothing is claimed from a paused queue."""

    __tablename__ = "queues"
    name: Mapped[str] = mapped_column(primary_key=True)
    paused: Mapped[bool]


class UsageCount(Table):
    """What a tenant has used of a release on a profile on a day. The view `tenant_usage` adds the rows up."""

    __tablename__ = "usage_counts"
    day: Mapped[date] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(primary_key=True)
    release_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    profile: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    images: Mapped[int] = mapped_column(BigInteger)
    evaluations: Mapped[int] = mapped_column(BigInteger)
    gpu_seconds: Mapped[float]
    bytes: Mapped[int] = mapped_column(BigInteger)


class ApiToken(Table):
    """A token of the HTTP API. Its text is not stored."""

    __tablename__ = "api_tokens"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name", ondelete="CASCADE"))
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class WebhookRow(Table):
    """An address that receives an event for each ended job of a tenant, and the secret that signs the events."""

    __tablename__ = "webhooks"
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name", ondelete="CASCADE"), primary_key=True)
    url: Mapped[str] = mapped_column(primary_key=True)
    secret: Mapped[str]
    may_be_private: Mapped[bool]
    created_at: Mapped[datetime]


class WebhookEvent(Table):
    """An event that is sent to a webhook until it arrives, or is dead after many attempts."""

    __tablename__ = "webhook_events"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    url: Mapped[str]
    job_id: Mapped[uuid.UUID]
    data: Mapped[dict[str, Any]]
    state: Mapped[str]
    attempts: Mapped[int]
    due_at: Mapped[datetime]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
