"""The rows of a job's images count in the bytes that a tenant may store in a day.

Items that cannot be used, and images that are not made before a deadline, have rows too, and cost no GPU time.
"""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0043"
down_revision = "0042"

# A table of its own, which only planning writes, as the last thing that a transaction does. So nothing waits for a
# client, and no order of locks can end in a deadlock.
COUNTING = """
CREATE TABLE tenant_rows (tenant text PRIMARY KEY, day date NOT NULL, bytes bigint NOT NULL);

-- Counts bytes that planning stores for a tenant. must_fit: raise if that is more than it may store in a day.
CREATE FUNCTION count_rows(of_tenant text, stored bigint, must_fit boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    today   date := now() AT TIME ZONE 'UTC';
    used    bigint;
    allowed record;
BEGIN
    UPDATE tenant_rows SET day = today, bytes = stored + CASE WHEN day = today THEN bytes ELSE 0 END
    WHERE tenant = of_tenant RETURNING bytes INTO used;
    IF NOT FOUND THEN
        INSERT INTO tenant_rows AS present VALUES (of_tenant, today, stored)
        ON CONFLICT (tenant) DO UPDATE SET day = today,
            bytes = stored + CASE WHEN present.day = today THEN present.bytes ELSE 0 END
        RETURNING bytes INTO used;
    END IF;
    IF must_fit THEN
        SELECT max_daily_bytes, coalesce(daily_bytes, 0) AS of_jobs INTO allowed
        FROM tenants LEFT JOIN tenant_submissions ON tenant = name AND day = today WHERE name = of_tenant;
        IF used + allowed.of_jobs > allowed.max_daily_bytes THEN
            RAISE EXCEPTION 'with the rows of this job''s images, % bytes, tenant "%" would have stored more than its '
                '% bytes of jobs today', stored, of_tenant, allowed.max_daily_bytes
                USING ERRCODE = 'check_violation',
                      HINT = 'Submit again after midnight UTC, or fewer images. An administrator can raise '
                          'max_daily_bytes.';
        END IF;
    END IF;
END $$;
REVOKE ALL ON FUNCTION count_rows(text, bigint, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION count_rows(text, bigint, boolean) TO darkroom_dispatcher;
"""

CLIENTS = import_module("migrations.versions.0036_bounded_clients")
# 512 bytes for each image, once in each stage, and for each shard; and the errors. A retry must fit when it is asked
# for: a job that cannot be planned any more could not be retried again.
COUNTED = (
    ("SELECT revision, state, planned_to,", "SELECT tenant, revision, state, planned_to,"),
    (
        "    RETURN 'planned';",
        """    PERFORM count_rows(present.tenant, coalesce(cardinality(starts), 0) * 512
        + CASE WHEN new_plan IS NULL THEN 0 ELSE (512 * (1 + (
            SELECT count(*) FROM job_stages WHERE job_id = job AND NOT job_stages.is_last))) * images END
        + (SELECT coalesce(sum(octet_length(given.error)), 0)::bigint * per_item
           FROM jsonb_to_recordset(errors) AS given (error text)), new_plan IS NOT NULL);
    RETURN 'planned';""",
    ),
)

DAILY = import_module("migrations.versions.0040_daily_bytes")
SUBMITTED = (
    ("    today   date :=", "    planned bigint;\n    today   date :="),
    (
        "    IF opened.daily_bytes > allowed.max_daily_bytes AND stored > 0 THEN",
        "    SELECT coalesce(sum(tenant_rows.bytes), 0) INTO planned FROM tenant_rows\n"
        "    WHERE tenant = submitter AND day = today;\n"
        "    IF opened.daily_bytes + planned > allowed.max_daily_bytes AND new_jobs > 0 THEN",
    ),
)

# -- answers -----------------------------------------------------------------------------------

# Each was as long as the names of fields that a client sends.
SUBMITTING = import_module("migrations.versions.0035_columns")
SHORT = "'job: % is not a known field', unknown\n", "'job: % is not a known field', left(unknown, 100)\n"
SHORT_OF_MANY = "wrong.position - 1, wrong.key\n", "wrong.position - 1, left(wrong.key, 100)\n"

CHECKS = import_module("migrations.versions.0018_changes").CHECKS
PERMITTED = (
    "            RAISE EXCEPTION 'changes: % is not a known field', field\n"
    "                USING ERRCODE = 'invalid_parameter_value', HINT = 'Permitted: ' || array_to_string(known, ', ');",
    "            RAISE EXCEPTION 'changes: % is not a known field; permitted: %',\n"
    "                left(quote_ident(field), 100), array_to_string(known, ', ')\n"
    "                USING ERRCODE = 'invalid_parameter_value';",
)


def redefine_submitting(*shortened: tuple[str, str]) -> None:
    old = SUBMITTING
    redefine("submit_job", old.TAGS.SUBMIT_JOB, *old.COLUMNS, old.PRIORITY, old.TIMES, *shortened[:1])
    redefine("submit_jobs", old.TAGS.SUBMIT_JOBS, *old.COLUMNS, old.PRIORITIES, old.TIMES, *shortened[1:])


def upgrade() -> None:
    lock_tables("tenant_submissions")
    op.execute(COUNTING)
    redefine("plan_batch", CLIENTS.PLAN_BATCH, *CLIENTS.STAGE_OF_SHARDS, *CLIENTS.DROPPING, *COUNTED)
    redefine("count_submissions", DAILY.OLD_COUNTING, *DAILY.COUNTED, *SUBMITTED)
    redefine("checked_changes", CHECKS, PERMITTED)
    redefine_submitting(SHORT, SHORT_OF_MANY)
    op.execute("INSERT INTO schema_revisions VALUES ('0043', '0005')")


def downgrade() -> None:
    lock_tables("tenant_submissions")
    redefine("plan_batch", CLIENTS.PLAN_BATCH, *CLIENTS.STAGE_OF_SHARDS, *CLIENTS.DROPPING)
    redefine("count_submissions", DAILY.OLD_COUNTING, *DAILY.COUNTED)
    redefine("checked_changes", CHECKS)
    redefine_submitting()
    op.execute("DROP FUNCTION count_rows(text, bigint, boolean); DROP TABLE tenant_rows")
    op.execute("DELETE FROM schema_revisions WHERE revision = '0043'")
