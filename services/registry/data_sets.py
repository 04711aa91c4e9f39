"""The image sets that the releases a viewer may see were trained on, from their lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

LOOKED_AT = 2_000  # releases, newest first


@dataclass(frozen=True)
class TrainedOn:
    """A version of an image set. data: see `training.data.image_set.Description`. releases: name, version and kind."""

    fingerprint: str
    data: Mapping[str, Any]
    releases: Sequence[tuple[str, int, str]]
    last: datetime


def list_data_sets(connection: Connection, fingerprint: str | None = None) -> list[TrainedOn]:
    """Return the sets of the newest LOOKED_AT releases, those of the newest release first. fingerprint: of one set."""
    rows = connection.execute(
        text("""
            SELECT data ->> 'fingerprint' AS fingerprint, (array_agg(data ORDER BY id DESC))[1] AS data,
                array_agg(jsonb_build_array(name, version, kind) ORDER BY id DESC) AS releases, max(created_at) AS last
            FROM (SELECT id, name, version, kind, created_at, manifest #> '{lineage,data}' AS data
                  FROM visible_releases ORDER BY id DESC LIMIT :limit) AS latest
            WHERE jsonb_typeof(data -> 'fingerprint') = 'string'
                AND (CAST(:fingerprint AS text) IS NULL OR data ->> 'fingerprint' = :fingerprint)
            GROUP BY 1 ORDER BY max(id) DESC
        """),
        {"limit": LOOKED_AT, "fingerprint": fingerprint},
    )
    return [TrainedOn(row.fingerprint, row.data, [tuple(one) for one in row.releases], row.last) for row in rows]
