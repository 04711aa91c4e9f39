"""Workers hear of shards at once, and a batch of a plan is recorded by one statement."""

from alembic import op

from migrations.locks import lock_tables

revision = "0014"
down_revision = "0013"

# Dispatchers and workers listen to a channel each, so that neither looks for work that is not theirs.
ANNOUNCING = """
DROP TRIGGER announce_work ON work;
CREATE OR REPLACE FUNCTION announce_work() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM inserted WHERE kind <> 'sample') THEN
        PERFORM announce('darkroom_work', '');
    END IF;
    PERFORM announce('darkroom_shards', queue)
    FROM (SELECT DISTINCT queue FROM inserted WHERE kind = 'sample') AS of_shards;
    RETURN NULL;
END $$;
CREATE TRIGGER announce_work AFTER INSERT ON work REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION announce_work();
"""

# Records the images before `new_end` of the job whose planning is leased: fails those of items that have errors, and
# adds shards. new_plan: the plan, with the first batch of a job's first revision. Returns 'lost' if the lease or the
# job has ended and 'stopping' if the job must stop, and writes nothing then. Else it returns 'planned'.
PLANNING = """
CREATE FUNCTION plan_batch(planning bigint, held_token bigint, new_plan jsonb, release bigint, digest text,
    images integer, new_end integer, per_item integer, is_last boolean, errors jsonb, starts integer[],
    stops integer[], costs bigint[], line_starts integer[], byte_starts bigint[], byte_stops bigint[]) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    job     uuid;
    present record;
    turn    record;
BEGIN
    SELECT job_id INTO job FROM work WHERE id = planning AND token = held_token AND state = 'leased'
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    SELECT revision, state, cancel_requested_at IS NOT NULL OR deadline < now() OR finished_at IS NOT NULL
        OR EXISTS (SELECT FROM cancel_requests WHERE job_id = job) AS must_stop
    INTO present FROM jobs WHERE id = job FOR NO KEY UPDATE;
    IF present.must_stop THEN
        RETURN 'stopping';
    ELSIF present.state NOT IN ('submitted', 'planned', 'running') THEN
        RETURN 'lost';
    END IF;
    UPDATE work SET state = CASE WHEN is_last THEN 'done' ELSE state END, owner = CASE WHEN NOT is_last THEN owner END,
        lease_until = CASE WHEN NOT is_last THEN now() + interval '900 seconds' + cost * interval '5 seconds' END,
        isolated = isolated AND NOT is_last
    WHERE id = planning;
    IF new_plan IS NOT NULL THEN
        UPDATE jobs SET plan = new_plan, release_id = release, total = images WHERE id = job;
    END IF;
    WITH unusable AS (
        INSERT INTO outputs (job_id, index, item, error, revision)
        SELECT job, given.item * per_item + k, given.item, given.error, present.revision
        FROM jsonb_to_recordset(errors) AS given (item integer, error text)
        CROSS JOIN generate_series(0, per_item - 1) AS k
        ON CONFLICT DO NOTHING RETURNING 1
    )
    UPDATE jobs SET planned_to = new_end, state = CASE state WHEN 'submitted' THEN 'planned' ELSE state END,
        failed = failed + (SELECT count(*) FROM unusable)
    WHERE id = job;
    IF present.revision > 1 THEN  -- which plans only what is not stored yet
        SELECT array_agg(start), array_agg(stop), array_agg(cost), array_agg(line_start), array_agg(byte_start),
            array_agg(byte_stop)
        INTO starts, stops, costs, line_starts, byte_starts, byte_stops
        FROM unnest(starts, stops, costs, line_starts, byte_starts, byte_stops)
            AS given (start, stop, cost, line_start, byte_start, byte_stop)
        WHERE (SELECT count(*) FROM outputs
               WHERE job_id = job AND index >= given.start AND index < given.stop) < given.stop - given.start;
    END IF;
    IF cardinality(starts) > 0 THEN  -- last, because this locks the tenant's turns in the queue
        SELECT * INTO turn FROM take_turns(job, (SELECT sum(cost) FROM unnest(costs) AS cost));
        INSERT INTO work (job_id, kind, pack_key, tenant, queue, priority, deferred, rank, start, stop, cost,
            line_start, byte_start, byte_stop)
        SELECT job, 'sample', digest, turn.tenant, turn.queue, turn.priority, turn.deferred,
            turn.rank + (sum(given.cost) OVER (ORDER BY given.start) - given.cost) / turn.weight, given.*
        FROM unnest(starts, stops, costs, line_starts, byte_starts, byte_stops)
            AS given (start, stop, cost, line_start, byte_start, byte_stop)
        ORDER BY given.start;
    ELSIF is_last THEN
        PERFORM open_finalizing(ARRAY[job]);
    END IF;
    RETURN 'planned';
END $$;
"""

ARGUMENTS = """bigint, bigint, jsonb, bigint, text, integer, integer, integer, boolean, jsonb, integer[], integer[],
    bigint[], integer[], bigint[], bigint[]"""


def upgrade() -> None:
    lock_tables("work")
    op.execute(ANNOUNCING)
    op.execute(PLANNING)
    op.execute(f"REVOKE ALL ON FUNCTION plan_batch({ARGUMENTS}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION plan_batch({ARGUMENTS}) TO darkroom_dispatcher")
    op.execute("INSERT INTO schema_revisions VALUES ('0014', '0005')")


def downgrade() -> None:
    lock_tables("work")
    op.execute(f"""
        DROP FUNCTION plan_batch({ARGUMENTS});
        DROP TRIGGER announce_work ON work;
        CREATE OR REPLACE FUNCTION announce_work() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
        BEGIN
            PERFORM announce('darkroom_work', '');
            RETURN NULL;
        END $$;
        CREATE TRIGGER announce_work AFTER INSERT ON work FOR EACH STATEMENT EXECUTE FUNCTION announce_work();
        DELETE FROM schema_revisions WHERE revision = '0014';
    """)
