"""The tables of Darkroom, as a reference. The migrations create them, and a test checks that both agree.

docs/sql.md explains the columns, docs/state_machine.md the states.
"""

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, Double, ForeignKey, Identity, Integer, MetaData, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

metadata = MetaData()


class Table(DeclarativeBase):
    """The Postgres type of each Python type."""

    metadata = metadata
    type_annotation_map = {  # noqa: RUF012
        str: Text(),
        int: Integer(),
        float: Double(),
        uuid.UUID: UUID(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(),
        list[str]: ARRAY(Text()),
    }


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


class TenantSubmissions(Table):
    """Jobs that a tenant has opened since counting began, and the bytes of their requests."""

    __tablename__ = "tenant_submissions"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)


class TenantEndings(Table):
    """Jobs of a tenant that have ended since counting began, and the bytes of their requests. The rest are open."""

    __tablename__ = "tenant_endings"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)


class Queue(Table):
    """A named line of work. Nothing is claimed from a paused queue."""

    __tablename__ = "queues"
    name: Mapped[str] = mapped_column(primary_key=True)
    paused: Mapped[bool]


class ReleaseRow(Table):
    """A published release: a version of a name, and its `release.json`."""

    __tablename__ = "releases"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str]
    version: Mapped[int]
    kind: Mapped[str]
    digest: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    origin: Mapped[dict[str, Any]]
    published_by: Mapped[str]
    retired_at: Mapped[datetime | None]
    retired_by: Mapped[str | None]


class Evaluation(Table):
    """The metrics of a release under one fingerprint."""

    __tablename__ = "evaluations"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    release_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("releases.id"))
    fingerprint: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Alias(Table):
    """A movable name, such as production, for one release of a name."""

    __tablename__ = "aliases"
    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    release_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("releases.id"))


class Promotion(Table):
    """One move of an alias. Rows are never deleted."""

    __tablename__ = "promotions"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str]
    alias: Mapped[str]
    from_release: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("releases.id"))
    to_release: Mapped[int] = mapped_column(BigInteger, ForeignKey("releases.id"))
    promoted_by: Mapped[str]
    promoted_at: Mapped[datetime]
    rollback: Mapped[bool]


class Job(Table):
    """A client's request and its progress."""

    __tablename__ = "jobs"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    queue: Mapped[str]
    model: Mapped[str]
    request: Mapped[dict[str, Any]]
    idempotency_key: Mapped[str | None]
    priority: Mapped[int] = mapped_column(SmallInteger)
    state: Mapped[str]
    reason: Mapped[str | None]
    release_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("releases.id"))
    plan: Mapped[dict[str, Any] | None]
    total: Mapped[int]
    succeeded: Mapped[int]
    failed: Mapped[int]
    manifest_key: Mapped[str | None]
    run_after: Mapped[datetime | None]
    deadline: Mapped[datetime | None]
    revision: Mapped[int]
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    planned_to: Mapped[int]
    upkeep_failures: Mapped[int] = mapped_column(SmallInteger)
    expired_at: Mapped[datetime | None]
    images_per_item: Mapped[int | None]
    tags: Mapped[list[str]]
    paused: Mapped[bool]
    estimate: Mapped[dict[str, Any] | None]


class CancelRequest(Table):
    """A client's request to stop a job, until a dispatcher has recorded it in the job."""

    __tablename__ = "cancel_requests"
    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    requested_at: Mapped[datetime]


class ChangeRequest(Table):
    """A client's request to change a job, until a dispatcher has applied it."""

    __tablename__ = "change_requests"
    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    changes: Mapped[dict[str, Any]]
    requested_at: Mapped[datetime]
    due_at: Mapped[datetime]


class WorkerRow(Table):
    """A process that holds leases. Each start has a fresh id."""

    __tablename__ = "workers"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    profile: Mapped[str | None]
    queues: Mapped[list[str] | None]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    stopped_at: Mapped[datetime | None]


class Work(Table):
    """Work that a process leases: planning a job, sampling its images [start, stop), or finalizing it."""

    __tablename__ = "work"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[str]
    start: Mapped[int]
    stop: Mapped[int]
    queue: Mapped[str]
    tenant: Mapped[str]
    pack_key: Mapped[str | None]
    priority: Mapped[int] = mapped_column(SmallInteger)
    rank: Mapped[float]
    cost: Mapped[int] = mapped_column(BigInteger)
    line_start: Mapped[int | None]
    byte_start: Mapped[int | None] = mapped_column(BigInteger)
    byte_stop: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str]
    attempts: Mapped[int]
    losses: Mapped[int]
    suspect: Mapped[bool]
    isolated: Mapped[bool]
    token: Mapped[int | None] = mapped_column(BigInteger)
    owner: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    run_after: Mapped[datetime | None]
    error: Mapped[str | None]
    deferred: Mapped[float | None]
    clock: Mapped[float | None]


class Turns(Table):
    """The turns that a tenant has taken in a queue for its work of one priority, in weighted network evaluations."""

    __tablename__ = "turns"
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name", ondelete="CASCADE"), primary_key=True)
    queue: Mapped[str] = mapped_column(primary_key=True)
    priority: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    virtual_time: Mapped[float]
    deferred: Mapped[float]
    clock: Mapped[float]


class Output(Table):
    """One image of a job: where it is stored, or why it failed."""

    __tablename__ = "outputs"
    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    key: Mapped[str | None]
    sha256: Mapped[str | None]
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    profile: Mapped[str | None]
    error: Mapped[str | None]
    revision: Mapped[int]
    created_at: Mapped[datetime]
    evaluations: Mapped[int | None]
    gpu_seconds: Mapped[float | None]


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


class WatchedJob(Table):
    """A job whose changes are announced, because somebody looks at it."""

    __tablename__ = "watched_jobs"
    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    until: Mapped[datetime]


class Rating(Table):
    """What a person thinks of an image of a job, from 1 to 5."""

    __tablename__ = "ratings"
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    rating: Mapped[int] = mapped_column(SmallInteger)
    rated_by: Mapped[str]
    rated_at: Mapped[datetime]


class WebhookRow(Table):
    """An address that hears of a tenant's ended jobs, and the secret that signs what it hears."""

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


class ServiceLock(Table):
    """A row to lock for work that one process at a time may do."""

    __tablename__ = "service_locks"
    name: Mapped[str] = mapped_column(primary_key=True)


class SchemaRevision(Table):
    """A revision of the schema, and the head revision of the oldest code that works with it."""

    __tablename__ = "schema_revisions"
    revision: Mapped[str] = mapped_column(primary_key=True)
    oldest_code: Mapped[str]
