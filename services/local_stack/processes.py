"""Processes that outlive the command which started them."""

import json
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from services.local_stack.state import StackError

LOG_LIMIT_BYTES = 10_000_000


@dataclass(frozen=True)
class Account:
    """The system account a process runs as when it must not run as root."""

    name: str
    uid: int
    gid: int

    @property
    def popen_options(self) -> dict[str, Any]:
        """How subprocess is told to run as this account, without any group of root's."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def check_access(self, path: Path) -> None:
        """Raise StackError, naming the folder in the way, unless this account can reach ``path``."""
        if self._reaches(path):
            return
        closed = next(step for step in (*reversed(path.parents), path) if not self._reaches(step))
        raise StackError(
            f"Postgres does not run as root, so it runs as the account {self.name!r}, which cannot enter "
            f"{closed} on the way to {path}. Run as an ordinary user, use a place that others may enter, "
            f"or open it with: chmod o+x {closed}"
        )

    def _reaches(self, path: Path) -> bool:
        # Asked of the system and not worked out from mode bits: access lists count too.
        test = ["/bin/sh", "-c", 'test -x "$0"', str(path)]
        return subprocess.run(test, cwd="/", check=False, **self.popen_options).returncode == 0


def account_for(owner_of: Path) -> Account | None:
    """The account for a server that refuses root: None unless we are root.

    The owner of existing data goes first, so that a new account on the machine changes nothing.
    """
    if os.geteuid() != 0:
        return None
    if owner_of.exists():
        return _account(pwd.getpwuid(owner_of.stat().st_uid))
    for name in ("postgres", "nobody"):
        try:
            return _account(pwd.getpwnam(name))
        except KeyError:
            continue
    raise StackError(
        "Postgres does not run as root, and this system has neither an account `postgres` nor `nobody` "
        "to run it as. Run as an ordinary user."
    )


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def installed_program(distribution: str, ending: str) -> Path:
    """The program that a Python package brought along, found without importing the package."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(ending):
            return Path(str(file.locate())).resolve()
    raise StackError(f"{ending.rpartition('/')[2]} is missing. Install it with: pip install {distribution}")


def launch(
    root: Path,
    name: str,
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    account: Account | None = None,
) -> None:
    """Start ``command`` in a session of its own and note its pid; it writes to ``root/logs``."""
    with open_log(root, name) as log:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=clean_environment(cwd, environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **(account.popen_options if account else {}),
        )
    _pid_file(root, name).write_text(json.dumps({"pid": process.pid, "command": list(command)}))
    # The process is meant to outlive this object, which would otherwise warn about just that.
    process.returncode = 0


def clean_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """An environment in which no setting or secret of the person's shell reaches a server."""
    return {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(home), **extra}


def find(root: Path, name: str) -> psutil.Process | None:
    """The running process noted for ``name``, if it is still the one that was started.

    Pids are used again, so a pid counts only while its command line, which names a folder under
    ``root``, is the noted one. Times of creation would not do: they shift with the system clock.
    """
    try:
        note = json.loads(_pid_file(root, name).read_text())
        process = psutil.Process(note["pid"])
        return process if process.cmdline() == note["command"] else None
    except (FileNotFoundError, psutil.Error):
        return None
    except (ValueError, TypeError, KeyError):
        # Cut short by a crash while it was written.
        return None


def forget(root: Path, name: str) -> None:
    """Drop the note about a process that has ended."""
    _pid_file(root, name).unlink(missing_ok=True)


def log_path(root: Path, name: str) -> Path:
    """Where the output of ``name`` goes."""
    return root / "logs" / f"{name}.log"


def open_log(root: Path, name: str) -> Any:
    """The log of ``name``, to append to; a large one is set aside first."""
    path = log_path(root, name)
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def last_log_lines(root: Path, name: str, count: int = 10) -> str:
    """The end of the log of ``name``."""
    try:
        lines = log_path(root, name).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-count:])


def _pid_file(root: Path, name: str) -> Path:
    return root / "run" / f"{name}.pid"
