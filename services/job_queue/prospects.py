"""The queues that a viewer may use, the tenant's limits, and the pace of its earlier jobs of a model."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

LOOKED_AT = 200  # jobs of the tenant, newest first


@dataclass(frozen=True)
class TenantLimits:
    """What requests of a tenant may read, write and make. max_images: of a job."""

    write_prefixes: list[str]
    read_prefixes: list[str]
    max_images: int


def find_limits(connection: Connection) -> TenantLimits:
    """Return the limits of the tenant of the console's viewer."""
    query = text("SELECT write_prefixes, read_prefixes, max_job_images AS max_images FROM visible_limits")
    return TenantLimits(**connection.execute(query).one()._mapping)


def list_permitted_queues(connection: Connection) -> list[str]:
    """Return the names of the queues that the viewer of the console may use, the default one first."""
    query = text("SELECT name FROM visible_queues ORDER BY name <> 'default', name")
    return list(connection.scalars(query))


def list_visible_queues(connection: Connection) -> dict[str, bool]:
    """Return the queues that the viewer of the console may use by name, and of each whether it is paused."""
    rows = connection.execute(text("SELECT name, paused FROM visible_queues ORDER BY name"))
    return {row.name: row.paused for row in rows}


def find_pace(connection: Connection, model: str) -> float | None:
    """Return the images per second that the tenant's latest ended jobs of a model were made at, or None without any."""
    pace: float | None = connection.scalar(
        text("""
            SELECT sum(succeeded) / nullif(sum(extract(epoch FROM finished_at - started_at)), 0) FROM (
                SELECT * FROM jobs ORDER BY id DESC LIMIT :limit) AS latest
            WHERE model = :model AND started_at IS NOT NULL AND finished_at > started_at
        """),
        {"model": model, "limit": LOOKED_AT},
    )
    return None if pace is None else float(pace)
