"""A worker hears of new shards from Postgres, without a hint and long before it polls."""

import time

from tests.support.stack import Stack

NO_HINTS = "import services.process.celery_app as app; app.send_hint = lambda *_: None"


def test_an_idle_worker_starts_a_job_without_hint_and_poll(stack: Stack) -> None:
    slow = {"DARKROOM_POLL_S": "60"}
    with (
        stack.process("dispatcher", first=NO_HINTS, **slow) as dispatcher,
        stack.process("worker", **slow) as worker,
    ):
        dispatcher.wait_for("serves")
        worker.wait_for("serves queues")
        time.sleep(2)  # each has looked for work and now waits
        row = stack.wait(stack.submit({"items": [{"class_label": 1}], "steps": 1}), timeout=30)
    assert row.state == "succeeded"
    assert (row.started_at - row.created_at).total_seconds() < 10
