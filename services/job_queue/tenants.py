"""Tenants and their limits."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, text

from services.database.connections import DatabaseError
from services.database.logins import NAME


@dataclass(frozen=True)
class Tenant:
    """A tenant with its share, quotas, retention and the queues, releases and key prefixes that it may use.

    head_start: how far it may be ahead of others' turns, in network evaluations. max_open_bytes: of requests.
    max_daily_bytes: of requests, 1 KiB more for each job, and 512 bytes for each of its images; None before schema
    0040, which has no such limit.
    """

    name: str
    login: str | None
    weight: float
    head_start: int
    max_open_jobs: int
    max_open_bytes: int
    max_job_images: int
    retention_days: int | None
    permitted_queues: list[str]
    permitted_releases: list[str]
    read_prefixes: list[str]
    write_prefixes: list[str]
    max_daily_bytes: int | None = None


def list_tenants(connection: Connection) -> list[Tenant]:
    """Return every tenant, by name."""
    names = {field.name for field in fields(Tenant)}
    rows = connection.execute(text("SELECT * FROM tenants ORDER BY name")).mappings()
    return [Tenant(**{name: row[name] for name in names & row.keys()}) for row in rows]


def tenant_names(connection: Connection) -> list[str]:
    """Return the names of all tenants."""
    return list(connection.scalars(text("SELECT name FROM tenants ORDER BY name")))


def longest_head_start(connection: Connection) -> int:
    """Return the longest head start that a tenant has, in network evaluations."""
    return int(connection.scalar(text("SELECT coalesce(max(head_start), 0) FROM tenants")) or 0)


def update_tenant(connection: Connection, name: str, changes: Mapping[str, Any]) -> bool:
    """Change columns of a tenant; `changes` maps columns of Tenant to values. Returns False if it does not exist."""
    assert changes.keys() <= {field.name for field in fields(Tenant)}
    assignments = ", ".join(f"{column} = :{column}" for column in changes)
    result = connection.execute(text(f"UPDATE tenants SET {assignments} WHERE name = :name"), {**changes, "name": name})
    return result.rowcount > 0


def ensure_tenant(connection: Connection, name: str, *, login: str) -> None:
    """Create a tenant, or give an existing one another login.

    It reads objects under inputs/<name> and writes under outputs/<name>. Raises DatabaseError for a name that is not
    allowed.
    """
    if not NAME.fullmatch(name):
        raise DatabaseError(f"tenant: {name!r} is not allowed; permitted: a-z, 0-9, _ and -, at most 63")
    connection.execute(
        text("""
            INSERT INTO tenants (name, login, read_prefixes, write_prefixes)
            VALUES (:name, :login, ARRAY['inputs/' || :name], ARRAY['outputs/' || :name])
            ON CONFLICT (name) DO UPDATE SET login = excluded.login
        """),
        {"name": name, "login": login},
    )
