"""The JSON Schemas of requests to releases, as tenants read them in SQL (the view `request_schemas`)."""

import hashlib
import json
import logging
from functools import cache
from typing import Any

from sqlalchemy import Connection, text

from services.job_requests.schema import published_schema
from services.registry.releases import request_rules

log = logging.getLogger("darkroom.registry")

BATCH = 20  # releases that are described in one transaction


def make_schemas(connection: Connection, *, anew: bool) -> bool:
    """Store the schemas of some releases that have none, and return whether there may be more to do.

    anew: also of those whose schema other code has made, such as an earlier version.
    """
    rows = connection.execute(
        text("""
            SELECT id, name, version, manifest FROM releases LEFT JOIN made_schemas ON release_id = id
            WHERE kind = 'diffusion' AND (code IS NULL OR :anew AND code <> :code) ORDER BY id LIMIT :count
        """),
        {"anew": anew, "code": code_digest(), "count": BATCH},
    ).all()
    for row in rows:
        schema: dict[str, Any] | None = None
        try:
            schema = published_schema(request_rules(row.manifest))
        except Exception as error:  # a release that this code cannot describe keeps no other one back
            log.warning("%s@%d: requests to it have no schema: %s", row.name, row.version, error)
        connection.execute(
            text("""
                INSERT INTO made_schemas (release_id, code, schema) VALUES (:id, :code, CAST(:schema AS jsonb))
                ON CONFLICT (release_id) DO UPDATE SET code = excluded.code, schema = excluded.schema
            """),
            {"id": row.id, "code": code_digest(), "schema": None if schema is None else json.dumps(schema)},
        )
    return len(rows) == BATCH


@cache
def code_digest() -> str:
    """Return what changes whenever this code makes other schemas of the same releases."""
    conditions = {"properties": {"class_label": {"type": "integer", "minimum": 0, "maximum": 9}}}
    return hashlib.sha256(json.dumps(published_schema(conditions)).encode()).hexdigest()
