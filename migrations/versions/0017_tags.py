"""Jobs have tags, by which their tenant finds them."""

from importlib import import_module

from alembic import op

from migrations.locks import lock_tables
from migrations.redefining import redefine

revision = "0017"
down_revision = "0016"

CHECKS = """
-- Returns the tags in order, each once.
CREATE FUNCTION checked_tags(given text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    tag text;
BEGIN
    FOREACH tag IN ARRAY given LOOP
        IF tag IS NULL OR length(tag) NOT BETWEEN 1 AND 100 THEN
            RAISE EXCEPTION 'tags: "%" is not allowed; permitted: text of 1 to 100 characters', left(tag, 100)
                USING ERRCODE = 'check_violation';
        END IF;
    END LOOP;
    given := ARRAY(SELECT DISTINCT one FROM unnest(given) AS one ORDER BY one);
    IF cardinality(given) > 16 THEN
        RAISE EXCEPTION 'tags: % tags are not allowed; permitted: at most 16', cardinality(given)
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN given;
END $$;

CREATE FUNCTION check_tags() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    NEW.tags := checked_tags(coalesce(NEW.tags, '{}'));
    RETURN NEW;
END $$;
CREATE TRIGGER check_tags BEFORE INSERT ON jobs FOR EACH ROW
    WHEN (NEW.tags IS DISTINCT FROM '{}') EXECUTE FUNCTION check_tags();

-- Returns the tags of a JSON array.
CREATE FUNCTION given_tags(given jsonb) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF jsonb_typeof(given) <> 'array' OR given @? '$[*] ? (@.type() <> "string")' THEN
        RAISE EXCEPTION 'tags: % is not allowed; permitted: a list of at most 16 texts', left(given::text, 100)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN checked_tags(ARRAY(SELECT jsonb_array_elements_text(given)));
END $$;
"""

SUBMIT_JOB = import_module("migrations.versions.0002_fair_turns").SUBMITTING
SUBMIT_JOBS = import_module("migrations.versions.0006_quotas").SUBMIT_JOBS
TAGS = "given_tags(coalesce(job -> 'tags', '[]'))"

GRANTS = """
REVOKE ALL ON FUNCTION checked_tags(text[]), check_tags(), given_tags(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION given_tags(jsonb), checked_tags(text[]) TO darkroom_submitter;
GRANT INSERT (tags) ON jobs TO darkroom_submitter;
INSERT INTO schema_revisions VALUES ('0017', '0005');
"""


def upgrade() -> None:
    lock_tables("jobs")
    op.execute("ALTER TABLE jobs ADD COLUMN tags text[] NOT NULL DEFAULT '{}'")
    op.execute(CHECKS)
    redefine(
        "submit_job",
        SUBMIT_JOB,
        ("run_after, deadline}", "run_after, deadline, tags}"),
        ("run_after, deadline)", "run_after, deadline, tags)"),
        ("(job ->> 'deadline')::timestamptz)", f"(job ->> 'deadline')::timestamptz, {TAGS})"),
    )
    redefine(
        "submit_jobs",
        SUBMIT_JOBS,
        ("run_after, deadline}", "run_after, deadline, tags}"),
        ("run_after, deadline)", "run_after, deadline, tags)"),
        ("(job ->> 'deadline')::timestamptz", f"(job ->> 'deadline')::timestamptz, {TAGS}"),
    )
    op.execute(GRANTS)


def downgrade() -> None:
    lock_tables("jobs")
    redefine("submit_job", SUBMIT_JOB)
    redefine("submit_jobs", SUBMIT_JOBS)
    op.execute("""
        DROP TRIGGER check_tags ON jobs;
        DROP FUNCTION check_tags(), given_tags(jsonb), checked_tags(text[]);
        ALTER TABLE jobs DROP COLUMN tags;
        DELETE FROM schema_revisions WHERE revision = '0017';
    """)
