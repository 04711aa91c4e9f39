"""What a client may do: insert jobs, read its own rows, and nothing else."""

import time
import uuid

import psycopg
import pytest

from services.database import logins
from tests.support.job_queue import fetch_value
from tests.support.stack import Stack
from tests.support.tenants import administrator

REQUEST = '{"items":[{"class_label":3}],"images_per_item":16,"steps":30,"guidance_scale":2.0,"seed":7}'


def test_an_insert_returns_its_id_at_once_and_the_job_is_submitted(client: psycopg.Connection) -> None:
    began = time.monotonic()
    job_id = fetch_value(
        client, f"INSERT INTO jobs (model, request) VALUES ('nobody@production', '{REQUEST}') RETURNING id"
    )
    assert time.monotonic() - began < 1
    assert isinstance(job_id, uuid.UUID)
    assert job_id.version == 7 or str(job_id)[14] == "7"
    row = client.execute("SELECT state, tenant FROM jobs WHERE id = %s", (job_id,)).fetchone()
    assert row == ("submitted", "default")


def test_the_group_role_submits_for_the_default_tenant(stack: Stack) -> None:
    url = stack.engine("migrator").url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET ROLE darkroom_submitter")
        job_id = fetch_value(
            connection, f"INSERT INTO jobs (model, request) VALUES ('nobody@production', '{REQUEST}') RETURNING id"
        )
        assert connection.execute("SELECT tenant FROM jobs WHERE id = %s", (job_id,)).fetchone() == ("default",)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET state = 'succeeded'",
        "UPDATE jobs SET priority = 100",
        "DELETE FROM jobs",
        "TRUNCATE jobs CASCADE",
        "INSERT INTO jobs (model, request, state) VALUES ('m', '{}', 'succeeded')",
        "INSERT INTO jobs (model, request, tenant) VALUES ('m', '{}', 'other')",
        "INSERT INTO jobs (id, model, request) VALUES (gen_random_uuid(), 'm', '{}')",
        "INSERT INTO outputs (job_id, index, item, seed, error) VALUES (gen_random_uuid(), 0, 0, 0, 'x')",
        "SELECT * FROM outputs_all",
        "SELECT * FROM work",
        "SELECT * FROM tenants",
        "SELECT * FROM queues",
        "SELECT * FROM turns",
        "SELECT take_turns(gen_random_uuid(), 1)",
        "SELECT apply_change(gen_random_uuid(), 1)",
        "SELECT * FROM change_requests",
        "UPDATE usage_counts SET images = 0",
        "SELECT count_usage()",
        "SELECT * FROM webhooks",
        "INSERT INTO webhooks (tenant, url, secret) VALUES ('default', 'http://x', 'y')",
        "UPDATE webhook_events SET state = 'waiting'",
        "SELECT queue_clock('default')",
        "SELECT * FROM releases",
        "SELECT * FROM workers",
        "SELECT accept_jobs()",
        "SELECT count_submissions('other', 'default', -1, 0, 0, NULL)",
        "SELECT * FROM tenant_submissions",
        "SELECT * FROM service_locks",
        "SELECT * FROM cancel_requests",
        "SELECT end_long_client_transactions(interval '0 s')",
        "CREATE TEMP TABLE mine (x int)",
        "SELECT lo_create(0)",
        "SELECT nextval('work_token')",
        "SELECT count_endings()",
        "UPDATE jobs SET cancel_requested_at = now()",
        "UPDATE tenants SET weight = 1000",
        "INSERT INTO jobs (model, request, revision) VALUES ('m', '{}', 2)",
        "CREATE TABLE mine (x int)",
        "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY",
        "SET ROLE darkroom_dispatcher",
        "SET SESSION AUTHORIZATION postgres",
        "COPY jobs TO PROGRAM 'true'",
    ],
)
def test_nothing_else_is_allowed(client: psycopg.Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        client.execute(statement)
    assert error.value.sqlstate in ("42501", "0A000"), error.value


def test_a_login_without_a_tenant_gets_a_hint(stack: Stack) -> None:
    with stack.engine("migrator").begin() as connection:
        logins.ensure_login(connection, "nobodys_login", group="submitter", password="a-long-password")
    url = stack.engine("migrator").url.set(
        drivername="postgresql", username="nobodys_login", password="a-long-password"
    )
    with (
        psycopg.connect(url.render_as_string(hide_password=False)) as connection,
        pytest.raises(
            psycopg.errors.InsufficientPrivilege, match='login "nobodys_login" belongs to no tenant'
        ) as error,
    ):
        connection.execute("INSERT INTO jobs (model, request) VALUES ('m', '{}')")
    assert "darkroom tenants add" in (error.value.diag.message_hint or "")


@pytest.mark.parametrize(
    ("columns", "values", "complaint"),
    [
        ("model, request", "'m', '{bad'", "invalid input syntax for type json"),
        ("model, request", "'m', '[1]'", "request: a JSON array is not allowed; permitted: a JSON object"),
        ("model, request", "'', '{}'", "model: '' is not allowed; permitted: name, name@alias"),
        ("request", "'{}'", "model: NULL is not allowed; permitted: name, name@alias"),
        ("model, request, priority", "'m', '{}', 101", "priority: 101 is not allowed; permitted: an integer from -100"),
        (
            "model, request, idempotency_key",
            "'m', '{}', ''",
            "idempotency_key: '' is not allowed; permitted: text of 1",
        ),
        (
            "model, request, run_after, deadline",
            "'m', '{}', '2030-01-02 00:00Z', '2030-01-01 00:00Z'",
            "deadline: 2030-01-01 .* is not allowed; permitted: a time after its run_after, 2030-01-02",
        ),
        ("model, request, queue", "'m', '{}', 'nowhere'", 'queue: "nowhere" does not exist'),
        (
            "model, request",
            "'m', jsonb_build_object('x', repeat('y', 5000000))",
            "request: 5000009 bytes are not allowed; permitted: at most 4194304",
        ),
        (
            "model, request, deadline",
            "'m', '{}', '-infinity'",
            "deadline: -infinity is not allowed; permitted: a time from",
        ),
        ("model, request, run_after", "'m', '{}', 'infinity'", "run_after: infinity is not allowed"),
        ("model, request, deadline", "'m', '{}', '0001-01-01'", "deadline: 0001-01-01 .* is not allowed"),
        ("model, request, run_after", "'m', '{}', '9999-12-31'", "run_after: 9999-12-31 .* is not allowed"),
    ],
)
def test_the_insert_refuses_malformed_jobs(
    client: psycopg.Connection, columns: str, values: str, complaint: str
) -> None:
    with pytest.raises(psycopg.Error, match=complaint):
        client.execute(f"INSERT INTO jobs ({columns}) VALUES ({values})")


@pytest.mark.parametrize("change", ["priority = 101", "deadline = 'infinity'", "model = ''"])
def test_no_role_gives_a_job_a_malformed_column(stack: Stack, client: psycopg.Connection, change: str) -> None:
    job_id = fetch_value(client, "INSERT INTO jobs (model, request) VALUES ('nobody', '{}') RETURNING id")
    name = change.split()[0]
    refused = pytest.raises(psycopg.errors.CheckViolation, match=f"{name}: .* is not allowed; permitted: ")
    with administrator(stack) as owner, refused:
        owner.execute(f"UPDATE jobs SET {change} WHERE id = '{job_id}'")


def test_submit_job_inserts_and_returns_the_same_job_for_the_same_key(client: psycopg.Connection) -> None:
    job = '{"model": "nobody", "request": {"items": []}, "priority": 3, "idempotency_key": "function"}'
    first = fetch_value(client, "SELECT submit_job(%s)", (job,))
    assert client.execute("SELECT submit_job(%s)", (job,)).fetchone() == (first,)
    assert client.execute("SELECT model, priority FROM jobs WHERE id = %s", (first,)).fetchone() == ("nobody", 3)
    with pytest.raises(psycopg.errors.UniqueViolation, match=f"is that of job {first}, which asks for something else"):
        client.execute("SELECT submit_job(%s)", (job.replace("nobody", "somebody"),))
    many = client.execute("SELECT submit_jobs(%s)", (f'[{job}, {{"model": "x", "request": {{}}}}]',)).fetchall()
    assert many[0] == (first,)
    assert len(many) == 2


@pytest.mark.parametrize(
    ("job", "complaint"),
    [
        ("[1]", r"job: \[1\] is not allowed; permitted: a JSON object"),
        (
            '{"model": "m", "request": {}, "tenant": "other", "state": "x"}',
            "job: state, tenant is not a known field; permitted: model, request",
        ),
        ('{"request": {}}', "model: NULL is not allowed"),
        ('{"model": "m"}', "request: NULL is not allowed; permitted: a JSON object"),
        ('{"model": "m", "request": {}, "priority": "x"}', 'priority: "x" is not allowed; permitted: an integer'),
        ('{"model": "m", "request": {}, "priority": 1.5}', "priority: 1.5 is not allowed; permitted: an integer"),
        ('{"model": "m", "request": {}, "priority": 101}', "priority: 101 is not allowed; permitted: an integer"),
        ('{"model": "m", "request": {}, "queue": "nowhere"}', 'queue: "nowhere" does not exist'),
        ('{"model": "m", "request": {}, "deadline": "soon"}', 'deadline: "soon" is not allowed; permitted: a time'),
        ('{"model": "m", "request": {}, "run_after": 5}', "run_after: 5 is not allowed; permitted: a time"),
        (
            '{"model": "m", "request": {}, "run_after": "2030-01-02", "deadline": "2030-01-01"}',
            "deadline: 2030-01-01 .* is not allowed; permitted: a time after its run_after",
        ),
    ],
)
def test_submit_job_refuses_malformed_jobs(client: psycopg.Connection, job: str, complaint: str) -> None:
    with pytest.raises(psycopg.Error, match=complaint):
        client.execute("SELECT submit_job(%s)", (job,))
    if not complaint.startswith("job: "):
        with pytest.raises(psycopg.Error, match=complaint):
            client.execute("SELECT submit_jobs(%s)", (f"[{job}]",))


def test_jobs_of_other_tenants_cannot_be_cancelled_or_retried(
    client: psycopg.Connection, other_tenant: psycopg.Connection
) -> None:
    job_id = fetch_value(client, "INSERT INTO jobs (model, request) VALUES ('nobody', '{}') RETURNING id")
    for function in ("cancel_job", "retry_job"):
        with pytest.raises(psycopg.Error, match=f"you have no job {job_id}"):
            other_tenant.execute(f"SELECT {function}(%s)", (job_id,))
    assert client.execute("SELECT cancel_requested_at FROM jobs WHERE id = %s", (job_id,)).fetchone() == (None,)


def test_a_quota_limits_the_open_jobs_of_a_tenant(stack: Stack, other_tenant: psycopg.Connection) -> None:
    def allow(count: int) -> None:
        with stack.engine("migrator").begin() as connection:
            connection.exec_driver_sql(f"UPDATE tenants SET max_open_jobs = {count} WHERE name = 'other'")

    open_jobs = fetch_value(other_tenant, "SELECT count(*) FROM jobs WHERE finished_at IS NULL")
    allow(open_jobs + 3)
    insert = "INSERT INTO jobs (model, request) SELECT 'nobody', '{}' FROM generate_series(1, %s)"
    try:
        other_tenant.execute(insert, (2,))
        with pytest.raises(psycopg.errors.InsufficientResources, match='tenant "other" would have more than its'):
            other_tenant.execute(insert, (2,))
        other_tenant.execute(insert, (1,))
    finally:
        allow(100_000)


def test_one_statement_is_held_to_each_queue_and_to_the_whole_quota(
    stack: Stack, other_tenant: psycopg.Connection
) -> None:
    insert = "INSERT INTO jobs (model, request, queue) SELECT 'nobody', '{}', unnest(%s::text[])"
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match='queue: "nowhere" does not exist') as error:
        other_tenant.execute(insert, (["default", "nowhere"],))
    assert error.value.diag.message_hint == "Permitted: default"
    open_jobs = fetch_value(other_tenant, "SELECT count(*) FROM jobs WHERE finished_at IS NULL")
    with administrator(stack) as owner:
        owner.execute("INSERT INTO queues (name) VALUES ('second')")
        owner.execute(
            f"UPDATE tenants SET permitted_queues = '{{*}}', max_open_jobs = {open_jobs + 3} WHERE name = 'other'"
        )
        try:
            with pytest.raises(psycopg.errors.InsufficientResources, match='tenant "other" would have more than its'):
                other_tenant.execute(insert, (["default", "second"] * 2,))
            other_tenant.execute(insert, (["default", "second", "default"],))
        finally:
            owner.execute(
                "UPDATE tenants SET permitted_queues = '{default}', max_open_jobs = 100000 WHERE name = 'other'"
            )
            owner.execute("DELETE FROM jobs WHERE queue = 'second'")
            owner.execute("DELETE FROM queues WHERE name = 'second'")


def test_an_idempotency_key_names_one_job(client: psycopg.Connection) -> None:
    insert = "INSERT INTO jobs (model, request, idempotency_key) VALUES ('m', '{}', 'once')"
    client.execute(insert)
    with pytest.raises(psycopg.errors.UniqueViolation):
        client.execute(insert)
    assert client.execute(f"{insert} ON CONFLICT DO NOTHING").rowcount == 0
