"""Functions that clients call say which value is refused, and what is permitted. So does a queue that is NULL."""

from importlib import import_module

from alembic import op

from migrations.redefining import redefine

revision = "0044"
down_revision = "0043"

ROWS = import_module("migrations.versions.0043_rows_of_images")
UNKNOWN = (
    "'job: % is not a known field', left(unknown, 100)\n"
    "            USING ERRCODE = 'invalid_parameter_value', HINT = 'Permitted: ' || array_to_string(known, ', ');",
    "'job: % is not a known field; permitted: %', left(unknown, 100), array_to_string(known, ', ')\n"
    "            USING ERRCODE = 'invalid_parameter_value';",
)
UNKNOWN_OF_MANY = (
    "'jobs[%]: % is not a known field', wrong.position - 1, left(wrong.key, 100)\n"
    "            USING ERRCODE = 'invalid_parameter_value', HINT = 'Permitted: ' || array_to_string(known, ', ');",
    "'jobs[%]: % is not a known field; permitted: %', wrong.position - 1, left(wrong.key, 100),\n"
    "            array_to_string(known, ', ') USING ERRCODE = 'invalid_parameter_value';",
)
NO_JOB = (
    "'job: not a JSON object'",
    "'job: % is not allowed; permitted: a JSON object', left(coalesce(job::text, 'NULL'), 100)",
)
NO_JOBS = (
    "'jobs: not a JSON array'",
    "'jobs: % is not allowed; permitted: a JSON array of objects',\n"
    "            left(coalesce(submit_jobs.jobs::text, 'NULL'), 100)",
)

TAGS = import_module("migrations.versions.0017_tags").CHECKS
NO_TAGS = (
    (
        "BEGIN\n    FOREACH",
        "BEGIN\n    IF given IS NULL THEN\n"
        "        RAISE EXCEPTION 'tags: NULL is not allowed; permitted: a list of at most 16 texts'\n"
        "            USING ERRCODE = 'check_violation';\n    END IF;\n    FOREACH",
    ),
    (
        "'tags: \"%\" is not allowed; permitted: text of 1 to 100 characters', left(tag, 100)",
        "'tags: % is not allowed; permitted: text of 1 to 100 characters',\n"
        "                coalesce('\"' || left(tag, 100) || '\"', 'NULL')",
    ),
)

COLUMNS = import_module("migrations.versions.0039_cheap_submissions").COLUMNS
NO_QUEUE = (
    (" AND NEW.request IS NOT NULL\n", " AND NEW.request IS NOT NULL\n        AND NEW.queue IS NOT NULL\n"),
    (
        "        (NEW.priority IS NULL OR",
        "        (NEW.queue IS NULL, 'queue', 'NULL', 'the name of a queue, or none for \"default\"'),\n"
        "        (NEW.priority IS NULL OR",
    ),
)


def upgrade() -> None:
    old = ROWS.SUBMITTING
    one = (old.PRIORITY, old.TIMES, ROWS.SHORT, NO_JOB, UNKNOWN)
    many = (old.PRIORITIES, old.TIMES, ROWS.SHORT_OF_MANY, NO_JOBS, UNKNOWN_OF_MANY)
    redefine("submit_job", old.TAGS.SUBMIT_JOB, *old.COLUMNS, *one)
    redefine("submit_jobs", old.TAGS.SUBMIT_JOBS, *old.COLUMNS, *many)
    redefine("checked_tags", TAGS, *NO_TAGS)
    redefine("check_columns", COLUMNS, *NO_QUEUE)
    op.execute("INSERT INTO schema_revisions VALUES ('0044', '0005')")


def downgrade() -> None:
    ROWS.redefine_submitting(ROWS.SHORT, ROWS.SHORT_OF_MANY)
    redefine("checked_tags", TAGS)
    redefine("check_columns", COLUMNS)
    op.execute("DELETE FROM schema_revisions WHERE revision = '0044'")
