"""The system account of a server that refuses to run as root."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.local_stack.state import StackError


@dataclass(frozen=True)
class Account:
    """A system account."""

    name: str
    uid: int
    gid: int

    @property
    def popen_options(self) -> dict[str, Any]:
        """Return the options with which subprocess runs a program as this account, without the groups of root."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def check_access(self, path: Path) -> None:
        """Raise StackError unless this account can enter `path`. The message names the folder that it cannot enter."""
        if self._can_enter(path):
            return
        closed = next(step for step in (*reversed(path.parents), path) if not self._can_enter(step))
        raise StackError(
            f"Postgres does not run as root, so it runs as the account {self.name!r}, which cannot enter "
            f"{closed} on the way to {path}. Run as an ordinary user, use a folder that others may enter, "
            f"or open it with: chmod o+x {closed}"
        )

    def _can_enter(self, path: Path) -> bool:
        # The system is asked, because access lists count as well as mode bits.
        test = ["/bin/sh", "-c", 'test -x "$0"', str(path)]
        return subprocess.run(test, cwd="/", check=False, **self.popen_options).returncode == 0


def account_for(data: Path) -> Account | None:
    """Return the account to run a server as that refuses root, or None if this process does not run as root.

    The owner of existing data comes first, so that a new account on the machine changes nothing.
    """
    if os.geteuid() != 0:
        return None
    if data.exists():
        return _account(pwd.getpwuid(data.stat().st_uid))
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
