"""Jobs, the work on them and their images."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from migrations.tables.base import Table


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
    stage: Mapped[int | None] = mapped_column(SmallInteger)
    claimed_stage: Mapped[int | None] = mapped_column(SmallInteger)


class JobStage(Table):
    """A stage of a chain: its release, what an image costs, and how many images it has made."""

    __tablename__ = "job_stages"
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    model: Mapped[str]
    release_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("releases.id"))
    digest: Mapped[str]
    cost: Mapped[int] = mapped_column(BigInteger)
    keep: Mapped[bool]
    is_last: Mapped[bool]
    made: Mapped[int]


class StageOutput(Table):
    """One image of a stage of a chain that is not the last."""

    __tablename__ = "stage_outputs"
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    key: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    profile: Mapped[str | None]
    evaluations: Mapped[int | None]
    gpu_seconds: Mapped[float | None]
    created_at: Mapped[datetime]


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


class Rating(Table):
    """What a person thinks of an image of a job, from 1 to 5."""

    __tablename__ = "ratings"
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    rating: Mapped[int] = mapped_column(SmallInteger)
    rated_by: Mapped[str]
    rated_at: Mapped[datetime]


class WatchedJob(Table):
    """A job whose changes are announced, because somebody looks at it."""

    __tablename__ = "watched_jobs"
    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    until: Mapped[datetime]
