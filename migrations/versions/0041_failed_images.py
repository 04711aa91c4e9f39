"""The failed images of a job are found by an index, among a million that are stored.

The indexes of the partitions are built while they are written to. That of `outputs` then takes them as its parts.
"""

from alembic import op
from sqlalchemy import text

from migrations.locks import lock_tables

revision = "0041"
down_revision = "0040"

FAILED = "(job_id, index) WHERE error IS NOT NULL"
PARTITIONS = text("""
    SELECT CAST(relid AS text) AS partition, format('%I', relname || '_failed') AS name
    FROM pg_partition_tree('outputs') JOIN pg_class ON oid = relid WHERE isleaf
""")


def upgrade() -> None:
    # First, because this commits: a step that is tried again must find nothing else done.
    with op.get_context().autocommit_block():
        for partition, name in op.get_bind().execute(PARTITIONS).all():
            op.execute(f"DROP INDEX IF EXISTS {name}")  # an interrupted build leaves an invalid one
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {partition} {FAILED}")
    lock_tables("outputs")
    op.execute(f"CREATE INDEX outputs_failed ON outputs {FAILED}")
    op.execute("INSERT INTO schema_revisions VALUES ('0041', '0005')")


def downgrade() -> None:
    lock_tables("outputs")
    op.execute("DROP INDEX outputs_failed")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0041'")
