"""The console knows its tenant's limits. A job whose attempts fail says so, and one that waits has no expected end."""

from importlib import import_module

from alembic import op

from migrations.redefining import redefine

revision = "0042"
down_revision = "0041"

LIMITS = """
CREATE VIEW visible_limits WITH (security_barrier = true) AS
SELECT write_prefixes, read_prefixes, max_job_images FROM tenants WHERE name = current_tenant();
GRANT SELECT ON visible_limits TO darkroom_console;
"""

WAITING = import_module("migrations.versions.0016_progress").WAITING
OF_A_JOB = (  # as 0018 has it
    ("cancel_requested_at, paused INTO", "cancel_requested_at, queues.paused, jobs.paused AS is_paused INTO"),
    (
        "ELSIF job.paused",
        "ELSIF job.is_paused AND job.state <> 'finalizing' THEN RETURN 'it is paused';\n    ELSIF job.paused",
    ),
)
# Work that is ready is told as before: an attempt that failed holds up nothing else. Its error is not told: it may name
# parts of the service, or objects of other tenants.
FAILING = (
    ("    job record;", "    job record;\n    repeated timestamptz;"),
    (
        "        RETURN NULL;\n    END IF;\n    RETURN",
        "        RETURN NULL;\n    END IF;\n"
        "    SELECT min(run_after) INTO repeated FROM work\n"
        "    WHERE work.job_id = job.id AND work.state = 'delayed' AND isfinite(run_after) AND error IS NOT NULL\n"
        "        AND NOT EXISTS (SELECT FROM work AS other WHERE other.job_id = job.id AND other.state = 'ready');\n"
        "    IF repeated IS NOT NULL THEN\n"
        "        RETURN format('an attempt failed, and is repeated at %s', date_trunc('second', repeated));\n"
        "    END IF;\n    RETURN",
    ),
)

PROGRESS = import_module("migrations.versions.0032_chain_counts").PROGRESS
# OFFSET 0, so that the function is called once.
ENDING = (
    (
        "CASE WHEN finished_at IS NULL AND revision = 1 AND share > 0\n",
        "CASE WHEN finished_at IS NULL AND revision = 1 AND share > 0\n"
        "            AND coalesce(reason, 'other work is before it') = 'other work is before it'\n",
    ),
    ("CASE WHEN finished_at IS NULL THEN why_waiting(id) END AS waits_because", "reason AS waits_because"),
    (
        ") AS job;",
        ") AS job CROSS JOIN LATERAL (\n"
        "    SELECT CASE WHEN finished_at IS NULL THEN why_waiting(id) END AS reason OFFSET 0) AS waiting;",
    ),
)


def upgrade() -> None:
    op.execute(LIMITS)
    redefine("why_waiting", WAITING, *OF_A_JOB, *FAILING)
    progress = PROGRESS
    for old, new in ENDING:
        assert old in progress, old
        progress = progress.replace(old, new)
    op.execute(progress)
    op.execute("INSERT INTO schema_revisions VALUES ('0042', '0005')")


def downgrade() -> None:
    op.execute(PROGRESS)
    redefine("why_waiting", WAITING, *OF_A_JOB)
    op.execute("DROP VIEW visible_limits")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0042'")
