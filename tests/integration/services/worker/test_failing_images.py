"""An image that cannot be computed fails alone."""

from tests.support.stack import Process, Stack

FAILING = """
from services.worker.engine import Engine
step = Engine._step
def failing(self):
    if any(run.seed == 666 for run in (*self.pack.waiting, *self.pack.batch.runs)):
        raise RuntimeError("a kernel failed")
    return step(self)
Engine._step = failing
"""


def test_an_image_that_fails_every_step_fails_alone(stack: Stack, dispatcher: Process) -> None:
    """Its neighbours' steps fail with it, until it is a suspect, runs alone, and is cut out of its shard."""
    with stack.process("worker", first=FAILING):
        good = [stack.submit({"items": [{"class_label": i}], "images_per_item": 20, "steps": 2}) for i in range(3)]
        items = [{"class_label": 1, **({"seed": 666} if i == 5 else {})} for i in range(24)]
        bad = stack.submit({"items": items, "steps": 2, "seed": 1})
        for job_id in good:
            assert stack.wait(job_id).state == "succeeded"
        row = stack.wait(bad)
    assert (row.state, row.succeeded, row.failed) == ("partial", 23, 1)
    (failed,) = [output for output in stack.outputs(bad) if output.error]
    assert failed.index == 5
    assert "a kernel failed" in failed.error


def test_an_image_whose_condition_cannot_be_used_fails_alone(stack: Stack, dispatcher: Process) -> None:
    """Whatever the error is: here one that names the field, and one that nobody expected."""
    first = """
from services.worker.engine import Engine
read = Engine.read_conditions
def picky(self, item):
    if item.get("id") == "odd":
        raise ValueError("class_label: cannot be used")
    if item.get("id") == "worse":
        raise RuntimeError("an assertion failed")
    return read(self, item)
Engine.read_conditions = picky
"""
    with stack.process("worker", first=first):
        items = [{"class_label": 1}, {"class_label": 1, "id": "worse"}, {"class_label": 1, "id": "odd"}]
        row = stack.wait(stack.submit({"items": items, "steps": 1, "images_per_item": 2}))
    assert (row.state, row.succeeded, row.failed) == ("partial", 2, 4)
    errors = [output.error for output in stack.outputs(row.id)[2:]]
    assert errors == ["RuntimeError: an assertion failed"] * 2 + ["class_label: cannot be used"] * 2
