"""Vacuum of the large tables begins at a share of their rows that stays small when millions are kept.

By default it begins at a fifth of a table. Of a week's jobs that would be more than a million dead rows, which the
scans of the queue's indexes pass.
"""

from alembic import op

revision = "0030"
down_revision = "0029"

# cost_delay: these tables are written all the time, and a vacuum that pauses would never catch up.
SETTINGS = {
    "jobs": {"vacuum_scale_factor": 0.01, "analyze_scale_factor": 0.02, "vacuum_cost_delay": 0},
    "work": {"vacuum_scale_factor": 0.01, "analyze_scale_factor": 0.02, "vacuum_cost_delay": 0},
    "outputs_all": {"vacuum_scale_factor": 0.02, "analyze_scale_factor": 0.02},
}


def upgrade() -> None:
    # This locks no table against its readers and writers.
    for table, settings in SETTINGS.items():
        changes = ", ".join(f"autovacuum_{name} = {value}" for name, value in settings.items())
        op.execute(f"ALTER TABLE {table} SET ({changes})")
    op.execute("INSERT INTO schema_revisions VALUES ('0030', '0005')")


def downgrade() -> None:
    for table, settings in SETTINGS.items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(f'autovacuum_{name}' for name in settings)})")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0030'")
