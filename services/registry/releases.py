"""Published releases: rows in Postgres, and their files in S3 as blobs named by their sha256.

Publishing the same content again changes nothing, and an autoencoder that ten diffusion releases share is stored once.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Row, text

from services.errors import quote
from services.job_requests.image_rules import add_image_rules
from services.storage.layout import blob_key
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError
from training.model import release as release_format

REFERENCE = re.compile(
    r"(?P<name>[a-z][a-z0-9_-]{0,62})(@((?P<version>[1-9][0-9]{0,8})|(?P<alias>[a-z][a-z_-]{0,62})))?"
)
DEFAULT_ALIAS = "production"
ANY = "*"
BLOBS_LOCK = "hashtext('darkroom blobs')"  # shared by publishers, exclusive to the pruner of blobs


class RegistryError(DarkroomError):
    """A release cannot be found or stored; the message names it and lists what exists."""


@dataclass(frozen=True)
class ReleaseRow:
    """A published release: a version of a name, its release.json, and who published it from where."""

    id: int
    name: str
    version: int
    kind: str  # autoencoder or diffusion
    digest: str
    manifest: dict[str, Any]
    created_at: datetime
    origin: dict[str, str]  # pipeline run, commit and image that made it
    published_by: str  # login

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        """Make a release of a row that has its columns."""
        return cls(**row._mapping)


COLUMNS = ", ".join(f"releases.{name}" for name in ReleaseRow.__dataclass_fields__)


# -- finding -----------------------------------------------------------------------------------


def find(connection: Connection, reference: str, *, permitted: Sequence[str] = (ANY,)) -> ReleaseRow:
    """Return the release of `name`, `name@alias` or `name@version`; a bare name means its production alias.

    permitted: the names that may be used, ANY for all of them. Raises RegistryError, which lists only those.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError(f"model: {quote(reference)} is not allowed; permitted: name, name@alias or name@version")
    name, version, alias = match["name"], match["version"], match["alias"] or DEFAULT_ALIAS
    if ANY not in permitted and name not in permitted:
        raise RegistryError(f"model: {name!r} is not permitted to you; permitted: {', '.join(permitted) or 'none'}")
    if version is not None:
        release = _find_version(connection, name, int(version))
    else:
        release = find_by_alias(connection, name, alias)
    if release is not None:
        return release
    names = list(connection.scalars(text("SELECT DISTINCT name FROM releases ORDER BY name")))
    names = [name for name in names if ANY in permitted or name in permitted]
    raise RegistryError(_missing(connection, name, version, alias, names))


def _find_version(connection: Connection, name: str, version: int) -> ReleaseRow | None:
    row = connection.execute(
        text(f"SELECT {COLUMNS} FROM releases WHERE name = :name AND version = :version"),
        {"name": name, "version": version},
    ).first()
    return None if row is None else ReleaseRow.from_row(row)


def find_by_alias(connection: Connection, name: str, alias: str) -> ReleaseRow | None:
    """Return the release that an alias points at, or None if the alias does not exist."""
    row = connection.execute(
        text(f"SELECT {COLUMNS} FROM aliases JOIN releases ON releases.id = aliases.release_id "
             "WHERE aliases.name = :name AND alias = :alias"),
        {"name": name, "alias": alias},
    ).first()  # fmt: skip
    return None if row is None else ReleaseRow.from_row(row)


def find_by_id(connection: Connection, release_id: int) -> ReleaseRow:
    """Return a release that exists."""
    row = connection.execute(text(f"SELECT {COLUMNS} FROM releases WHERE id = :id"), {"id": release_id}).one()
    return ReleaseRow.from_row(row)


def find_by_digest(connection: Connection, digest: str) -> ReleaseRow:
    """Return the first release with this content. Raises RegistryError if none was published."""
    row = connection.execute(
        text(f"SELECT {COLUMNS} FROM releases WHERE digest = :d ORDER BY id"), {"d": digest}
    ).first()
    if row is None:
        raise RegistryError(f"no release of digest {digest[:12]} is published; publish it first")
    return ReleaseRow.from_row(row)


def list_releases(connection: Connection) -> list[ReleaseRow]:
    """Return every release, newest last."""
    rows = connection.execute(text(f"SELECT {COLUMNS} FROM releases ORDER BY id"))
    return [ReleaseRow.from_row(row) for row in rows]


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


def request_rules(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request to a release may contain.

    That is the JSON Schema of its conditions, with what their images must be, and whether it can be `guided`.
    """
    release = release_format.parse(manifest)
    rules = add_image_rules(release.conditions, release.architecture, release.latent_shape)
    return {**rules, "guided": release.guided}


# -- publishing --------------------------------------------------------------------------------


def publish(
    connection: Connection, store: ObjectStore, folder: Path, origin: Mapping[str, str] | None = None
) -> tuple[str, int]:
    """Store a release folder as the next version of its name. Returns name and version.

    Content that was published before under this name keeps its version and its origin: the pipeline run, commit and
    image that made it. Raises ReleaseError for a folder that is not a valid release.
    """
    release = release_format.read(folder)
    connection.execute(text(f"SELECT pg_advisory_xact_lock_shared({BLOBS_LOCK})"))
    for name, record in release.files.items():
        store.upload_if_absent(blob_key(record.sha256), folder / name, sha256=record.sha256)
    lock_name(connection, release.name)  # Two publishers of one name take their versions one after the other.
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


def lock_name(connection: Connection, name: str) -> None:
    """Keep others from publishing versions and moving aliases of a name until this transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('release ' || :name))"), {"name": name})


def try_lock_blobs(connection: Connection) -> bool:
    """Keep releases from being published until this transaction ends. Returns False while one is being published."""
    return bool(connection.scalar(text(f"SELECT pg_try_advisory_xact_lock({BLOBS_LOCK})")))


def referenced_files(connection: Connection) -> set[str]:
    """Return the sha256 of every file that a release needs."""
    return set(
        connection.scalars(
            text("SELECT DISTINCT file.value ->> 'sha256' FROM releases, jsonb_each(manifest -> 'files') AS file")
        )
    )
