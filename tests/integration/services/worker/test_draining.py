"""A stopped worker finishes what it holds, within its time, and returns the rest."""

import time

import pytest
from sqlalchemy import text

from tests.support.job_requests import LONG
from tests.support.stack import Process, Stack


def attempts_and_losses(stack: Stack, job_id: object) -> tuple[int, int]:
    with stack.engine("migrator").connect() as connection:
        row = connection.execute(
            text("SELECT sum(attempts) AS attempts, sum(losses) AS losses FROM work WHERE job_id = :id"), {"id": job_id}
        ).one()
    return row.attempts, row.losses


@pytest.mark.long
def test_a_stopped_worker_drains_and_returns_the_rest_to_the_queue(stack: Stack, dispatcher: Process) -> None:
    with stack.process("worker", DARKROOM_DRAIN_S="0.5") as leaving:
        job_id = stack.submit(LONG)
        deadline = time.monotonic() + 60
        while stack.job(job_id).succeeded == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        leaving.child.terminate()
        assert leaving.child.wait(30) == 0, leaving.log.read_text()
    before = stack.job(job_id)
    assert before.succeeded < 160, "the worker was done before it was told to stop"
    kept = {row.index: row.created_at for row in stack.outputs(job_id)}
    with stack.process("worker"):
        assert stack.wait(job_id).state == "succeeded"
    assert attempts_and_losses(stack, job_id) == (0, 0)
    after = {row.index: row.created_at for row in stack.outputs(job_id)}
    assert len(after) == 160
    assert {index: after[index] for index in kept} == kept, "an image that was finished was made again"
