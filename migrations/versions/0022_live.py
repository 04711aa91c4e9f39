"""Jobs that somebody looks at are announced as they change. Others cost nothing."""

from alembic import op

from migrations.locks import lock_tables

revision = "0022"
down_revision = "0021"

# A NOTIFY makes the commits of all transactions that have one wait for each other, so only watched jobs are announced.
TABLE = "CREATE TABLE watched_jobs (job_id uuid PRIMARY KEY, until timestamptz NOT NULL)"

FUNCTIONS = """
CREATE FUNCTION watch_jobs(jobs uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    DELETE FROM watched_jobs WHERE until < now() - interval '1 minute';
    INSERT INTO watched_jobs (job_id, until)
    SELECT jobs.id, now() + interval '2 minutes' FROM public.jobs
    WHERE jobs.id = ANY (watch_jobs.jobs) AND tenant = current_tenant() AND finished_at IS NULL
    ORDER BY jobs.id
    ON CONFLICT (job_id) DO UPDATE SET until = excluded.until;
END $$;

CREATE FUNCTION announce_progress() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM watched_jobs WHERE job_id = NEW.id AND until > now()) THEN
        PERFORM announce('darkroom_progress', NEW.id::text);
    END IF;
    RETURN NULL;
END $$;
"""

TRIGGER = """
CREATE TRIGGER announce_progress AFTER UPDATE OF state, total, succeeded, failed ON jobs FOR EACH ROW
WHEN ((OLD.state, OLD.total, OLD.succeeded, OLD.failed)
    IS DISTINCT FROM (NEW.state, NEW.total, NEW.succeeded, NEW.failed))
EXECUTE FUNCTION announce_progress();
"""

RIGHTS = """
REVOKE ALL ON FUNCTION watch_jobs(uuid[]), announce_progress() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION watch_jobs(uuid[]) TO darkroom_console;
INSERT INTO schema_revisions VALUES ('0022', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs")
    for part in (TABLE, FUNCTIONS, TRIGGER, RIGHTS):
        op.execute(part)


def downgrade() -> None:
    lock_tables("jobs")
    op.execute("""
        DROP TRIGGER announce_progress ON jobs;
        DROP FUNCTION announce_progress(), watch_jobs(uuid[]);
        DROP TABLE watched_jobs;
        DELETE FROM schema_revisions WHERE revision = '0022';
    """)
