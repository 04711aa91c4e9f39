"""A column of a job that has a wrong value is refused in words: its name, the value and what is permitted."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0035"
down_revision = "0032"

CHECKS = """
-- Row by row, because a constraint's message names neither the value nor what is permitted.
CREATE FUNCTION check_columns() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    wrong record;
BEGIN
    SELECT * INTO wrong FROM (VALUES
        (NEW.model IS NULL OR octet_length(NEW.model) NOT BETWEEN 1 AND 200, 'model', quote_nullable(NEW.model),
            'name, name@alias or name@version of a release, at most 200 bytes'),
        (NEW.request IS NULL, 'request', 'NULL', 'a JSON object'),
        (NEW.priority IS NULL OR NEW.priority NOT BETWEEN -100 AND 100, 'priority',
            coalesce(NEW.priority::text, 'NULL'), 'an integer from -100 to 100'),
        (octet_length(NEW.idempotency_key) NOT BETWEEN 1 AND 200, 'idempotency_key',
            quote_nullable(NEW.idempotency_key), 'text of 1 to 200 bytes, or NULL for none'),
        (NEW.deadline <= NEW.run_after, 'deadline', NEW.deadline::text,
            'a time after its run_after, ' || NEW.run_after)
    ) AS rule (is_broken, field, value, permitted) WHERE is_broken LIMIT 1;
    RAISE EXCEPTION '%: % is not allowed; permitted: %', wrong.field, left(wrong.value, 100), wrong.permitted
        USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER check_columns BEFORE INSERT ON jobs FOR EACH ROW
    WHEN (NEW.model IS NULL OR octet_length(NEW.model) NOT BETWEEN 1 AND 200 OR NEW.request IS NULL
        OR NEW.priority IS NULL OR NEW.priority NOT BETWEEN -100 AND 100
        OR octet_length(NEW.idempotency_key) NOT BETWEEN 1 AND 200 OR NEW.deadline <= NEW.run_after)
    EXECUTE FUNCTION check_columns();

-- Returns the priority that a JSON value gives.
CREATE FUNCTION given_priority(given jsonb) RETURNS smallint
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF given #>> '{}' IS NULL THEN
        RETURN 0;
    ELSIF jsonb_typeof(given) IN ('number', 'string') AND given #>> '{}' ~ '^-?[0-9]{1,3}(\\.0+)?$' THEN
        RETURN (given #>> '{}')::numeric::smallint;
    END IF;
    RAISE EXCEPTION 'priority: % is not allowed; permitted: an integer from -100 to 100', left(given::text, 100)
        USING ERRCODE = 'invalid_parameter_value';
END $$;

-- Returns the time that a JSON value gives. field: its name.
CREATE FUNCTION given_time(field text, given jsonb) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF given #>> '{}' IS NULL THEN
        RETURN NULL;
    ELSIF jsonb_typeof(given) = 'string' AND pg_input_is_valid(given #>> '{}', 'timestamptz') THEN
        RETURN (given #>> '{}')::timestamptz;
    END IF;
    RAISE EXCEPTION '%: % is not allowed; permitted: a time from 2000-01-01 to 9998-12-31, or null for none',
        field, left(given::text, 100) USING ERRCODE = 'invalid_parameter_value';
END $$;
"""

TAGS = import_module("migrations.versions.0017_tags")
COLUMNS = (
    ("run_after, deadline}", "run_after, deadline, tags}"),
    ("run_after, deadline)", "run_after, deadline, tags)"),
)
TIMES = (
    "(job ->> 'run_after')::timestamptz, (job ->> 'deadline')::timestamptz",
    f"given_time('run_after', job -> 'run_after'), given_time('deadline', job -> 'deadline'), {TAGS.TAGS}",
)
PRIORITY = "coalesce((job ->> 'priority')::smallint, 0)", "given_priority(job -> 'priority')"
PRIORITIES = "coalesce((job ->> 'priority')::smallint, 0::smallint)", PRIORITY[1]

GRANTS = """
REVOKE ALL ON FUNCTION check_columns(), given_priority(jsonb), given_time(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION given_priority(jsonb), given_time(text, jsonb) TO darkroom_submitter;
INSERT INTO schema_revisions VALUES ('0035', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs")
    op.execute(CHECKS)
    redefine("submit_job", TAGS.SUBMIT_JOB, *COLUMNS, PRIORITY, TIMES)
    redefine("submit_jobs", TAGS.SUBMIT_JOBS, *COLUMNS, PRIORITIES, TIMES)
    op.execute(GRANTS)


def downgrade() -> None:
    lock_tables("jobs")
    before = (TIMES[0], f"{TIMES[0]}, {TAGS.TAGS}")
    redefine("submit_job", TAGS.SUBMIT_JOB, *COLUMNS, before)
    redefine("submit_jobs", TAGS.SUBMIT_JOBS, *COLUMNS, before)
    op.execute("""
        DROP TRIGGER check_columns ON jobs;
        DROP FUNCTION check_columns(), given_priority(jsonb), given_time(text, jsonb);
        DELETE FROM schema_revisions WHERE revision = '0035';
    """)
