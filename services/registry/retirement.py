"""Retiring releases: new jobs cannot use a retired release, and its blobs are pruned when no open job needs it."""

from sqlalchemy import Connection, text

from services.registry.aliases import aliases_of
from services.registry.locks import lock_names
from services.registry.releases import REFERENCE, RegistryError, ReleaseRow, find


def retire(connection: Connection, reference: str) -> ReleaseRow:
    """Retire the release `name@version`. Retiring it again changes nothing.

    Raises RegistryError for another kind of reference, and while an alias points at the release.
    """
    lock_names(connection)
    release = _find_version(connection, reference)
    if aliases := aliases_of(connection, release.id):
        names = ", ".join(f"{release.name}@{alias}" for alias in aliases)
        raise RegistryError(
            f"release: {reference} cannot be retired while aliases point at it: {names}. "
            "Move them first: darkroom releases promote NAME@VERSION --alias ALIAS"
        )
    connection.execute(
        text("""
            UPDATE releases SET retired_at = now(), retired_by = session_user WHERE id = :id AND retired_at IS NULL
        """),
        {"id": release.id},
    )
    return release


def bring_back(connection: Connection, reference: str) -> ReleaseRow:
    """Let new jobs use a retired release again. What was pruned must be published again. Raises RegistryError."""
    lock_names(connection)
    release = _find_version(connection, reference)
    connection.execute(
        text("UPDATE releases SET retired_at = NULL, retired_by = NULL WHERE id = :id"), {"id": release.id}
    )
    return release


def _find_version(connection: Connection, reference: str) -> ReleaseRow:
    match = REFERENCE.fullmatch(reference)
    if match is None or match["version"] is None:
        raise RegistryError(f"release: {reference!r} is not allowed here; permitted: name@version, such as digits@3")
    return find(connection, reference, retired=True)
