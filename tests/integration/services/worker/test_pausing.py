"""A tenant pauses and resumes its job beside real processes."""

import json
import time
import uuid

from tests.support.stack import Process, Stack
from tests.support.tenants import administrator, make_tenant

REQUEST = {"items": [{"class_label": 1}], "images_per_item": 96, "steps": 20, "seed": 3}


def wait_until_it_is_paused(stack: Stack, job: uuid.UUID) -> None:
    deadline = time.monotonic() + 60
    query = "SELECT FROM change_requests WHERE job_id = %s"  # one stays until nothing of the job is under way
    with administrator(stack) as owner:
        while owner.execute(query, (job,)).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_paused_job_stands_still_until_it_resumes(stack: Stack, dispatcher: Process, worker: Process) -> None:
    tenant = make_tenant(stack, f"t{uuid.uuid4().hex[:8]}")
    with tenant.connect(autocommit=False) as client:  # in one transaction, so that it is paused before its end
        columns = "(model, request, tags) VALUES ('tiny', %s, '{night}')"
        (row,) = client.execute(f"INSERT INTO jobs {columns} RETURNING id", (json.dumps(REQUEST),)).fetchall()
        client.execute("SELECT change_job(%s, '{\"paused\": true}')", (row.id,))
    job = row.id
    wait_until_it_is_paused(stack, job)
    settled = tenant.job(job).succeeded
    assert settled < 96
    tenant.assert_served()  # by the worker that the paused job would have
    assert tenant.job(job).succeeded == settled
    with tenant.connect() as client:
        client.execute("SELECT change_job(id, '{\"paused\": false}') FROM jobs WHERE tags @> '{night}'")
    assert tenant.wait(job).succeeded == 96
