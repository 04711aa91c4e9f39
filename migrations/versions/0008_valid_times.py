"""A time that is out of range is refused in words, and the constraints on times hold for every row.

Validating is a revision of its own, whose transaction locks out no writer while it reads the table.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

CHECK_TIMES = """
-- Row by row, because a constraint's message names neither the value nor what is permitted.
CREATE FUNCTION check_times() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    is_late CONSTANT boolean := NEW.deadline NOT BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z';
BEGIN
    RAISE EXCEPTION '%: % is not allowed; permitted: a time from 2000-01-01 to 9998-12-31, or NULL for none',
        CASE WHEN is_late THEN 'deadline' ELSE 'run_after' END,
        CASE WHEN is_late THEN NEW.deadline ELSE NEW.run_after END
        USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER check_times BEFORE INSERT ON jobs FOR EACH ROW
    WHEN (NEW.deadline NOT BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z'
        OR NEW.run_after NOT BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z')
    EXECUTE FUNCTION check_times();
REVOKE ALL ON FUNCTION check_times() FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute("""
        ALTER TABLE jobs VALIDATE CONSTRAINT run_after_is_in_range;
        ALTER TABLE jobs VALIDATE CONSTRAINT deadline_is_in_range;
    """)
    op.execute(CHECK_TIMES)
    op.execute("INSERT INTO schema_revisions VALUES ('0008', '0005')")


def downgrade() -> None:
    op.execute("""
        DROP TRIGGER check_times ON jobs;
        DROP FUNCTION check_times();
        DELETE FROM schema_revisions WHERE revision = '0008';
    """)
