"""Releases can be retired, and a job past its retention is marked before anything of it is deleted."""

from alembic import op

from migrations.locks import lock_tables

revision = "0010"
down_revision = "0009"

TABLES = """
ALTER TABLE releases ADD COLUMN retired_at timestamptz, ADD COLUMN retired_by text;
ALTER TABLE jobs ADD COLUMN expired_at timestamptz;
"""

# The objects of an expired job are deleted before its rows, in many steps.
EXPIRY = """
CREATE FUNCTION keep_expired() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'job: % is past its retention and is being deleted; submit it again', OLD.id
        USING ERRCODE = 'object_not_in_prerequisite_state';
END $$;
CREATE TRIGGER keep_expired BEFORE UPDATE OF finished_at ON jobs FOR EACH ROW
    WHEN (OLD.expired_at IS NOT NULL AND NEW.finished_at IS NULL) EXECUTE FUNCTION keep_expired();
"""

# Only the owner of the tables retires releases.
GRANTS = """
REVOKE ALL ON FUNCTION keep_expired() FROM PUBLIC;
GRANT UPDATE (expired_at) ON jobs TO darkroom_pruner;
INSERT INTO schema_revisions VALUES ('0010', '0005');
"""


def upgrade() -> None:
    lock_tables("releases", "jobs")
    for part in (TABLES, EXPIRY, GRANTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        DROP TRIGGER keep_expired ON jobs;
        DROP FUNCTION keep_expired();
        ALTER TABLE jobs DROP COLUMN expired_at;
        ALTER TABLE releases DROP COLUMN retired_at, DROP COLUMN retired_by;
        DELETE FROM schema_revisions WHERE revision = '0010';
    """)
