"""Processes of the service, and the state that they share."""

import uuid
from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from migrations.tables.base import Table


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


class ServiceLock(Table):
    """A row to lock for work that one process at a time may do."""

    __tablename__ = "service_locks"
    name: Mapped[str] = mapped_column(primary_key=True)


class SchemaRevision(Table):
    """A revision of the schema, and the head revision of the oldest code that works with it."""

    __tablename__ = "schema_revisions"
    revision: Mapped[str] = mapped_column(primary_key=True)
    oldest_code: Mapped[str]
