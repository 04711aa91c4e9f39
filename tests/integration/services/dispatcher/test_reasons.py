"""A job whose images failed says why in its `reason`: the commonest error, and how many images have it."""

import json
import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from tests.support.commands import Darkroom
from tests.support.stack import Process, Stack

REQUEST = {"items": [{"class_label": 1}] * 5, "steps": 1}
# Images 1, 2 and 3 fail with one error, image 0 with another; image 4 is stored.
UNUSABLE = """
from services.worker.engine import Engine
request = Engine.request
def request_usable(self, spec, conditions):
    if spec.index in {indices}:
        raise ValueError("mood: is unknown" if spec.index == 0 else "class_label: cannot be used")
    return request(self, spec, conditions)
Engine.request = request_usable
"""


def retry(stack: Stack, job_id: uuid.UUID) -> None:
    with stack.engine("submitter").begin() as connection:
        connection.execute(text("SELECT retry_job(:id)"), {"id": job_id})


def test_a_partial_job_names_the_commonest_error_until_it_is_retried(
    stack: Stack, dispatcher: Process, darkroom_here: Darkroom
) -> None:
    with stack.process("worker", first=UNUSABLE.format(indices=(0, 1, 2, 3))):
        job = stack.wait(stack.submit(REQUEST))
    reason = "class_label: cannot be used (3 of 5 images)"
    assert (job.state, job.succeeded, job.failed, job.reason) == ("partial", 1, 4, reason)
    assert reason in darkroom_here("jobs", "show", str(job.id)).stdout
    assert reason in darkroom_here("jobs", "list").stdout
    watched = darkroom_here("jobs", "watch", str(job.id))
    assert (watched.returncode, watched.stdout) == (3, f"partial: 1 of 5 images\n{reason}\n")
    assert json.loads(darkroom_here("jobs", "show", str(job.id), "--json").stdout)["reason"] == reason
    retry(stack, job.id)
    assert stack.job(job.id).reason is None
    with stack.process("worker"):
        job = stack.wait(job.id)
    assert (job.state, job.reason) == ("succeeded", None)


def test_of_errors_that_are_equally_common_the_first_image_decides(stack: Stack, dispatcher: Process) -> None:
    with stack.process("worker", first=UNUSABLE.format(indices=(0, 1))):
        job = stack.wait(stack.submit({**REQUEST, "items": [{"class_label": 1}] * 2}))
    assert (job.state, job.reason) == ("failed", "mood: is unknown (1 of 2 images)")


def test_a_deadline_is_the_reason_of_its_job(stack: Stack, dispatcher: Process) -> None:
    """It passes after planning, with no worker to make the images."""
    deadline = datetime.now(UTC) + timedelta(seconds=4)
    job = stack.wait(stack.submit(REQUEST, deadline=f"{deadline:%F %T.%f+00}"), timeout=30)
    assert job.state == "failed"
    assert job.reason == f"its deadline, {deadline:%F %T} UTC, has passed (5 of 5 images)"


def test_a_cancelled_job_has_no_reason_of_its_images(stack: Stack, dispatcher: Process) -> None:
    job_id = stack.submit(REQUEST)
    stack.wait(job_id, "planned")
    with stack.engine("submitter").begin() as connection:
        connection.execute(text("SELECT cancel_job(:id)"), {"id": job_id})
    job = stack.wait(job_id)
    assert (job.state, job.reason) == ("cancelled", None)


def test_lines_that_fail_alike_are_counted_together(stack: Stack, dispatcher: Process) -> None:
    """Their errors differ in the number of the line alone."""
    key = f"inputs/default/{uuid.uuid4().hex}.jsonl"
    lines = b'not JSON\n{"class_label": 99}\n{"class_label": 99}\n'
    stack.store().put(key, lines, content_type="application/jsonl")
    job = stack.wait(stack.submit({"input_uri": key, "steps": 1}))
    unusable = "class_label: 99 is not allowed; permitted: an integer from 0 to 9"
    assert (job.state, job.reason) == ("failed", f"{unusable} (2 of 3 images)")
    stack.store().put(key, b'{"class_label": 99}\n', content_type="application/jsonl")
    assert stack.wait(stack.submit({"input_uri": key})).reason == f"line 1: {unusable} (1 of 1 images)"
