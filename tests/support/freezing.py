"""Processes that freeze, as one does whose node is suspended or loses its network."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.stack import Process


def freeze_in(
    module: str, function: str, *, before: bool = False, call: int = 1, number: signal.Signals = signal.SIGSTOP
) -> str:
    """Return Python code for the start of a process that freezes it before or after a call of a function.

    function: a name in the module, or Class.method. call: which call, from 1. number: SIGKILL ends it there instead.
    """
    *owner, name = function.split(".")
    target = ".".join(["module", *owner])
    return f"""
import importlib, itertools, os, signal
module = importlib.import_module({module!r})
original, calls = getattr({target}, {name!r}), itertools.count(1)
def freezing(*arguments, **options):
    nth = next(calls)  # several threads may be in the function
    if {before} and nth == {call}:
        os.kill(os.getpid(), {number:d})
    result = original(*arguments, **options)
    if not {before} and nth == {call}:
        os.kill(os.getpid(), {number:d})
    return result
setattr({target}, {name!r}, freezing)
"""


def is_frozen(process: Process) -> bool:
    """Return whether the process is stopped by a signal."""
    with open(f"/proc/{process.child.pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "T"


def wait_until_frozen(process: Process, timeout: float = 120) -> None:
    """Wait until the process has frozen itself."""
    deadline = time.monotonic() + timeout
    while not is_frozen(process):
        assert process.child.poll() is None, f"it ended: {process.log.read_text()}"
        assert time.monotonic() < deadline, f"it did not freeze: {process.log.read_text()[-2000:]}"
        time.sleep(0.05)


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """Freeze a process until the context ends."""
    process.child.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        thaw(process)


def thaw(process: Process) -> None:
    """Let a frozen process go on. Without this it could not be stopped by SIGTERM."""
    process.child.send_signal(signal.SIGCONT)
