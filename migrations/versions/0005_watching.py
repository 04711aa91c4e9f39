"""Views for autoscalers and the exporter, and which code works with which schema."""

from alembic import op

revision = "0005"
down_revision = "0004"

ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'darkroom_observer') THEN
        CREATE ROLE darkroom_observer NOLOGIN;
    END IF;
END $$;
"""

# Views read with their owner's privileges, so the observer sees counts and no requests.
VIEWS = """
-- Sampling that is not done, in network evaluations. Delayed work cannot run yet, so it needs no machine now.
CREATE VIEW queue_load AS
    SELECT queue, tenant, state, sum(stop - start)::bigint AS images, sum(cost)::bigint AS evaluations
    FROM work WHERE kind = 'sample' AND state IN ('ready', 'leased', 'delayed')
    GROUP BY queue, tenant, state;

-- Jobs that have not ended; since: when the oldest could have started.
CREATE VIEW open_jobs AS
    SELECT queue, tenant, state, count(*) AS jobs, min(greatest(created_at, run_after)) AS since
    FROM jobs WHERE finished_at IS NULL
    GROUP BY queue, tenant, state;

-- Jobs that a process works on, and how many of their images are settled.
CREATE VIEW jobs_under_way AS
    SELECT id, queue, tenant, succeeded + failed AS settled
    FROM jobs WHERE finished_at IS NULL AND EXISTS (SELECT FROM work WHERE job_id = jobs.id AND state = 'leased');
"""

COMPATIBILITY = """
-- oldest_code: the head revision of the oldest code that works with a schema of this revision.
CREATE TABLE schema_revisions (
    revision    text PRIMARY KEY,
    oldest_code text NOT NULL
);
INSERT INTO schema_revisions VALUES ('0005', '0004');
"""

GRANTS = """
GRANT SELECT ON schema_revisions, alembic_version TO PUBLIC;
GRANT USAGE ON SCHEMA public TO darkroom_observer;
GRANT SELECT ON queue_load, open_jobs, jobs_under_way, queues, workers TO darkroom_observer;
"""


def upgrade() -> None:
    for part in (ROLE, VIEWS, COMPATIBILITY, GRANTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        REVOKE SELECT ON alembic_version FROM PUBLIC;
        REVOKE ALL ON queues, workers FROM darkroom_observer;
        REVOKE ALL ON SCHEMA public FROM darkroom_observer;
        DROP VIEW queue_load, open_jobs, jobs_under_way;
        DROP TABLE schema_revisions;
    """)
