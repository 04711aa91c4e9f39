"""A tenant sees its own jobs and images and no others."""

import time

import psycopg

from tests.support.job_queue import fetch_value
from tests.support.stack import Process, Stack


def test_tenants_see_only_their_own_jobs_and_outputs(
    stack: Stack, client: psycopg.Connection, other_tenant: psycopg.Connection, dispatcher: Process, worker: Process
) -> None:
    job_id = stack.submit({"items": [{"class_label": 1}], "steps": 1})
    assert stack.wait(job_id).state == "succeeded"
    assert client.execute("SELECT count(*) FROM outputs WHERE job_id = %s", (job_id,)).fetchone() == (1,)
    assert other_tenant.execute("SELECT count(*) FROM jobs WHERE id = %s", (job_id,)).fetchone() == (0,)
    assert other_tenant.execute("SELECT count(*) FROM outputs").fetchone() == (0,)
    theirs = fetch_value(
        other_tenant,
        'INSERT INTO jobs (model, request) VALUES (\'tiny\', \'{"items":[{"class_label":1}],"steps":1}\') RETURNING id',
    )
    deadline = time.monotonic() + 30
    while other_tenant.execute("SELECT state FROM jobs WHERE id = %s", (theirs,)).fetchone() != ("succeeded",):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    key = fetch_value(other_tenant, "SELECT key FROM outputs WHERE job_id = %s", (theirs,))
    assert key.startswith("outputs/other/")
