"""Processes that are killed because a job takes too much memory: the job fails with that reason, after a few tries."""

import pytest

from tests.hostile.test_large_requests import LARGE
from tests.support.processes import Supervised
from tests.support.stack import Stack
from tests.support.tenants import QUICK, Tenant, end_open_jobs

pytestmark = pytest.mark.long

# Kills its process when that takes `most` MiB more than at its start, as the kernel does at the limit of a container.
KILLER = """
import os, signal, threading, time
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def watch(begun):
    while resident() < begun + {most}:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=watch, args=(resident(),), daemon=True).start()
"""


def test_a_request_that_kills_every_dispatcher_fails(stack: Stack, attacker: Tenant, neighbour: Tenant) -> None:
    dispatcher = Supervised(stack.root, "dispatcher", QUICK, first=KILLER.format(most=60))
    try:
        with stack.process("worker", **QUICK) as worker:
            worker.wait_for("serves queues")
            deadly = attacker.submit(LARGE)
            beside = [attacker.submit(), neighbour.submit()]
            row = attacker.wait(deadly)
            killed = dispatcher.starts - 1
            assert (row.state, row.total) == ("failed", 0), row
            assert "out of memory" in row.reason
            assert attacker.wait(beside[0]).state == neighbour.wait(beside[1]).state == "succeeded"
            neighbour.assert_served()
            assert 2 <= killed <= 8, "it is tried a bounded number of times"
            assert dispatcher.starts - 1 == killed, "it is tried no more"
    finally:
        dispatcher.stop()
    end_open_jobs(stack)
