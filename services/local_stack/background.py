"""`darkroom worker` and `darkroom dispatcher` as background processes of the local stack."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from services.local_stack.state import ROOT_VARIABLE


def start_background(root: Path, name: str) -> int:
    """Start `darkroom NAME` as a process that outlives this one, unless it runs already. Returns its pid."""
    running = _find(root, name)
    if running is not None:
        return int(running.pid)
    log = _log(root, name)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", name],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, ROOT_VARIABLE: str(root)},
        )
    _note(root, name).write_text(json.dumps({"pid": process.pid, "created": psutil.Process(process.pid).create_time()}))
    process.returncode = 0  # it is meant to outlive this object
    return process.pid


def stop_background(root: Path) -> list[str]:
    """Stop what `start_background` started, workers first so that they can settle. Returns the names."""
    stopped = []
    for name in ("worker", "dispatcher"):
        process = _find(root, name)
        if process is not None:
            process.terminate()
            try:
                process.wait(60)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(10)
            stopped.append(name)
        _note(root, name).unlink(missing_ok=True)
    return stopped


def background_status(root: Path) -> list[tuple[str, int | None, Path]]:
    """Name, pid if it runs, and log of each process that was started."""
    rows: list[tuple[str, int | None, Path]] = []
    for name in ("dispatcher", "worker"):
        if _note(root, name).exists():
            process = _find(root, name)
            rows.append((name, process.pid if process else None, _log(root, name)))
    return rows


def _find(root: Path, name: str) -> psutil.Process | None:
    try:
        note = json.loads(_note(root, name).read_text())
        process = psutil.Process(note["pid"])
        # A pid is used again after its process; the moment of creation tells them apart.
        same = abs(process.create_time() - note["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        return process if same else None
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError, KeyError):
        return None


def _note(root: Path, name: str) -> Path:
    return root / "run" / f"{name}.json"


def _log(root: Path, name: str) -> Path:
    return root / "logs" / f"{name}.log"
