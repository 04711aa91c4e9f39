"""Nothing that a client holds or fills delays the service: cancel requests, notifications, locks, long transactions."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables

revision = "0007"
down_revision = "0006"

# -- cancelling and retrying -------------------------------------------------------------------

# A request to cancel is a row of its own. An UPDATE of the job would lock the job until the client's transaction ends.
CANCELLING = """
ALTER TABLE jobs
    ADD COLUMN planned_to      integer  NOT NULL DEFAULT 0,  -- images that are planned, in the present revision
    ADD COLUMN upkeep_failures smallint NOT NULL DEFAULT 0;  -- how often the service failed to stop the job
DROP FUNCTION cancel_job(uuid);
CREATE TABLE cancel_requests (job_id uuid PRIMARY KEY, requested_at timestamptz NOT NULL DEFAULT now());

CREATE FUNCTION cancel_jobs(jobs uuid[]) RETURNS TABLE (id uuid, state text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    submitter CONSTANT text := current_tenant();
    missing   uuid;
BEGIN
    SELECT given.id INTO missing FROM unnest(cancel_jobs.jobs) AS given (id)
    WHERE NOT EXISTS (SELECT FROM public.jobs WHERE jobs.id = given.id AND tenant = submitter) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job: you have no job %', missing USING ERRCODE = 'no_data_found';
    END IF;
    INSERT INTO cancel_requests (job_id)
    SELECT jobs.id FROM public.jobs WHERE jobs.id = ANY (cancel_jobs.jobs) AND finished_at IS NULL
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM announce('darkroom_work', '');
    END IF;
    RETURN QUERY SELECT jobs.id, jobs.state FROM public.jobs WHERE jobs.id = ANY (cancel_jobs.jobs);
END $$;

CREATE FUNCTION cancel_job(job uuid) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT state FROM cancel_jobs(ARRAY[job])
$$;

-- A new revision of an ended job makes its missing images; stored images stay.
CREATE OR REPLACE FUNCTION retry_job(job uuid) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    ended record;
BEGIN
    SELECT state, plan IS NULL AS is_unplanned, revision, queue, tenant, priority INTO ended
    FROM jobs WHERE id = job AND tenant = current_tenant() FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job: you have no job %', job USING ERRCODE = 'no_data_found';
    END IF;
    IF ended.state NOT IN ('partial', 'failed', 'cancelled') OR ended.is_unplanned THEN
        RAISE EXCEPTION 'job: % is %; only what is partial, failed or cancelled after planning is tried again',
            job, ended.state USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    DELETE FROM outputs WHERE job_id = job AND error IS NOT NULL;
    DELETE FROM cancel_requests WHERE job_id = job;
    UPDATE jobs SET state = 'submitted', revision = revision + 1, failed = 0, reason = NULL, finished_at = NULL,
        cancel_requested_at = NULL, deadline = NULL, planned_to = 0, upkeep_failures = 0 WHERE id = job;
    INSERT INTO work (job_id, kind, queue, tenant, priority, rank)
    VALUES (job, 'plan', ended.queue, ended.tenant, ended.priority,
            extract(epoch FROM clock_timestamp()) - 60 * ended.priority);
    RETURN ended.revision + 1;
END $$;
"""

# -- notifications -----------------------------------------------------------------------------

# Any login can fill the server's queue of notifications: it listens and never reads. A full queue makes every NOTIFY
# fail, and with it the transaction. A notification is only a hint, so none is sent once the queue is half full.
NOTIFICATIONS = """
CREATE FUNCTION announce(channel text, message text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify(channel, message);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION announce_work() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM announce('darkroom_work', '');
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION announce_end() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM announce('darkroom_job_ended', NEW.id::text);
    RETURN NULL;
END $$;
"""

# -- locks and sessions ------------------------------------------------------------------------

# Rows to lock. Advisory locks are open to every login, and a pooler of transactions leaves them with another client.
LOCKS = """
CREATE TABLE service_locks (name text PRIMARY KEY);
INSERT INTO service_locks VALUES ('reconcile'), ('blobs'), ('promotion');
"""

# A client can raise its own time-outs, so the service ends what is too old. An open transaction keeps Postgres from
# removing dead rows, and keeps the queue of notifications from being read to its end.
SESSIONS = """
CREATE FUNCTION end_long_client_transactions(older_than interval) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    session record;
    ended   integer := 0;
BEGIN
    FOR session IN
        SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now() - older_than
            AND usesysid IN (SELECT member FROM pg_auth_members WHERE roleid = 'darkroom_submitter'::regrole)
    LOOP
        BEGIN
            ended := ended + pg_terminate_backend(session.pid)::integer;
        EXCEPTION WHEN insufficient_privilege THEN  -- a superuser, or a login of which this owner is no member
            RAISE WARNING 'the owner of the tables may not end the session % of a client', session.pid;
        END;
    END LOOP;
    RETURN ended;
END $$;

DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END $$;
"""

# Large objects count in no quota. Only a superuser may change the rights to built-in functions; docs/security.md says
# what remains elsewhere.
BUILT_IN_FUNCTIONS = """
DO $$
DECLARE
    built_in record;
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        FOR built_in IN
            SELECT oid::regprocedure AS signature FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
                AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_open')
        LOOP
            EXECUTE format('{verb} EXECUTE ON FUNCTION %s {preposition} PUBLIC', built_in.signature);
        END LOOP;
    END IF;
END $$;
"""

GRANTS = """
REVOKE ALL ON FUNCTION cancel_jobs(uuid[]), cancel_job(uuid), announce(text, text),
    end_long_client_transactions(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cancel_jobs(uuid[]), cancel_job(uuid) TO darkroom_submitter;
GRANT EXECUTE ON FUNCTION end_long_client_transactions(interval) TO darkroom_dispatcher;
GRANT SELECT, UPDATE ON service_locks TO darkroom_dispatcher, darkroom_publisher, darkroom_pruner;
GRANT SELECT, UPDATE, DELETE ON cancel_requests TO darkroom_dispatcher;
GRANT SELECT ON cancel_requests TO darkroom_worker;
GRANT UPDATE (cancel_requested_at, planned_to, upkeep_failures) ON jobs TO darkroom_dispatcher;
INSERT INTO schema_revisions VALUES ('0007', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs", "work")
    for part in (CANCELLING, NOTIFICATIONS, LOCKS, SESSIONS):
        op.execute(part)
    op.execute(BUILT_IN_FUNCTIONS.format(verb="REVOKE", preposition="FROM"))
    op.execute(GRANTS)


def downgrade() -> None:
    op.execute("""
        DROP FUNCTION cancel_job(uuid), cancel_jobs(uuid[]), retry_job(uuid), end_long_client_transactions(interval);
        CREATE OR REPLACE FUNCTION announce_work() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NOTIFY darkroom_work;
            RETURN NULL;
        END $$;
        CREATE OR REPLACE FUNCTION announce_end() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('darkroom_job_ended', NEW.id::text);
            RETURN NULL;
        END $$;
        DROP FUNCTION announce(text, text);
        UPDATE jobs SET cancel_requested_at = requested_at FROM cancel_requests
            WHERE id = job_id AND finished_at IS NULL;
        REVOKE UPDATE (cancel_requested_at) ON jobs FROM darkroom_dispatcher;
        ALTER TABLE jobs DROP COLUMN planned_to, DROP COLUMN upkeep_failures;
        DROP TABLE service_locks, cancel_requests;
        DO $$
        BEGIN
            EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database());
        END $$;
        DELETE FROM schema_revisions WHERE revision = '0007';
    """)
    op.execute(BUILT_IN_FUNCTIONS.format(verb="GRANT", preposition="TO"))
    functions = import_module("migrations.versions.0002_fair_turns").SUBMITTING
    cancel_and_retry = functions.split("CREATE FUNCTION cancel_job")[1].split("CREATE FUNCTION announce_end")[0]
    op.execute("CREATE FUNCTION cancel_job" + cancel_and_retry)
    op.execute("""
        REVOKE ALL ON FUNCTION cancel_job(uuid), retry_job(uuid) FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION cancel_job(uuid), retry_job(uuid) TO darkroom_submitter;
    """)
