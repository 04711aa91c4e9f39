"""Published releases, their evaluations and the aliases that point at them."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity
from sqlalchemy.orm import Mapped, mapped_column

from migrations.tables.base import Table


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


class MadeSchema(Table):
    """The JSON Schema of requests to a release; tenants read it in the view `request_schemas`.

    code: a digest of the code that made it. schema: null if the code cannot read the release.
    """

    __tablename__ = "made_schemas"
    release_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("releases.id", ondelete="CASCADE"), primary_key=True)
    code: Mapped[str]
    schema: Mapped[dict[str, Any] | None]


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
