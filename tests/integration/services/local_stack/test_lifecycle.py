"""The local stack with its real servers."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import ClientError

from services.local_stack import accounts, lifecycle, processes, valkey
from services.local_stack.state import StackError, StackState, read

NAMES = ["postgres", "broker", "s3"]


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    # Not pytest's own folder: it is closed to the account that Postgres runs as under root.
    folder = Path(tempfile.mkdtemp(prefix="stack-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared_root(open_folder: Path) -> Iterator[Path]:
    root = open_folder / "shared stack"
    yield root
    lifecycle.stop(root)


@pytest.fixture
def root(shared_root: Path) -> Path:
    """A stack that runs, whatever the test before did to it."""
    lifecycle.start(shared_root)
    return shared_root


@pytest.fixture
def state(root: Path) -> StackState:
    state = read(root)
    assert state is not None
    return state


@pytest.fixture
def fresh_root(open_folder: Path) -> Iterator[Path]:
    root = open_folder / "fresh"
    yield root
    lifecycle.stop(root)


def pids(root: Path) -> dict[str, int | None]:
    return {service.name: service.pid for service in lifecycle.status(root)}


def runs(pid: int) -> bool:
    """Whether a process has not ended. Process 1 may not have reaped one that has."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(pid: int | None) -> None:
    process = psutil.Process(pid)
    process.kill()
    process.wait(10)


def database(state: StackState, **changes: Any) -> psycopg.Connection[Any]:
    url = state.postgres_url.replace("+psycopg", "")
    return psycopg.connect(url, connect_timeout=5, autocommit=True, **changes)


def objects(state: StackState, secret: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=state.s3_endpoint_url,
        aws_access_key_id=state.s3_access_key_id,
        aws_secret_access_key=secret or state.s3_secret_access_key,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, proxies={}),
    )


def put_data(state: StackState, body: bytes) -> None:
    with database(state) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (body bytea)")
        connection.execute("TRUNCATE kept")
        connection.execute("INSERT INTO kept VALUES (%s)", [body])
    objects(state).put_object(Bucket=state.s3_bucket, Key="kept", Body=body)


def get_data(state: StackState) -> tuple[bytes, bytes]:
    with database(state) as connection:
        row = connection.execute("SELECT body FROM kept").fetchone()
    assert row is not None
    return row[0], objects(state).get_object(Bucket=state.s3_bucket, Key="kept")["Body"].read()


def test_every_part_answers_at_its_url(root: Path, state: StackState) -> None:
    with database(state) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("darkroom",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.info.server_version >= 180_000
    with redis.Redis.from_url(state.broker_url) as broker:
        assert broker.ping()
    item = {"Bucket": state.s3_bucket, "Key": "once"}
    objects(state).put_object(**item, Body=b"first", IfNoneMatch="*", ChecksumAlgorithm="SHA256")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        objects(state).put_object(**item, Body=b"second", IfNoneMatch="*")
    assert objects(state).get_object(**item)["Body"].read() == b"first"
    objects(state).delete_object(**item)
    listing = objects(state).list_objects_v2(Bucket=state.s3_bucket, Prefix=".darkroom")
    assert listing["KeyCount"] == 0, "the check at start left an object behind"
    assert [(service.name, service.running) for service in lifecycle.status(root)] == [(name, True) for name in NAMES]


def test_no_part_opens_without_its_password(state: StackState) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        database(state, password="wrong")
    with (
        pytest.raises(redis.AuthenticationError),
        redis.Redis(host="127.0.0.1", port=state.broker_port) as broker,
    ):
        broker.ping()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        objects(state, secret="wrong").list_objects_v2(Bucket=state.s3_bucket)
    # The servers behind the S3 gateway hold the same objects.
    objects(state).put_object(Bucket=state.s3_bucket, Key="private", Body=b"private")
    address = f"http://127.0.0.1:{state.seaweed_ports['filer.port']}/buckets/{state.s3_bucket}/private"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for method in ("GET", "PUT", "DELETE"):
        data = b"other" if method == "PUT" else None
        with pytest.raises(urllib.error.HTTPError, match="401"):
            opener.open(urllib.request.Request(address, data=data, method=method), timeout=5)


def test_second_start_leaves_running_parts_alone(root: Path, state: StackState) -> None:
    before = pids(root)
    messages: list[str] = []

    began = time.monotonic()
    again = lifecycle.start(root, report=messages.append)

    assert time.monotonic() - began < 30, "it waits for nothing"
    assert again == state
    assert pids(root) == before
    assert None not in before.values()
    assert messages == [f"{name}: already runs on port {state.ports[name]}" for name in NAMES]


def test_listens_on_its_own_loopback_ports_and_nowhere_else(root: Path, state: StackState) -> None:
    listening = set()
    for pid in pids(root).values():
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            for connection in member.net_connections("inet"):
                if connection.type == socket.SOCK_DGRAM or connection.status == psutil.CONN_LISTEN:
                    listening.add((connection.laddr.ip, connection.laddr.port))

    assert listening == {("127.0.0.1", port) for port in state.ports.values()}


def test_passwords_show_in_no_command_line_log_or_open_file(root: Path, state: StackState) -> None:
    secrets = [state.postgres_password, state.broker_password, state.s3_secret_access_key]
    seen = [
        " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"]
    ]
    assert any(str(root) in line for line in seen), "the processes of the stack were not looked at"
    seen += [path.read_text() for path in (*(root / "logs").iterdir(), *(root / "run").iterdir())]
    assert not [text for text in seen if any(secret in text for secret in secrets)]

    assert stat.S_IMODE((root / "stack.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "broker" / "valkey.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE(root.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    for name in ("run", "logs", *NAMES):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o700
    assert {path.name for path in (root / "postgres").iterdir()} == {"data"}
    assert (root / ".gitignore").read_text() == "*\n"


def is_reached_as_before(started: StackState, state: StackState) -> bool:
    """Ports among SeaweedFS's own parts may be taken by others meanwhile; the ports of clients stay."""
    return replace(started, seaweed_ports=state.seaweed_ports) == state


def test_data_and_urls_survive_stop_and_start(root: Path, state: StackState) -> None:
    body = os.urandom(1000)
    put_data(state, body)
    before = pids(root)

    with database(state):  # A client that stays connected must not hold up the stop.
        assert lifecycle.stop(root) == NAMES
    assert [service.running for service in lifecycle.status(root)] == [False] * 3
    assert not any(runs(pid) for pid in before.values() if pid)
    assert "database system is shut down" in processes.last_log_lines(root, "postgres")
    assert lifecycle.stop(root) == []

    assert is_reached_as_before(lifecycle.start(root), state)
    assert get_data(state) == (body, body)
    assert not set(pids(root).values()) & set(before.values())


def test_acknowledged_data_survives_the_death_of_every_part(root: Path, state: StackState) -> None:
    # Larger than one SeaweedFS chunk and than what a single write call takes.
    body = os.urandom(9_000_000)
    put_data(state, body)
    for pid in pids(root).values():
        kill(pid)
    assert [service.running for service in lifecycle.status(root)] == [False] * 3

    assert is_reached_as_before(lifecycle.start(root), state)

    assert get_data(state) == (body, body)


def test_pid_that_went_to_another_program_is_never_signalled(root: Path, state: StackState) -> None:
    owner = accounts.account_for(root / "postgres" / "data")
    # Under the account of Postgres, which would otherwise take this pid for a running server.
    bystander = subprocess.Popen(["sleep", "60"], **(owner.popen_options if owner else {}))
    try:
        for name, pid in pids(root).items():
            kill(pid)
            note = root / "run" / f"{name}.pid"
            note.write_text(note.read_text().replace(f'"pid": {pid}', f'"pid": {bystander.pid}'))
            assert str(bystander.pid) in note.read_text()
        lock = root / "postgres" / "data" / "postmaster.pid"
        lines = lock.read_text().splitlines(keepends=True)
        lock.write_text("".join([f"{bystander.pid}\n", *lines[1:]]))

        assert [service.pid for service in lifecycle.status(root)] == [None] * 3
        assert lifecycle.stop(root) == []
        assert bystander.poll() is None
        lifecycle.start(root)
        assert lifecycle.stop(root) == NAMES
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(10)


def test_only_what_is_missing_is_started(root: Path, state: StackState) -> None:
    before = pids(root)
    kill(before["broker"])

    lifecycle.start(root)

    after = pids(root)
    assert after["broker"] not in (None, before["broker"])
    assert {**after, "broker": before["broker"]} == before


def test_kept_port_taken_meanwhile_is_replaced(root: Path, state: StackState) -> None:
    kill(pids(root)["broker"])
    messages: list[str] = []
    with socket.create_server(("127.0.0.1", state.broker_port)):
        moved = lifecycle.start(root, report=messages.append)

    assert moved.broker_port != state.broker_port
    assert f"broker: moves from port {state.broker_port} to {moved.broker_port}" in messages
    assert read(root) == moved
    with redis.Redis.from_url(moved.broker_url) as broker:
        assert broker.ping()


def test_asked_port_that_is_taken_is_an_error_and_changes_nothing(root: Path, state: StackState) -> None:
    kill(pids(root)["broker"])
    before = pids(root)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StackError, match=rf"broker: port {port} .*another port"):
            lifecycle.start(root, ports={"broker": port})

    assert read(root) == state
    assert pids(root) == before


def test_asked_port_is_used_and_kept(root: Path, state: StackState) -> None:
    kill(pids(root)["broker"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    lifecycle.start(root, ports={"broker": port})
    kill(pids(root)["broker"])

    assert lifecycle.start(root).broker_port == port


def test_part_that_hangs_does_not_count_as_running(
    root: Path, state: StackState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "PROBE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(lifecycle, "START_TIMEOUT_S", 1)
    monkeypatch.setattr(valkey.Broker, "stop_timeout_s", 1)
    process = psutil.Process(pids(root)["broker"])
    process.send_signal(signal.SIGSTOP)
    broker = lifecycle.status(root)[1]
    assert (broker.running, broker.pid) == (False, process.pid)

    with pytest.raises(StackError, match=r"broker: does not answer .*Run `darkroom down`"):
        lifecycle.start(root)
    assert "broker" in lifecycle.stop(root)

    assert not process.is_running()


def test_part_that_cannot_start_shows_its_log(
    root: Path, state: StackState, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho no room in the darkroom\nexit 1\n")
    broken.chmod(0o755)
    kill(pids(root)["broker"])
    monkeypatch.setattr(valkey, "installed_program", lambda *_: broken)
    monkeypatch.setattr(lifecycle, "LAUNCH_ATTEMPTS", 2)

    with pytest.raises(StackError, match=r"broker: exited as soon as it was started") as caught:
        lifecycle.start(root)

    assert str(root / "logs" / "broker.log") in str(caught.value)
    assert str(caught.value).endswith("no room in the darkroom")


def test_first_start_cut_short_is_made_good_by_two_starts_at_once(fresh_root: Path) -> None:
    code = "import pathlib, sys; from services.local_stack.lifecycle import start; start(pathlib.Path(sys.argv[1]))"
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(fresh_root)],
        cwd=Path(lifecycle.__file__).parents[2],
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not list(fresh_root.glob("postgres/new-*/data/base")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(10)
    cut_short = read(fresh_root)
    assert list(fresh_root.glob("postgres/new-*")), "it was not cut short while it created the database"
    assert not (fresh_root / "postgres" / "data").exists()
    messages: list[str] = []

    with ThreadPoolExecutor() as pool:
        states = list(pool.map(lambda _: lifecycle.start(fresh_root, report=messages.append), range(2)))

    assert states == [cut_short, cut_short]
    for name in NAMES:
        assert sum(message.startswith(f"{name}: starting") for message in messages) == 1
        assert sum(message.startswith(f"{name}: already runs") for message in messages) == 1
    assert [path.name for path in (fresh_root / "postgres").iterdir()] == ["data"]
    with database(states[0]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
