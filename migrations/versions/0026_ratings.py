"""People rate images in the console."""

from alembic import op

from migrations.locks import lock_tables

revision = "0026"
down_revision = "0025"

RATINGS = """
CREATE TABLE ratings (
    tenant   text        NOT NULL REFERENCES tenants,
    job_id   uuid        NOT NULL REFERENCES jobs ON DELETE CASCADE,
    index    integer     NOT NULL,
    rating   smallint    NOT NULL CHECK (rating BETWEEN 1 AND 5),
    rated_by text        NOT NULL,
    rated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, index)
);
CREATE INDEX ratings_by_tenant ON ratings (tenant, job_id DESC, index);
ALTER TABLE ratings ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_ratings ON ratings TO darkroom_console
    USING (tenant = (SELECT current_tenant())) WITH CHECK (tenant = (SELECT current_tenant()));
"""

RIGHTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON ratings TO darkroom_console;
INSERT INTO schema_revisions VALUES ('0026', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs", "tenants")
    for part in (RATINGS, RIGHTS):
        op.execute(part)


def downgrade() -> None:
    lock_tables("jobs", "tenants")
    op.execute("""
        DROP TABLE ratings;
        DELETE FROM schema_revisions WHERE revision = '0026';
    """)
