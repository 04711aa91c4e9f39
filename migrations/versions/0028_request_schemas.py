"""Tenants read what a request to a release may contain, as JSON Schema."""

from alembic import op

revision = "0028"
down_revision = "0027"

# The code of the service makes the schemas, so that a dispatcher stores them. Those of a release that it cannot read
# are null.
TABLE = """
CREATE TABLE made_schemas (
    release_id bigint PRIMARY KEY REFERENCES releases (id) ON DELETE CASCADE,
    code       text NOT NULL,
    schema     jsonb
);
CREATE VIEW request_schemas WITH (security_barrier = true) AS
SELECT releases.name, version, digest, ARRAY(
    SELECT alias FROM aliases WHERE aliases.release_id = releases.id ORDER BY alias) AS aliases, schema
FROM releases JOIN made_schemas ON release_id = releases.id, tenants
WHERE tenants.name = current_tenant() AND permitted_releases && ARRAY[releases.name, '*']
    AND retired_at IS NULL AND schema IS NOT NULL;
GRANT SELECT ON request_schemas TO darkroom_submitter;
GRANT SELECT, INSERT, UPDATE (code, schema) ON made_schemas TO darkroom_dispatcher;
INSERT INTO schema_revisions VALUES ('0028', '0005');
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("""
        DROP VIEW request_schemas;
        DROP TABLE made_schemas;
        DELETE FROM schema_revisions WHERE revision = '0028';
    """)
