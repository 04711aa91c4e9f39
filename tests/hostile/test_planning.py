"""Requests and inputs that are slow or malformed delay no other tenant, and each ends with words for its author."""

import json
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.support.stack import Process, Stack
from tests.support.tenants import Tenant, end_open_jobs

SLOW_S3 = """
import time
from services.storage.object_store import ObjectStore
stream = ObjectStore.stream
def stream_slowly(self, key, **arguments):
    if "slow" in key:
        time.sleep(30)
    yield from stream(self, key, **arguments)
ObjectStore.stream = stream_slowly
"""
BROKEN_PLANNER = """
from services.dispatcher import planner
cut_batches = planner.cut_batches
def fail_sometimes(items, per_item, planned_to=0):
    if per_item == 7:
        raise KeyError(object())
    return cut_batches(items, per_item, planned_to)
planner.cut_batches = fail_sometimes
"""


@pytest.fixture
def planner(stack: Stack) -> Iterator[Process]:
    """A dispatcher to which one tenant's objects are slow, and one request is poison."""
    with stack.process("dispatcher", first=SLOW_S3 + BROKEN_PLANNER) as process:
        process.wait_for("serves")
        yield process
        process.child.kill()  # told to stop, it would wait for the slow objects


def upload(stack: Stack, name: str, body: bytes) -> None:
    """Store an input of the attacker."""
    stack.store().put(f"inputs/attacker/{name}.jsonl", body, content_type="application/jsonl")


def wait_planned(tenant: Tenant, job_id: uuid.UUID) -> float:
    """Wait until the job is planned. Returns how many seconds that took."""
    begun = time.monotonic()
    while tenant.job(job_id).state == "submitted":
        assert time.monotonic() - begun < 15, "it is not planned"
        time.sleep(0.05)
    return time.monotonic() - begun


def test_slow_objects_of_one_tenant_delay_no_other(
    stack: Stack, planner: Process, attacker: Tenant, neighbour: Tenant
) -> None:
    upload(stack, "slow", b'{"class_label": 1}\n' * 10)
    for _ in range(8):
        attacker.submit({"input_uri": "inputs/attacker/slow.jsonl"})
    time.sleep(2)
    assert wait_planned(neighbour, neighbour.submit()) < 10
    end_open_jobs(stack)


def test_an_unforeseen_error_fails_its_job_alone_in_words(
    stack: Stack, planner: Process, attacker: Tenant, neighbour: Tenant
) -> None:
    poison = attacker.submit({"items": [{"class_label": 1}], "images_per_item": 7})
    wait_planned(neighbour, neighbour.submit())
    deadline = time.monotonic() + 60
    while (job := attacker.job(poison)).state == "submitted":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert job.state == "failed"
    assert job.reason == (
        "planning failed because of an error in the service; an administrator finds it in the log by the job's id"
    )
    assert planner.child.poll() is None
    assert "Traceback" in planner.log.read_text(), "the log tells an administrator more"
    end_open_jobs(stack)


def test_lines_that_no_program_should_accept_fail_alone(
    stack: Stack, service: tuple[Process, Process], attacker: Tenant
) -> None:
    lines = [
        b'{"class_label": 1, "metadata": {"price": 1e400}}',
        b'{"class_label": 1, "metadata": {"n": ' + b"9" * 5_000 + b"}}",
        b'{"class_label": 1, "metadata": {"n": NaN}}',
        b'{"class_label": 1, "id": "\\ud800"}',
        b'{"class_label": 1, "metadata": {"a": "\\u0000"}}',
        b'{"class_label": 1, "metadata": {"a": "' + b"x" * 20_000 + b'"}}',
        b'{"class_label": 1, "id": "\xed\xa0\x80"}',
        *(b'{"class_label": 1, "metadata": ' + b'{"a":' * n + b"1" + b"}" * n + b"}" for n in range(33, 1_100, 9)),
        b'{"class_label": 1, "class_label": 2, "id": "last"}',
    ]
    upload(stack, "odd", b"\n".join(lines))
    job = attacker.wait(attacker.submit({"input_uri": "inputs/attacker/odd.jsonl", "steps": 1}))
    assert (job.state, job.succeeded, job.failed) == ("partial", 1, len(lines) - 1), job.reason
    manifest = json.loads(stack.store().get(job.manifest_key))
    errors = stack.store().get(manifest["errors"]).decode()
    assert [json.loads(line, parse_constant=pytest.fail)["index"] for line in errors.splitlines()] == list(
        range(len(lines) - 1)
    )
    assert "xxxx" not in errors, "metadata that are too long are not repeated"
