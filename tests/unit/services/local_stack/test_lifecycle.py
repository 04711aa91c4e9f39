"""What the local stack decides before it starts anything."""

import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.local_stack import accounts, lifecycle, part, processes
from services.local_stack import state as kept_state
from services.local_stack.processes import Stop


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def kept_root(tmp_path: Path) -> Path:
    kept_state.write(tmp_path, kept_state.create(kept_state.choose_ports({}, {}, ())))
    return tmp_path


def test_state_survives_writing_and_reading(tmp_path: Path) -> None:
    state = kept_state.create(kept_state.choose_ports({}, {}, ()))

    kept_state.write(tmp_path, state)

    assert kept_state.read(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


def test_state_file_is_readable_by_its_owner_only(kept_root: Path) -> None:
    assert stat.S_IMODE((kept_root / "stack.json").stat().st_mode) == 0o600


def test_no_state_where_nothing_was_started(tmp_path: Path) -> None:
    assert kept_state.read(tmp_path) is None
    assert lifecycle.status(tmp_path) == []
    assert lifecycle.stop(tmp_path) == []
    assert lifecycle.stop(tmp_path / "absent") == []


def test_each_stack_has_passwords_of_its_own_and_shows_none() -> None:
    ports = kept_state.choose_ports({}, {}, ())
    first, second = kept_state.create(ports), kept_state.create(ports)
    for name in ("postgres_password", "broker_password", "s3_secret_access_key"):
        assert getattr(first, name) != getattr(second, name)
        assert len(getattr(first, name)) >= 32
        assert getattr(first, name) not in repr(first)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("broker_password", ""),
        ("s3_bucket", None),
        ("postgres_port", "5432"),
        ("postgres_port", 70_000),
        ("s3_port", True),
        ("seaweed_ports", {}),
        ("surprise", 1),
    ],
)
def test_state_with_an_unusable_value_is_refused(kept_root: Path, field: str, value: object) -> None:
    path = kept_root / "stack.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))

    with pytest.raises(kept_state.StackError, match=r"stack\.json is damaged .*delete"):
        kept_state.read(kept_root)


def test_a_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with pytest.raises(kept_state.StackError, match=r"^DARKROOM_ROOT: .*/root is not a folder; give a folder for the"):
        kept_state.read(tmp_path / "root")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"postgres_port": 1}'])
def test_damaged_state_says_what_to_do_and_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stack.json"
    path.write_text(text)

    with pytest.raises(kept_state.StackError, match=r"Restore a good copy, or run `darkroom down`"):
        lifecycle.start(tmp_path)

    assert path.read_text() == text


def test_lost_state_beside_data_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)

    with pytest.raises(kept_state.StackError, match="is missing, and with it the passwords"):
        lifecycle.start(tmp_path)

    assert not (tmp_path / "stack.json").exists()


def test_new_ports_are_distinct_and_free() -> None:
    ports = kept_state.choose_ports({}, {}, ())

    assert set(ports) == {*kept_state.SERVICES, *kept_state.SEAWEED_PORTS}
    assert len(set(ports.values())) == len(ports)
    for port in ports.values():
        socket.create_server(("127.0.0.1", port)).close()


def test_kept_ports_are_kept_while_free() -> None:
    kept = kept_state.choose_ports({}, {}, ())

    assert kept_state.choose_ports(kept, {}, ()) == kept


@pytest.mark.parametrize("name", ["broker", "filer.port"])
def test_kept_port_taken_by_another_program_is_given_up(name: str, taken_port: int) -> None:
    kept = {**kept_state.choose_ports({}, {}, ()), name: taken_port}

    ports = kept_state.choose_ports(kept, {}, ())

    assert {changed for changed in ports if ports[changed] != kept[changed]} == {name}


def test_admin_port_of_seaweed_is_given_up_with_its_fixed_partner() -> None:
    kept = kept_state.choose_ports({}, {}, ())
    assert kept["admin.port.grpc"] == kept["admin.port"] + 10_000
    with socket.create_server(("127.0.0.1", kept["admin.port.grpc"])):
        ports = kept_state.choose_ports(kept, {}, ())
    partners = {"admin.port", "admin.port.grpc"}

    assert {changed for changed in ports if ports[changed] != kept[changed]} == partners
    assert ports["admin.port.grpc"] == ports["admin.port"] + 10_000


def test_ports_of_a_running_service_stay_although_they_are_taken(taken_port: int) -> None:
    kept = {**kept_state.choose_ports({}, {}, ()), "master.port": taken_port}

    assert kept_state.choose_ports(kept, {}, {"s3"}) == kept


def test_kept_port_gives_way_to_the_same_port_asked_for_another_service() -> None:
    kept = kept_state.choose_ports({}, {}, ())

    ports = kept_state.choose_ports(kept, {"broker": kept["postgres"]}, ())

    assert ports["broker"] == kept["postgres"]
    assert ports["postgres"] not in kept.values()


def test_asked_port_that_is_taken_is_an_error_naming_it(taken_port: int) -> None:
    with pytest.raises(kept_state.StackError, match=rf"s3: port {taken_port} .*another port"):
        kept_state.choose_ports({}, {"s3": taken_port}, ())


def test_asked_port_does_not_move_a_running_service() -> None:
    kept = kept_state.choose_ports({}, {}, ())
    elsewhere = kept_state.choose_ports({}, {}, ())["broker"]

    with pytest.raises(kept_state.StackError, match=f"already runs on port {kept['broker']}.*{elsewhere}"):
        kept_state.choose_ports(kept, {"broker": elsewhere}, {"broker"})
    assert kept_state.choose_ports(kept, {"broker": kept["broker"]}, {"broker"}) == kept


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"broker": 0}, "broker: port 0 cannot be used .*from 1 to 65535"),
        ({"broker": 65_536}, "from 1 to 65535"),
        ({"kafka": 9092}, "No service is called kafka.*postgres, broker, s3"),
        ({"broker": 21_500, "s3": 21_500}, "the same port"),
    ],
)
def test_senseless_ports_are_refused(asked: dict[str, int], message: str) -> None:
    with pytest.raises(kept_state.StackError, match=message):
        kept_state.choose_ports({}, asked, ())


@pytest.mark.parametrize("without_proc", [False, True])
def test_process_is_found_only_by_the_start_or_the_command_that_was_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_proc: bool
) -> None:
    if without_proc:  # as on macOS
        monkeypatch.setattr(processes, "_start_id", lambda pid: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "logs").mkdir()
    note = tmp_path / "run" / "broker.pid"
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    processes.launch(tmp_path, "broker", command, cwd=tmp_path, environment={})
    process, deadline = None, time.monotonic() + 5
    while process is None and time.monotonic() < deadline:  # for a moment after exec it has no command line
        process = processes.find(tmp_path, "broker")
    assert process is not None
    try:
        good = note.read_text()
        for other in (
            good.replace("sleep(60)", "sleep(61)") if without_proc else good.replace('"started": "', '"started": "x'),
            good[:10],
            "",
            "[]",
            "7",
            json.dumps({"pid": "x", "command": command}),
        ):
            note.write_text(other)
            assert processes.find(tmp_path, "broker") is None, other
        note.write_text(good)
        assert processes.find(tmp_path, "broker") == process
    finally:
        process.kill()
        process.wait(10)
    assert processes.find(tmp_path, "broker") is None


def test_a_process_that_nobody_reaps_has_ended(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    # A parent that reaps no child, as process 1 of a container without an init process.
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; exec sleep 60"], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        note = {"pid": pid, "started": processes._start_id(pid), "command": ["sleep", "60"]}
        (tmp_path / "run" / "broker.pid").write_text(json.dumps(note))
        assert processes.stop(tmp_path, [Stop("broker")]) == ["broker"]
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        (tmp_path / "run" / "broker.pid").write_text(json.dumps(note))
        assert processes.find(tmp_path, "broker") is None
    finally:
        parent.kill()
        parent.communicate()


def test_server_gets_nothing_from_the_shell_it_is_started_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("SOME_TOKEN", "secret-of-the-shell")

    environment = processes.clean_environment(tmp_path, {"GIVEN": "1"})
    processes.launch(tmp_path, "broker", ["/usr/bin/env"], cwd=tmp_path, environment=environment)
    os.waitpid(json.loads((tmp_path / "run" / "broker.pid").read_text())["pid"], 0)

    lines = processes.last_log_lines(tmp_path, "broker").splitlines()
    assert "GIVEN=1" in lines
    assert "secret-of-the-shell" not in "\n".join(lines)


def test_large_log_is_set_aside_and_the_end_of_a_log_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_LIMIT_BYTES", 10)
    (tmp_path / "logs").mkdir()
    path = processes.log_path(tmp_path, "s3")
    assert processes.last_log_lines(tmp_path, "s3") == ""
    path.write_text("".join(f"line {number}\n" for number in range(20)))
    assert processes.last_log_lines(tmp_path, "s3", count=2) == "line 18\nline 19"

    with processes.open_log(tmp_path, "s3") as log:
        log.write(b"new\n")

    assert path.read_text() == "new\n"
    assert path.with_suffix(".log.1").read_text().startswith("line 0\n")


def test_program_of_a_package_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(kept_state.StackError, match=r"weed is missing.*pip install seaweed-of-nowhere"):
        part.installed_program("seaweed-of-nowhere", "/weed")


def test_second_command_waits_for_the_first_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "LOCK_TIMEOUT_S", 0.3)
    messages: list[str] = []
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        with pytest.raises(kept_state.StackError, match=r"darkroom up.*busy in .*try again"):
            lifecycle.start(tmp_path, report=messages.append)

    assert messages == ["waiting for another `darkroom up` or `darkroom down` to finish"]


def test_folder_of_the_caller_keeps_its_own_gitignore(tmp_path: Path, taken_port: int) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")

    with pytest.raises(kept_state.StackError):
        lifecycle.start(tmp_path, ports={"s3": taken_port})

    assert (tmp_path / ".gitignore").read_text() == "mine\n"


def test_place_that_cannot_hold_a_stack_is_an_error_to_act_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(kept_state.StackError, match="choose another folder"):
        lifecycle.start(tmp_path / "file" / "stack")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another account")
def test_closed_folder_above_the_stack_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    open_below = closed / "open"
    open_below.mkdir(parents=True)
    for folder in (closed, *closed.parents):
        if folder.is_relative_to(tmp_path):
            folder.chmod(0o755)
    closed.chmod(0o700)
    account = accounts.account_for(tmp_path / "no data yet")
    assert account is not None
    shut = next(folder for folder in (*reversed(closed.parents), closed) if not folder.stat().st_mode & stat.S_IXOTH)

    with pytest.raises(kept_state.StackError, match=rf"cannot enter {shut} on the way.*chmod o\+x {shut}"):
        account.check_access(open_below)
    account.check_access(Path("/usr"))


def test_importing_the_module_opens_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); "
        "before = set(os.listdir('/dev/fd')); import services.local_stack; "
        "sys.exit(sorted(set(os.listdir('/dev/fd')) - before) != [])"
    )
    source = str(Path(lifecycle.__file__).parents[2])

    done = subprocess.run([sys.executable, "-c", code, source], cwd=tmp_path, check=False)

    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
