"""Fixtures for tests with real servers: a local stack, a small release, and real `darkroom` processes."""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.support.commands import Darkroom, call_darkroom, fork_darkroom
from tests.support.releases import make_tiny_release
from tests.support.stack import Process, Stack, start_stack

# The test processes share the cores. One thread each keeps them from waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hundreds of processes import the project. Only the first has to compile it, whatever the environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The imports of all test files create objects that stay. Searching them for garbage takes a third of the collection.
gc.disable()


def pytest_collection_finish() -> None:
    """Search for garbage again, except among the objects of the imports."""
    gc.enable()
    gc.collect()
    gc.freeze()


# Each test process runs whole files. These take longest; most of them wait for servers or deadlines.
LONGEST = (
    "e2e/test_demo.py",
    "unit/services/worker/test_compiled.py",
    "integration/training/runs/test_resume.py",
    "hostile/test_frozen_workers.py",
    "integration/services/worker/test_deaths.py",
    "hostile/test_fairness.py",
    "integration/services/process/test_health.py",
    "chaos/test_chaos.py",
    "integration/services/worker/test_release_disk.py",
    "hostile/test_poison.py",
    "hostile/test_blocked_dispatcher.py",
    "hostile/test_frozen_dispatcher.py",
    "integration/services/worker/test_service.py",
    "hostile/test_condition_images.py",
    "integration/services/database/test_upgrades.py",
    "hostile/test_locks.py",
    "hostile/test_large_stops.py",
    "integration/kfp_pipelines/checkpoints/test_durable.py",
    "integration/kfp_pipelines/train_job/test_submit.py",
    "integration/kfp_pipelines/running/test_killed_command.py",
    "unit/test_gpu_benchmark.py",
    "unit/test_import_effects.py",
    "unit/services/worker/test_precompile.py",
    "integration/services/cli/test_distil.py",
    "integration/services/worker/test_unreadable_jobs.py",
    "e2e/test_tour.py",
    "integration/kfp_pipelines/stages/test_devices.py",
    "integration/services/database/test_restore.py",
    "integration/services/job_requests/test_malformed.py",
    "integration/services/job_requests/test_condition_images.py",
    "integration/services/cli/test_evaluate.py",
    "integration/services/local_stack/test_shell.py",
    "integration/services/job_requests/test_items.py",
    "integration/services/test_exporter.py",
    "hostile/test_planning.py",
    "integration/services/job_queue/test_queue_model.py",
    "unit/training/test_train_command.py",
    "documents/test_training_document.py",
)
COMPUTING = ("helm", "model", "unit")  # folders whose tests hardly wait


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mix files that wait with files that compute, so that the cores are never left to those that wait.

    The longest are spread over the first six tenths, so that none of them runs alone at the end.
    """
    tests = Path(__file__).parent
    queues: list[list[Path]] = [[tests / name for name in LONGEST], [], []]
    for path in dict.fromkeys(item.path for item in items):
        if path not in queues[0]:
            computes = any(tests / folder in path.parents for folder in COMPUTING)
            queues[1 if computes else 2].append(path)
    places = {
        path: share * number / len(queue)
        for queue, share in zip(queues, (0.6, 1, 1), strict=True)
        for number, path in enumerate(queue)
    }
    items.sort(key=lambda item: places[item.path])


@pytest.fixture(scope="session")
def stack_root() -> Iterator[Path]:
    """A folder for the stack, outside pytest's own, which the account of Postgres may not enter under root."""
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
                running.commit_without_waiting()
                yield running
        finally:
            lifecycle.stop(stack_root)


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion release with random weights that change the image: 8x8 latents, ten classes."""
    return make_tiny_release(tmp_path_factory.mktemp("release") / "tiny")


@pytest.fixture(scope="module")
def dispatcher(stack: Stack) -> Iterator[Process]:
    """A dispatcher that runs until the end of the test file."""
    with stack.process("dispatcher") as process:
        process.wait_for("serves")
        yield process


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Iterator[Process]:
    """A worker that runs until the end of the test file: tests that start workers of their own are in other files."""
    with stack.process("worker") as process:
        process.wait_for("serves queues")
        yield process


@pytest.fixture
def darkroom(stack_root: Path) -> Darkroom:
    """`darkroom ARGUMENTS` as a process."""
    return partial(fork_darkroom, stack_root)


@pytest.fixture
def darkroom_here(stack_root: Path, capsys: pytest.CaptureFixture[str]) -> Darkroom:
    """`darkroom ARGUMENTS` within this process, which is faster."""
    return partial(call_darkroom, capsys, stack_root)
