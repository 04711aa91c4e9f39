"""The same request and seed give the same bytes on any worker."""

from tests.support.job_requests import JOB, LONG
from tests.support.stack import Process, Stack


def test_same_request_and_seed_give_the_same_bytes(stack: Stack, dispatcher: Process) -> None:
    """They do so on a second worker, in a second job, and alone or with others in a batch."""
    with stack.process("worker") as first:
        first.wait_for("serves queues")
        alone = stack.submit(JOB)
        stack.wait(alone)
        crowd = [stack.submit(JOB), stack.submit(LONG | {"steps": 5}), stack.submit(JOB)]
        for job_id in crowd:
            stack.wait(job_id)
    with stack.process("worker") as second:
        second.wait_for("serves queues")
        elsewhere = stack.submit(JOB)
        stack.wait(elsewhere)
    expected = stack.images(alone)
    assert len(set(expected.values())) == 10
    for job_id in (crowd[0], crowd[2], elsewhere):
        assert stack.images(job_id) == expected
    assert {row.profile for row in stack.outputs(alone)} == {row.profile for row in stack.outputs(elsewhere)}
