"""Background processes are found and stopped whatever happens to the clock, and nothing else is."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.local_stack import background


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a stack, in which `darkroom NAME` sleeps, under a process title of its own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "logs").mkdir()
    program = tmp_path / "sleeper"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    yield tmp_path
    background.stop_background(tmp_path)


def step_the_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the system clock, as NTP does after a suspend: the time of boot in /proc/stat moves, and all that follows."""
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + seconds)


@pytest.mark.parametrize("seconds", [-3600, -3, 3, 3600])
def test_a_process_is_found_and_stopped_after_the_clock_was_set(
    root: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    pid = background.start_background(root, "worker")
    step_the_clock(monkeypatch, seconds)
    assert [(name, found) for name, found, _ in background.background_status(root)] == [("worker", pid)]
    assert background.start_background(root, "worker") == pid, "it runs already"
    assert background.stop_background(root) == ["worker"]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert background.background_status(root) == []


def test_workers_are_stopped_before_the_dispatcher(root: Path) -> None:
    background.start_background(root, "dispatcher")
    background.start_background(root, "worker")
    assert background.stop_background(root) == ["worker", "dispatcher"]
    assert background.stop_background(root) == []


def test_a_reused_pid_is_not_signalled(root: Path) -> None:
    background.start_background(root, "worker")
    (note,) = (root / "run").glob("worker*")
    first = json.loads(note.read_text())
    assert background.stop_background(root) == ["worker"]
    time.sleep(0.05)  # the next process starts at another tick
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        note.write_text(json.dumps({**first, "pid": bystander.pid}))
        assert [found for _, found, _ in background.background_status(root)] == [None]
        assert background.stop_background(root) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(10)


def test_a_process_is_killed_although_the_clock_was_set_while_it_was_stopping(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "sleeper").write_text("#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
    monkeypatch.setattr(background, "STOP_TIMEOUT_S", 1.0)
    pid = background.start_background(root, "worker")
    deadline = time.monotonic() + 10
    while "ready" not in (root / "logs" / "worker.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    boot_time = psutil._pslinux.boot_time
    stepped = threading.Timer(0.3, lambda: monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time() + 3))
    stepped.start()
    assert background.stop_background(root) == ["worker"]
    stepped.join()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
