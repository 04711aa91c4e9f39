"""Workers that die: others sample what they held, and an image that kills them fails alone."""

import hashlib
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.processes import Supervised
from tests.support.stack import Process, Stack

pytestmark = pytest.mark.long

QUICK = {"DARKROOM_STALE_S": "2", "DARKROOM_HEARTBEAT_S": "0.5"}


@pytest.fixture
def dispatcher(stack: Stack) -> Iterator[Process]:
    """A dispatcher that recovers lost work quickly."""
    with stack.process("dispatcher", **QUICK) as process:
        process.wait_for("serves")
        yield process


def sampling_work(stack: Stack, job_id: uuid.UUID) -> list[Any]:
    """Return the job's sampling work, with the process that holds each row."""
    pid = "(SELECT pid FROM workers WHERE workers.id = owner) AS pid"
    query = text(f"SELECT *, {pid} FROM work WHERE job_id = :id AND kind = 'sample'")
    with stack.engine("migrator").connect() as connection:
        return list(connection.execute(query, {"id": job_id}))


def test_at_default_settings_another_worker_resumes_its_work_within_45_seconds(stack: Stack) -> None:
    """No image is lost, and the loss counts as no attempt."""
    request = {"items": [{"class_label": 1}], "images_per_item": 96, "steps": 50, "guidance_scale": 1.0}
    with stack.process("dispatcher"), stack.process("worker") as victim, stack.process("worker") as heir:
        for process in (victim, heir):
            process.wait_for("serves queues")
        job_id = stack.submit(request)
        deadline = time.monotonic() + 60
        while not (held := {work.id for work in sampling_work(stack, job_id) if work.pid == victim.child.pid}):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        victim.child.send_signal(signal.SIGKILL)
        victim.child.wait()
        killed = time.monotonic()
        while any(
            work.pid != heir.child.pid and work.state != "done"
            for work in sampling_work(stack, job_id)
            if work.id in held
        ):
            assert time.monotonic() - killed < 45
            time.sleep(0.1)
        assert time.monotonic() - killed > 20, "it was not taken back from a stale heartbeat"
        assert stack.wait(job_id, timeout=240).state == "succeeded"
    work = sampling_work(stack, job_id)
    assert sum(piece.attempts for piece in work) == 0
    assert {piece.id for piece in work if piece.losses} == held
    rows = stack.outputs(job_id)
    assert [row.index for row in rows] == list(range(96))
    for index, body in stack.images(job_id).items():
        assert hashlib.sha256(body).hexdigest() == rows[index].sha256


POISON = """
import os, signal
from services.worker.engine import Engine
step = Engine._step
def poisoned(self):
    if any(run.seed == 666 for run in (*self.pack.waiting, *self.pack.batch.runs)):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
Engine._step = poisoned
"""


def test_an_image_that_kills_every_process_fails_alone(stack: Stack, dispatcher: Process) -> None:
    """Real SIGKILLs lose its neighbours with it, until it is a suspect, runs alone, and is cut out of its shard."""
    worker = Supervised(stack.root, "worker", QUICK, first=POISON)
    try:
        good = stack.submit({"items": [{"class_label": 2}], "images_per_item": 40, "steps": 2})
        items = [{"class_label": 1, **({"seed": 666} if i == 2 else {})} for i in range(4)]
        bad = stack.submit({"items": items, "steps": 2, "seed": 1})
        row = stack.wait(bad, timeout=240)
        assert stack.wait(good).state == "succeeded"
    finally:
        worker.stop()
    assert (row.state, row.succeeded, row.failed) == ("partial", 3, 1)
    (failed,) = [output for output in stack.outputs(bad) if output.error]
    assert failed.index == 2
    assert failed.error.endswith("was lost; most often such a process runs out of memory")
    assert worker.starts > 4, "it did not kill"


BROKEN_DEVICE = """
import torch
from services.worker.engine import Engine
def broken(self):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
Engine._step = broken
"""


def test_a_worker_whose_device_fails_exits_and_another_resumes(stack: Stack, dispatcher: Process) -> None:
    with stack.process("worker", first=BROKEN_DEVICE, **QUICK) as sick:
        job_id = stack.submit({"items": [{"class_label": 1}], "images_per_item": 4, "steps": 2})
        assert sick.child.wait(60) == 71
    assert "the device failed: CUDA error: an illegal memory access" in sick.log.read_text()
    (work,) = sampling_work(stack, job_id)
    assert (work.state, work.attempts, work.losses) == ("ready", 0, 1)
    with stack.process("worker"):
        assert stack.wait(job_id).state == "succeeded"


BROKEN_AT_LOAD = """
import torch
from services.worker.self_test import SelfTest
def broken(self, *given):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
SelfTest.check_step = broken
"""


@pytest.mark.parametrize("preloads", [False, True])
def test_a_worker_whose_device_fails_while_it_loads_a_release_exits(
    stack: Stack, dispatcher: Process, preloads: bool
) -> None:
    """CUDA refuses every call afterwards, so the process could only fail all further work."""
    others = {"DARKROOM_PRELOAD": '["tiny"]'} if preloads else {}
    with stack.process("worker", first=BROKEN_AT_LOAD, **QUICK, **others) as sick:
        if not preloads:
            job_id = stack.submit({"items": [{"class_label": 1}], "steps": 2})
        assert sick.child.wait(60) == 71
    assert "the device failed: CUDA error: an illegal memory access" in sick.log.read_text()
    if not preloads:
        (work,) = sampling_work(stack, job_id)
        assert (work.state, work.attempts, work.losses) == ("ready", 0, 1)


# Items are read slowly, so that a shard is being read while the engine of another runs out of memory.
LITTLE_MEMORY = """
import time, torch
from services.worker.engine import Engine
from services.worker.prefetch import Prefetcher
fetch, step = Prefetcher._fetch, Engine._step
def slow(self, *arguments):
    time.sleep(0.3)
    return fetch(self, *arguments)
Prefetcher._fetch = slow
def hungry(self):
    if self.rows > {most}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    return step(self)
Engine._step = hungry
"""
SMALL_JOB = {"items": [{"class_label": 1}, {"class_label": 2}], "images_per_item": 20, "steps": 2, "seed": 4}


def test_a_worker_that_runs_out_of_memory_continues_with_fewer_rows(stack: Stack, dispatcher: Process) -> None:
    with stack.process("worker", first=LITTLE_MEMORY.format(most=8), **QUICK) as worker:
        job_id = stack.submit(SMALL_JOB)
        assert stack.wait(job_id).state == "succeeded"
        assert worker.child.poll() is None
        said = worker.log.read_text()
    assert "with 32 rows (CUDA out of memory" in said
    assert "continuing with 8 rows" in said
    assert all("/8+4+1rows#" in output.profile for output in stack.outputs(job_id))
    assert {(work.attempts, work.losses) for work in sampling_work(stack, job_id)} == {(0, 0)}


def test_images_that_never_fit_the_memory_fail_and_the_worker_survives(stack: Stack, dispatcher: Process) -> None:
    with stack.process("worker", first=LITTLE_MEMORY.format(most=0), **QUICK) as worker:
        job_id = stack.submit({"items": [{"class_label": 1}], "images_per_item": 2, "steps": 2})
        row = stack.wait(job_id)
        assert worker.child.poll() is None
    assert (row.state, row.failed) == ("failed", 2)
    assert all("out of memory with 2 rows" in output.error for output in stack.outputs(job_id))
