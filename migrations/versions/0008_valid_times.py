"""Validate the ranges of times, in a transaction of its own that locks out no reader and no writer."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE jobs VALIDATE CONSTRAINT run_after_is_in_range;
        ALTER TABLE jobs VALIDATE CONSTRAINT deadline_is_in_range;
        INSERT INTO schema_revisions VALUES ('0008', '0005');
    """)


def downgrade() -> None:
    op.execute("DELETE FROM schema_revisions WHERE revision = '0008'")
