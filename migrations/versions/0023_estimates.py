"""A dry run says what a job would take, and when it would end."""

from alembic import op

from migrations.locks import lock_tables

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    lock_tables("jobs")
    op.execute("""
        ALTER TABLE jobs ADD COLUMN estimate jsonb;  -- of a dry run, which makes no images
        GRANT UPDATE (estimate) ON jobs TO darkroom_dispatcher;
        GRANT SELECT ON usage_counts TO darkroom_dispatcher;
        CREATE POLICY usage_for_estimates ON usage_counts FOR SELECT TO darkroom_dispatcher USING (true);
        INSERT INTO schema_revisions VALUES ('0023', '0005');
    """)


def downgrade() -> None:
    lock_tables("jobs")
    op.execute("""
        DROP POLICY usage_for_estimates ON usage_counts;
        REVOKE SELECT ON usage_counts FROM darkroom_dispatcher;
        ALTER TABLE jobs DROP COLUMN estimate;
        DELETE FROM schema_revisions WHERE revision = '0023';
    """)
