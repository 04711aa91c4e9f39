"""Fair queueing of tenants, deadlines, cancelling, revisions that retry failed images, items from JSON Lines."""

from alembic import op

revision = "0002"
down_revision = "0001"

TENANTS = """
ALTER TABLE tenants
    ADD COLUMN weight         double precision NOT NULL DEFAULT 1 CHECK (weight BETWEEN 0.001 AND 1000),
    ADD COLUMN virtual_time   double precision NOT NULL DEFAULT 0,
    ADD COLUMN max_open_jobs  integer NOT NULL DEFAULT 100000 CHECK (max_open_jobs >= 0),
    ADD COLUMN max_job_images integer NOT NULL DEFAULT 1000000 CHECK (max_job_images BETWEEN 1 AND 10000000),
    ADD COLUMN read_prefixes  text[] NOT NULL DEFAULT '{}';
UPDATE tenants SET read_prefixes = ARRAY['inputs/' || name];
"""

JOBS = """
ALTER TABLE jobs
    ADD COLUMN run_after           timestamptz,
    ADD COLUMN deadline            timestamptz,
    ADD COLUMN revision            integer NOT NULL DEFAULT 1,
    ADD COLUMN cancel_requested_at timestamptz,
    ADD CONSTRAINT deadline_is_after_run_after CHECK (deadline > run_after),
    DROP CONSTRAINT jobs_state_check,
    ADD CONSTRAINT jobs_state_check CHECK (state IN ('submitted', 'planned', 'running', 'finalizing', 'succeeded',
        'partial', 'failed', 'rejected', 'cancelled'));
CREATE INDEX jobs_open_by_tenant ON jobs (tenant) WHERE finished_at IS NULL;
CREATE INDEX jobs_to_cancel ON jobs (id) WHERE cancel_requested_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_by_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND finished_at IS NULL;
"""

# rank: the lowest is claimed first. Sampling ranks count weighted network evaluations, the others seconds.
WORK = """
ALTER TABLE work
    ADD COLUMN tenant     text REFERENCES tenants,
    ADD COLUMN rank       double precision NOT NULL DEFAULT 0,
    ADD COLUMN suspect    boolean NOT NULL DEFAULT false,
    ADD COLUMN isolated   boolean NOT NULL DEFAULT false,
    ADD COLUMN line_start integer,
    ADD COLUMN byte_start bigint,
    ADD COLUMN byte_stop  bigint,
    DROP COLUMN dispatched_at,
    DROP CONSTRAINT work_state_check,
    ADD CONSTRAINT work_state_check CHECK
        (state IN ('ready', 'delayed', 'leased', 'done', 'failed', 'cancelled')),
    ADD CONSTRAINT isolated_work_is_leased CHECK (state = 'leased' OR NOT isolated);
UPDATE work SET tenant = jobs.tenant FROM jobs WHERE jobs.id = work.job_id;
ALTER TABLE work ALTER COLUMN tenant SET NOT NULL;
DROP INDEX work_to_sample, work_to_dispatch;
CREATE INDEX work_to_sample ON work (queue, rank, id) WHERE state = 'ready' AND kind = 'sample';
CREATE INDEX work_to_sample_by_release ON work (queue, pack_key, rank, id) WHERE state = 'ready' AND kind = 'sample';
CREATE INDEX work_to_dispatch ON work (tenant, rank, id) WHERE state = 'ready' AND kind <> 'sample' AND NOT suspect;
CREATE INDEX work_suspect ON work (queue, rank, id) WHERE state = 'ready' AND kind <> 'sample' AND suspect;
"""

OUTPUTS = """
ALTER TABLE outputs
    ADD COLUMN revision integer NOT NULL DEFAULT 1,
    ALTER COLUMN seed DROP NOT NULL,
    ADD CONSTRAINT image_has_a_seed CHECK (error IS NOT NULL OR seed IS NOT NULL);
"""

SUBMITTING = """
-- Jobs of a priority are planned in their order; a priority is worth a minute of waiting.
CREATE OR REPLACE FUNCTION enqueue_plan() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO work (job_id, kind, queue, tenant, priority, rank, state, run_after)
    VALUES (NEW.id, 'plan', NEW.queue, NEW.tenant, NEW.priority,
            extract(epoch FROM clock_timestamp()) - 60 * NEW.priority,
            CASE WHEN NEW.run_after > now() THEN 'delayed' ELSE 'ready' END,
            CASE WHEN NEW.run_after > now() THEN NEW.run_after END);
    RETURN NULL;
END $$;

-- This runs once per statement, so that a thousand jobs in one INSERT are counted once.
CREATE FUNCTION hold_to_quota() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    exceeded record;
BEGIN
    SELECT tenants.name, tenants.max_open_jobs, counted.open INTO exceeded
    FROM (SELECT DISTINCT tenant FROM inserted) AS affected
    JOIN tenants ON tenants.name = affected.tenant
    CROSS JOIN LATERAL (
        SELECT count(*) AS open FROM (
            SELECT FROM jobs WHERE jobs.tenant = tenants.name AND finished_at IS NULL LIMIT tenants.max_open_jobs + 1
        ) AS few
    ) AS counted
    WHERE counted.open > tenants.max_open_jobs LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'tenant "%" would have more than its % open jobs', exceeded.name, exceeded.max_open_jobs
            USING ERRCODE = 'insufficient_resources', HINT = 'Submit again when some have ended.';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER hold_to_quota AFTER INSERT ON jobs REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION hold_to_quota();

-- A job whose key exists must be the same job; anything else is an error.
CREATE FUNCTION submit_job(job jsonb) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    known    CONSTANT text[] :=
        '{model, request, queue, priority, idempotency_key, run_after, deadline}';
    unknown  text;
    earlier  record;
    new_id   uuid;
BEGIN
    IF jsonb_typeof(job) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'job: not a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT string_agg(key, ', ') INTO unknown FROM jsonb_object_keys(job) AS key WHERE key <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'job: % is not a known field', unknown
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Permitted: ' || array_to_string(known, ', ');
    END IF;
    INSERT INTO jobs (model, request, queue, priority, idempotency_key, run_after, deadline)
    VALUES (job ->> 'model', job -> 'request', coalesce(job ->> 'queue', 'default'),
            coalesce((job ->> 'priority')::smallint, 0), job ->> 'idempotency_key',
            (job ->> 'run_after')::timestamptz, (job ->> 'deadline')::timestamptz)
    ON CONFLICT (tenant, idempotency_key) DO NOTHING RETURNING id INTO new_id;
    IF new_id IS NOT NULL THEN
        RETURN new_id;
    END IF;
    SELECT id, model, request INTO earlier FROM jobs
    WHERE tenant = current_tenant() AND idempotency_key = job ->> 'idempotency_key';
    IF (earlier.model, earlier.request) IS DISTINCT FROM (job ->> 'model', job -> 'request') THEN
        RAISE EXCEPTION 'idempotency_key: "%" is that of job %, which asks for something else',
            job ->> 'idempotency_key', earlier.id USING ERRCODE = 'unique_violation';
    END IF;
    RETURN earlier.id;
END $$;

CREATE FUNCTION submit_jobs(jobs jsonb) RETURNS SETOF uuid
LANGUAGE sql SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT submit_job(one.job) FROM jsonb_array_elements(jobs) WITH ORDINALITY AS one (job, position) ORDER BY position
$$;

-- Images that are being sampled stop within two steps; stored images stay.
CREATE FUNCTION cancel_job(job uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    present text;
BEGIN
    UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, now())
    WHERE id = job AND tenant = current_tenant() AND finished_at IS NULL;
    IF FOUND THEN
        NOTIFY darkroom_work;
    END IF;
    SELECT state INTO present FROM jobs WHERE id = job AND tenant = current_tenant();
    IF present IS NULL THEN
        RAISE EXCEPTION 'job: you have no job %', job USING ERRCODE = 'no_data_found';
    END IF;
    RETURN present;
END $$;

-- A new revision of an ended job makes its missing images; stored images stay.
CREATE FUNCTION retry_job(job uuid) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    ended record;
BEGIN
    SELECT * INTO ended FROM jobs WHERE id = job AND tenant = current_tenant() FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job: you have no job %', job USING ERRCODE = 'no_data_found';
    END IF;
    IF ended.state NOT IN ('partial', 'failed', 'cancelled') OR ended.plan IS NULL THEN
        RAISE EXCEPTION 'job: % is %; only what is partial, failed or cancelled after planning is tried again',
            job, ended.state USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    DELETE FROM outputs WHERE job_id = job AND error IS NOT NULL;
    UPDATE jobs SET state = 'submitted', revision = revision + 1, failed = 0, reason = NULL, finished_at = NULL,
        cancel_requested_at = NULL, deadline = NULL WHERE id = job;
    INSERT INTO work (job_id, kind, queue, tenant, priority, rank)
    VALUES (job, 'plan', ended.queue, ended.tenant, ended.priority,
            extract(epoch FROM clock_timestamp()) - 60 * ended.priority);
    RETURN ended.revision + 1;
END $$;

CREATE FUNCTION announce_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('darkroom_job_ended', NEW.id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER announce_end AFTER UPDATE OF finished_at ON jobs FOR EACH ROW
    WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION announce_end();
"""

GRANTS = """
REVOKE ALL ON FUNCTION hold_to_quota(), submit_job(jsonb), submit_jobs(jsonb), cancel_job(uuid), retry_job(uuid),
    announce_end() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION submit_job(jsonb), submit_jobs(jsonb), cancel_job(uuid), retry_job(uuid)
    TO darkroom_submitter;
GRANT INSERT (run_after, deadline) ON jobs TO darkroom_submitter;
GRANT UPDATE (virtual_time) ON tenants TO darkroom_dispatcher, darkroom_worker;
GRANT SELECT ON tenants TO darkroom_worker;
"""


def upgrade() -> None:
    for part in (TENANTS, JOBS, WORK, OUTPUTS, SUBMITTING, GRANTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        REVOKE SELECT, UPDATE (virtual_time) ON tenants FROM darkroom_worker;
        REVOKE UPDATE (virtual_time) ON tenants FROM darkroom_dispatcher;
        DROP TRIGGER announce_end ON jobs;
        DROP TRIGGER hold_to_quota ON jobs;
        DROP FUNCTION announce_end(), hold_to_quota(), retry_job(uuid), cancel_job(uuid), submit_jobs(jsonb),
            submit_job(jsonb);
        CREATE OR REPLACE FUNCTION enqueue_plan() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
        BEGIN
            INSERT INTO work (job_id, kind, queue, priority) VALUES (NEW.id, 'plan', NEW.queue, NEW.priority);
            RETURN NULL;
        END $$;
        DELETE FROM outputs WHERE seed IS NULL;
        ALTER TABLE outputs DROP CONSTRAINT image_has_a_seed, DROP COLUMN revision, ALTER COLUMN seed SET NOT NULL;
        DROP INDEX work_to_sample, work_to_sample_by_release, work_to_dispatch, work_suspect;
        UPDATE work SET state = 'failed' WHERE state = 'cancelled';
        ALTER TABLE work DROP CONSTRAINT isolated_work_is_leased, DROP CONSTRAINT work_state_check,
            ADD CONSTRAINT work_state_check CHECK (state IN ('ready', 'delayed', 'leased', 'done', 'failed')),
            DROP COLUMN tenant, DROP COLUMN rank, DROP COLUMN suspect, DROP COLUMN isolated,
            DROP COLUMN line_start,
            DROP COLUMN byte_start, DROP COLUMN byte_stop, ADD COLUMN dispatched_at timestamptz;
        CREATE INDEX work_to_sample ON work (priority DESC, id) WHERE state = 'ready' AND kind = 'sample';
        CREATE INDEX work_to_dispatch ON work (priority DESC, id) WHERE state = 'ready' AND kind <> 'sample';
        DROP INDEX jobs_open_by_tenant, jobs_to_cancel, jobs_by_deadline;
        UPDATE jobs SET state = 'failed', reason = 'cancelled' WHERE state = 'cancelled';
        ALTER TABLE jobs DROP CONSTRAINT deadline_is_after_run_after, DROP CONSTRAINT jobs_state_check,
            ADD CONSTRAINT jobs_state_check CHECK (state IN
                ('submitted', 'planned', 'running', 'finalizing', 'succeeded', 'partial', 'failed', 'rejected')),
            DROP COLUMN run_after, DROP COLUMN deadline, DROP COLUMN revision, DROP COLUMN cancel_requested_at;
        ALTER TABLE tenants DROP COLUMN weight, DROP COLUMN virtual_time, DROP COLUMN max_open_jobs,
            DROP COLUMN max_job_images, DROP COLUMN read_prefixes;
    """)
