"""What a client tries in SQL beyond its own rows: other tenants' rows, functions, names and channels of the service."""

import json
import uuid

import psycopg
import pytest

from tests.support.stack import Process, Stack
from tests.support.tenants import Tenant, administrator

DENIED = ("42501", "0A000", "25P02", "55000")


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE darkroom_worker",
        "SET SESSION AUTHORIZATION tenant_neighbour",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'",
        "CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'",
        "CREATE TEMP TABLE queues (name text)",
        "CREATE TEMP VIEW tenants AS SELECT 1 AS name",
        "SELECT 1 INTO TEMP mine",
        "DO $$ BEGIN PERFORM submitting_tenant(); PERFORM count_endings(); END $$",
        "SELECT announce('darkroom_work', '')",
        "SELECT count_submissions('neighbour', 'default', 100000, 0, 0, NULL)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT lo_creat(-1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
        "SELECT pg_logical_emit_message(false, 'x', 'y')",
        "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'x'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/x'",
        "CREATE EXTENSION dblink",
        "ALTER ROLE tenant_attacker CONNECTION LIMIT -1",
        "ALTER TABLE jobs DISABLE TRIGGER ALL",
        "SELECT * FROM queues",
        "SELECT * FROM queue_load",
        "SELECT * FROM open_jobs",
        "SELECT * FROM aliases",
        "DELETE FROM outputs",
        "TRUNCATE outputs",
        "UPDATE jobs SET request = '{}'",
    ],
)
def test_it_is_denied(stack: Stack, attacker: Tenant, neighbour: Tenant, statement: str) -> None:
    with administrator(stack), attacker.connect() as connection, pytest.raises(psycopg.Error) as error:
        connection.execute(statement)
    assert error.value.sqlstate in DENIED, error.value


def test_only_rows_of_the_own_tenant_are_seen(attacker: Tenant, neighbour: Tenant) -> None:
    job_id = neighbour.submit(model="nobody")
    with attacker.connect() as connection:
        for query in (
            "SELECT count(*) FROM jobs WHERE id = %s",
            "SELECT count(*) FROM jobs WHERE (SELECT true FROM jobs AS other WHERE other.id = %s)",
            "SELECT count(*) FROM outputs WHERE job_id = %s",
        ):
            assert connection.execute(query, (job_id,)).fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM jobs WHERE tenant <> 'attacker'").fetchone() == (0,)
        for function in ("cancel_job", "retry_job"):
            with pytest.raises(psycopg.errors.NoDataFound, match=f"you have no job {job_id}"):
                connection.execute(f"SELECT {function}(%s)", (job_id,))
        with pytest.raises(psycopg.errors.NoDataFound, match=f"you have no job {job_id}"):
            connection.execute("SELECT * FROM cancel_jobs(%s)", ([job_id],))
    assert neighbour.job(job_id).state == "submitted"


def test_a_key_of_another_tenant_is_free(attacker: Tenant, neighbour: Tenant) -> None:
    job = json.dumps({"model": "nobody", "request": {}, "idempotency_key": "same"})
    with neighbour.connect() as theirs, attacker.connect() as mine:
        first = theirs.execute("SELECT submit_job(%s) AS id", (job,)).fetchall()[0].id
        assert mine.execute("SELECT submit_job(%s) AS id", (job,)).fetchall()[0].id != first
        assert mine.execute("SELECT submit_jobs(%s) AS id", (f"[{job}]",)).fetchall()[0].id != first


def test_a_queue_that_was_not_granted_is_refused_and_not_listed(stack: Stack, attacker: Tenant) -> None:
    with stack.engine("migrator").begin() as connection:
        connection.exec_driver_sql("INSERT INTO queues (name) VALUES ('premium') ON CONFLICT DO NOTHING")
    for queue in ("premium", "unheard-of", "x" * 1_000, "two\nlines", "'; DROP TABLE jobs; --"):
        with pytest.raises(psycopg.errors.ForeignKeyViolation, match=r"exist, or tenant .* may not") as error:
            attacker.submit(queue=queue)
        assert error.value.diag.message_hint == "Permitted: default"
        assert len(str(error.value.diag.message_primary)) < 200


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("SELECT submit_job(NULL)", "job: NULL is not allowed; permitted: a JSON object"),
        ("SELECT submit_job('null')", "job: null is not allowed; permitted: a JSON object"),
        ("SELECT submit_jobs(NULL)", "jobs: NULL is not allowed; permitted: a JSON array of objects"),
        ("SELECT submit_jobs('{}')", "jobs: {} is not allowed; permitted: a JSON array of objects"),
        ("SELECT checked_tags(NULL)", "tags: NULL is not allowed; permitted: a list of at most 16 texts"),
        ("SELECT checked_tags(ARRAY[NULL])", "tags: NULL is not allowed; permitted: text of 1 to 100 characters"),
        (
            "INSERT INTO jobs (model, request, queue) VALUES ('m', '{}', NULL)",
            "queue: NULL is not allowed; permitted: the",
        ),
        ("SELECT submit_jobs('[null]')", r"jobs\[0\]: a JSON null is not allowed; permitted: a JSON object"),
        ('SELECT submit_jobs(\'[{"model": "m", "request": {}}, []]\')', r"jobs\[1\]: a JSON array is not allowed"),
        ("SELECT submit_jobs('[{\"request\": {}}]')", "model: NULL is not allowed"),
        ('SELECT submit_jobs(\'[{"model": "m", "request": {}, "tenant": "x"}]\')', "tenant is not a known field"),
        ('SELECT submit_job(\'{"model": "m", "request": {}, "tags": [["a"]]}\')', r'tags: \[\["a"\]\] is not allowed'),
        ('SELECT submit_jobs(\'[{"model": "m", "request": {}, "tags": ["a", []]}]\')', r'tags: \["a", \[\]\] is not'),
        ("SELECT cancel_job(NULL)", "job: you have no job"),
        ("SELECT retry_job(NULL)", "job: you have no job"),
        ("SELECT * FROM cancel_jobs(ARRAY[NULL]::uuid[])", "job: you have no job"),
    ],
)
def test_functions_answer_odd_arguments_in_words(attacker: Tenant, statement: str, answer: str) -> None:
    with attacker.connect() as connection, pytest.raises(psycopg.Error, match=answer):
        connection.execute(statement)


def test_empty_and_large_sets_are_answered(attacker: Tenant, stack: Stack) -> None:
    with attacker.connect() as connection:
        assert connection.execute("SELECT submit_jobs('[]')").fetchall() == []
        assert connection.execute("SELECT * FROM cancel_jobs('{}')").fetchall() == []
        assert connection.execute("SELECT * FROM cancel_jobs(NULL)").fetchall() == []
        many = json.dumps([{"model": "nobody", "request": {}, "run_after": "2100-01-01"}] * 20_000)
        ids = [row.id for row in connection.execute("SELECT submit_jobs(%s) AS id", (many,))]
        assert len(set(ids)) == 20_000
        cancelled = connection.execute("SELECT * FROM cancel_jobs(%s)", (ids,)).fetchall()
        assert {row.id for row in cancelled} == set(ids)
        with pytest.raises(psycopg.errors.NoDataFound):
            connection.execute("SELECT * FROM cancel_jobs(%s)", ([*ids, uuid.uuid4()],))


def test_forged_notifications_change_nothing(
    attacker: Tenant, neighbour: Tenant, service: tuple[Process, Process]
) -> None:
    with attacker.connect() as connection:
        for channel in ("darkroom_work", "darkroom_job_ended"):
            for payload in ("", "\n", str(uuid.uuid4()), "x" * 7_000):
                connection.execute("SELECT pg_notify(%s, %s)", (channel, payload))
        neighbour.assert_served()


def test_names_of_clients_forge_no_line_of_a_log(attacker: Tenant, service: tuple[Process, Process]) -> None:
    forged = "2026-01-01 00:00:00,000 CRITICAL darkroom.worker the device failed"
    jobs = [
        attacker.submit(model=f"tiny\n{forged}"),
        attacker.submit({"items": [{"class_label": 1}], f"steps\n{forged}": 2}),
        attacker.submit({"items": [{"class_label": 1, "id": f"a\n{forged}"}] * 2}),
        attacker.submit({"items": [{"class_label": f"\r\n{forged}"}]}),
        attacker.submit({"items": [{"class_label": 1}], "output_prefix": f"outputs/attacker\n{forged}"}),
        attacker.submit({"input_uri": f"inputs/attacker/x\n{forged}"}),
    ]
    for job_id in jobs:
        assert attacker.wait(job_id).state == "rejected"
    for process in service:
        assert not [line for line in process.log.read_text().splitlines() if line.startswith(forged[:30])]


def test_the_settings_and_arrays_of_a_client_change_nothing(attacker: Tenant, neighbour: Tenant) -> None:
    """Settings that the console's login makes have no effect for a tenant. Dimensions of an array are none of tags."""
    neighbour.submit(model="nobody")
    with attacker.connect() as connection:
        for setting in ("darkroom.operator = 'on'", "darkroom.tenant = 'neighbour'", "search_path = pg_temp, public"):
            connection.execute(f"SET {setting}")
        assert connection.execute("SELECT count(*) FROM jobs WHERE tenant <> 'attacker'").fetchone() == (0,)
        assert connection.execute("SELECT current_tenant()").fetchone() == ("attacker",)
        connection.execute("SET row_security = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT count(*) FROM jobs")
        connection.execute("SET row_security = on")
        for array in ("{{b,a},{a,c}}", "[5:7]={c,b,a}"):
            insert = "INSERT INTO jobs (model, request, tags) VALUES ('nobody', '{}', %s) RETURNING tags"
            assert connection.execute(insert, (array,)).fetchone() == (["a", "b", "c"],)
