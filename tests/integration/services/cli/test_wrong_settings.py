"""A command, a worker or a dispatcher that cannot use what its variables name says so in one line."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore
import pytest
from sqlalchemy import text

from services.errors import CommandError
from services.local_stack.state import StackState, read
from services.process.celery_app import check_broker, make_app
from tests.support.commands import Darkroom
from tests.support.stack import Stack

PASSWORD = "a-secret-password"
WRONG: dict[str, tuple[str, Callable[[StackState], str]]] = {
    "login": ("DATABASE_URL", lambda s: f"postgresql://nobody:{PASSWORD}@127.0.0.1:{s.postgres_port}/darkroom"),
    "host": ("DATABASE_URL", lambda s: f"postgresql://me:{PASSWORD}@no-such-host.invalid/darkroom"),
    "port": ("DATABASE_URL", lambda s: f"postgresql://me:{PASSWORD}@127.0.0.1:1/darkroom"),
    "socket": ("DATABASE_URL", lambda s: f"postgresql://me:{PASSWORD}@/darkroom?host=/nowhere"),
    "database": ("DATABASE_URL", lambda s: s.postgres_url.replace("/darkroom", "/nothing")),
    "server": ("DATABASE_URL", lambda s: f"postgresql://me:{PASSWORD}@127.0.0.1:{s.s3_port}/darkroom"),
    "broker's password": ("BROKER_URL", lambda s: f"redis://:{PASSWORD}@127.0.0.1:{s.broker_port}/0"),
    "broker's host": ("BROKER_URL", lambda s: f"redis://:{PASSWORD}@no-such-host.invalid:6379/0"),
    "broker's server": ("BROKER_URL", lambda s: f"redis://:{PASSWORD}@127.0.0.1:{s.s3_port}/0"),
    "broker's database": ("BROKER_URL", lambda s: s.broker_url.replace("/0", "/99")),
    "bucket": ("S3_BUCKET", lambda s: "nothing"),
    "key": ("S3_SECRET_ACCESS_KEY", lambda s: PASSWORD),
    "store's port": ("S3_ENDPOINT_URL", lambda s: "http://127.0.0.1:1"),
    "store's server": ("S3_ENDPOINT_URL", lambda s: f"http://127.0.0.1:{s.broker_port}"),
    "store's scheme": ("S3_ENDPOINT_URL", lambda s: s.s3_endpoint_url.replace("http:", "https:")),
}


@pytest.fixture
def state(stack: Stack) -> StackState:
    state = read(stack.root)
    assert state is not None
    return state


def check_line(done: "subprocess.CompletedProcess[str]", variable: str) -> None:
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert "error: " in line
    assert f"DARKROOM_{variable}" in line
    assert PASSWORD not in line


@pytest.mark.parametrize("wrong", ["login", "broker's password", "bucket", "key", "store's port"])
@pytest.mark.parametrize("name", ["worker", "dispatcher"])
def test_a_process_that_cannot_start_names_the_variable(
    state: StackState, darkroom: Darkroom, name: str, wrong: str
) -> None:
    variable, value = WRONG[wrong]
    check_line(darkroom(name, **{f"DARKROOM_{variable}": value(state)}), variable)


def test_a_worker_that_can_write_no_release_names_the_variable(
    stack: Stack, darkroom_here: Darkroom, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    check_line(darkroom_here("worker", DARKROOM_CACHE_DIR=str(tmp_path / "file")), "CACHE_DIR")


@pytest.mark.parametrize("wrong", [name for name, (variable, _) in WRONG.items() if variable != "BROKER_URL"])
def test_a_command_that_cannot_reach_a_server_names_the_variable(
    state: StackState, darkroom_here: Darkroom, wrong: str
) -> None:
    variable, value = WRONG[wrong]
    done = darkroom_here("prune", "--dry-run", **{f"DARKROOM_{variable}": value(state)})
    check_line(done, variable)
    if wrong in ("login", "database"):  # the server answers
        assert "refuses the connection: " in done.stderr


@pytest.mark.parametrize("wrong", WRONG)
def test_check_names_the_variable(state: StackState, darkroom_here: Darkroom, wrong: str) -> None:
    variable, value = WRONG[wrong]
    done = darkroom_here("check", **{f"DARKROOM_{variable}": value(state)})
    assert done.returncode == 1
    part = {"DATABASE_URL": "Postgres", "BROKER_URL": "broker"}.get(variable, "S3")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(part)]
    assert "FAILED" in line
    assert f"DARKROOM_{variable}" in line
    assert PASSWORD not in done.stdout + done.stderr


def test_a_login_of_another_role_is_named(stack: Stack, darkroom_here: Darkroom) -> None:
    url = stack.settings("observer").database_url.get_secret_value()
    done = darkroom_here("jobs", "list", DARKROOM_DATABASE_URL=url)
    check_line(done, "DATABASE_URL")
    assert "permission denied for table jobs" in done.stderr


def test_what_is_permitted_is_shown_with_a_refusal_of_the_database(stack: Stack, darkroom_here: Darkroom) -> None:
    done = darkroom_here("jobs", "submit", "--model", "tiny", "--request", "{}", "--queue", "nowhere")
    assert done.returncode == 1
    assert 'queue: "nowhere" does not exist' in done.stderr
    assert "Permitted: default" in done.stderr


def test_a_quota_is_no_server_that_does_not_answer(stack: Stack, darkroom_here: Darkroom) -> None:
    with stack.engine("migrator").connect() as connection:
        before = connection.scalar(text("SELECT max_open_jobs FROM tenants WHERE name = 'default'"))
    assert darkroom_here("tenants", "set", "default", "--max-open-jobs", "0").returncode == 0
    try:
        done = darkroom_here("jobs", "submit", "--model", "tiny", "--request", "{}")
    finally:
        assert darkroom_here("tenants", "set", "default", "--max-open-jobs", str(before)).returncode == 0
    assert done.returncode == 1
    assert "more than its 0 open jobs. Submit again when some have ended." in done.stderr
    assert "does not answer" not in done.stderr


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """The port of a server with a certificate that nobody trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                    with context.wrap_socket(client, server_side=True) as wrapped:
                        while wrapped.recv(1000):
                            wrapped.sendall(b"+OK\r\n")
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("query", ["", "?ssl_ca_certs={others}"])
def test_the_certificate_of_a_broker_is_checked(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tls_port: int, query: str
) -> None:
    query = query.format(others=Path(botocore.__file__).parent / "cacert.pem")
    monkeypatch.setenv("DARKROOM_BROKER_URL", f"rediss://:{PASSWORD}@127.0.0.1:{tls_port}/0{query}")
    with pytest.raises(CommandError, match="certificate verify failed"):
        check_broker(make_app(stack.settings("dispatcher")))
