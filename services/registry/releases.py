"""Releases: rows in Postgres, files in S3 as blobs named by their sha256.

So publishing again is a no-op, and an autoencoder that ten diffusion releases share is stored once.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from services.errors import shown
from services.storage.layout import BLOBS_LOCK, blob_key
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError
from training.model import release as release_format

REFERENCE = re.compile(
    r"(?P<name>[a-z][a-z0-9_-]{0,62})(@((?P<version>[1-9][0-9]{0,8})|(?P<alias>[a-z][a-z_-]{0,62})))?"
)
DEFAULT_ALIAS = "production"
ANY = "*"


class RegistryError(DarkroomError):
    """A release that cannot be found or stored; the message names it and says what there is."""


def find(connection: Connection, reference: str, *, permitted: Sequence[str] = (ANY,)) -> Any:
    """The release row of `name`, `name@alias` or `name@version`; a bare name means its production alias.

    permitted: the names that may be used, ANY for all of them. Raises RegistryError that says what exists among them.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError(f"model: {shown(reference)} is not allowed; permitted: name, name@alias or name@version")
    name, version, alias = match["name"], match["version"], match["alias"] or DEFAULT_ALIAS
    if ANY not in permitted and name not in permitted:
        raise RegistryError(f"model: {name!r} is not permitted to you; permitted: {', '.join(permitted) or 'none'}")
    if version is not None:
        row = connection.execute(
            text("SELECT * FROM releases WHERE name = :name AND version = :version"),
            {"name": name, "version": int(version)},
        ).first()
    else:
        row = connection.execute(
            text("SELECT releases.* FROM aliases JOIN releases ON releases.id = aliases.release_id "
                 "WHERE aliases.name = :name AND alias = :alias"),
            {"name": name, "alias": alias},
        ).first()  # fmt: skip
    if row is not None:
        return row
    names = list(connection.scalars(text("SELECT DISTINCT name FROM releases ORDER BY name")))
    names = [name for name in names if ANY in permitted or name in permitted]
    raise RegistryError(_missing(connection, name, version, alias, names))


def _missing(connection: Connection, name: str, version: str | None, alias: str, names: Sequence[str]) -> str:
    if name not in names:
        return f"model: no release is called {name!r}; there are: {', '.join(names) or 'none yet, publish one first'}"
    versions = connection.scalars(text("SELECT version FROM releases WHERE name = :n ORDER BY version"), {"n": name})
    if version is not None:
        return f"model: {name!r} has no version {version}; there are: {', '.join(map(str, versions))}"
    aliases = list(connection.scalars(text("SELECT alias FROM aliases WHERE name = :n ORDER BY alias"), {"n": name}))
    return (
        f"model: {name!r} has no alias {alias!r}; there are: {', '.join(aliases) or 'none'} "
        f"(and versions {', '.join(map(str, versions))})"
    )


def by_id(connection: Connection, release_id: int) -> Any:
    """The row of a release that exists."""
    return connection.execute(text("SELECT * FROM releases WHERE id = :id"), {"id": release_id}).one()


def by_digest(connection: Connection, digest: str) -> Any:
    """The row of the release with this content. Raises RegistryError where none was published."""
    row = connection.execute(text("SELECT * FROM releases WHERE digest = :d ORDER BY id"), {"d": digest}).first()
    if row is None:
        raise RegistryError(f"no release of digest {digest[:12]} is published; publish it first")
    return row


def rules(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a request to a release may say: the JSON Schema of its conditions, and whether it can be `guided`."""
    return {**manifest["conditions"], "guided": release_format.parse(manifest).guided}


def publish(
    connection: Connection, store: ObjectStore, folder: Path, origin: Mapping[str, str] | None = None
) -> tuple[str, int]:
    """Store a release folder and give it the next version of its name. Returns name and version.

    Content that was published before under this name keeps its version and its origin: the pipeline run, commit and
    image that made it. Raises ReleaseError for a bad folder.
    """
    release = release_format.read(folder)
    connection.execute(text(f"SELECT pg_advisory_xact_lock_shared({BLOBS_LOCK})"))
    for name, record in release.files.items():
        store.upload_if_absent(blob_key(record.sha256), folder / name, sha256=record.sha256)
    # Two publishers of one name take their versions one after the other.
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('release ' || :name))"), {"name": release.name})
    known = connection.scalar(
        text("SELECT version FROM releases WHERE name = :name AND digest = :digest"),
        {"name": release.name, "digest": release.digest},
    )
    if known is not None:
        return release.name, int(known)
    version = connection.scalar(
        text("""
            INSERT INTO releases (name, version, kind, digest, manifest, origin)
            SELECT :name, coalesce(max(version), 0) + 1, :kind, :digest, CAST(:manifest AS jsonb),
                   CAST(:origin AS jsonb)
            FROM releases WHERE name = :name RETURNING version
        """),
        {
            "name": release.name,
            "kind": release.kind,
            "digest": release.digest,
            "manifest": json.dumps(release.to_json()),
            "origin": json.dumps(dict(origin or {})),
        },
    )
    return release.name, int(version)


def evaluate(connection: Connection, reference: str, fingerprint: str, metrics: dict[str, Any]) -> None:
    """Keep what a release scored; evaluations compare only where their fingerprints are equal."""
    row = find(connection, reference)
    if evaluation(connection, row.id, fingerprint) == metrics:
        return  # published again
    connection.execute(
        text("INSERT INTO evaluations (release_id, fingerprint, metrics) VALUES (:id, :fp, CAST(:metrics AS jsonb))"),
        {"id": row.id, "fp": fingerprint, "metrics": json.dumps(metrics)},
    )


def evaluation(connection: Connection, release_id: int, fingerprint: str) -> dict[str, Any] | None:
    """The latest figures of a release under this fingerprint."""
    query = "SELECT metrics FROM evaluations WHERE release_id = :id AND fingerprint = :fp ORDER BY id DESC LIMIT 1"
    metrics: dict[str, Any] | None = connection.scalar(text(query), {"id": release_id, "fp": fingerprint})
    return metrics


def promote(connection: Connection, reference: str, alias: str, *, expected: int | None = None) -> None:
    """Point an alias of the release's name at it, and write down that it moved.

    expected: the version that the alias must point at now, 0 for none; RegistryError if it was moved meanwhile.
    """
    row = find(connection, reference)
    before = _locked_alias(connection, row.name, alias)
    if before is not None and before.id == row.id:
        return
    if expected is not None and (before.version if before else 0) != expected:
        now = f"version {before.version}" if before else "none"
        raise RegistryError(f"alias: {row.name}@{alias} was moved meanwhile and is {now} now; compare with that one")
    _move(connection, row, alias, before, rollback=False)


def rollback(connection: Connection, name: str, alias: str) -> Any:
    """Point an alias back at what it was before the last promotion that was not rolled back. Returns that release.

    Raises RegistryError where it was never anything else.
    """
    before = _locked_alias(connection, name, alias)
    moves = connection.execute(
        text("SELECT to_release, rollback FROM promotions WHERE name = :name AND alias = :alias ORDER BY id"),
        {"name": name, "alias": alias},
    )
    history: list[int] = []
    for move in moves:
        if move.rollback:
            history.pop()
        else:
            history.append(move.to_release)
    if len(history) < 2:
        raise RegistryError(f"alias: {name}@{alias} was never another release that it could go back to")
    row = by_id(connection, history[-2])
    _move(connection, row, alias, before, rollback=True)
    return row


def moves(connection: Connection, name: str) -> Sequence[Any]:
    """Every move of the aliases of a name, the oldest first: alias, versions before and after, who, when, rollback."""
    return connection.execute(
        text("""
            SELECT alias, a.version AS before, b.version AS after, promoted_by, promoted_at, rollback
            FROM promotions LEFT JOIN releases a ON a.id = from_release JOIN releases b ON b.id = to_release
            WHERE promotions.name = :name ORDER BY promotions.id
        """),
        {"name": name},
    ).all()


def pointed_at(connection: Connection, name: str, alias: str) -> Any:
    """The release that an alias points at, None if it does not."""
    return connection.execute(
        text("SELECT releases.* FROM aliases JOIN releases ON releases.id = release_id "
             "WHERE aliases.name = :name AND alias = :alias"),
        {"name": name, "alias": alias},
    ).first()  # fmt: skip


def _locked_alias(connection: Connection, name: str, alias: str) -> Any:
    """What an alias points at; it cannot be moved by others until the transaction ends."""
    if not re.fullmatch(r"[a-z][a-z_-]{0,62}", alias):
        raise RegistryError(f"alias: {alias!r} is not allowed; permitted: a-z, _ and -, at most 63")
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('release ' || :name))"), {"name": name})
    return pointed_at(connection, name, alias)


def _move(connection: Connection, row: Any, alias: str, before: Any, *, rollback: bool) -> None:
    connection.execute(
        text("""
            INSERT INTO aliases (name, alias, release_id) VALUES (:name, :alias, :id)
            ON CONFLICT (name, alias) DO UPDATE SET release_id = excluded.release_id
        """),
        {"name": row.name, "alias": alias, "id": row.id},
    )
    connection.execute(
        text("INSERT INTO promotions (name, alias, from_release, to_release, rollback) "
             "VALUES (:name, :alias, :before, :id, :rollback)"),
        {"name": row.name, "alias": alias, "before": before and before.id, "id": row.id, "rollback": rollback},
    )  # fmt: skip
