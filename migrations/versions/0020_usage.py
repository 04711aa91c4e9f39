"""What each tenant has used by day is counted with the images, and what a release costs on each profile with it."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0020"
down_revision = "0019"

COLUMNS = """
ALTER TABLE outputs
    ADD COLUMN evaluations integer,           -- rows of the network that the image took
    ADD COLUMN gpu_seconds double precision;  -- its share of the device's time
"""

# slot: several rows a day, so that workers that settle images at the same time seldom wait for each other.
TABLE = """
CREATE TABLE usage_counts (
    day         date             NOT NULL,
    tenant      text             NOT NULL,
    release_id  bigint           NOT NULL,
    profile     text             NOT NULL,
    slot        smallint         NOT NULL,
    images      bigint           NOT NULL,
    evaluations bigint           NOT NULL,
    gpu_seconds double precision NOT NULL,
    bytes       bigint           NOT NULL,
    PRIMARY KEY (day, tenant, release_id, profile, slot)
) WITH (fillfactor = 50);
ALTER TABLE usage_counts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_usage ON usage_counts FOR SELECT TO darkroom_submitter USING (tenant = (SELECT current_tenant()));
CREATE POLICY every_usage ON usage_counts FOR SELECT TO darkroom_observer USING (true);

-- In UTC. An image counts on the day on which it was recorded.
CREATE VIEW tenant_usage WITH (security_invoker = true) AS
SELECT tenant, day, least(sum(images), 9223372036854775807)::bigint AS images,
    least(sum(evaluations), 9223372036854775807)::bigint AS evaluations, sum(gpu_seconds) AS gpu_seconds,
    least(sum(bytes), 9223372036854775807)::bigint AS bytes
FROM usage_counts GROUP BY tenant, day;
"""

# In the transaction that records the images, and only of rows that were not there: so once, whatever is repeated. It
# runs at the end of a statement that has locked the images' jobs already.
COUNTING = """
CREATE FUNCTION count_usage() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO usage_counts AS present
    SELECT (now() AT TIME ZONE 'UTC')::date, jobs.tenant, coalesce(jobs.release_id, 0), coalesce(inserted.profile, ''),
        pg_backend_pid() % 8, count(*), coalesce(sum(inserted.evaluations), 0),
        coalesce(sum(inserted.gpu_seconds), 0), sum(inserted.bytes)
    FROM inserted JOIN jobs ON jobs.id = inserted.job_id WHERE inserted.error IS NULL
    GROUP BY jobs.tenant, jobs.release_id, inserted.profile ORDER BY jobs.tenant, jobs.release_id, inserted.profile
    ON CONFLICT (day, tenant, release_id, profile, slot) DO UPDATE SET images = present.images + excluded.images,
        evaluations = present.evaluations + excluded.evaluations,
        gpu_seconds = present.gpu_seconds + excluded.gpu_seconds, bytes = present.bytes + excluded.bytes;
    RETURN NULL;
END $$;
CREATE TRIGGER count_usage AFTER INSERT ON outputs REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION count_usage();
"""

GRANTS = """
REVOKE ALL ON FUNCTION count_usage() FROM PUBLIC;
GRANT SELECT ON usage_counts, tenant_usage TO darkroom_submitter, darkroom_observer;
INSERT INTO schema_revisions VALUES ('0020', '0005');
"""

SETTLE_IMAGES = import_module("migrations.versions.0012_settling").CALLS
SETTLE_JOBS = import_module("migrations.versions.0015_settling_jobs").SETTLING
COST = (
    ("bytes, profile, error, revision)", "bytes, profile, error, revision, evaluations, gpu_seconds)"),
    ("profile text, error text)", "profile text, error text, evaluations integer, gpu_seconds double precision)"),
)


def upgrade() -> None:
    lock_tables("outputs")
    for part in (COLUMNS, TABLE, COUNTING):
        op.execute(part)
    redefine(
        "settle_images",
        SETTLE_IMAGES,
        *COST,
        ("(SELECT revision FROM jobs WHERE id = job)", "(SELECT revision FROM jobs WHERE id = job),\n"
         "            new.evaluations, new.gpu_seconds"),
    )  # fmt: skip
    redefine(
        "settle_jobs",
        SETTLE_JOBS,
        *COST,
        ("jobs.revision\n", "jobs.revision, new.evaluations, new.gpu_seconds\n"),
    )
    op.execute(GRANTS)


def downgrade() -> None:
    lock_tables("outputs")
    redefine("settle_images", SETTLE_IMAGES)
    redefine("settle_jobs", SETTLE_JOBS)
    op.execute("""
        DROP TRIGGER count_usage ON outputs;
        DROP FUNCTION count_usage();
        DROP VIEW tenant_usage;
        DROP TABLE usage_counts;
        ALTER TABLE outputs DROP COLUMN evaluations, DROP COLUMN gpu_seconds;
        DELETE FROM schema_revisions WHERE revision = '0020';
    """)
