"""Jobs are accepted and counted statement by statement, within the limits of their tenant."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables

revision = "0006"
down_revision = "0005"

# -- jobs --------------------------------------------------------------------------------------

# A time must fit a program's calendar: Python has no year 10000 and no infinity, and .NET writes -infinity for a time
# that is not set. A later revision validates the constraints: here, it would lock the table while it is read.
JOBS = """
UPDATE jobs SET run_after = NULL WHERE run_after NOT BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z';
UPDATE jobs SET deadline = CASE WHEN deadline < created_at AND finished_at IS NULL THEN created_at END
    WHERE deadline NOT BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z';
ALTER TABLE jobs
    ADD CONSTRAINT run_after_is_in_range
        CHECK (run_after BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z') NOT VALID,
    ADD CONSTRAINT deadline_is_in_range
        CHECK (deadline BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z') NOT VALID,
    -- A trigger checks these at INSERT: constraints would read the whole request at every UPDATE.
    DROP CONSTRAINT request_is_an_object,
    DROP CONSTRAINT request_is_at_most_4_mib,
    DROP CONSTRAINT jobs_queue_fkey;
ALTER TABLE work
    DROP CONSTRAINT work_tenant_fkey,
    DROP CONSTRAINT work_owner_fkey;
"""

# -- tenants -----------------------------------------------------------------------------------

# Open jobs and their bytes are the difference of two counters. A client's transaction locks the first one and a
# process of the service the second, so that a client that keeps its transaction open delays no process.
TENANTS = """
ALTER TABLE tenants
    ADD COLUMN permitted_queues text[]  NOT NULL DEFAULT '{*}' CHECK (cardinality(permitted_queues) > 0),
    ADD COLUMN head_start       integer NOT NULL DEFAULT 0 CHECK (head_start BETWEEN 0 AND 1000000),
    ADD COLUMN max_open_bytes   bigint  NOT NULL DEFAULT 1073741824 CHECK (max_open_bytes >= 0);
ALTER TABLE tenants ALTER COLUMN permitted_queues SET DEFAULT '{default}';

CREATE TABLE tenant_submissions (tenant text PRIMARY KEY, jobs bigint NOT NULL, bytes bigint NOT NULL);
CREATE TABLE tenant_endings     (tenant text PRIMARY KEY, jobs bigint NOT NULL, bytes bigint NOT NULL);
INSERT INTO tenant_submissions
    SELECT tenant, count(*), sum(octet_length(request::text)) FROM jobs WHERE finished_at IS NULL GROUP BY tenant;
"""

# -- submitting --------------------------------------------------------------------------------

# These triggers run once per statement, however many jobs it inserts.
SUBMITTING = """
DROP TRIGGER accept_job ON jobs;
DROP TRIGGER enqueue_plan ON jobs;
DROP TRIGGER hold_to_quota ON jobs;
DROP FUNCTION accept_job(), enqueue_plan(), hold_to_quota();

CREATE FUNCTION submitting_tenant() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    tenant text := current_tenant();
BEGIN
    IF tenant IS NULL THEN
        RAISE EXCEPTION 'login "%" belongs to no tenant', session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'An administrator adds one: darkroom tenants add NAME';
    END IF;
    RETURN tenant;
END $$;
ALTER TABLE jobs ALTER COLUMN tenant SET DEFAULT submitting_tenant();

-- Raises if a tenant would exceed a quota. The lock on its row makes its concurrent transactions count one another.
CREATE FUNCTION count_submissions(submitter text, new_jobs bigint, new_bytes bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    allowed record;
    opened  record;
BEGIN
    INSERT INTO tenant_submissions AS present VALUES (submitter, new_jobs, new_bytes)
    ON CONFLICT (tenant) DO UPDATE SET jobs = present.jobs + new_jobs, bytes = present.bytes + new_bytes
    RETURNING jobs, bytes INTO opened;
    SELECT max_open_jobs, max_open_bytes, coalesce(ended.jobs, 0) AS ended_jobs, coalesce(ended.bytes, 0) AS ended_bytes
    INTO allowed FROM tenants LEFT JOIN tenant_endings AS ended ON ended.tenant = tenants.name WHERE name = submitter;
    IF opened.jobs - allowed.ended_jobs > allowed.max_open_jobs THEN
        RAISE EXCEPTION 'tenant "%" would have more than its % open jobs', submitter, allowed.max_open_jobs
            USING ERRCODE = 'insufficient_resources', HINT = 'Submit again when some have ended.';
    END IF;
    IF opened.bytes - allowed.ended_bytes > allowed.max_open_bytes THEN
        RAISE EXCEPTION 'tenant "%" would have more than its % bytes of requests in open jobs',
            submitter, allowed.max_open_bytes
            USING ERRCODE = 'insufficient_resources',
                  HINT = 'Submit again when some jobs have ended, or store large inputs in S3 and give their URIs.';
    END IF;
END $$;

CREATE FUNCTION accept_jobs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    new       record;
    permitted text[];
    queue     text;
BEGIN
    FOR new IN
        SELECT inserted.tenant, count(*) AS jobs, sum(octet_length(request::text)) AS bytes,
            max(octet_length(request::text)) AS largest,
            min(jsonb_typeof(request)) FILTER (WHERE jsonb_typeof(request) <> 'object') AS not_an_object,
            array_agg(DISTINCT inserted.queue) AS queues
        FROM inserted GROUP BY inserted.tenant
    LOOP
        IF new.not_an_object IS NOT NULL THEN
            RAISE EXCEPTION 'request: a JSON % is not allowed; permitted: a JSON object', new.not_an_object
                USING ERRCODE = 'check_violation';
        END IF;
        IF new.largest > 4194304 THEN
            RAISE EXCEPTION 'request: % bytes are not allowed; permitted: at most 4194304', new.largest
                USING ERRCODE = 'check_violation', HINT = 'Store the items in S3 and give their input_uri.';
        END IF;
        SELECT array_agg(queues.name ORDER BY queues.name) INTO permitted FROM queues JOIN tenants
            ON tenants.name = new.tenant AND ('*' = ANY (permitted_queues) OR queues.name = ANY (permitted_queues));
        FOREACH queue IN ARRAY new.queues LOOP
            IF queue = ANY (permitted) IS NOT TRUE THEN
                RAISE EXCEPTION 'queue: "%" does not exist, or tenant "%" may not use it', left(queue, 63), new.tenant
                    USING ERRCODE = 'foreign_key_violation',
                          HINT = 'Permitted: ' || coalesce(array_to_string(permitted, ', '), 'none');
            END IF;
        END LOOP;
        PERFORM count_submissions(new.tenant, new.jobs, new.bytes);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER accept_jobs AFTER INSERT ON jobs REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION accept_jobs();

CREATE FUNCTION enqueue_plans() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO work (job_id, kind, queue, tenant, priority, rank, state, run_after)
    SELECT id, 'plan', queue, tenant, priority, extract(epoch FROM clock_timestamp()) - 60 * priority,
        CASE WHEN run_after > now() THEN 'delayed' ELSE 'ready' END, CASE WHEN run_after > now() THEN run_after END
    FROM inserted;
    RETURN NULL;
END $$;
CREATE TRIGGER enqueue_plans AFTER INSERT ON jobs REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION enqueue_plans();

CREATE FUNCTION count_endings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    size CONSTANT bigint := octet_length(OLD.request::text);
BEGIN
    IF NEW.finished_at IS NULL THEN
        PERFORM count_submissions(NEW.tenant, 1, size);
    ELSE
        INSERT INTO tenant_endings AS present VALUES (OLD.tenant, 1, size)
        ON CONFLICT (tenant) DO UPDATE SET jobs = present.jobs + 1, bytes = present.bytes + size;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER count_endings AFTER UPDATE OF finished_at ON jobs FOR EACH ROW
    WHEN ((OLD.finished_at IS NULL) <> (NEW.finished_at IS NULL)) EXECUTE FUNCTION count_endings();

CREATE FUNCTION count_deletions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO tenant_endings AS present
    SELECT tenant, count(*), sum(octet_length(request::text)) FROM deleted WHERE finished_at IS NULL GROUP BY tenant
    ON CONFLICT (tenant) DO UPDATE SET jobs = present.jobs + excluded.jobs, bytes = present.bytes + excluded.bytes;
    RETURN NULL;
END $$;
CREATE TRIGGER count_deletions AFTER DELETE ON jobs REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION count_deletions();

CREATE FUNCTION forget_counts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    TRUNCATE tenant_submissions, tenant_endings;
    RETURN NULL;
END $$;
CREATE TRIGGER forget_counts AFTER TRUNCATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION forget_counts();
"""

# -- many jobs at once -------------------------------------------------------------------------

SUBMIT_JOBS = """
DROP FUNCTION submit_jobs(jsonb);

-- All jobs or none, in one INSERT. It returns ids in the order of the jobs. A job whose key exists must be the same.
CREATE FUNCTION submit_jobs(jobs jsonb) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    known     CONSTANT text[] := '{model, request, queue, priority, idempotency_key, run_after, deadline}';
    submitter CONSTANT text := submitting_tenant();
    new_ids   uuid[];
    wrong     record;
BEGIN
    IF jsonb_typeof(submit_jobs.jobs) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'jobs: not a JSON array' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT position, jsonb_typeof(job) AS kind INTO wrong
    FROM jsonb_array_elements(submit_jobs.jobs) WITH ORDINALITY AS given (job, position)
    WHERE jsonb_typeof(job) <> 'object' ORDER BY position LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'jobs[%]: a JSON % is not allowed; permitted: a JSON object', wrong.position - 1, wrong.kind
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT position, key INTO wrong
    FROM jsonb_array_elements(submit_jobs.jobs) WITH ORDINALITY AS given (job, position), jsonb_object_keys(job) AS key
    WHERE key <> ALL (known) ORDER BY position, key LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'jobs[%]: % is not a known field', wrong.position - 1, wrong.key
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Permitted: ' || array_to_string(known, ', ');
    END IF;
    SELECT array_agg(uuidv7()) INTO new_ids FROM generate_series(1, jsonb_array_length(submit_jobs.jobs));
    INSERT INTO public.jobs (id, tenant, model, request, queue, priority, idempotency_key, run_after, deadline)
    SELECT new_ids[position], submitter, job ->> 'model', job -> 'request', coalesce(job ->> 'queue', 'default'),
        coalesce((job ->> 'priority')::smallint, 0::smallint), job ->> 'idempotency_key',
        (job ->> 'run_after')::timestamptz, (job ->> 'deadline')::timestamptz
    FROM jsonb_array_elements(submit_jobs.jobs) WITH ORDINALITY AS given (job, position) ORDER BY position
    ON CONFLICT (tenant, idempotency_key) DO NOTHING;
    IF NOT submit_jobs.jobs @? '$[*].idempotency_key' THEN
        RETURN QUERY SELECT unnest(new_ids);
        RETURN;
    END IF;
    SELECT earlier.id, earlier.idempotency_key AS key INTO wrong
    FROM jsonb_array_elements(submit_jobs.jobs) AS job JOIN public.jobs AS earlier
        ON earlier.tenant = submitter AND earlier.idempotency_key = job ->> 'idempotency_key'
    WHERE (earlier.model, earlier.request) IS DISTINCT FROM (job ->> 'model', job -> 'request') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'idempotency_key: "%" is that of job %, which asks for something else', wrong.key, wrong.id
            USING ERRCODE = 'unique_violation';
    END IF;
    RETURN QUERY SELECT coalesce(earlier.id, new_ids[position])
    FROM jsonb_array_elements(submit_jobs.jobs) WITH ORDINALITY AS given (job, position)
    LEFT JOIN public.jobs AS earlier
        ON earlier.tenant = submitter AND earlier.idempotency_key = job ->> 'idempotency_key'
    ORDER BY position;
END $$;
"""

# -- rights ------------------------------------------------------------------------------------

GRANTS = """
REVOKE ALL ON FUNCTION submitting_tenant(), count_submissions(text, bigint, bigint), accept_jobs(),
    enqueue_plans(), count_endings(), count_deletions(), forget_counts(), submit_jobs(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION submitting_tenant(), submit_jobs(jsonb) TO darkroom_submitter;
INSERT INTO schema_revisions VALUES ('0006', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs", "work", "tenants", "queues", "workers")
    for part in (JOBS, TENANTS, SUBMITTING, SUBMIT_JOBS, GRANTS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        DROP TRIGGER accept_jobs ON jobs;
        DROP TRIGGER enqueue_plans ON jobs;
        DROP TRIGGER count_endings ON jobs;
        DROP TRIGGER count_deletions ON jobs;
        DROP TRIGGER forget_counts ON jobs;
        DROP TRIGGER announce_end ON jobs;
        ALTER TABLE jobs ALTER COLUMN tenant DROP DEFAULT;
        DROP FUNCTION accept_jobs(), enqueue_plans(), count_endings(), count_deletions(), forget_counts(),
            count_submissions(text, bigint, bigint), submitting_tenant(), submit_job(jsonb), submit_jobs(jsonb),
            cancel_job(uuid), retry_job(uuid), announce_end();
        DROP TABLE tenant_submissions, tenant_endings;
        ALTER TABLE tenants DROP COLUMN permitted_queues, DROP COLUMN head_start, DROP COLUMN max_open_bytes;
        ALTER TABLE jobs
            DROP CONSTRAINT run_after_is_in_range,
            DROP CONSTRAINT deadline_is_in_range,
            ADD CONSTRAINT request_is_an_object CHECK (jsonb_typeof(request) = 'object') NOT VALID,
            ADD CONSTRAINT request_is_at_most_4_mib CHECK (octet_length(request::text) <= 4194304) NOT VALID,
            ADD CONSTRAINT jobs_queue_fkey FOREIGN KEY (queue) REFERENCES queues NOT VALID;
        ALTER TABLE work
            ADD CONSTRAINT work_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants NOT VALID,
            ADD CONSTRAINT work_owner_fkey FOREIGN KEY (owner) REFERENCES workers NOT VALID;
        DELETE FROM schema_revisions WHERE revision = '0006';
    """)
    first = import_module("migrations.versions.0001_initial").SUBMITTING
    op.execute(
        "CREATE FUNCTION accept_job()" + first.split("CREATE FUNCTION accept_job()")[1].split("CREATE FUNCTION")[0]
    )
    op.execute(import_module("migrations.versions.0002_fair_turns").SUBMITTING)
    op.execute("""
        CREATE TRIGGER enqueue_plan AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION enqueue_plan();
        REVOKE ALL ON FUNCTION accept_job(), enqueue_plan(), hold_to_quota(), submit_job(jsonb), submit_jobs(jsonb),
            cancel_job(uuid), retry_job(uuid), announce_end() FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION submit_job(jsonb), submit_jobs(jsonb), cancel_job(uuid), retry_job(uuid)
            TO darkroom_submitter;
    """)
