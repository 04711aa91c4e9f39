"""What a client's statement takes is bounded: the rows that a retry deletes, and the locks of a login.

Planning deletes the rows of failed images batch by batch; the client's statement did so at once.
"""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0036"
down_revision = "0035"

# -- retries -----------------------------------------------------------------------------------

# Until planning reaches them, the rows of images that failed in an earlier revision stay. Clients do not see them. An
# image that failed in a chain is made from the first stage again: what a stage took may be what is damaged.
FAILURES = """
CREATE FUNCTION drop_old_failures(job uuid, first integer, past integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH dropped AS (
        DELETE FROM outputs WHERE job_id = job AND index >= first AND index < past AND error IS NOT NULL
            AND revision < (SELECT revision FROM jobs WHERE id = job) RETURNING index
    )
    DELETE FROM stage_outputs USING dropped WHERE job_id = job AND stage_outputs.index = dropped.index
$$;
REVOKE ALL ON FUNCTION drop_old_failures(uuid, integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_old_failures(uuid, integer, integer) TO darkroom_dispatcher, darkroom_worker;
"""
OWN_OUTPUTS = """
ALTER POLICY own_outputs_read ON outputs
    USING (EXISTS (SELECT FROM jobs WHERE jobs.id = outputs.job_id){and_not_old});
"""
AND_NOT_OLD = " AND (error IS NULL OR revision >= (SELECT jobs.revision FROM jobs WHERE jobs.id = outputs.job_id))"

CANCELLING = import_module("migrations.versions.0007_isolation").CANCELLING
DELETING = ("    DELETE FROM outputs WHERE job_id = job AND error IS NOT NULL;\n", "")
CHANGES_AND_PAUSES = (
    (
        "DELETE FROM cancel_requests WHERE job_id = job;",
        "DELETE FROM cancel_requests WHERE job_id = job;\n"
        "    UPDATE change_requests SET changes = changes - '{deadline, paused, priority}'::text[]\n"
        "    WHERE job_id = job;",
    ),
    ("planned_to = 0,", "planned_to = 0, paused = false,"),
)
PLAN_BATCH = import_module("migrations.versions.0014_pick_up").PLANNING
STAGE_OF_SHARDS = import_module("migrations.versions.0031_chains").STAGE_OF_SHARDS
DROPPING = (
    ("SELECT revision, state, cancel", "SELECT revision, state, planned_to, cancel"),
    ("    WITH unusable AS (",
     "    IF present.revision > 1 THEN\n"
     "        PERFORM drop_old_failures(job, present.planned_to, new_end);\n"
     "    END IF;\n"
     "    WITH unusable AS ("),
)  # fmt: skip
FAIL_IMAGES = import_module("migrations.versions.0012_settling").PARTS
DROPPING_FIRST = (
    "    WITH failed_images AS (",
    "    IF present.revision > 1 THEN\n"
    "        PERFORM drop_old_failures(job, first, past);\n"
    "    END IF;\n"
    "    WITH failed_images AS (",
)

# -- locks -------------------------------------------------------------------------------------

# Once Postgres's table of locks is full, it refuses connections and most statements of everybody. A client fills it
# with savepoints that write and are not released, or with advisory locks. Then this works in a session that has called
# it before: what it needs to know of the logins is in the session's cache, so it locks no shared catalog.
# Superusers, owners that have created the roles, and the console's logins are members of darkroom_console.
SESSIONS = """
CREATE OR REPLACE FUNCTION end_long_client_transactions(older_than interval) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    session record;
    most    CONSTANT bigint := current_setting('max_locks_per_transaction')::bigint
        * current_setting('max_connections')::bigint / 4;  -- locks of one login
    ended   integer := 0;
BEGIN
    FOR session IN
        SELECT pid, CASE WHEN is_old OR held > 0 AND locks > most THEN
            pg_has_role(usesysid, 'darkroom_submitter', 'USAGE')
            AND NOT pg_has_role(usesysid, 'darkroom_console', 'MEMBER') END AS must_end
        FROM (
            SELECT pid, usesysid, datid, xact_start < now() - older_than AS is_old, held,
                sum(held) OVER (PARTITION BY usesysid) AS locks
            FROM pg_stat_get_activity(NULL) LEFT JOIN (
                SELECT pid, count(*) AS held FROM pg_lock_status() GROUP BY pid) AS holders USING (pid)
        ) AS sessions
        WHERE datid = (SELECT datid FROM pg_stat_get_activity(pg_backend_pid()))
    LOOP
        CONTINUE WHEN session.must_end IS DISTINCT FROM true;
        BEGIN
            ended := ended + pg_terminate_backend(session.pid)::integer;
        EXCEPTION WHEN insufficient_privilege THEN  -- a login of which this owner is no member
            RAISE WARNING 'the owner of the tables may not end the session % of a client', session.pid;
        END;
    END LOOP;
    IF ended = 0 THEN
        PERFORM pg_has_role(member, 'darkroom_submitter', 'USAGE'), pg_has_role(member, 'darkroom_console', 'MEMBER')
        FROM pg_auth_members WHERE roleid = 'darkroom_submitter'::regrole;
    END IF;
    RETURN ended;
END $$;
"""
OLD_SESSIONS = import_module("migrations.versions.0007_isolation").SESSIONS
# Advisory locks and messages in the log of Postgres count in no quota either. Code up to head 0005 takes such locks.
BUILT_IN_FUNCTIONS = """
DO $$
DECLARE
    built_in record;
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        FOR built_in IN
            SELECT oid::regprocedure AS signature FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
                AND proname ~ '^pg_(try_)?advisory_|^pg_logical_emit_message$'
        LOOP
            EXECUTE format('{public} EXECUTE ON FUNCTION %s {from_public} PUBLIC', built_in.signature);
            EXECUTE format('{service} EXECUTE ON FUNCTION %s {to_service} darkroom_dispatcher, darkroom_worker, '
                'darkroom_publisher', built_in.signature);
        END LOOP;
    END IF;
END $$;
"""
DENYING = BUILT_IN_FUNCTIONS.format(public="REVOKE", from_public="FROM", service="GRANT", to_service="TO")
PERMITTING = BUILT_IN_FUNCTIONS.format(public="GRANT", from_public="TO", service="REVOKE", to_service="FROM")


def upgrade() -> None:
    lock_tables("outputs")
    op.execute(FAILURES)
    op.execute(OWN_OUTPUTS.format(and_not_old=AND_NOT_OLD))
    redefine("retry_job", CANCELLING, DELETING, *CHANGES_AND_PAUSES)
    redefine("plan_batch", PLAN_BATCH, *STAGE_OF_SHARDS, *DROPPING)
    redefine("fail_images", FAIL_IMAGES, DROPPING_FIRST)
    op.execute(SESSIONS)
    op.execute(DENYING)
    op.execute("INSERT INTO schema_revisions VALUES ('0036', '0005')")


def downgrade() -> None:
    lock_tables("outputs")
    redefine("retry_job", CANCELLING, *CHANGES_AND_PAUSES)
    redefine("plan_batch", PLAN_BATCH, *STAGE_OF_SHARDS)
    redefine("fail_images", FAIL_IMAGES)
    redefine("end_long_client_transactions", OLD_SESSIONS)
    op.execute(PERMITTING)
    op.execute(OWN_OUTPUTS.format(and_not_old=""))
    op.execute("""
        DELETE FROM outputs USING jobs
        WHERE jobs.revision > 1 AND job_id = jobs.id AND error IS NOT NULL AND outputs.revision < jobs.revision
    """)
    op.execute("DROP FUNCTION drop_old_failures(uuid, integer, integer)")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0036'")
