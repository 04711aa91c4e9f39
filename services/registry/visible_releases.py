"""The releases that a viewer of the console may see: those that the tenant may use."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class VisibleRelease:
    """A published release without its release.json."""

    name: str
    version: int
    kind: str
    digest: str
    aliases: list[str]
    created_at: datetime
    retired_at: datetime | None


COLUMNS = """name, version, kind, digest, created_at, retired_at,
    ARRAY(SELECT alias FROM visible_aliases WHERE release_id = visible_releases.id ORDER BY alias) AS aliases"""


def list_releases(connection: Connection, limit: int, *, after: tuple[str, int]) -> list[VisibleRelease]:
    """Return up to `limit` releases by name, newest version first, from the one that follows (name, version)."""
    rows = connection.execute(
        text(f"""
            SELECT {COLUMNS} FROM visible_releases WHERE name > :name OR (name = :name AND version < :version)
            ORDER BY name, version DESC LIMIT :limit
        """),
        {"name": after[0], "version": after[1], "limit": limit},
    )
    return [VisibleRelease(**row._mapping) for row in rows]


def find_release(connection: Connection, name: str, version: int) -> tuple[VisibleRelease, dict[str, Any]] | None:
    """Return a release and its release.json, or None if the tenant may use none of this name and version."""
    row = connection.execute(
        text(f"SELECT {COLUMNS}, manifest FROM visible_releases WHERE name = :name AND version = :version"),
        {"name": name, "version": version},
    ).first()
    if row is None:
        return None
    known = dict(row._mapping)
    manifest = known.pop("manifest")
    return VisibleRelease(**known), manifest
