"""Start and stop the local stack, and report its status."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.local_stack import processes
from services.local_stack import state as stack_state
from services.local_stack.part import Part
from services.local_stack.postgres import Postgres
from services.local_stack.seaweedfs import ObjectStore
from services.local_stack.state import StackError, StackState, read
from services.local_stack.valkey import Broker

__all__ = ["ServiceStatus", "StackError", "StackState", "read", "start", "status", "stop"]

START_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 120.0
# The child processes of a killed Postgres keep its shared memory for a moment, during which it cannot start.
LAUNCH_ATTEMPTS = 3


@dataclass(frozen=True)
class ServiceStatus:
    """The status of one part. It is running if it was started here and accepts our credentials."""

    name: str
    running: bool
    pid: int | None
    port: int
    log: Path


def all_parts(root: Path) -> tuple[Part, ...]:
    """Return the parts in the order in which they are shown."""
    return (Postgres(root), Broker(root), ObjectStore(root))


def _silent(message: str) -> None:
    pass


def start(root: Path, *, ports: Mapping[str, int] | None = None, report: Callable[[str], None] = _silent) -> StackState:
    """Start every part that does not run yet, and return when all of them work.

    `ports` requests ports for `postgres`, `broker` or `s3`. Other parts keep the port of their last start if it is
    free. Raises StackError if the user has to do something.
    """
    root = root.resolve()
    try:
        _prepare(root)
        with _lock(root, report):
            return _start(root, ports or {}, report)
    except (OSError, psutil.AccessDenied) as error:
        raise StackError(
            f"The stack in {root} cannot be started ({error}). Check that this folder belongs to you and "
            "that its disk has space, or choose another folder."
        ) from error


def stop(root: Path) -> list[str]:
    """Stop the parts that run, without loss of data, and return their names."""
    root = root.resolve()
    if not root.is_dir():
        return []
    try:
        with _lock(root, _silent):
            return processes.stop(root, [part.stop for part in all_parts(root)])
    except (OSError, psutil.AccessDenied) as error:
        raise StackError(f"The stack in {root} cannot be stopped ({error}). Run as the user who started it.") from error


def status(root: Path) -> list[ServiceStatus]:
    """Return the status of every part; empty if the stack was never started in `root`."""
    root = root.resolve()
    state = read(root)
    if state is None:
        return []
    return [_status_of(part, state) for part in all_parts(root)]


def _status_of(part: Part, state: StackState) -> ServiceStatus:
    process = processes.find(part.root, part.name)
    return ServiceStatus(
        name=part.name,
        running=process is not None and _failure(part.probe, state) is None,
        pid=process.pid if process else None,
        port=state.ports[part.name],
        log=processes.log_path(part.root, part.name),
    )


def _start(root: Path, requested: Mapping[str, int], report: Callable[[str], None]) -> StackState:
    parts = all_parts(root)
    running = {part.name for part in parts if processes.find(root, part.name)}
    state = _state_to_start(root, requested, running, report)
    for part in parts:
        if part.name not in running:
            report(f"{part.name}: starting on port {state.ports[part.name]}")
            part.launch(state)
    for part in parts:
        if part.name in running and _failure(part.probe, state) is None:
            report(f"{part.name}: already runs on port {state.ports[part.name]}")
            continue
        _wait_for(part, state)
        report(f"{part.name}: ready")
    return state


def _state_to_start(
    root: Path, requested: Mapping[str, int], running: set[str], report: Callable[[str], None]
) -> StackState:
    state = read(root)
    if state is None:
        if running or (root / "postgres" / "data").exists():
            raise StackError(
                f"{root / 'stack.json'} is missing, and with it the passwords of the data in {root}. "
                f"Restore that file, or run `darkroom down` and delete {root} to start again without that data."
            )
        state = stack_state.create(stack_state.choose_ports({}, requested, running))
        stack_state.write(root, state)
        return state
    ports = stack_state.choose_ports(state.ports, requested, running)
    for part in all_parts(root):
        if ports[part.name] != state.ports[part.name]:
            report(f"{part.name}: moves from port {state.ports[part.name]} to {ports[part.name]}")
    if ports != state.ports:
        state = state.with_ports(ports)
        stack_state.write(root, state)
    return state


def _wait_for(part: Part, state: StackState) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    attempts = 1
    while (failure := _failure(part.settle, state)) is not None:
        alive = processes.find(part.root, part.name) is not None
        if time.monotonic() > deadline or (not alive and attempts == LAUNCH_ATTEMPTS):
            what = f"does not answer ({failure})" if alive else "exited as soon as it was started"
            raise StackError(
                f"{part.name}: {what}. Run `darkroom down`, then `darkroom up` again. "
                f"The end of {processes.log_path(part.root, part.name)}:\n"
                f"{processes.last_log_lines(part.root, part.name)}"
            )
        if alive:
            time.sleep(0.1)
        else:
            time.sleep(1)
            attempts += 1
            part.launch(state)


def _failure(check: Callable[[StackState], None], state: StackState) -> Exception | None:
    try:
        check(state)
    except StackError:
        raise
    except Exception as error:  # each client library has its own errors; all of them mean "not yet"
        return error
    return None


def _prepare(root: Path) -> None:
    if not root.exists():
        root.mkdir(mode=0o700, parents=True)
    if os.geteuid() == 0:
        # Postgres runs as another account then, and must be able to reach its own folder.
        root.chmod(root.stat().st_mode & 0o7777 | 0o011)
    for name in ("run", "logs"):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError), (root / ".gitignore").open("x") as file:
        file.write("*\n")


@contextmanager
def _lock(root: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the stack. The system releases it even if this process is killed."""
    with (root / "lock").open("w") as file:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StackError(
                        f"Another `darkroom up` or `darkroom down` has been busy in {root} for "
                        f"{LOCK_TIMEOUT_S:.0f} s. Wait for it or stop it, then try again."
                    ) from None
                if not waiting:
                    report("waiting for another `darkroom up` or `darkroom down` to finish")
                    waiting = True
                time.sleep(0.1)
        yield
