"""Each write about a shard is one statement, so that a process that freezes holds no lock for which others wait."""

from alembic import op

from migrations.locks import lock_tables

revision = "0012"
down_revision = "0011"

# A plan of some megabytes is not read to number the items of failed images.
IMAGES_PER_ITEM = """
ALTER TABLE jobs ADD COLUMN images_per_item integer;

CREATE FUNCTION note_images_per_item() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF jsonb_typeof(NEW.plan -> 'images_per_item') = 'number' THEN
        NEW.images_per_item := greatest((NEW.plan -> 'images_per_item')::integer, 1);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER note_images_per_item BEFORE UPDATE OF plan ON jobs FOR EACH ROW
    EXECUTE FUNCTION note_images_per_item();
"""

# -- parts -------------------------------------------------------------------------------------

PARTS = """
-- The lock on the job's row keeps the last two shards from each seeing the other as open.
CREATE FUNCTION open_finalizing(job_ids uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM FROM jobs WHERE id = ANY (job_ids) ORDER BY id FOR NO KEY UPDATE;
    WITH moved AS (
        UPDATE jobs SET state = 'finalizing'
        WHERE id = ANY (job_ids) AND state IN ('planned', 'running') AND NOT EXISTS (
            SELECT FROM work WHERE job_id = jobs.id AND kind IN ('plan', 'sample')
                AND work.state IN ('ready', 'delayed', 'leased'))
        RETURNING id, queue, tenant, priority
    )
    INSERT INTO work (job_id, kind, queue, tenant, priority)
    SELECT id, 'finalize', queue, tenant, priority FROM moved;
END $$;

-- Fails the images [first, past) that have no row yet. A job that was planned before this revision has no number.
CREATE FUNCTION fail_images(job uuid, first integer, past integer, why text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    present record;
BEGIN
    SELECT revision, coalesce(images_per_item, (plan ->> 'images_per_item')::numeric, 1)::integer AS per_item
    INTO present FROM jobs WHERE id = job;
    WITH failed_images AS (
        INSERT INTO outputs (job_id, index, item, error, revision)
        SELECT job, image, image / present.per_item, why, present.revision
        FROM generate_series(first, past - 1) AS image
        ON CONFLICT DO NOTHING RETURNING 1
    )
    UPDATE jobs SET failed = failed + (SELECT count(*) FROM failed_images) WHERE id = job;
END $$;

-- Returns whether the work has failed for good.
CREATE FUNCTION record_loss(lost bigint, why text, max_attempts integer, max_losses integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    present    record;
    is_cut     boolean;
    is_blamed  boolean;  -- it was alone and cannot be cut
    has_failed boolean;
BEGIN
    SELECT * INTO STRICT present FROM work WHERE id = lost FOR UPDATE;
    is_cut := present.isolated AND present.kind = 'sample' AND present.stop - present.start > 1;
    is_blamed := present.isolated AND NOT is_cut;
    has_failed := is_blamed AND present.attempts + 1 >= max_attempts;
    IF is_cut THEN
        INSERT INTO work (job_id, kind, start, stop, queue, tenant, pack_key, priority, rank, cost, suspect, losses,
            error, line_start, byte_start, byte_stop)
        VALUES (present.job_id, present.kind, (present.start + present.stop) / 2, present.stop, present.queue,
            present.tenant, present.pack_key, present.priority, present.rank, present.cost / 2, true,
            present.losses + 1, why, present.line_start, present.byte_start, present.byte_stop);
    END IF;
    UPDATE work SET state = CASE WHEN has_failed THEN 'failed' ELSE 'ready' END, owner = NULL, lease_until = NULL,
        isolated = false, losses = losses + 1, error = why, attempts = attempts + is_blamed::integer,
        suspect = isolated OR losses + 1 >= max_losses,
        stop = CASE WHEN is_cut THEN (start + stop) / 2 ELSE stop END,
        cost = CASE WHEN is_cut THEN cost / 2 ELSE cost END
    WHERE id = lost;
    RETURN has_failed;
END $$;
"""

# -- what a worker calls, each a transaction of its own ----------------------------------------

# Each checks the lease first, and gives up if another transaction holds the job's row.
CALLS = """
-- Records images of shards of one job, and ends the shards whose last images they are. Returns the shards whose leases
-- were held; nothing is written about the others.
CREATE FUNCTION settle_images(job uuid, shards bigint[], tokens bigint[], are_last boolean[], images jsonb)
RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    held  bigint[];
    ended bigint[];
BEGIN
    SELECT array_agg(locked.id), array_agg(locked.id) FILTER (WHERE locked.is_last) INTO held, ended FROM (
        SELECT work.id, given.is_last FROM work
        JOIN unnest(shards, tokens, are_last) AS given (id, token, is_last)
            ON work.id = given.id AND work.token = given.token
        WHERE work.state = 'leased' AND work.job_id = job ORDER BY work.id FOR NO KEY UPDATE OF work
    ) AS locked;
    IF held IS NULL THEN
        RETURN;
    END IF;
    WITH settled AS (
        INSERT INTO outputs (job_id, index, item, seed, key, sha256, bytes, profile, error, revision)
        SELECT job, new.index, new.item, new.seed, new.key, new.sha256, new.bytes, new.profile, new.error,
            (SELECT revision FROM jobs WHERE id = job)
        FROM jsonb_to_recordset(images) AS new (shard bigint, index integer, item integer, seed bigint, key text,
            sha256 text, bytes bigint, profile text, error text)
        WHERE new.shard = ANY (held) ON CONFLICT DO NOTHING RETURNING error
    )
    UPDATE jobs SET state = CASE state WHEN 'planned' THEN 'running' ELSE state END,
        started_at = coalesce(started_at, now()),
        succeeded = succeeded + (SELECT count(*) FROM settled WHERE error IS NULL),
        failed = failed + (SELECT count(*) FROM settled WHERE error IS NOT NULL)
    WHERE id = job;
    IF ended IS NOT NULL THEN
        UPDATE work SET state = 'done', owner = NULL, lease_until = NULL, isolated = false WHERE id = ANY (ended);
        PERFORM open_finalizing(ARRAY[job]);
    END IF;
    RETURN QUERY SELECT unnest(held);
END $$;

-- Ends a shard as failed or cancelled. Its missing images fail, unless `why` is NULL. Returns whether it was held.
CREATE FUNCTION end_shard(shard bigint, held_token bigint, new_state text, why text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    ended record;
BEGIN
    UPDATE work SET state = new_state, owner = NULL, lease_until = NULL, isolated = false,
        attempts = attempts + (new_state = 'failed')::integer, error = coalesce(why, error)
    WHERE id = shard AND token = held_token AND state = 'leased' RETURNING job_id, start, stop INTO ended;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF why IS NOT NULL THEN
        PERFORM fail_images(ended.job_id, ended.start, ended.stop, why);
    END IF;
    PERFORM open_finalizing(ARRAY[ended.job_id]);
    RETURN true;
END $$;

-- Records that a process failed while it held a shard. Returns whether it was held.
CREATE FUNCTION lose_shard(shard bigint, held_token bigint, why text, max_attempts integer, max_losses integer)
RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    lost record;
BEGIN
    SELECT job_id, start, stop INTO lost FROM work
    WHERE id = shard AND token = held_token AND state = 'leased' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF record_loss(shard, why, max_attempts, max_losses) THEN
        PERFORM fail_images(lost.job_id, lost.start, lost.stop, why);
        PERFORM open_finalizing(ARRAY[lost.job_id]);
    END IF;
    RETURN true;
END $$;
"""

GRANTS = """
REVOKE ALL ON FUNCTION note_images_per_item(), open_finalizing(uuid[]), fail_images(uuid, integer, integer, text),
    record_loss(bigint, text, integer, integer), settle_images(uuid, bigint[], bigint[], boolean[], jsonb),
    end_shard(bigint, bigint, text, text), lose_shard(bigint, bigint, text, integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION open_finalizing(uuid[]), fail_images(uuid, integer, integer, text),
    record_loss(bigint, text, integer, integer) TO darkroom_dispatcher, darkroom_worker;
GRANT EXECUTE ON FUNCTION settle_images(uuid, bigint[], bigint[], boolean[], jsonb),
    end_shard(bigint, bigint, text, text), lose_shard(bigint, bigint, text, integer, integer) TO darkroom_worker;
INSERT INTO schema_revisions VALUES ('0012', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs", "work")
    for part in (IMAGES_PER_ITEM, PARTS, CALLS, GRANTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        DROP FUNCTION settle_images(uuid, bigint[], bigint[], boolean[], jsonb), end_shard(bigint, bigint, text, text),
            lose_shard(bigint, bigint, text, integer, integer), record_loss(bigint, text, integer, integer),
            fail_images(uuid, integer, integer, text), open_finalizing(uuid[]);
        DROP TRIGGER note_images_per_item ON jobs;
        DROP FUNCTION note_images_per_item();
        ALTER TABLE jobs DROP COLUMN images_per_item;
        DELETE FROM schema_revisions WHERE revision = '0012';
    """)
