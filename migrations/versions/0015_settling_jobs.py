"""Images of several jobs are settled by one statement."""

from alembic import op

revision = "0015"
down_revision = "0014"

# Records images of shards, as settle_images does for one job, and returns what became of each shard: 'settled', 'lost'
# if its lease was not held, or 'locked' if another transaction holds its job's row. Nothing is written about the latter
# two. It waits for no job: so one that is locked delays no other.
SETTLING = """
CREATE FUNCTION settle_jobs(shards bigint[], tokens bigint[], are_last boolean[], images jsonb)
RETURNS TABLE (shard bigint, outcome text)
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
#variable_conflict use_column
DECLARE
    held     bigint[];
    free     uuid[];
    settling bigint[];
    ended    bigint[];
BEGIN
    SELECT array_agg(locked.id) INTO held FROM (
        SELECT work.id FROM work JOIN unnest(shards, tokens) AS given (id, token)
            ON work.id = given.id AND work.token = given.token
        WHERE work.state = 'leased' ORDER BY work.id FOR NO KEY UPDATE OF work
    ) AS locked;
    SELECT array_agg(locked.id) INTO free FROM (
        SELECT id FROM jobs WHERE id IN (SELECT job_id FROM work WHERE id = ANY (held))
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked;
    SELECT array_agg(work.id), array_agg(work.id) FILTER (WHERE given.is_last) INTO settling, ended
    FROM work JOIN unnest(shards, are_last) AS given (id, is_last) ON work.id = given.id
    WHERE work.id = ANY (held) AND work.job_id = ANY (free);
    WITH settled AS (
        INSERT INTO outputs (job_id, index, item, seed, key, sha256, bytes, profile, error, revision)
        SELECT work.job_id, new.index, new.item, new.seed, new.key, new.sha256, new.bytes, new.profile, new.error,
            jobs.revision
        FROM jsonb_to_recordset(images) AS new (shard bigint, index integer, item integer, seed bigint, key text,
            sha256 text, bytes bigint, profile text, error text)
        JOIN work ON work.id = new.shard JOIN jobs ON jobs.id = work.job_id
        WHERE new.shard = ANY (settling) ON CONFLICT DO NOTHING RETURNING job_id, error
    ), counted AS (
        SELECT free_job AS id, count(settled.job_id) FILTER (WHERE error IS NULL) AS succeeded, count(error) AS failed
        FROM unnest(free) AS free_job LEFT JOIN settled ON settled.job_id = free_job GROUP BY free_job
    )
    UPDATE jobs SET state = CASE state WHEN 'planned' THEN 'running' ELSE state END,
        started_at = coalesce(started_at, now()), succeeded = jobs.succeeded + counted.succeeded,
        failed = jobs.failed + counted.failed
    FROM counted WHERE jobs.id = counted.id;
    IF ended IS NOT NULL THEN
        UPDATE work SET state = 'done', owner = NULL, lease_until = NULL, isolated = false WHERE id = ANY (ended);
        PERFORM open_finalizing(ARRAY(SELECT DISTINCT job_id FROM work WHERE id = ANY (ended)));
    END IF;
    RETURN QUERY SELECT given, CASE WHEN given = ANY (settling) THEN 'settled' WHEN given = ANY (held) THEN 'locked'
        ELSE 'lost' END FROM unnest(shards) AS given;
END $$;
REVOKE ALL ON FUNCTION settle_jobs(bigint[], bigint[], boolean[], jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION settle_jobs(bigint[], bigint[], boolean[], jsonb) TO darkroom_worker;
INSERT INTO schema_revisions VALUES ('0015', '0005');
"""


def upgrade() -> None:
    op.execute(SETTLING)


def downgrade() -> None:
    op.execute("DROP FUNCTION settle_jobs(bigint[], bigint[], boolean[], jsonb)")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0015'")
