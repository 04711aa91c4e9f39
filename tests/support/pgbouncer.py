"""PgBouncer in front of a stack's Postgres, which gives each transaction whichever connection is free."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy import URL

from services.local_stack.logins import Role
from tests.support.http import free_port
from tests.support.stack import Stack

CONFIG = """
[databases]
* = host=127.0.0.1 port={server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
logfile = {folder}/log
pool_mode = {mode}
default_pool_size = 10
max_client_conn = 200
"""


@contextmanager
def pooler(stack: Stack, mode: str = "transaction") -> Iterator[int]:
    """Run PgBouncer with every login of the stack, and yield its port. Skips the test if it is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    urls = [stack.engine(role).url for role in get_args(Role)]
    folder, port = Path(tempfile.mkdtemp(prefix="pgbouncer-")), free_port()
    (folder / "users").write_text("".join(f'"{url.username}" "{url.password}"\n' for url in urls))
    (folder / "config").write_text(CONFIG.format(server=urls[0].port, port=port, folder=folder, mode=mode))
    account = {"user": pwd.getpwnam("nobody").pw_uid} if os.geteuid() == 0 else {}
    if account:  # it refuses to run as root
        for path in (folder, *folder.iterdir()):
            os.chown(path, account["user"], -1)
    child = subprocess.Popen([program, "-q", str(folder / "config")], stderr=subprocess.DEVNULL, **account)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 20
        while not _accepts(port):
            assert child.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        child.kill()
        child.wait()
        shutil.rmtree(folder)


def through(port: int, url: URL) -> str:
    """Return a URL of the stack with the port of the pooler."""
    return url.set(port=port).render_as_string(hide_password=False)


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
