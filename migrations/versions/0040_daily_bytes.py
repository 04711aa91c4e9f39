"""A tenant stores at most so many bytes of requests in a day, whatever becomes of its jobs."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0040"
down_revision = "0039"

# Open jobs alone would be no bound: a rejected job ends at once, and its row stays for the tenant's retention.
# Each job counts 1 KiB beside its request, for its rows and their entries in indexes.
COLUMNS = """
ALTER TABLE tenants
    ADD COLUMN max_daily_bytes bigint NOT NULL DEFAULT 17179869184 CHECK (max_daily_bytes >= 0);
ALTER TABLE tenant_submissions
    ADD COLUMN day date NOT NULL DEFAULT '2000-01-01',
    ADD COLUMN daily_bytes bigint NOT NULL DEFAULT 0;
"""

OLD_COUNTING = import_module("migrations.versions.0039_cheap_submissions").COUNTING
# A retry (new_queue is NULL) stores nothing.
COUNTED = (
    (
        "    opened  record;",
        "    opened  record;\n"
        "    today   date := now() AT TIME ZONE 'UTC';\n"
        "    stored  bigint := CASE WHEN new_queue IS NULL THEN 0 ELSE new_bytes + 1024 * new_jobs END;",
    ),
    (
        "SET jobs = jobs + new_jobs, bytes = bytes + new_bytes WHERE tenant = submitter\n    RETURNING jobs, bytes",
        "SET jobs = jobs + new_jobs, bytes = bytes + new_bytes, day = today,\n"
        "        daily_bytes = stored + CASE WHEN day = today THEN daily_bytes ELSE 0 END WHERE tenant = submitter\n"
        "    RETURNING jobs, bytes, daily_bytes",
    ),
    (
        "VALUES (submitter, new_jobs, new_bytes)\n"
        "        ON CONFLICT (tenant) DO UPDATE SET jobs = present.jobs + new_jobs, bytes = present.bytes + new_bytes\n"
        "        RETURNING jobs, bytes",
        "VALUES (submitter, new_jobs, new_bytes, today, stored)\n"
        "        ON CONFLICT (tenant) DO UPDATE SET jobs = present.jobs + new_jobs,\n"
        "            bytes = present.bytes + new_bytes, day = today,\n"
        "            daily_bytes = stored + CASE WHEN present.day = today THEN present.daily_bytes ELSE 0 END\n"
        "        RETURNING jobs, bytes, daily_bytes",
    ),
    ("SELECT max_open_jobs, max_open_bytes,", "SELECT max_open_jobs, max_open_bytes, max_daily_bytes,"),
    (
        "\nEND $$;",
        """
    IF opened.daily_bytes > allowed.max_daily_bytes AND stored > 0 THEN
        RAISE EXCEPTION 'tenant "%" would have stored more than its % bytes of jobs today',
            submitter, allowed.max_daily_bytes
            USING ERRCODE = 'insufficient_resources',
                  HINT = 'Submit again after midnight UTC, or store large inputs in S3 and give their URIs. '
                      'An administrator can raise max_daily_bytes.';
    END IF;
END $$;""",
    ),
)


def upgrade() -> None:
    lock_tables("tenants", "tenant_submissions")
    op.execute(COLUMNS)
    redefine("count_submissions", OLD_COUNTING, *COUNTED)
    op.execute("INSERT INTO schema_revisions VALUES ('0040', '0005')")


def downgrade() -> None:
    lock_tables("tenants", "tenant_submissions")
    redefine("count_submissions", OLD_COUNTING)
    op.execute("ALTER TABLE tenants DROP COLUMN max_daily_bytes")
    op.execute("ALTER TABLE tenant_submissions DROP COLUMN day, DROP COLUMN daily_bytes")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0040'")
