"""A job can be a chain: the output of one release is the condition of the next.

A shard of a chain goes through its stages one after the other: it is one row of `work`, which becomes ready again for
the next stage in the transaction that records its last image of the present one.
"""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0031"
down_revision = "0030"

# stage: from 0; NULL for the work of other jobs. claimed_stage: see `guard_stages`.
TABLES = """
ALTER TABLE work ADD COLUMN stage smallint, ADD COLUMN claimed_stage smallint;

CREATE TABLE job_stages (
    job_id     uuid     NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    stage      smallint NOT NULL,
    model      text     NOT NULL,            -- the release as name@version
    release_id bigint   NOT NULL REFERENCES releases (id),
    digest     text     NOT NULL,
    cost       bigint   NOT NULL,            -- network evaluations of an image
    keep       boolean  NOT NULL,            -- whether its images are kept when the job has ended
    is_last    boolean  NOT NULL,            -- its images are the job's
    made       integer  NOT NULL DEFAULT 0,  -- images, but of the last stage
    PRIMARY KEY (job_id, stage)
);

-- The images of all stages but the last one, until they are no longer needed.
CREATE TABLE stage_outputs (
    job_id      uuid        NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    index       integer     NOT NULL,
    stage       smallint    NOT NULL,
    key         text        NOT NULL,
    sha256      text        NOT NULL,
    bytes       bigint      NOT NULL,
    profile     text,
    evaluations integer,
    gpu_seconds double precision,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, index, stage)
);
ALTER TABLE job_stages ENABLE ROW LEVEL SECURITY;
ALTER TABLE stage_outputs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_stages ON job_stages FOR SELECT TO darkroom_submitter
    USING (EXISTS (SELECT FROM jobs WHERE jobs.id = job_id));
CREATE POLICY own_stage_outputs ON stage_outputs FOR SELECT TO darkroom_submitter
    USING (EXISTS (SELECT FROM jobs WHERE jobs.id = job_id));
CREATE POLICY every_stage ON job_stages TO darkroom_dispatcher, darkroom_worker, darkroom_pruner
    USING (true) WITH CHECK (true);
CREATE POLICY every_stage_output ON stage_outputs TO darkroom_dispatcher, darkroom_worker, darkroom_pruner
    USING (true) WITH CHECK (true);
"""

# Code of earlier revisions names no stage when it claims a shard, and would make other images of it.
GUARD = """
CREATE FUNCTION guard_stages() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NEW.claimed_stage IS DISTINCT FROM NEW.stage THEN
        RETURN NULL;
    END IF;
    NEW.claimed_stage := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_stages BEFORE UPDATE OF token ON work FOR EACH ROW
    WHEN (NEW.stage IS NOT NULL AND OLD.state = 'ready' AND NEW.state = 'leased') EXECUTE FUNCTION guard_stages();
"""

# -- planning ----------------------------------------------------------------------------------

# stages: objects with stage, model, release_id, digest, cost, keep and is_last. A later revision has those of the
# first one, and counts again what has to be made. Returns whether the lease was held.
PLANNING = """
CREATE FUNCTION plan_stages(planning bigint, held_token bigint, stages jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    present record;
BEGIN
    SELECT jobs.id, plan IS NULL AS is_new, succeeded INTO present FROM work JOIN jobs ON jobs.id = job_id
    WHERE work.id = planning AND token = held_token AND work.state = 'leased' FOR NO KEY UPDATE OF work;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF present.is_new THEN
        DELETE FROM job_stages WHERE job_id = present.id;
        INSERT INTO job_stages (job_id, stage, model, release_id, digest, cost, keep, is_last)
        SELECT present.id, given.* FROM jsonb_to_recordset(stages) AS given (stage smallint, model text,
            release_id bigint, digest text, cost bigint, keep boolean, is_last boolean);
    ELSE
        UPDATE job_stages SET made = present.succeeded + (
            SELECT count(*) FROM stage_outputs AS made
            WHERE made.job_id = present.id AND made.stage = job_stages.stage AND NOT EXISTS (
                SELECT FROM outputs WHERE outputs.job_id = made.job_id AND outputs.index = made.index))
        WHERE job_id = present.id AND NOT is_last;
    END IF;
    RETURN true;
END $$;
"""
PLAN_BATCH = import_module("migrations.versions.0014_pick_up").PLANNING
STAGE_OF_SHARDS = (
    ("            line_start, byte_start, byte_stop)\n        SELECT job,",
     "            line_start, byte_start, byte_stop, stage)\n        SELECT job,"),
    ("/ turn.weight, given.*\n",
     "/ turn.weight, given.*, (SELECT 0 FROM job_stages WHERE job_id = job LIMIT 1)\n"),
)  # fmt: skip

# -- sampling ----------------------------------------------------------------------------------

# As settle_jobs, for shards of stages but the last one. waits: for jobs that other transactions have locked. An image
# that failed has failed for all stages. A shard that has ended becomes ready for its next stage if any image is left,
# and keeps its rank: its tenant was charged for all stages when it was planned.
SETTLING = """
CREATE FUNCTION settle_stages(shards bigint[], tokens bigint[], are_last boolean[], images jsonb, waits boolean)
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
    IF waits THEN
        PERFORM FROM jobs WHERE id IN (SELECT job_id FROM work WHERE id = ANY (held)) ORDER BY id FOR NO KEY UPDATE;
    END IF;
    SELECT array_agg(locked.id) INTO free FROM (
        SELECT id FROM jobs WHERE id IN (SELECT job_id FROM work WHERE id = ANY (held))
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    ) AS locked;
    SELECT array_agg(work.id), array_agg(work.id) FILTER (WHERE given.is_last) INTO settling, ended
    FROM work JOIN unnest(shards, are_last) AS given (id, is_last) ON work.id = given.id
    WHERE work.id = ANY (held) AND work.job_id = ANY (free);
    WITH new AS (
        SELECT work.job_id, work.stage, image.* FROM jsonb_to_recordset(images) AS image (shard bigint, index integer,
            item integer, seed bigint, key text, sha256 text, bytes bigint, profile text, error text,
            evaluations integer, gpu_seconds double precision)
        JOIN work ON work.id = image.shard WHERE image.shard = ANY (settling)
    ), stored AS (
        INSERT INTO stage_outputs (job_id, index, stage, key, sha256, bytes, profile, evaluations, gpu_seconds)
        SELECT job_id, index, stage, key, sha256, bytes, profile, evaluations, gpu_seconds FROM new
        WHERE error IS NULL ON CONFLICT DO NOTHING RETURNING job_id, stage
    ), made AS (
        UPDATE job_stages SET made = made + images FROM (
            SELECT job_id, stage, count(*) AS images FROM stored GROUP BY job_id, stage) AS counted
        WHERE (job_stages.job_id, job_stages.stage) = (counted.job_id, counted.stage)
    ), failures AS (
        INSERT INTO outputs (job_id, index, item, seed, error, revision)
        SELECT job_id, index, item, seed, error, jobs.revision FROM new JOIN jobs ON jobs.id = job_id
        WHERE error IS NOT NULL ON CONFLICT DO NOTHING RETURNING job_id
    )
    UPDATE jobs SET state = CASE state WHEN 'planned' THEN 'running' ELSE state END,
        started_at = coalesce(started_at, now()),
        failed = failed + (SELECT count(*) FROM failures WHERE job_id = jobs.id)
    WHERE id = ANY (free);
    IF ended IS NOT NULL THEN
        UPDATE work SET owner = NULL, lease_until = NULL, isolated = false, attempts = 0, losses = 0, suspect = false,
            error = NULL, state = CASE WHEN goes_on THEN 'ready' ELSE 'done' END,
            stage = CASE WHEN goes_on THEN next.stage ELSE work.stage END,
            pack_key = CASE WHEN goes_on THEN next.digest ELSE pack_key END,
            cost = CASE WHEN goes_on THEN rest * (stop - start) ELSE work.cost END
        FROM (
            SELECT work.id, job_stages.stage, job_stages.digest,
                (SELECT sum(later.cost) FROM job_stages AS later
                 WHERE later.job_id = work.job_id AND later.stage > work.stage) AS rest,
                (SELECT count(*) FROM outputs WHERE outputs.job_id = work.job_id AND index >= start AND index < stop)
                    < stop - start AS goes_on
            FROM work JOIN job_stages ON job_stages.job_id = work.job_id AND job_stages.stage = work.stage + 1
            WHERE work.id = ANY (ended)
        ) AS next WHERE work.id = next.id;
        PERFORM announce('darkroom_shards', queue) FROM (
            SELECT DISTINCT queue FROM work WHERE id = ANY (ended) AND state = 'ready') AS going_on;
        PERFORM open_finalizing(ARRAY(SELECT DISTINCT job_id FROM work WHERE id = ANY (ended) AND state = 'done'));
    END IF;
    RETURN QUERY SELECT given, CASE WHEN given = ANY (settling) THEN 'settled' WHEN given = ANY (held) THEN 'locked'
        ELSE 'lost' END FROM unnest(shards) AS given;
END $$;
"""
PARTS = import_module("migrations.versions.0012_settling").PARTS
STAGE_OF_A_HALF = (
    ("error, line_start, byte_start, byte_stop)", "error, line_start, byte_start, byte_stop, stage)"),
    ("present.byte_start, present.byte_stop)", "present.byte_start, present.byte_stop, present.stage)"),
)

GRANTS = """
REVOKE ALL ON FUNCTION guard_stages(), plan_stages(bigint, bigint, jsonb),
    settle_stages(bigint[], bigint[], boolean[], jsonb, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION plan_stages(bigint, bigint, jsonb) TO darkroom_dispatcher;
GRANT EXECUTE ON FUNCTION settle_stages(bigint[], bigint[], boolean[], jsonb, boolean), announce(text, text)
    TO darkroom_worker;
GRANT SELECT ON job_stages, stage_outputs TO darkroom_submitter, darkroom_dispatcher, darkroom_worker, darkroom_pruner;
GRANT INSERT (job_id, stage, model, release_id, digest, cost, keep, is_last), UPDATE (made), DELETE ON job_stages
    TO darkroom_dispatcher;
GRANT UPDATE (made) ON job_stages TO darkroom_worker;
GRANT INSERT (job_id, index, stage, key, sha256, bytes, profile, evaluations, gpu_seconds) ON stage_outputs
    TO darkroom_worker;
GRANT DELETE ON stage_outputs TO darkroom_pruner;
GRANT INSERT (stage) ON work TO darkroom_dispatcher, darkroom_worker;
GRANT UPDATE (stage, claimed_stage, pack_key) ON work TO darkroom_worker;
INSERT INTO schema_revisions VALUES ('0031', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs", "work", "releases")
    for part in (TABLES, GUARD, PLANNING, SETTLING):
        op.execute(part)
    redefine("plan_batch", PLAN_BATCH, *STAGE_OF_SHARDS)
    redefine("record_loss", PARTS, *STAGE_OF_A_HALF)
    op.execute(GRANTS)


def downgrade() -> None:
    lock_tables("jobs", "work", "releases")
    redefine("plan_batch", PLAN_BATCH)
    redefine("record_loss", PARTS)
    op.execute("""
        UPDATE work SET state = 'cancelled', owner = NULL, lease_until = NULL
        WHERE stage IS NOT NULL AND state IN ('ready', 'delayed', 'leased');
        UPDATE jobs SET state = 'failed', reason = 'it was a chain, which the older schema does not know',
            finished_at = now()
        WHERE finished_at IS NULL AND id IN (SELECT job_id FROM job_stages);
        DROP FUNCTION settle_stages(bigint[], bigint[], boolean[], jsonb, boolean), plan_stages(bigint, bigint, jsonb);
        DROP TRIGGER guard_stages ON work;
        DROP FUNCTION guard_stages();
        DROP TABLE stage_outputs, job_stages;
        ALTER TABLE work DROP COLUMN stage, DROP COLUMN claimed_stage;
        REVOKE EXECUTE ON FUNCTION announce(text, text) FROM darkroom_worker;
        REVOKE UPDATE (pack_key) ON work FROM darkroom_worker;
        DELETE FROM schema_revisions WHERE revision = '0031';
    """)
