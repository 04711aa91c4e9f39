"""A running local stack with the logins of every role, and `darkroom` processes that use it."""

import atexit
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text

from services.job_queue.states import TERMINAL
from services.local_stack.logins import Role
from services.settings import Settings
from tests.support.processes import Child, launch
from tests.support.releases import make_tiny_release

if TYPE_CHECKING:
    from services.storage.object_store import ObjectStore


def start_stack(root: Path) -> "Stack":
    """Run `darkroom up` and publish the tiny release.

    One stack starts at a time, because two that choose free ports at once may choose the same ones.
    """
    with Path(tempfile.gettempdir(), "darkroom-tests.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        copy_database(root)
        up(root)
    running = Stack(root)
    publish_tiny(running)
    return running


def up(root: Path) -> None:
    from services.cli import stack

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DARKROOM_ROOT", str(root))
        stack.start()


def copy_database(root: Path) -> None:
    """Begin a stack with a copy of a database that is up to date: to create one takes seconds, most of them of CPU.

    The processes of a run share the original. Each copy has ports of its own, so that no other stack takes one of them
    while a test has stopped a server.
    """
    from services.local_stack import state

    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
    original = Path(tempfile.gettempdir(), f"darkroom-database-{run}")
    if not original.exists():
        make_database(original)
    subprocess.run(["cp", "-a", str(original / "stack"), str(root)], check=True)
    copied = state.read(root)
    assert copied is not None
    state.write(root, copied.with_ports(state.choose_ports({}, {}, set())))


def make_database(folder: Path) -> None:
    """Create the database of a stack, without the other servers, in a folder that is removed when this process ends."""
    from services.local_stack import lifecycle
    from services.local_stack.postgres import Postgres

    new = Path(tempfile.mkdtemp(prefix="darkroom-"))
    new.chmod(0o711)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle, "all_parts", lambda root: (Postgres(root),))
        up(new / "stack")
        lifecycle.stop(new / "stack")
    new.rename(folder)


@contextmanager
def fresh_stack() -> Iterator["Stack"]:
    """Run another stack with the tiny release, for tests that damage it or need it alone."""
    from services.local_stack import lifecycle

    folder = Path(tempfile.mkdtemp(prefix="darkroom-"))
    folder.chmod(0o711)
    try:
        with closing(start_stack(folder / "stack")) as running:
            yield running
    finally:
        lifecycle.stop(folder / "stack")
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Stack:
    """A running stack. Every role connects with its own login."""

    root: Path

    def __post_init__(self) -> None:
        self._engines: dict[str, Engine] = {}
        self._store: ObjectStore | None = None

    def settings(self, role: Role) -> Settings:
        from services.settings import load

        return load(role, {**os.environ, "DARKROOM_ROOT": str(self.root)})

    def engine(self, role: Role) -> Engine:
        from services.database import connections

        if role not in self._engines:
            self._engines[role] = connections.connect(self.settings(role).database_url.get_secret_value())
        return self._engines[role]

    def store(self) -> Any:
        from services.storage.object_store import ObjectStore

        if self._store is None:  # a client takes 70 ms
            self._store = ObjectStore.connect(self.settings("worker"))
        return self._store

    def submit(self, request: dict[str, Any], model: str = "tiny@production", **columns: Any) -> uuid.UUID:
        """Insert a job with the submitter's login. Returns its id. columns: further columns of the row."""
        values = {"model": model, "request": json.dumps(request), **columns}
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self.engine("submitter").begin() as connection:
            statement = text(f"INSERT INTO jobs ({names}) VALUES ({marks}) RETURNING id")
            return connection.scalar(statement, values)

    def job(self, job_id: uuid.UUID) -> Any:
        with self.engine("submitter").connect() as connection:
            return connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one()

    def wait(self, job_id: uuid.UUID, *states: str, timeout: float = 240) -> Any:
        """The job's row once it is in one of `states` (by default: ended)."""
        deadline = time.monotonic() + timeout
        while (row := self.job(job_id)).state not in (states or TERMINAL):
            assert time.monotonic() < deadline, f"job {job_id} is still {row.state}, {row.succeeded}/{row.total}"
            time.sleep(0.05)
        return row

    def outputs(self, job_id: uuid.UUID) -> list[Any]:
        with self.engine("submitter").connect() as connection:
            query = text("SELECT * FROM outputs WHERE job_id = :id ORDER BY index")
            return list(connection.execute(query, {"id": job_id}))

    def upload(self, name: str, body: bytes) -> str:
        """Store an object under the tenant's read prefix. Returns its URI."""
        key = f"inputs/default/{name}"
        self.store().put(key, body, content_type="application/octet-stream")
        return str(self.store().uri(key))

    def images(self, job_id: uuid.UUID) -> dict[int, bytes]:
        """Return the stored bytes of every image, by index."""
        store = self.store()
        return {row.index: store.get(row.key) for row in self.outputs(job_id)}

    @contextmanager
    def process(
        self, name: str, *, first: str = "", before_imports: str = "", **environment: str
    ) -> Iterator["Process"]:
        """Run `darkroom NAME` as a process until the context ends. See `launch`."""
        log = self.root / "logs" / f"test-{name}-{uuid.uuid4().hex[:6]}.log"
        variables = {"DARKROOM_ROOT": str(self.root), **environment}
        child = launch(name, log, first, variables, before_imports)
        process = Process(child, log)
        try:
            yield process
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(40)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()

    def commit_without_waiting(self) -> None:
        """Let later connections commit without waiting for the disk: several times faster, unsafe if Postgres dies."""
        with self.engine("migrator").begin() as connection:
            database = connection.engine.url.database
            connection.exec_driver_sql(f'ALTER DATABASE "{database}" SET synchronous_commit = off')
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for engine in self._engines.values():
            engine.dispose()


@dataclass
class Process:
    """A running process and its log."""

    child: Child
    log: Path

    def wait_for(self, words: str, timeout: float = 120) -> None:
        """Wait until its log says `words`."""
        deadline = time.monotonic() + timeout
        while words not in self.log.read_text():
            assert self.child.poll() is None, f"it ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"{words!r} was not said: {self.log.read_text()}"
            time.sleep(0.05)


def publish_tiny(stack: Stack) -> None:
    """Publish the tiny release and promote it to production."""
    publish(stack, make_tiny_release(stack.root / "tiny-release"))


def publish(stack: Stack, folder: Path) -> None:
    """Publish a release and promote it to production."""
    from services.registry import aliases, releases

    with stack.engine("publisher").begin() as connection:
        name, version = releases.publish(connection, stack.store(), folder)
        aliases.promote(connection, f"{name}@{version}", "production")
