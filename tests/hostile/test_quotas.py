"""A tenant's quotas hold however many connections it uses, and follow every end of a job."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.job_queue import fetch_value
from tests.support.stack import Process, Stack
from tests.support.tenants import Tenant, administrator, end_open_jobs, make_tenant

INSERT = "INSERT INTO jobs (model, request) SELECT 'nobody', '{}' FROM generate_series(1, %s)"
OPEN = """
    SELECT count(*) AS jobs, coalesce(sum(octet_length(request::text)), 0) AS bytes FROM jobs
    WHERE tenant = %(tenant)s AND finished_at IS NULL
"""
COUNTED = """
    SELECT submitted.jobs - coalesce(ended.jobs, 0) AS jobs, submitted.bytes - coalesce(ended.bytes, 0) AS bytes
    FROM tenant_submissions AS submitted LEFT JOIN tenant_endings AS ended USING (tenant) WHERE tenant = %(tenant)s
"""


@pytest.fixture
def limited(stack: Stack) -> Iterator[Tenant]:
    """A tenant that may have a hundred open jobs, and 4,000 bytes of requests in them."""
    yield make_tenant(stack, "limited", max_open_jobs=100, max_open_bytes=4_000)
    end_open_jobs(stack)


def counts(stack: Stack, tenant: Tenant, query: str) -> Any:
    with administrator(stack) as owner:
        return owner.execute(query, {"tenant": tenant.name}).fetchone()


def test_eight_transactions_at_once_open_no_more_than_the_quota(stack: Stack, limited: Tenant) -> None:
    start = threading.Barrier(8)
    refused = []

    def submit() -> None:
        with limited.connect(autocommit=False) as connection:
            start.wait()
            try:
                for _ in range(5):
                    connection.execute(INSERT, (20,))
                connection.commit()
            except psycopg.errors.InsufficientResources as error:
                refused.append(error)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(stack, limited, OPEN).jobs == 100
    assert len(refused) == 7
    assert 'tenant "limited" would have more than its 100 open jobs' in str(refused[0])


def test_bytes_of_requests_are_counted(limited: Tenant) -> None:
    large = json.dumps({"items": [{"caption": "x" * 1_500}]})
    limited.submit(json.loads(large))
    limited.submit(json.loads(large))
    with pytest.raises(psycopg.errors.InsufficientResources, match="more than its 4000 bytes of requests in open jobs"):
        limited.submit(json.loads(large))
    with limited.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientResources, match="bytes of requests"):
            connection.execute("SELECT submit_jobs(%s)", (f'[{{"model": "m", "request": {large}}}]',))
        connection.execute(INSERT, (1,))  # a small one still fits


def test_bytes_of_a_day_are_counted_whatever_becomes_of_the_jobs(
    stack: Stack, service: tuple[Process, Process]
) -> None:
    tenant = make_tenant(stack, "daily", max_daily_bytes=3 * 1_100)
    for _ in range(3):
        assert tenant.wait(tenant.submit({"items": [{"class_label": 99}]})).state == "rejected"
    with pytest.raises(psycopg.errors.InsufficientResources) as refusal:
        tenant.submit()
    assert 'tenant "daily" would have stored more than its 3300 bytes of jobs today' in str(refusal.value)
    assert "after midnight UTC" in str(refusal.value)
    with administrator(stack) as owner:
        for jobs in (1, -1):  # a retry, which has no new queue, stores nothing
            owner.execute("SELECT count_submissions('daily', NULL, %s, 100, 0, NULL)", (jobs,))
        # A day later.
        owner.execute("UPDATE tenant_submissions SET day = day - 1 WHERE tenant = 'daily'")
    tenant.wait(tenant.submit())


def test_rows_of_items_that_are_set_aside_count_in_the_bytes_of_a_day(
    stack: Stack, service: tuple[Process, Process]
) -> None:
    """Such items cost no GPU time, so nothing else would bound them."""
    tenant = make_tenant(stack, "aside", max_daily_bytes=200_000)
    lines = b'{"class_label": 99}\n' * 3
    stack.store().put("inputs/aside/bad.jsonl", lines, content_type="application/jsonl")
    many = {"input_uri": "inputs/aside/bad.jsonl", "images_per_item": 100}
    first = tenant.submit(many)
    assert tenant.wait(first).failed == 300
    second = tenant.submit(many)
    row = tenant.wait(second)
    assert (row.state, row.total) == ("rejected", 0)
    assert row.reason.startswith("with the rows of this job's images, ")
    assert 'tenant "aside" would have stored more than its 200000 bytes of jobs today. Submit again' in row.reason
    assert tenant.outputs(second) == []
    assert tenant.wait(tenant.submit()).state == "succeeded", "a small job fits"
    with administrator(stack) as owner:
        stored = "SELECT sum(pg_column_size(outputs)) FROM outputs JOIN jobs ON jobs.id = job_id WHERE tenant = 'aside'"
        counted = "SELECT bytes FROM tenant_rows WHERE tenant = 'aside'"
        assert 302 * 512 < fetch_value(owner, counted) > 2 * fetch_value(owner, stored)
        owner.execute("UPDATE tenants SET max_daily_bytes = 100000 WHERE name = 'aside'")
    for refused in (
        "SELECT retry_job(%s)",
        "INSERT INTO jobs (model, request) SELECT model, request FROM jobs WHERE id = %s",
    ):
        with (
            tenant.connect() as connection,
            pytest.raises(psycopg.errors.InsufficientResources, match="bytes of jobs today"),
        ):
            connection.execute(refused, (first,))
    with administrator(stack) as owner:  # A day later.
        owner.execute("UPDATE tenant_rows SET day = day - 1 WHERE tenant = 'aside'")
    with tenant.connect() as connection:
        connection.execute("SELECT retry_job(%s)", (first,))
    assert tenant.wait(first).failed == 300


def test_the_counters_follow_ends_cancels_retries_and_deletions(
    stack: Stack, limited: Tenant, service: tuple[Process, Process]
) -> None:
    ended = limited.submit()
    impossible = limited.submit({"items": [{"class_label": 99}]})
    partial = limited.submit({"items": [{"class_label": 1}], "images_per_item": 400, "steps": 50})
    assert limited.wait(ended).state == "succeeded"
    assert limited.wait(impossible).state == "rejected"
    with limited.connect() as connection:
        limited.wait(partial, "planned", "running")
        connection.execute("SELECT cancel_job(%s)", (partial,))
        assert limited.wait(partial).state == "cancelled"
        connection.execute("SELECT retry_job(%s)", (partial,))
        assert counts(stack, limited, OPEN).jobs == 1
        assert counts(stack, limited, COUNTED) == counts(stack, limited, OPEN)
        connection.execute("SELECT cancel_job(%s)", (partial,))
    limited.wait(partial)
    assert counts(stack, limited, COUNTED) == counts(stack, limited, OPEN) == (0, 0)
    limited.submit(model="nobody", run_after="2100-01-01")
    end_open_jobs(stack)
    assert counts(stack, limited, COUNTED) == counts(stack, limited, OPEN) == (0, 0)


def test_a_retry_counts_as_an_open_job(stack: Stack, limited: Tenant, service: tuple[Process, Process]) -> None:
    job_id = limited.submit({"items": [{"class_label": 1}], "images_per_item": 400, "steps": 50})
    limited.wait(job_id, "planned", "running")
    with limited.connect() as connection:
        connection.execute("SELECT cancel_job(%s)", (job_id,))
        limited.wait(job_id)
        connection.execute("INSERT INTO jobs (model, request, run_after) SELECT 'm', '{}', '2100-01-01' "
                           "FROM generate_series(1, 100)")  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientResources, match="more than its 100 open jobs"):
            connection.execute("SELECT retry_job(%s)", (job_id,))
    assert limited.job(job_id).state in ("cancelled", "partial")


def test_a_submission_that_stays_open_delays_neither_the_ends_of_jobs_nor_another_tenant(
    limited: Tenant, neighbour: Tenant, service: tuple[Process, Process]
) -> None:
    running = limited.submit({"items": [{"class_label": 1}], "images_per_item": 40, "steps": 2})
    with limited.connect(autocommit=False) as connection:
        connection.execute(INSERT, (1,))
        neighbour.assert_served(timeout=20)
        assert limited.wait(running, timeout=60).state == "succeeded"
        connection.rollback()
