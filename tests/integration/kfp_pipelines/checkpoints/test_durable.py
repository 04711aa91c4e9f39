"""A training run whose pod is lost resumes in another one, from S3; two pods never write at the same time."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from botocore.exceptions import EndpointConnectionError

from kfp_pipelines.checkpoints.durable import DurableCheckpoints, DurableLocation
from kfp_pipelines.checkpoints.writer_lock import WriterLock
from services.storage.object_store import ObjectStore
from tests.support import fork_server
from tests.support.stack import Stack
from training import train
from training.data import image_set
from training.model import release
from training.runs.checkpoints import CheckpointError, LocalCheckpoints

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # in Lightning
]

STEPS = 12
OVERRIDES = ["batch_size=4", "device=cpu", f"steps={STEPS}", "checkpoint.every_steps=3", "data=images",
             "data.image_size=24", "pictures_every=100", "optimiser.warmup_steps=3", "model.channels=32",
             "model.multipliers=[1,1]", "model.res_blocks=1", "model.middle_attention=false",
             "loss.adversarial_start=5", "loss.adversarial_weight=0.5"]  # fmt: skip
IN_A_POD = """
import sys
from pathlib import Path
from kfp_pipelines.checkpoints.durable import DurableLocation
from services.settings import load_store
from services.storage.object_store import ObjectStore
from training import train
output, prefix, *overrides = sys.argv[1:]
location = DurableLocation(ObjectStore.connect(load_store()), prefix)
train.run("shapes_autoencoder", overrides, Path(output), checkpoints=location)
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 255, (48, 4, 4, 3)), 6, axis=1), 6, axis=2).astype(np.uint8)
    records = [{"name": f"{i}", "label": 0} for i in range(48)]
    image_set.write(root, name="scenes", images=images, records=records, train_count=40)
    return [*OVERRIDES, f"data.root={root}"]


def test_a_killed_run_resumes_on_another_machine(stack: Stack, overrides: list[str], tmp_path: Path) -> None:
    """SIGKILL at a random step; the other machine has an empty disk."""
    whole = train.run("shapes_autoencoder", overrides, tmp_path / "whole").parent
    prefix, killed = "checkpoints/killed", tmp_path / "killed"
    # The checkpoint of step 3 is in S3 once that of step 6 is saved.
    step = int(np.random.default_rng().integers(7, STEPS - 2))
    environment = {**os.environ, "DARKROOM_ROOT": str(stack.root), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "pod.log"
    arguments = [str(killed), prefix, *overrides]
    pod = fork_server.server(fork_server.TRAINING).start(IN_A_POD, arguments, log, environment)
    table = killed / "losses.csv"
    while not table.is_file() or len(table.read_text().splitlines()) <= step:
        assert pod.poll() is None, log.read_text()
        time.sleep(0.01)
    pod.send_signal(signal.SIGKILL)
    assert pod.wait() == -signal.SIGKILL
    store = stack.store()
    assert any(key.endswith("run.json") for key in store.keys(prefix)), f"killed at {step}"
    (lock,) = (key for key in store.keys(prefix) if key.endswith("/lock"))
    store.delete([lock])  # as if its lease had expired
    output = tmp_path / "another"
    train.run("shapes_autoencoder", overrides, output, checkpoints=DurableLocation(store, prefix))
    assert release.read(output / "release").digest == release.read(whole / "release").digest, f"killed at {step}"
    assert (output / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes(), f"killed at {step}"
    kept = [key for key in store.keys(prefix) if key.endswith("run.json")]
    assert len(kept) == 2
    assert kept[-1].endswith(f"/step-{STEPS:08d}/run.json")
    assert not any(key.endswith("/lock") for key in store.keys(prefix))


def test_each_run_finds_its_own_checkpoints(
    stack: Stack, overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    location = DurableLocation(stack.store(), "checkpoints/settings")
    for number, more in enumerate((["steps=2"], ["steps=2"], ["steps=2", "seed=1"])):
        train.run("shapes_autoencoder", [*overrides, *more], tmp_path / str(number), checkpoints=location)
    assert capsys.readouterr().out.count("resuming from step 2 of 2") == 1
    prefixes = {key.split("/")[2] for key in stack.store().keys("checkpoints/settings")}
    assert len(prefixes) == 2


def test_an_incomplete_checkpoint_is_ignored(stack: Stack, tmp_path: Path) -> None:
    store = stack.store()
    checkpoints = DurableCheckpoints(LocalCheckpoints(tmp_path / "a"), store, "checkpoints/torn", None)
    for step in (1, 2):
        checkpoints.save(step, {"x": torch.full((2,), float(step))}, {"config": {}})
    checkpoints.close()
    store.delete(["checkpoints/torn/step-00000002/run.json"])
    found = DurableCheckpoints(LocalCheckpoints(tmp_path / "b"), store, "checkpoints/torn", None).latest()
    assert found is not None
    assert found.step == 1


def test_training_continues_during_an_outage_of_s3(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = stack.store()
    checkpoints = DurableCheckpoints(LocalCheckpoints(tmp_path / "a"), store, "checkpoints/away", None)

    def away(*arguments: object, **named: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://away")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "upload", away)
        checkpoints.save(1, {"x": torch.zeros(2)}, {})
        checkpoints.wait()
    assert "step-00000001 is not in S3" in capsys.readouterr().out
    checkpoints.save(2, {"x": torch.ones(2)}, {})
    checkpoints.close()
    assert sorted(store.keys("checkpoints/away"))[0].startswith("checkpoints/away/step-00000002/")


def test_a_second_writer_waits_for_the_first(stack: Stack) -> None:
    store, held = stack.store(), threading.Event()
    order: list[str] = []

    def second() -> None:
        with WriterLock(store, "locks/order", lease_s=3):
            order.append("second")

    with WriterLock(store, "locks/order", lease_s=3):
        thread = threading.Thread(target=second)
        thread.start()
        held.wait(5)  # longer than a lease: it is renewed
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_paused_writer_learns_that_it_was_replaced(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stack.store()
    frozen = WriterLock(store, "locks/frozen", lease_s=2)
    frozen._thread = threading.Thread(target=lambda: None)  # renews nothing, as if its process were stopped
    frozen.__enter__()
    with WriterLock(store, "locks/frozen", lease_s=2) as successor:
        frozen._wake = threading.Condition()
        thread = threading.Thread(target=frozen._renew)  # its process continues
        thread.start()
        thread.join(5)
        with pytest.raises(CheckpointError, match="another process of the same run has taken over"):
            frozen.check()
        successor.check()


def test_a_second_run_of_the_same_settings_does_not_wait_for_ever(stack: Stack) -> None:
    store = stack.store()
    with (
        WriterLock(store, "locks/twice", lease_s=2),
        pytest.raises(CheckpointError, match="another process is training this run"),
    ):
        WriterLock(store, "locks/twice", lease_s=2, timeout_s=1).__enter__()
