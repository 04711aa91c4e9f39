"""Usage and progress count the evaluations of all stages of a chain."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0032"
down_revision = "0031"

# Images and bytes are those of the job, so those of its earlier stages count nothing.
STAGES = """
CREATE FUNCTION count_stage_usage() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO usage_counts AS present
    SELECT (now() AT TIME ZONE 'UTC')::date, jobs.tenant, job_stages.release_id, coalesce(inserted.profile, ''),
        pg_backend_pid() % 8, 0, coalesce(sum(inserted.evaluations), 0), coalesce(sum(inserted.gpu_seconds), 0), 0
    FROM inserted JOIN jobs ON jobs.id = inserted.job_id
    JOIN job_stages ON (job_stages.job_id, job_stages.stage) = (inserted.job_id, inserted.stage)
    GROUP BY jobs.tenant, job_stages.release_id, inserted.profile
    ORDER BY jobs.tenant, job_stages.release_id, inserted.profile
    ON CONFLICT (day, tenant, release_id, profile, slot) DO UPDATE SET
        evaluations = present.evaluations + excluded.evaluations,
        gpu_seconds = present.gpu_seconds + excluded.gpu_seconds;
    RETURN NULL;
END $$;
CREATE TRIGGER count_stage_usage AFTER INSERT ON stage_outputs REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION count_stage_usage();
REVOKE ALL ON FUNCTION count_stage_usage() FROM PUBLIC;
"""
COUNTING = import_module("migrations.versions.0020_usage").COUNTING
# The images of a chain are those of its last release.
OF_THE_LAST = (
    ("jobs.tenant, coalesce(jobs.release_id, 0), coalesce", "jobs.tenant, release.id, coalesce"),
    (
        "JOIN jobs ON jobs.id = inserted.job_id WHERE",
        "JOIN jobs ON jobs.id = inserted.job_id\n"
        "    CROSS JOIN LATERAL (SELECT coalesce((SELECT job_stages.release_id FROM job_stages\n"
        "        WHERE job_id = jobs.id AND is_last), jobs.release_id, 0) AS id) AS release WHERE",
    ),
    ("GROUP BY jobs.tenant, jobs.release_id,", "GROUP BY jobs.tenant, release.id,"),
    ("ORDER BY jobs.tenant, jobs.release_id,", "ORDER BY jobs.tenant, release.id,"),
)

# Not those of later revisions, which a downgrade drops.
COLUMNS = "id, state, total, revision, started_at, finished_at"

# The share is that of the evaluations. An image that failed has ended in all stages.
PROGRESS = f"""
CREATE OR REPLACE VIEW job_progress WITH (security_invoker = true) AS
SELECT id, state, total, settled, share, images_per_s,
    CASE WHEN finished_at IS NULL AND revision = 1 AND share > 0
         THEN now() + (now() - started_at) * (1 - share) / share END AS expected_end,
    CASE WHEN finished_at IS NULL THEN why_waiting(id) END AS waits_because
FROM (
    SELECT {COLUMNS}, succeeded + failed AS settled,
        CASE WHEN total > 0 THEN CASE WHEN stages.share IS NULL OR succeeded + failed = total
            THEN (succeeded + failed) / total::float8 ELSE stages.share END END AS share,
        CASE WHEN revision = 1 AND succeeded + failed > 0 THEN
            (succeeded + failed) / nullif(extract(epoch FROM coalesce(finished_at, now()) - started_at), 0)::float8
            END AS images_per_s
    FROM jobs CROSS JOIN LATERAL (
        SELECT (sum(cost * least(CASE WHEN is_last THEN succeeded ELSE made END + failed, total))
                / nullif(sum(cost) * total, 0))::float8 AS share
        FROM job_stages WHERE job_id = jobs.id) AS stages
) AS job;
"""
OLD_PROGRESS = import_module("migrations.versions.0016_progress").PROGRESS


def upgrade() -> None:
    lock_tables("stage_outputs")
    op.execute(STAGES)
    redefine("count_usage", COUNTING, *OF_THE_LAST)
    op.execute(PROGRESS)
    op.execute("INSERT INTO schema_revisions VALUES ('0032', '0005')")


def downgrade() -> None:
    lock_tables("stage_outputs")
    op.execute("DROP TRIGGER count_stage_usage ON stage_outputs")
    op.execute("DROP FUNCTION count_stage_usage()")
    redefine("count_usage", COUNTING)
    op.execute(OLD_PROGRESS.replace("CREATE VIEW", "CREATE OR REPLACE VIEW").replace("SELECT *,", f"SELECT {COLUMNS},"))
    op.execute("DELETE FROM schema_revisions WHERE revision = '0032'")
