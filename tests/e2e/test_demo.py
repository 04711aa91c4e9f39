"""The whole demo, on fewer steps: every part is real, only the training is short.

Its processes are forked from one that has made their imports.
"""

import io
import json
import os
import re
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from services.settings import load_store
from services.storage.object_store import ObjectStore
from tests.support import fork_server
from tests.support.commands import Completed, Darkroom, call_darkroom, fork_darkroom, start_darkroom

pytestmark = pytest.mark.long

STEPS = 48  # of the diffusion model: enough for a kill in the midst of them
NARROW = "model.unet.channels=32"
# The classifier for evaluations is trained for a moment too.
FIRST = f"""{fork_server.FORKS}
from training.metrics import classifier
classifier.train.__kwdefaults__["steps"] = 20
"""


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="darkroom-demo-"))
    folder.chmod(0o711)
    yield folder / "stack"
    darkroom(folder / "stack", "down")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def _no_settings() -> Iterator[None]:
    """Hide the settings of the person who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DARKROOM_")]:
            patch.delenv(name)
        yield


def darkroom(root: Path, *arguments: str) -> Completed:
    return fork_darkroom(root, *arguments, timeout=600, first=FIRST)


@pytest.fixture
def darkroom_here(root: Path, capsys: pytest.CaptureFixture[str]) -> Darkroom:
    """`darkroom ARGUMENTS` within this process, which is faster."""
    return partial(call_darkroom, capsys, root)


@pytest.fixture
def read_json(darkroom_here: Darkroom) -> Callable[..., Any]:
    """What a command prints with --json."""

    def read(*arguments: str) -> Any:
        done = darkroom_here(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read


@pytest.fixture(scope="module")
def demo(root: Path) -> str:
    """What the demo printed."""
    done = darkroom(
        root,
        "demo",
        *("--autoencoder-override", "steps=20"),
        *("--diffusion-override", f"steps={STEPS}"),
        *("--diffusion-override", "pictures_every=1000"),
        *("--diffusion-override", NARROW),
        *("--evaluation-images", "40"),
        *("--distil", "--distillation-override", "steps=8"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_ends_with_a_sheet_a_manifest_and_where_to_look(demo: str, root: Path) -> None:
    for stage in ("prepare-data", "train-autoencoder", "encode-latents", "train-diffusion", "evaluate", "publish"):
        assert re.search(rf"{stage}\S*\s+\d+\.\d s", demo), stage
    (sheet,) = re.findall(r"\S+\.png", demo.replace("\n  ", "\n"))
    with Image.open(sheet) as picture:
        assert picture.width > 2 * 16 * 66, "the model's images, and the student's beside them"
        assert picture.height > 10 * 66
    assert re.search(r"s3://darkroom/\S+/manifest\.json", demo)
    assert "darkroom down" in demo
    assert "darkroom console" in demo
    assert "INSERT INTO jobs (model, request) VALUES ('digits@production'" in demo


def test_all_releases_are_in_production_with_what_they_scored(
    demo: str, root: Path, read_json: Callable[..., Any]
) -> None:
    releases = read_json("releases", "list")
    assert [(release["name"], release["version"], release["aliases"]) for release in releases] == [
        ("digits-autoencoder", 1, ["candidate", "production"]),
        ("digits", 1, ["candidate", "production"]),
        ("digits-distilled", 1, ["candidate", "production"]),
    ]
    autoencoder, diffusion, student = (read_json("releases", "show", r["name"]) for r in releases)
    shared = "autoencoder.safetensors"
    assert autoencoder["files"][shared] == diffusion["files"][shared], "stored once, under one sha256"
    assert autoencoder["evaluations"][0]["metrics"]["psnr"] > 10
    assert 0 <= diffusion["evaluations"][0]["metrics"]["class_accuracy"] <= 1
    assert student["evaluations"][0]["metrics"]["teacher"]["release_digest"] == diffusion["digest"]


def test_after_sigkill_of_everything_nothing_is_lost(demo: str, root: Path, read_json: Callable[..., Any]) -> None:
    services = json.loads(darkroom(root, "status", "--json").stdout)["services"]
    assert {service["name"] for service in services} == {"postgres", "broker", "s3", "dispatcher", "worker"}
    for service in services:
        process = psutil.Process(service["pid"])
        for child in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # what Postgres has forked ends with it
                child.send_signal(signal.SIGKILL)
    (before,) = re.findall(r"jobs show (\S+)", demo)
    assert darkroom(root, "status").returncode == 1
    up = darkroom(root, "up", "--parts", "none")
    assert up.returncode == 0, up.stderr
    assert [release["name"] for release in read_json("releases", "list")] == [
        "digits-autoencoder",
        "digits",
        "digits-distilled",
    ]
    job = read_json("jobs", "show", before)
    assert (job["state"], job["succeeded"]) == ("succeeded", 160)
    images = root / "images"
    assert darkroom(root, "jobs", "outputs", before, "--download", str(images)).returncode == 0
    bodies = {path.read_bytes() for path in images.glob("*.png")}
    assert len(bodies) == 160, "all images distinct, each with its recorded sha256"
    assert Image.open(io.BytesIO(bodies.pop())).size == (32, 32)


def run_again(*parameters: str, images: int = 40) -> list[str]:
    """The command that trains the demo's diffusion model once more, on the autoencoder that it published."""
    return [
        "pipeline", "run", "diffusion", "autoencoder=digits-autoencoder", f"diffusion_overrides=steps={STEPS}",
        "diffusion_overrides=pictures_every=1000", f"diffusion_overrides={NARROW}",
        "diffusion_overrides=checkpoint.every_steps=6", f"sampling=images={images}", *parameters,
    ]  # fmt: skip


def stage_of(pipeline: int) -> psutil.Process:
    """The process of the stage that runs: a child of multiprocessing's fork server, which is one of KFP's process."""
    children = psutil.Process(pipeline).children(recursive=True)
    (stage,) = (child for child in children if child.parent().parent().ppid() == pipeline)
    return stage


@pytest.fixture(scope="module")
def checkpoints(demo: str, root: Path) -> tuple[ObjectStore, str]:
    """The bucket, and a prefix for checkpoints that the demo did not use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DARKROOM_ROOT", str(root))
        return ObjectStore.connect(load_store()), f"checkpoints-{uuid.uuid4().hex}"


def test_a_stage_that_is_killed_goes_on_when_the_pipeline_is_run_again(
    demo: str, root: Path, checkpoints: tuple[ObjectStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the midst of training; the second run publishes the very release of a run that was never killed."""
    monkeypatch.setenv("DARKROOM_ROOT", str(root))
    store, prefix = checkpoints
    command = run_again(f"checkpoints=s3://{store.bucket}/{prefix}")
    log, errors = root / "killed.log", root / "killed-errors.log"
    pipeline = start_darkroom(root, command, log, errors, FIRST)
    while not any(key.endswith("run.json") for key in store.keys(prefix)):
        assert pipeline.poll() is None, errors.read_text()
        time.sleep(0.02)
    stage_of(pipeline.pid).kill()
    assert pipeline.wait() == 1, log.read_text()
    assert "train-diffusion: " in errors.read_text()
    assert "Traceback" not in log.read_text() + errors.read_text()
    (lock,) = (key for key in store.keys(prefix) if key.endswith("/lock"))
    store.delete([lock])  # as if its lease had passed
    again = darkroom(root, *command)
    assert again.returncode == 0, again.stdout + again.stderr
    (step,) = re.findall(rf"resuming from step (\d+) of {STEPS}", again.stdout)
    assert 0 < int(step) < STEPS
    assert "published digits@1 as candidate" in again.stdout


def test_a_worse_model_is_refused_and_nothing_moves(
    demo: str, root: Path, checkpoints: tuple[ObjectStore, str], read_json: Callable[..., Any]
) -> None:
    """The rules are of 50 images, and what is in production was judged by 40: it is judged again."""
    before = read_json("releases", "list")
    store, prefix = checkpoints  # the last one of the test before, if that ran, spares the training
    rules = ["gate=class_accuracy >= 1", "gate=frechet_distance <= 1.01 * production"]
    done = darkroom(root, *run_again(*rules, f"checkpoints=s3://{store.bucket}/{prefix}", images=50))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gate: refused, compared with digits@1" in done.stdout
    assert re.search(r"gate: class_accuracy >= 1: 0\.\d+ is not >= 1", done.stdout)
    assert re.search(r"gate: frechet_distance <= 1\.01 \* production: (\S+) is <= ", done.stdout)
    evaluations = read_json("releases", "show", "digits")["evaluations"]
    assert [one["metrics"]["images"] for one in evaluations] == [40, 50]
    assert "published" not in done.stdout
    assert read_json("releases", "list") == before


def test_a_failing_stage_is_named_with_its_own_words_and_nothing_is_promoted(
    demo: str, root: Path, read_json: Callable[..., Any]
) -> None:
    before = read_json("releases", "list")
    done = darkroom(root, *run_again("diffusion_overrides=model.unet.in_channels=3"))
    assert done.returncode == 1
    assert "train-diffusion: " in done.stderr
    assert "model.unet" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "FAILED" in done.stdout, "the last stage tells how the run ended"
    assert read_json("releases", "list") == before


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["diffusion", "autoencoder=nobody"], "no release is called 'nobody'; there are: digits, digits-autoencoder"),
        (["full", "data=images", "data_overrides=data.image_size=32", "data_overrides=data.root=s3://darkroom/none/"],
         "data.root: there are no objects under s3://darkroom/none/"),
    ],
)  # fmt: skip
def test_what_a_stage_would_miss_is_missed_before_anything_runs(
    demo: str, root: Path, parameters: list[str], message: str
) -> None:
    done = darkroom(root, "pipeline", "run", *parameters)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
