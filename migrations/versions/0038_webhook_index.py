"""The events of one webhook are found by an index, so that a receiver that fails holds up no other one of its tenant.

Built while the table is written to. The index by tenant alone stays for older code.
"""

from alembic import op

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    # First, because this commits: a step that is tried again must find nothing else done.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX IF EXISTS webhook_events_due_by_url")  # an interrupted build leaves an invalid one
        op.execute(
            "CREATE INDEX CONCURRENTLY webhook_events_due_by_url ON webhook_events (tenant, url, due_at) "
            "WHERE state = 'waiting'"
        )
    op.execute("INSERT INTO schema_revisions VALUES ('0038', '0005')")


def downgrade() -> None:
    op.execute("DROP INDEX webhook_events_due_by_url")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0038'")
