"""Usage of tenants by day. The images' own transactions count it, so each image counts once."""

from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class Usage:
    """What a tenant has used on a day in UTC: images that were stored, and what they took.

    evaluations: rows of the network. gpu_seconds: time of the device, which may be a CPU. bytes: of the stored images.
    """

    tenant: str
    day: date
    images: int
    evaluations: int
    gpu_seconds: float
    bytes: int


UNITS = ("images", "evaluations", "gpu_seconds", "bytes")


def read_usage(connection: Connection, *, tenant: str | None = None, since: date, until: date) -> list[Usage]:
    """Return the usage of the days from `since` to `until`, both included, of one tenant or all, by day and tenant."""
    rows = connection.execute(
        text("""
            SELECT tenant, day, images, evaluations, gpu_seconds, bytes FROM tenant_usage
            WHERE day BETWEEN :since AND :until AND tenant = coalesce(:tenant, tenant) ORDER BY day, tenant
        """),
        {"tenant": tenant, "since": since, "until": until},
    )
    return [Usage(**row._mapping) for row in rows]


def read_usage_today(connection: Connection) -> list[Usage]:
    """Return the usage of this day in UTC, of each tenant that has any."""
    today: date = connection.execute(text("SELECT CAST(now() AT TIME ZONE 'UTC' AS date)")).scalar_one()
    return read_usage(connection, since=today, until=today)
