"""How long a tenant's jobs are kept, and the role that deletes expired jobs."""

from alembic import op

revision = "0003"
down_revision = "0002"

ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'darkroom_pruner') THEN
        CREATE ROLE darkroom_pruner NOLOGIN;
    END IF;
END $$;
"""

TABLES = """
ALTER TABLE tenants ADD COLUMN retention_days integer CHECK (retention_days >= 1);  -- NULL: for ever
CREATE INDEX jobs_by_end ON jobs (tenant, finished_at) WHERE finished_at IS NOT NULL;
"""

# A job's work is deleted through its foreign key, which needs no privilege.
GRANTS = """
GRANT USAGE ON SCHEMA public TO darkroom_pruner;
GRANT SELECT ON tenants, jobs, outputs, work, workers, releases TO darkroom_pruner;
GRANT DELETE ON jobs, outputs, workers TO darkroom_pruner;
CREATE POLICY every_job_to_prune ON jobs TO darkroom_pruner USING (true);
CREATE POLICY every_output_to_prune ON outputs TO darkroom_pruner USING (true);
"""


def upgrade() -> None:
    for part in (ROLE, TABLES, GRANTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        DROP POLICY every_job_to_prune ON jobs;
        DROP POLICY every_output_to_prune ON outputs;
        REVOKE ALL ON tenants, jobs, outputs, work, workers, releases FROM darkroom_pruner;
        REVOKE ALL ON SCHEMA public FROM darkroom_pruner;
        DROP INDEX jobs_by_end;
        ALTER TABLE tenants DROP COLUMN retention_days;
    """)
