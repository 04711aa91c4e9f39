"""The work of a job is found by an index when the job is deleted, which read the whole table of work."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    # First, because this commits: a step that is tried again must find nothing else done.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX IF EXISTS work_by_job")  # a build that was interrupted leaves one that is not valid
        op.execute("CREATE INDEX CONCURRENTLY work_by_job ON work (job_id)")
    op.execute("INSERT INTO schema_revisions VALUES ('0013', '0005')")


def downgrade() -> None:
    op.execute("DROP INDEX work_by_job")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0013'")
