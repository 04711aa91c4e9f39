"""Aliases: movable names for releases, such as production. Every move is recorded."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from services.registry.locks import lock_names
from services.registry.releases import RegistryError, ReleaseRow, find, find_by_alias, find_by_id

ALIAS = re.compile(r"[a-z][a-z_-]{0,62}")


@dataclass(frozen=True)
class Promotion:
    """One move of an alias, between versions of its name."""

    alias: str
    before: int | None  # None: the alias did not exist
    after: int
    promoted_by: str  # login
    promoted_at: datetime
    rollback: bool


def aliases_of(connection: Connection, release_id: int) -> list[str]:
    """Return the aliases that point at a release."""
    return list(
        connection.scalars(text("SELECT alias FROM aliases WHERE release_id = :id ORDER BY alias"), {"id": release_id})
    )


def promote(connection: Connection, reference: str, alias: str, *, expected: int | None = None) -> ReleaseRow:
    """Point an alias of the release's name at the release, and record the move. Returns the release.

    expected: the version that the alias must point at now, 0 for none. Raises RegistryError if it points elsewhere, and
    for a reference or an alias that is not allowed.
    """
    _check_and_lock(connection, alias)
    release = find(connection, reference)
    before = find_by_alias(connection, release.name, alias)
    if before is not None and before.id == release.id:
        return release
    if expected is not None and (before.version if before else 0) != expected:
        now = f"version {before.version}" if before else "none"
        raise RegistryError(
            f"alias: {release.name}@{alias} was moved meanwhile and is {now} now; compare with that one"
        )
    _move(connection, release, alias, before, rollback=False)
    return release


def rollback(connection: Connection, name: str, alias: str) -> ReleaseRow:
    """Point an alias back at its release before the last promotion that was not rolled back. Returns that release.

    Raises RegistryError if there is no earlier release.
    """
    _check_and_lock(connection, alias)
    before = find_by_alias(connection, name, alias)
    promotions = connection.execute(
        text("SELECT to_release, rollback FROM promotions WHERE name = :name AND alias = :alias ORDER BY id"),
        {"name": name, "alias": alias},
    )
    earlier = earlier_release((promotion.to_release, promotion.rollback) for promotion in promotions)
    if earlier is None:
        raise RegistryError(f"alias: {name}@{alias} has no earlier release to roll back to")
    release = find_by_id(connection, earlier)
    if release.retired_at is not None:
        raise RegistryError(
            f"alias: {name}@{release.version}, the release before, was retired on {release.retired_at:%Y-%m-%d}; "
            "promote another one"
        )
    _move(connection, release, alias, before, rollback=True)
    return release


def earlier_release(moves: Iterable[tuple[int, bool]]) -> int | None:
    """Return the release before the last promotion that was not rolled back, or None if there is none.

    moves: of one alias, oldest first: the release that it pointed at then, and whether the move was a rollback.
    """
    history: list[int] = []
    for release, was_rollback in moves:
        if was_rollback:
            history.pop()
        else:
            history.append(release)
    return history[-2] if len(history) > 1 else None


def list_promotions(connection: Connection, name: str) -> list[Promotion]:
    """Return every move of the aliases of a name, oldest first."""
    rows = connection.execute(
        text("""
            SELECT alias, a.version AS before, b.version AS after, promoted_by, promoted_at, rollback
            FROM promotions LEFT JOIN releases a ON a.id = from_release JOIN releases b ON b.id = to_release
            WHERE promotions.name = :name ORDER BY promotions.id
        """),
        {"name": name},
    )
    return [Promotion(**row._mapping) for row in rows]


def check_alias(alias: str) -> None:
    """Raise RegistryError if an alias is not allowed."""
    if not ALIAS.fullmatch(alias):
        raise RegistryError(f"alias: {alias!r} is not allowed; permitted: a-z, _ and -, at most 63")


def _check_and_lock(connection: Connection, alias: str) -> None:
    """Keep others from moving aliases and retiring releases until the transaction ends."""
    check_alias(alias)
    lock_names(connection)


def _move(
    connection: Connection, release: ReleaseRow, alias: str, before: ReleaseRow | None, *, rollback: bool
) -> None:
    connection.execute(
        text("""
            INSERT INTO aliases (name, alias, release_id) VALUES (:name, :alias, :id)
            ON CONFLICT (name, alias) DO UPDATE SET release_id = excluded.release_id
        """),
        {"name": release.name, "alias": alias, "id": release.id},
    )
    connection.execute(
        text("INSERT INTO promotions (name, alias, from_release, to_release, rollback) "
             "VALUES (:name, :alias, :before, :id, :rollback)"),
        {
            "name": release.name,
            "alias": alias,
            "before": None if before is None else before.id,
            "id": release.id,
            "rollback": rollback,
        },
    )  # fmt: skip
