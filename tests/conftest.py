"""Fixtures that need real parts: a local stack, a small release in it, and the real processes around it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.local_stack.logins import Role
from services.settings import Settings
from tests.processes import launch

# Two processes of tests on two cores: with a thread for each core in both, they would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ENDED = ("succeeded", "partial", "failed", "rejected", "cancelled")


# A file is given to one of the processes as a whole; one of minutes that begins last would run on alone.
LONGEST = (
    "test_demo", "test_resume", "test_training_document", "test_deaths", "test_chaos", "test_train_job", "test_service",
    "test_queue_model", "test_malformed", "test_durable_checkpoints", "test_upgrades",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def stack_root() -> Iterator[Path]:
    """A folder that the account of Postgres may enter, unlike pytest's own, when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="darkroom-"))
    folder.chmod(0o711)
    yield folder / "stack"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(stack_root: Path) -> Iterator["Stack"]:
    """Postgres, Valkey and S3, migrated, with the tiny release published as tiny@production."""
    from services.local_stack import lifecycle

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DARKROOM_")]:
            patch.delenv(name)
        patch.setenv("DARKROOM_ROOT", str(stack_root))
        try:
            with closing(start_stack(stack_root)) as running:
                yield running
        finally:
            lifecycle.stop(stack_root)


def start_stack(root: Path) -> "Stack":
    """`darkroom up` with the tiny release, one at a time: two that choose free ports at once may choose the same."""
    from services.cli import stack

    with (
        Path(tempfile.gettempdir(), "darkroom-tests.lock").open("w") as file,
        pytest.MonkeyPatch.context() as patch,
    ):
        fcntl.flock(file, fcntl.LOCK_EX)
        patch.setenv("DARKROOM_ROOT", str(root))
        stack.start()
    running = Stack(root)
    publish_tiny(running)
    return running


@contextmanager
def fresh_stack() -> Iterator["Stack"]:
    """Another running stack with the tiny release, for those who ill-treat it or measure it alone."""
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
    """The running stack, seen through each role's own login."""

    root: Path

    def __post_init__(self) -> None:
        self._engines: dict[str, Engine] = {}

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

        return ObjectStore.connect(self.settings("worker"))

    def submit(self, request: dict[str, Any], model: str = "tiny@production", **columns: Any) -> uuid.UUID:
        """The INSERT of the SQL contract, by the submitter's login."""
        values = {"model": model, "request": json.dumps(request), **columns}
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self.engine("submitter").begin() as connection:
            statement = text(f"INSERT INTO jobs ({names}) VALUES ({marks}) RETURNING id")
            return connection.scalar(statement, values)  # type: ignore[no-any-return]

    def job(self, job_id: uuid.UUID) -> Any:
        with self.engine("submitter").connect() as connection:
            return connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one()

    def wait(self, job_id: uuid.UUID, *states: str, timeout: float = 90) -> Any:
        """The job's row once it is in one of `states` (by default: ended)."""
        deadline = time.monotonic() + timeout
        while (row := self.job(job_id)).state not in (states or ENDED):
            assert time.monotonic() < deadline, f"job {job_id} is still {row.state}, {row.succeeded}/{row.total}"
            time.sleep(0.05)
        return row

    def outputs(self, job_id: uuid.UUID) -> list[Any]:
        with self.engine("submitter").connect() as connection:
            query = text("SELECT * FROM outputs WHERE job_id = :id ORDER BY index")
            return list(connection.execute(query, {"id": job_id}))

    def images(self, job_id: uuid.UUID) -> dict[int, bytes]:
        """Each image's bytes in S3, by index."""
        store = self.store()
        return {row.index: store.get(row.key) for row in self.outputs(job_id)}

    @contextmanager
    def process(self, name: str, *, first: str = "", **environment: str) -> Iterator["Process"]:
        """`darkroom NAME` as a real process, stopped in the end whatever happens; `first` is Python to run before."""
        log = self.root / "logs" / f"test-{name}-{uuid.uuid4().hex[:6]}.log"
        child = launch(name, log, first, {"DARKROOM_ROOT": str(self.root), **environment})
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

    def close(self) -> None:
        for engine in self._engines.values():
            engine.dispose()


@dataclass
class Process:
    """A process and its log."""

    child: "subprocess.Popen[bytes]"
    log: Path

    def wait_for(self, words: str, timeout: float = 40) -> None:
        """Wait until its log says `words`."""
        deadline = time.monotonic() + timeout
        while words not in self.log.read_text():
            assert self.child.poll() is None, f"it ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"{words!r} was not said: {self.log.read_text()}"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion release with random weights that really move the image: 8x8 latents, ten classes."""
    return make_tiny_release(tmp_path_factory.mktemp("release") / "tiny")


CLASS_LABEL = {"class_label": {"type": "class", "classes": 10, "width": 32}}


def make_tiny_release(
    folder: Path, *, seed: int = 0, name: str = "tiny", conditioners: Any = CLASS_LABEL, in_channels: int = 2
) -> Path:
    """Write a release of a small random model."""
    import torch

    from training.model.latent_diffusion import LatentDiffusion, save_diffusion

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LatentDiffusion.build(
            {
                "autoencoder": {
                    "image_channels": 1,
                    "channels": 32,
                    "multipliers": (1, 1, 1),
                    "res_blocks": 1,
                    "latent_channels": 2,
                    "middle_attention": False,
                },
                "unet": {
                    "in_channels": in_channels,
                    "out_channels": 2,
                    "channels": 32,
                    "multipliers": (1, 1),
                    "res_blocks": 1,
                    "attention_factors": (2,),
                    "context_width": 32 if conditioners is CLASS_LABEL else None,
                },
                "conditioners": conditioners,
                "diffusion": {},
            }
        )
        for parameter in model.unet.parameters():
            if not parameter.any():  # the zeroed last layers of each branch would hide the rest
                torch.nn.init.normal_(parameter, std=0.1)
    save_diffusion(folder, model.eval(), name=name, image_size=32)
    return folder


def publish_tiny(stack: Stack) -> None:
    """Publish the small model under its production alias."""
    from services.registry import releases

    folder = make_tiny_release(stack.root / "tiny-release")
    with stack.engine("publisher").begin() as connection:
        name, version = releases.publish(connection, stack.store(), folder)
        releases.promote(connection, f"{name}@{version}", "production")


@pytest.fixture
def dispatcher(stack: Stack) -> Iterator[Process]:
    """A running dispatcher."""
    with stack.process("dispatcher") as process:
        process.wait_for("serves")
        yield process


@pytest.fixture
def worker(stack: Stack) -> Iterator[Process]:
    """A running worker."""
    with stack.process("worker") as process:
        process.wait_for("serves queues")
        yield process


@pytest.fixture
def darkroom(stack_root: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run `darkroom ARGUMENTS` to its end."""

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "DARKROOM_ROOT": str(stack_root), "COLUMNS": "200", **environment},
        )

    return run


@pytest.fixture
def darkroom_here(
    stack_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`darkroom ARGUMENTS` within this process, where its words are tested: importing torch takes seconds each time."""
    from services import cli
    from services.database import connections

    connect, opened = connections.connect, []

    def connect_and_tell(url: str) -> Engine:
        opened.append(connect(url))
        return opened[-1]

    monkeypatch.setattr(connections, "connect", connect_and_tell)

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        for name, value in {"DARKROOM_ROOT": str(stack_root), "COLUMNS": "200", **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["darkroom", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        while opened:  # a process would end here
            opened.pop().dispose()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(ended.value.code or 0), said.out, said.err)

    return run
