"""Operators see the load of queues by open jobs, which quotas bound, and not by all waiting work."""

from alembic import op

revision = "0029"
down_revision = "0028"

# `visible_queue_loads` counts every shard, of which a job of a million images has many; consoles of 0026 read it.
VIEW = """
CREATE VIEW visible_queue_jobs WITH (security_barrier = true) AS
SELECT queues.name, queues.paused, coalesce(open.jobs, 0) AS jobs, coalesce(open.images, 0) AS images,
    coalesce(held.leased, 0) AS leased, coalesce(open.tenants, 0) AS tenants, open.oldest
FROM queues LEFT JOIN (
    SELECT queue, count(*) AS jobs, sum(greatest(total - succeeded - failed, 0)) AS images,
        count(DISTINCT tenant) AS tenants, min(created_at) AS oldest
    FROM jobs WHERE finished_at IS NULL GROUP BY queue
) AS open ON open.queue = queues.name LEFT JOIN (
    SELECT queue, count(*) AS leased FROM work WHERE state = 'leased' GROUP BY queue
) AS held ON held.queue = queues.name
WHERE is_operator();
GRANT SELECT ON visible_queue_jobs TO darkroom_console;
INSERT INTO schema_revisions VALUES ('0029', '0005');
"""


def upgrade() -> None:
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("""
        DROP VIEW visible_queue_jobs;
        DELETE FROM schema_revisions WHERE revision = '0029';
    """)
