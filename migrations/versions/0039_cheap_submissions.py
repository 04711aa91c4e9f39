"""Inserting a job costs Postgres less: fewer statements in triggers, and one check of a job's columns."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0039"
down_revision = "0038"

# -- the tenant --------------------------------------------------------------------------------

# Most logins are those of tenants, and need no look at the catalogs.
TENANT = """
CREATE OR REPLACE FUNCTION current_tenant() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    tenant text;
BEGIN
    SELECT name INTO tenant FROM tenants WHERE login = session_user;
    IF NOT FOUND THEN
        SELECT coalesce(
            (SELECT 'default' FROM pg_tables
             WHERE schemaname = 'public' AND tablename = 'jobs' AND pg_has_role(session_user, tableowner, 'MEMBER')),
            (SELECT name FROM tenants WHERE name = current_setting('darkroom.tenant', true)
                AND pg_has_role(session_user, 'darkroom_console', 'MEMBER'))) INTO tenant;
    END IF;
    RETURN tenant;
END $$;
"""
OLD_TENANT = import_module("migrations.versions.0019_console").TENANT

# -- columns -----------------------------------------------------------------------------------

# Postgres parses the expressions of constraints and of triggers' conditions for each statement, and those of a function
# once in a session. So one function checks what two triggers and six constraints did, whoever writes the columns.
COLUMNS = """
ALTER TABLE jobs
    DROP CONSTRAINT jobs_model_check,
    DROP CONSTRAINT jobs_idempotency_key_check,
    DROP CONSTRAINT jobs_priority_check,
    DROP CONSTRAINT deadline_is_after_run_after,
    DROP CONSTRAINT deadline_is_in_range,
    DROP CONSTRAINT run_after_is_in_range;
DROP TRIGGER check_columns ON jobs;
DROP TRIGGER check_times ON jobs;
DROP FUNCTION check_times();

CREATE OR REPLACE FUNCTION check_columns() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    wrong record;
BEGIN
    IF NEW.model IS NOT NULL AND octet_length(NEW.model) BETWEEN 1 AND 200 AND NEW.request IS NOT NULL
        AND NEW.priority IS NOT NULL AND NEW.priority BETWEEN -100 AND 100
        AND (NEW.idempotency_key IS NULL OR octet_length(NEW.idempotency_key) BETWEEN 1 AND 200)
        AND (NEW.run_after IS NULL OR NEW.run_after BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z')
        AND (NEW.deadline IS NULL OR NEW.deadline BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z')
        AND (NEW.deadline <= NEW.run_after) IS NOT TRUE
    THEN
        RETURN NEW;
    END IF;
    SELECT * INTO wrong FROM (VALUES
        (NEW.model IS NULL OR octet_length(NEW.model) NOT BETWEEN 1 AND 200, 'model', quote_nullable(NEW.model),
            'name, name@alias or name@version of a release, at most 200 bytes'),
        (NEW.request IS NULL, 'request', 'NULL', 'a JSON object'),
        (NEW.priority IS NULL OR NEW.priority NOT BETWEEN -100 AND 100, 'priority',
            coalesce(NEW.priority::text, 'NULL'), 'an integer from -100 to 100'),
        (octet_length(NEW.idempotency_key) NOT BETWEEN 1 AND 200, 'idempotency_key',
            quote_nullable(NEW.idempotency_key), 'text of 1 to 200 bytes, or NULL for none'),
        (NEW.deadline <= NEW.run_after, 'deadline', NEW.deadline::text,
            'a time after its run_after, ' || NEW.run_after),
        (NEW.deadline NOT BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z', 'deadline', NEW.deadline::text,
            'a time from 2000-01-01 to 9998-12-31, or NULL for none'),
        (NEW.run_after NOT BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z', 'run_after', NEW.run_after::text,
            'a time from 2000-01-01 to 9998-12-31, or NULL for none')
    ) AS rule (is_broken, field, value, permitted) WHERE is_broken LIMIT 1;
    RAISE EXCEPTION '%: % is not allowed; permitted: %', wrong.field, left(wrong.value, 100), wrong.permitted
        USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER check_columns
    BEFORE INSERT OR UPDATE OF model, request, priority, idempotency_key, run_after, deadline ON jobs
    FOR EACH ROW EXECUTE FUNCTION check_columns();
"""
OLD_TIMES = import_module("migrations.versions.0008_valid_times").CHECK_TIMES
OLD_COLUMNS = import_module("migrations.versions.0035_columns").CHECKS
OLD_CONSTRAINTS = """
ALTER TABLE jobs
    ADD CHECK (octet_length(model) BETWEEN 1 AND 200),
    ADD CHECK (octet_length(idempotency_key) BETWEEN 1 AND 200),
    ADD CHECK (priority BETWEEN -100 AND 100),
    ADD CONSTRAINT deadline_is_after_run_after CHECK (deadline > run_after),
    ADD CONSTRAINT deadline_is_in_range CHECK (deadline BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z'),
    ADD CONSTRAINT run_after_is_in_range CHECK (run_after BETWEEN '2000-01-01 00:00Z' AND '9998-12-31 00:00Z');
"""

# -- quotas, plans and announcements -----------------------------------------------------------

# A tenant's row of submissions is nearly always there: a plain UPDATE is cheaper than an INSERT that finds it.
COUNTING = """
DROP FUNCTION count_submissions(text, bigint, bigint);

-- Raises if a tenant may not submit such jobs, or would exceed a quota. The lock on its row makes its concurrent
-- transactions count one another. Only functions that pin the search path may call it.
-- new_queue: NULL for a job that was submitted before. largest: bytes of the largest request. wrong_type: the JSON type
-- of a request that is no object.
CREATE FUNCTION count_submissions(
    submitter text, new_queue text, new_jobs bigint, new_bytes bigint, largest integer, wrong_type text
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    allowed record;
    opened  record;
BEGIN
    IF wrong_type IS NOT NULL THEN
        RAISE EXCEPTION 'request: a JSON % is not allowed; permitted: a JSON object', wrong_type
            USING ERRCODE = 'check_violation';
    END IF;
    IF largest > 4194304 THEN
        RAISE EXCEPTION 'request: % bytes are not allowed; permitted: at most 4194304', largest
            USING ERRCODE = 'check_violation', HINT = 'Store the items in S3 and give their input_uri.';
    END IF;
    UPDATE tenant_submissions SET jobs = jobs + new_jobs, bytes = bytes + new_bytes WHERE tenant = submitter
    RETURNING jobs, bytes INTO opened;
    IF NOT FOUND THEN
        INSERT INTO tenant_submissions AS present VALUES (submitter, new_jobs, new_bytes)
        ON CONFLICT (tenant) DO UPDATE SET jobs = present.jobs + new_jobs, bytes = present.bytes + new_bytes
        RETURNING jobs, bytes INTO opened;
    END IF;
    SELECT max_open_jobs, max_open_bytes, coalesce(ended.jobs, 0) AS ended_jobs,
        coalesce(ended.bytes, 0) AS ended_bytes,
        new_queue IS NULL OR (permitted_queues && ARRAY['*', new_queue]
            AND EXISTS (SELECT FROM queues WHERE name = new_queue)) AS may_use_queue
    INTO allowed FROM tenants LEFT JOIN tenant_endings AS ended ON ended.tenant = tenants.name WHERE name = submitter;
    IF allowed.may_use_queue IS NOT TRUE THEN
        RAISE EXCEPTION 'queue: "%" does not exist, or tenant "%" may not use it', left(new_queue, 63), submitter
            USING ERRCODE = 'foreign_key_violation', HINT = 'Permitted: ' || coalesce((
                SELECT string_agg(queues.name, ', ' ORDER BY queues.name) FROM queues JOIN tenants
                    ON tenants.name = submitter AND permitted_queues && ARRAY['*', queues.name]), 'none');
    END IF;
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
REVOKE ALL ON FUNCTION count_submissions(text, text, bigint, bigint, integer, text) FROM PUBLIC;
"""
OF_A_RETRY = "count_submissions(NEW.tenant, 1, size)", "count_submissions(NEW.tenant, NULL, 1, size, 0, NULL)"
OLD_SUBMITTING = import_module("migrations.versions.0006_quotas").SUBMITTING

ACCEPTING = """
DROP TRIGGER enqueue_plans ON jobs;
DROP FUNCTION enqueue_plans();

CREATE OR REPLACE FUNCTION accept_jobs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM count_submissions(tenant, queue, jobs, bytes, largest, wrong_type) FROM (
        SELECT tenant, queue, count(*) AS jobs, sum(size) AS bytes, max(size) AS largest, min(wrong_type) AS wrong_type
        FROM (SELECT tenant, queue, octet_length(request::text) AS size,
                  nullif(jsonb_typeof(request), 'object') AS wrong_type FROM inserted OFFSET 0) AS given
        GROUP BY tenant, queue
    ) AS new;
    INSERT INTO work (job_id, kind, queue, tenant, priority, rank, state, run_after)
    SELECT id, 'plan', queue, tenant, priority, extract(epoch FROM clock_timestamp()) - 60 * priority,
        CASE WHEN run_after > now() THEN 'delayed' ELSE 'ready' END, CASE WHEN run_after > now() THEN run_after END
    FROM inserted;
    IF pg_notification_queue_usage() < 0.5 THEN
        NOTIFY darkroom_work;
    END IF;
    RETURN NULL;
END $$;
"""

# Of work that accept_jobs inserts, it tells itself.
ANNOUNCING = """
DROP TRIGGER announce_work ON work;
CREATE TRIGGER announce_work AFTER INSERT ON work REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT {condition}EXECUTE FUNCTION announce_work();
"""


def upgrade() -> None:
    lock_tables("jobs", "work")
    for part in (TENANT, COLUMNS, COUNTING):
        op.execute(part)
    redefine("count_endings", OLD_SUBMITTING, OF_A_RETRY)
    op.execute(ACCEPTING)
    op.execute(ANNOUNCING.format(condition="WHEN (pg_trigger_depth() = 0) "))
    op.execute("INSERT INTO schema_revisions VALUES ('0039', '0005')")


def downgrade() -> None:
    lock_tables("jobs", "work")
    op.execute(OLD_TENANT)
    op.execute("DROP TRIGGER check_columns ON jobs; DROP FUNCTION check_columns()")
    op.execute(OLD_TIMES)
    op.execute(OLD_COLUMNS.split("-- Returns the priority")[0])
    op.execute("REVOKE ALL ON FUNCTION check_columns() FROM PUBLIC")
    op.execute(OLD_CONSTRAINTS)
    op.execute("DROP FUNCTION count_submissions(text, text, bigint, bigint, integer, text)")
    for function in ("count_submissions", "count_endings", "accept_jobs", "enqueue_plans"):
        redefine(function, OLD_SUBMITTING)
    op.execute("REVOKE ALL ON FUNCTION count_submissions(text, bigint, bigint), enqueue_plans() FROM PUBLIC")
    op.execute("""
        CREATE TRIGGER enqueue_plans AFTER INSERT ON jobs REFERENCING NEW TABLE AS inserted
            FOR EACH STATEMENT EXECUTE FUNCTION enqueue_plans();
    """)
    op.execute(ANNOUNCING.format(condition=""))
    op.execute("DELETE FROM schema_revisions WHERE revision = '0039'")
