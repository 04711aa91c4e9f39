"""The registry as the console shows it: the releases that the tenant may use, and all for operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from services.registry.aliases import check_alias, earlier_release
from services.registry.evaluations import Evaluation
from services.registry.releases import DEFAULT_ALIAS, REFERENCE, RegistryError, ReleaseRow

SHEET = "samples.png"  # a file of a release
GREATEST_ID = 2**63 - 1
ABOUT_FIGURES = ("fingerprint", "digest", "images", "_error")  # ends of names that say how something was measured
FIRST_FIGURES = ("frechet_distance", "class_accuracy", "psnr", "ssim")  # what people ask for first


@dataclass(frozen=True)
class ReleaseLine:
    """A release in a list. sheet: the sha256 of its sample sheet. metrics: of its latest evaluation."""

    id: int
    name: str
    version: int
    kind: str
    created_at: datetime
    retired_at: datetime | None
    sheet: str | None
    aliases: list[str]
    metrics: dict[str, Any] | None

    @property
    def figures(self) -> dict[str, float]:
        """The numbers of the latest evaluation."""
        return figures(self.metrics or {})


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an evaluation that describe the release, by name."""
    ordered = dict.fromkeys([*(name for name in FIRST_FIGURES if name in metrics), *sorted(metrics)])
    return {
        name: value
        for name, value in ((name, metrics[name]) for name in ordered)
        if isinstance(value, int | float) and not isinstance(value, bool) and not name.endswith(ABOUT_FIGURES)
    }


LIST_RELEASES = """
    SELECT id, name, version, kind, created_at, retired_at, manifest -> 'files' -> :sheet ->> 'sha256' AS sheet,
        ARRAY(SELECT alias FROM visible_aliases WHERE release_id = found.id ORDER BY alias) AS aliases,
        (SELECT metrics FROM visible_evaluations WHERE release_id = found.id ORDER BY id DESC LIMIT 1) AS metrics
    FROM (SELECT * FROM visible_releases WHERE id {side} :bound
              AND (:words = '' OR strpos(name, :words) > 0) AND (:retired OR retired_at IS NULL)
          ORDER BY id {direction} LIMIT :limit) AS found
    ORDER BY id DESC
"""


def list_release_lines(
    connection: Connection,
    limit: int,
    *,
    before: int | None = None,
    after: int | None = None,
    words: str = "",
    retired: bool = False,
) -> list[ReleaseLine]:
    """Return up to `limit` releases, newest first: those older than `before`, or the oldest ones newer than `after`.

    words: a part of the name. retired: whether retired releases are listed too.
    """
    forwards = after is not None
    statement = LIST_RELEASES.format(side=">" if forwards else "<", direction="ASC" if forwards else "DESC")
    bound = after if forwards else GREATEST_ID if before is None else before
    values = {"bound": bound, "words": words, "retired": retired, "limit": limit, "sheet": SHEET}
    return [ReleaseLine(**row._mapping) for row in connection.execute(text(statement), values)]


COLUMNS = ", ".join(ReleaseRow.__dataclass_fields__)


def find_visible(connection: Connection, name: str, version: int) -> ReleaseRow | None:
    """Return a release, also a retired one, or None if the viewer may not see it."""
    row = connection.execute(
        text(f"SELECT {COLUMNS} FROM visible_releases WHERE name = :name AND version = :version"),
        {"name": name, "version": version},
    ).first()
    return None if row is None else ReleaseRow.from_row(row)


def find_by_id(connection: Connection, release_id: int) -> ReleaseRow | None:
    """Return a release, also a retired one, or None if the viewer may not see it."""
    row = connection.execute(text(f"SELECT {COLUMNS} FROM visible_releases WHERE id = :id"), {"id": release_id}).first()
    return None if row is None else ReleaseRow.from_row(row)


def find_class_names(connection: Connection, release_id: int, condition: str) -> list[str]:
    """Return the names of the classes of a release's condition by number; none if they have no names."""
    names = connection.scalar(
        text("SELECT jsonb_path_query_first(manifest -> 'conditions' -> 'properties' -> :name, '$.anyOf[*].enum') "
             "FROM visible_releases WHERE id = :id"),
        {"id": release_id, "name": condition},
    )  # fmt: skip
    return list(map(str, names or ()))


def find_reference(connection: Connection, reference: str) -> ReleaseRow | None:
    """Return the release of `name`, `name@alias` or `name@version`, or None if the viewer may use none."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        return None
    if match["version"] is not None:
        found = find_visible(connection, match["name"], int(match["version"]))
    else:
        found = find_aliases(connection, match["name"]).get(match["alias"] or DEFAULT_ALIAS)
    return None if found is None or found.retired_at is not None else found


def list_references(connection: Connection) -> list[str]:
    """Return the references `name@alias` of the releases that make images, by name."""
    return list(
        connection.scalars(
            text("""
                SELECT visible_aliases.name || '@' || alias FROM visible_aliases
                JOIN visible_releases ON visible_releases.id = release_id
                WHERE kind = 'diffusion' AND retired_at IS NULL ORDER BY visible_aliases.name, alias
            """)
        )
    )


def find_parents(connection: Connection, release: ReleaseRow) -> dict[str, ReleaseRow | str]:
    """Return what a release was made of, by role; a release that is not published or not visible as its digest."""
    lineage = release.manifest["lineage"]
    digests = {role: lineage[role] for role in ("autoencoder", "teacher", "initial") if role in lineage}
    rows = connection.execute(
        text(
            f"SELECT DISTINCT ON (digest) {COLUMNS} FROM visible_releases WHERE digest = ANY(:all) ORDER BY digest, id"
        ),
        {"all": list(digests.values())},
    )
    known = {row.digest: ReleaseRow.from_row(row) for row in rows}
    return {role: known.get(digest, digest) for role, digest in digests.items()}


def list_visible_evaluations(connection: Connection, release_id: int) -> list[Evaluation]:
    """Return the evaluations of a release, newest first."""
    rows = connection.execute(
        text(
            "SELECT fingerprint, metrics, created_at FROM visible_evaluations WHERE release_id = :id ORDER BY id DESC"
        ),
        {"id": release_id},
    )
    return [Evaluation(**row._mapping) for row in rows]


def compare_figures(connection: Connection, one: int, other: int) -> dict[str, tuple[float, float]]:
    """Return the numbers of two releases from their latest evaluations with the same fingerprint, by name."""
    pair = connection.execute(
        text("""
            SELECT a.metrics AS a, b.metrics AS b
            FROM visible_evaluations a JOIN visible_evaluations b USING (fingerprint)
            WHERE a.release_id = :one AND b.release_id = :other ORDER BY a.id DESC, b.id DESC LIMIT 1
        """),
        {"one": one, "other": other},
    ).first()
    if pair is None:
        return {}
    others = figures(pair.b)
    return {name: (value, others[name]) for name, value in figures(pair.a).items() if name in others}


@dataclass(frozen=True)
class Move:
    """A move of an alias of a name. before: the version that it left, None if it did not exist or is not visible."""

    alias: str
    before: int | None
    after: int
    release_id: int
    promoted_by: str
    promoted_at: datetime
    rollback: bool


def list_moves(connection: Connection, name: str) -> list[Move]:
    """Return the moves of the aliases of a name, oldest first."""
    rows = connection.execute(
        text("""
            SELECT alias, a.version AS before, b.version AS after, to_release AS release_id, promoted_by, promoted_at,
                rollback
            FROM visible_promotions AS moves LEFT JOIN visible_releases AS a ON a.id = from_release
            JOIN visible_releases AS b ON b.id = to_release
            WHERE moves.name = :name ORDER BY moves.id
        """),
        {"name": name},
    )
    return [Move(**row._mapping) for row in rows]


def rollback_targets(moves: Sequence[Move]) -> dict[str, Move]:
    """Return of each alias the move to the release at which a rollback would point it, if there is one."""
    targets = {}
    for alias in {move.alias for move in moves}:
        earlier = earlier_release((move.release_id, move.rollback) for move in moves if move.alias == alias)
        found = [move for move in moves if (move.alias, move.release_id) == (alias, earlier)]
        if found:
            targets[alias] = found[-1]
    return targets


def find_aliases(connection: Connection, name: str) -> dict[str, ReleaseRow]:
    """Return the release that each alias of a name points at."""
    columns = ", ".join(f"visible_releases.{column}" for column in ReleaseRow.__dataclass_fields__)
    rows = connection.execute(
        text(f"""
            SELECT alias, {columns} FROM visible_aliases JOIN visible_releases ON visible_releases.id = release_id
            WHERE visible_aliases.name = :name ORDER BY alias
        """),
        {"name": name},
    )
    return {alias: ReleaseRow(*values) for alias, *values in rows}


# -- moving aliases ----------------------------------------------------------------------------

MOVE_ALIAS = "SELECT move_alias(:release, :alias, :expected, :rollback, :viewer)"


def promote(connection: Connection, release: ReleaseRow, alias: str, *, expected: int | None, viewer: str) -> None:
    """Point an alias of the release's name at it, for a viewer who operates the service.

    expected: the id of the release that the alias points at, None for none. Raises RegistryError for an alias that is
    not allowed, and DBAPIError if it points elsewhere by now, if the release was retired, or if the viewer may not.
    """
    check_alias(alias)
    values = {"release": release.id, "alias": alias, "expected": expected, "rollback": False, "viewer": viewer}
    connection.execute(text(MOVE_ALIAS), values)


def rollback(connection: Connection, name: str, alias: str, *, expected: int | None, viewer: str) -> None:
    """Point an alias back at its release before the last promotion that was not rolled back. Raises as `promote`."""
    target = rollback_targets(list_moves(connection, name)).get(alias)
    if target is None:
        raise RegistryError(f"alias: {name}@{alias} has no earlier release to roll back to")
    values = {"release": target.release_id, "alias": alias, "expected": expected, "rollback": True, "viewer": viewer}
    connection.execute(text(MOVE_ALIAS), values)
