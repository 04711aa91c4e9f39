"""Jobs to stop are found tenant by tenant, and no value of one row silences the exporter's views."""

from alembic import op

revision = "0011"
down_revision = "0010"

# The older jobs_to_cancel and jobs_by_deadline serve older dispatchers; a later version removes them.
INDEXES = {
    "jobs_to_stop_by_cancel": "(tenant, id) WHERE cancel_requested_at IS NOT NULL",
    "jobs_to_stop_by_deadline": "(tenant, deadline) WHERE deadline IS NOT NULL",
}

# Sums are cut to their type, and times that are not finite are left out: one such row made a whole view fail.
VIEWS = """
CREATE OR REPLACE VIEW queue_load AS
    SELECT queue, tenant, state,
        greatest(0, least(sum(stop::bigint - start), 9223372036854775807))::bigint AS images,
        greatest(0, least(sum(cost), 9223372036854775807))::bigint AS evaluations
    FROM work WHERE kind = 'sample' AND state IN ('ready', 'leased', 'delayed')
    GROUP BY queue, tenant, state;

CREATE OR REPLACE VIEW open_jobs AS
    SELECT queue, tenant, state, count(*) AS jobs,
        min(greatest(created_at, run_after)) FILTER (WHERE isfinite(greatest(created_at, run_after))) AS since
    FROM jobs WHERE finished_at IS NULL
    GROUP BY queue, tenant, state;

CREATE OR REPLACE VIEW jobs_under_way AS
    SELECT id, queue, tenant, least(succeeded::bigint + failed, 2147483647)::integer AS settled
    FROM jobs WHERE finished_at IS NULL AND id IN (SELECT job_id FROM work WHERE state = 'leased');
"""


def upgrade() -> None:
    # First, because this commits: a step that is tried again must find nothing else done.
    with op.get_context().autocommit_block():
        for name, rows in INDEXES.items():
            op.execute(f"DROP INDEX IF EXISTS {name}")  # a build that was interrupted leaves one that is not valid
            op.execute(
                f"CREATE INDEX CONCURRENTLY {name} ON jobs {rows} AND state IN ('submitted', 'planned', 'running')"
            )
    op.execute(VIEWS)
    op.execute("INSERT INTO schema_revisions VALUES ('0011', '0005')")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    op.execute("""
        CREATE OR REPLACE VIEW queue_load AS
            SELECT queue, tenant, state, sum(stop - start)::bigint AS images, sum(cost)::bigint AS evaluations
            FROM work WHERE kind = 'sample' AND state IN ('ready', 'leased', 'delayed')
            GROUP BY queue, tenant, state;
        CREATE OR REPLACE VIEW open_jobs AS
            SELECT queue, tenant, state, count(*) AS jobs, min(greatest(created_at, run_after)) AS since
            FROM jobs WHERE finished_at IS NULL
            GROUP BY queue, tenant, state;
        CREATE OR REPLACE VIEW jobs_under_way AS
            SELECT id, queue, tenant, succeeded + failed AS settled
            FROM jobs WHERE finished_at IS NULL
                AND EXISTS (SELECT FROM work WHERE job_id = jobs.id AND state = 'leased');
        DELETE FROM schema_revisions WHERE revision = '0011';
    """)
