"""`darkroom worker` and `darkroom dispatcher` as background processes of the local stack."""

import os
import sys
from pathlib import Path

from services.local_stack import processes
from services.local_stack.processes import Stop
from services.local_stack.state import ROOT_VARIABLE

STOP_TIMEOUT_S = 60.0


def start_background(root: Path, name: str) -> int:
    """Start `darkroom NAME` unless it runs already, and return its pid. The process outlives this one."""
    running = processes.find(root, name)
    if running is not None:
        return int(running.pid)
    command = [sys.executable, "-m", "services.cli", name]
    return processes.launch(root, name, command, environment={**os.environ, ROOT_VARIABLE: str(root)})


def stop_background(root: Path) -> list[str]:
    """Stop what `start_background` has started, workers first so that they can settle. Return the names."""
    stopped: list[str] = []
    for name in ("worker", "dispatcher"):
        stopped += processes.stop(root, [Stop(name, timeout_s=STOP_TIMEOUT_S)])
    return stopped


def background_status(root: Path) -> list[tuple[str, int | None, Path]]:
    """Return the name, the pid if it runs, and the log of each process that was started."""
    rows: list[tuple[str, int | None, Path]] = []
    for name in ("dispatcher", "worker"):
        if processes.was_started(root, name):
            process = processes.find(root, name)
            rows.append((name, process.pid if process else None, processes.log_path(root, name)))
    return rows
