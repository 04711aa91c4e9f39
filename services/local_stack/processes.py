"""Processes of the local stack, which outlive the command that starts them: start, find, stop and forget them."""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import IO

import psutil

from services.local_stack.accounts import Account

LOG_LIMIT_BYTES = 10_000_000
KILL_TIMEOUT_S = 10.0
POLL_S = 0.1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Stop:
    """How to stop a process: the signal, and after how many seconds to kill it."""

    name: str
    signal: Signals = SIGTERM
    timeout_s: float = 30.0


def launch(
    root: Path,
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path | None = None,
    account: Account | None = None,
) -> int:
    """Start `command` in a session of its own, note it in `root/run`, and return its pid. It logs to `root/logs`."""
    with open_log(root, name) as log:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **(account.popen_options if account else {}),
        )
    note = {"pid": process.pid, "started": _start_id(process.pid), "command": list(command)}
    _note_path(root, name).write_text(json.dumps(note))
    process.returncode = 0  # otherwise Popen warns that the process outlives this object
    return process.pid


def clean_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that passes no setting or secret of the user's shell to a server."""
    return {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(home), **extra}


def find(root: Path, name: str) -> psutil.Process | None:
    """Return the running process that was noted for `name`, or None if it has ended.

    A pid is reused after its process has ended. The boot and the tick at which a process started tell processes with
    the same pid apart. Unlike psutil's time of creation, they do not change when the system clock is set. Where the
    system has no /proc, the command line must be the noted one.
    """
    try:
        note = json.loads(_note_path(root, name).read_text())
        process = psutil.Process(note["pid"])
        if note.get("started") is not None:
            return process if _start_id(process.pid) == note["started"] else None
        return process if process.cmdline() == note["command"] else None
    except (FileNotFoundError, psutil.Error):
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # a crash cut the note short while it was written


def stop(root: Path, stops: Sequence[Stop]) -> list[str]:
    """Signal every process that runs, wait until all have ended, and return their names.

    A process that has not ended after its timeout is killed. The notes about all of them are deleted.
    """
    stopping = []
    for one in stops:
        if process := find(root, one.name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(one.signal)
            stopping.append((one, process))
    began = time.monotonic()
    for one, process in stopping:
        if not _wait(process, began + one.timeout_s - time.monotonic()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
            _wait(process, KILL_TIMEOUT_S)
    for one in stops:
        _note_path(root, one.name).unlink(missing_ok=True)
    return [one.name for one, _ in stopping]


def _wait(process: psutil.Process, timeout_s: float) -> bool:
    """Return whether a process ends within so many seconds.

    A zombie has ended. It stays where process 1 reaps no other's children, as in containers without an init process.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(psutil.TimeoutExpired):
            process.wait(POLL_S)
            return True
        if _is_zombie(process):
            return True
        if time.monotonic() >= deadline:
            return False


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def was_started(root: Path, name: str) -> bool:
    """Return whether a process is noted for `name`, running or not."""
    return _note_path(root, name).exists()


def log_path(root: Path, name: str) -> Path:
    """Return the file to which `name` logs."""
    return root / "logs" / f"{name}.log"


def open_log(root: Path, name: str) -> IO[bytes]:
    """Open the log of `name` to append to it. A large log is renamed first."""
    path = log_path(root, name)
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def last_log_lines(root: Path, name: str, count: int = 10) -> str:
    """Return the last lines of the log of `name`."""
    try:
        lines = log_path(root, name).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-count:])


def _start_id(pid: int) -> str | None:
    """Return the boot and the clock tick since boot at which a process started; None if it has ended, or without /proc.

    See proc_pid_stat(5): the state is field 3 and the start time field 22. Field 2, in brackets, may contain spaces.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{BOOT_ID.read_text().strip()}/{fields[19]}"
    except (OSError, IndexError):
        return None


def _note_path(root: Path, name: str) -> Path:
    return root / "run" / f"{name}.pid"
