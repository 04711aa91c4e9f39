"""Tenants see when a job will end, and why it waits."""

from alembic import op

from migrations.locks import lock_tables

revision = "0016"
down_revision = "0015"

# queues: those that a worker serves; NULL for dispatchers, and for workers that do not say.
WORKERS = "ALTER TABLE workers ADD COLUMN queues text[]"

# Why nothing is done for a job of the session's tenant now, or NULL if something is, or the job has ended.
WAITING = """
CREATE FUNCTION why_waiting(job_id uuid) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    job record;
BEGIN
    SELECT id, state, queue, run_after, cancel_requested_at, paused INTO job
    FROM jobs JOIN queues ON queues.name = jobs.queue
    WHERE jobs.id = why_waiting.job_id AND finished_at IS NULL AND tenant = current_tenant();
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF job.cancel_requested_at IS NOT NULL OR EXISTS (SELECT FROM cancel_requests AS c WHERE c.job_id = job.id) THEN
        RETURN 'it is being cancelled';
    ELSIF job.state = 'submitted' AND job.run_after > now() THEN
        RETURN format('it starts at %s', job.run_after);
    ELSIF job.paused THEN
        RETURN format('queue "%s" is paused', job.queue);
    ELSIF job.state IN ('submitted', 'finalizing') AND NOT EXISTS (SELECT FROM workers WHERE kind = 'dispatcher'
            AND stopped_at IS NULL AND heartbeat_at > now() - interval '30 seconds') THEN
        RETURN 'no dispatcher runs';
    ELSIF job.state <> 'finalizing' AND NOT EXISTS (SELECT FROM workers WHERE kind = 'worker'
            AND stopped_at IS NULL AND heartbeat_at > now() - interval '30 seconds'
            AND (queues IS NULL OR job.queue = ANY(queues))) THEN
        RETURN format('no worker serves queue "%s"', job.queue);
    ELSIF EXISTS (SELECT FROM work WHERE work.job_id = job.id AND work.state = 'leased') THEN
        RETURN NULL;
    END IF;
    RETURN CASE WHEN job.state IN ('planned', 'running') THEN 'other work is before it'
        WHEN job.state = 'submitted' THEN 'it will be planned' ELSE 'its manifest will be written' END;
END $$;
"""

# The rate is that of the whole job, so it is unknown for a revision, which finds images that are made.
PROGRESS = """
CREATE VIEW job_progress WITH (security_invoker = true) AS
SELECT id, state, total, settled, CASE WHEN total > 0 THEN settled / total::float8 END AS share, images_per_s,
    CASE WHEN finished_at IS NULL AND images_per_s > 0
         THEN now() + (total - settled) / images_per_s * interval '1 second' END AS expected_end,
    CASE WHEN finished_at IS NULL THEN why_waiting(id) END AS waits_because
FROM (
    SELECT *, succeeded + failed AS settled, CASE WHEN revision = 1 AND succeeded + failed > 0 THEN
        (succeeded + failed) / nullif(extract(epoch FROM coalesce(finished_at, now()) - started_at), 0)::float8
        END AS images_per_s
    FROM jobs
) AS job;
"""

RIGHTS = """
REVOKE ALL ON FUNCTION why_waiting(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION why_waiting(uuid) TO darkroom_submitter;
GRANT SELECT ON job_progress TO darkroom_submitter;
INSERT INTO schema_revisions VALUES ('0016', '0005');
"""


def upgrade() -> None:
    lock_tables("workers")
    for part in (WORKERS, WAITING, PROGRESS, RIGHTS):
        op.execute(part)


def downgrade() -> None:
    lock_tables("workers")
    op.execute("""
        DROP VIEW job_progress;
        DROP FUNCTION why_waiting(uuid);
        ALTER TABLE workers DROP COLUMN queues;
        DELETE FROM schema_revisions WHERE revision = '0016';
    """)
