"""Published releases: rows in Postgres, and their files in S3 as blobs named by their sha256.

Publishing the same content again changes nothing, and an autoencoder that ten diffusion releases share is stored once.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Row, text

from services.errors import quote
from services.job_queue.release_use import releases_in_use
from services.job_requests.canvas import CANVAS, Canvas
from services.job_requests.image_rules import add_image_rules
from services.job_requests.sampling_fields import LIGHT, TIMESTEPS
from services.job_requests.schema import OWN_DEFAULTS, default_mistakes
from services.registry import blobs, weights
from services.registry.locks import keep_blobs, lock_names
from services.storage.errors import ObjectStoreError
from services.storage.object_store import ObjectStore
from training.errors import DarkroomError
from training.model import release as release_format
from training.model.release import ITEM_FIELDS, Release, Serve

NAME = re.compile("[a-z][a-z0-9_-]{0,62}")
REFERENCE = re.compile(rf"(?P<name>{NAME.pattern})(@((?P<version>[1-9][0-9]{{0,8}})|(?P<alias>[a-z][a-z_-]{{0,62}})))?")
DEFAULT_ALIAS = "production"
ANY = "*"
NOTHING: Mapping[str, Any] = {}


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
    retired_at: datetime | None  # new jobs cannot use it
    retired_by: str | None  # login

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        """Make a release of a row that has its columns."""
        return cls(**row._mapping)


COLUMNS = ", ".join(f"releases.{name}" for name in ReleaseRow.__dataclass_fields__)


# -- finding -----------------------------------------------------------------------------------


def find(
    connection: Connection, reference: str, *, permitted: Sequence[str] = (ANY,), retired: bool = False
) -> ReleaseRow:
    """Return the release of `name`, `name@alias` or `name@version`; a bare name means its production alias.

    permitted: the names that may be used, ANY for all of them. retired: whether a retired release may be returned.
    Raises RegistryError, which lists only those.
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
    if release is not None and (retired or release.retired_at is None):
        return release
    names = list(connection.scalars(text("SELECT DISTINCT name FROM releases WHERE retired_at IS NULL ORDER BY name")))
    names = [name for name in names if ANY in permitted or name in permitted]
    raise RegistryError(_missing(connection, name, version, alias, names, release))


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
        text(f"SELECT {COLUMNS} FROM releases WHERE digest = :d ORDER BY retired_at IS NOT NULL, id"), {"d": digest}
    ).first()
    if row is None:
        raise RegistryError(f"no release of digest {digest[:12]} is published; publish it first")
    return ReleaseRow.from_row(row)


def list_with_alias(connection: Connection, alias: str) -> list[ReleaseRow]:
    """Return the release of each name that an alias points at, ordered by name."""
    rows = connection.execute(
        text(f"SELECT {COLUMNS} FROM aliases JOIN releases ON releases.id = aliases.release_id "
             "WHERE alias = :alias ORDER BY aliases.name"),
        {"alias": alias},
    )  # fmt: skip
    return [ReleaseRow.from_row(row) for row in rows]


def list_releases(connection: Connection) -> list[ReleaseRow]:
    """Return every release, newest last."""
    rows = connection.execute(text(f"SELECT {COLUMNS} FROM releases ORDER BY id"))
    return [ReleaseRow.from_row(row) for row in rows]


def _missing(
    connection: Connection,
    name: str,
    version: str | None,
    alias: str,
    names: Sequence[str],
    retired: ReleaseRow | None,
) -> str:
    query = text("SELECT version FROM releases WHERE name = :n AND retired_at IS NULL ORDER BY version")
    versions = ", ".join(map(str, connection.scalars(query, {"n": name}))) or "none"
    if retired is not None:
        return f"model: {name}@{retired.version} was retired on {retired.retired_at:%Y-%m-%d}; there are: {versions}"
    if name not in names:
        return f"model: no release is called {name!r}; there are: {', '.join(names) or 'none yet, publish one first'}"
    if version is not None:
        return f"model: {name!r} has no version {version}; there are: {versions}"
    aliases = list(connection.scalars(text("SELECT alias FROM aliases WHERE name = :n ORDER BY alias"), {"n": name}))
    return (
        f"model: {name!r} has no alias {alias!r}; there are: {', '.join(aliases) or 'none'} (and versions {versions})"
    )


def request_rules(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request to a release may contain.

    That is the JSON Schema of its conditions, with what their images must be, whether it can be `guided`, whether it
    has a light decoder, its timesteps, its canvas and its own defaults.
    """
    release = release_format.parse(manifest)
    rules = add_image_rules(release.conditions, release.architecture, release.latent_shape)
    own = {"guided": release.guided, LIGHT: release.has_light_decoder, TIMESTEPS: release.timesteps}
    return {**rules, **own, CANVAS: Canvas.of(release), OWN_DEFAULTS: release.sampling}


# -- publishing --------------------------------------------------------------------------------


def read_folder(folder: Path, serve: Serve, sampling: Mapping[str, Any]) -> Release:
    """Return the release of a folder as `publish` stores it. Raises ReleaseError and RegistryError."""
    release = release_format.read(folder).with_rule(serve).with_sampling(sampling)
    if release.sampling and release.kind != "diffusion":
        raise RegistryError(f"release: an {release.kind} has no defaults of requests; permitted: diffusion releases")
    if release.sampling and (mistakes := default_mistakes(release.sampling, request_rules(release.to_json()))):
        raise RegistryError("\n".join(mistakes))
    if taken := sorted(ITEM_FIELDS & release.conditions.get("properties", {}).keys()):
        raise RegistryError(f"release: {taken[0]} is a field of all requests; permitted: another name of the condition")
    return release


def check_name(name: str) -> str:
    """Return the name of a release. Raises RegistryError if no reference could name it."""
    if not NAME.fullmatch(name):
        raise RegistryError(
            f"name: {quote(name)} is not allowed; permitted: a lower case letter, then lower case letters, digits, "
            "_ and -, at most 63"
        )
    return name


def find_version(connection: Connection, name: str, digest: str) -> int | None:
    """Return the version of a name that has this content and is not retired, or None."""
    query = text("SELECT version FROM releases WHERE name = :name AND digest = :digest AND retired_at IS NULL")
    found: int | None = connection.scalar(query, {"name": name, "digest": digest})
    return found


def publish(
    connection: Connection,
    store: ObjectStore,
    folder: Path,
    origin: Mapping[str, str] | None = None,
    *,
    name: str | None = None,
    serve: Serve = Serve(),  # noqa: B008  # it is immutable
    sampling: Mapping[str, Any] = NOTHING,
) -> tuple[str, int]:
    """Store a release folder as the next version of its name, or of `name`. Returns name and version.

    serve, sampling: replace the folder's own rule, and its own defaults of requests, where they say anything.

    Content that was published before under this name keeps its version and its origin: the pipeline run, commit and
    image that made it. The files are uploaded before the first statement, so that no transaction waits for an upload.
    Raises ReleaseError for a folder that is not a valid release or has weights that are not finite, RegistryError if
    its content is that of a retired version or its name is not allowed, and ObjectStoreError.
    """
    release = read_folder(folder, serve, sampling)
    release = replace(release, name=check_name(name or release.name))
    weights.check_finite(folder)
    with suppress(ObjectStoreError):  # The second upload has the same error, unless a pruner caused it.
        blobs.upload(store, release, folder)
    keep_blobs(connection)
    if not blobs.are_present(store, release):  # A pruner has just deleted an old blob that no release needed.
        blobs.upload(store, release, folder)
    lock_names(connection)  # Two publishers take their versions one after the other.
    known = connection.execute(
        text("SELECT version, retired_at FROM releases WHERE name = :name AND digest = :digest"),
        {"name": release.name, "digest": release.digest},
    ).first()
    if known is not None and known.retired_at is not None:
        reference = f"{release.name}@{known.version}"
        raise RegistryError(
            f"release: {reference} has this content and was retired on {known.retired_at:%Y-%m-%d}. "
            f"An operator brings it back with: darkroom releases retire {reference} --undo"
        )
    if known is not None:
        return release.name, int(known.version)
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


def referenced_files(connection: Connection, older_than: timedelta = timedelta(0)) -> set[str]:
    """Return the sha256 of every file that a release needs.

    A release that was retired at least `older_than` ago needs its files while a job that has not ended uses it.
    """
    return set(
        connection.scalars(
            text("""
                SELECT DISTINCT file.value ->> 'sha256' FROM releases, jsonb_each(manifest -> 'files') AS file
                WHERE retired_at IS NULL OR retired_at > now() - CAST(:older AS interval)
                   OR id = ANY(CAST(:in_use AS bigint[]))
            """),
            {"older": older_than, "in_use": releases_in_use(connection)},
        )
    )
