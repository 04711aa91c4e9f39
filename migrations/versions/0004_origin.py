"""The origin of a release, and which moves of an alias were rollbacks."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
ALTER TABLE releases ADD COLUMN origin jsonb NOT NULL DEFAULT '{}';  -- pipeline run, commit, image
ALTER TABLE releases ADD COLUMN published_by text NOT NULL DEFAULT session_user;
ALTER TABLE promotions ADD COLUMN rollback boolean NOT NULL DEFAULT false;
GRANT SELECT ON aliases TO darkroom_worker;  -- which release to load before the first job
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("""
        REVOKE SELECT ON aliases FROM darkroom_worker;
        ALTER TABLE promotions DROP COLUMN rollback;
        ALTER TABLE releases DROP COLUMN published_by, DROP COLUMN origin;
    """)
