"""Workers whose disk of releases is full, read-only or damaged, and releases whose blobs are gone."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from shutil import disk_usage
from typing import Any

import pytest
from sqlalchemy import text

from services.registry import releases
from services.storage import layout
from tests.support.http import HealthClient, free_port, scrape_metrics
from tests.support.releases import make_tiny_release
from tests.support.small_disk import remount, small_disk
from tests.support.stack import Process, Stack
from training.model import release as release_format

pytestmark = pytest.mark.long

REQUEST = {"items": [{"class_label": 1}], "steps": 1}


def publish(stack: Stack, folder: Path, seed: int, extra_bytes: int = 0) -> dict[str, Any]:
    """Publish a tiny release that is called as the folder, with a file of random bytes if `extra_bytes`."""
    made = make_tiny_release(folder / "release", seed=seed, name=folder.name)
    if extra_bytes:
        release = release_format.read(made)
        (made / "samples.bin").write_bytes(os.urandom(extra_bytes))
        release_format.write(made, release)
    with stack.engine("publisher").begin() as connection:
        name, version = releases.publish(connection, stack.store(), made)
        return releases.find(connection, f"{name}@{version}").manifest


@pytest.mark.usefixtures("dispatcher")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_worker_leaves_a_release_alone_that_its_disk_cannot_hold(stack: Stack, tmp_path: Path, trouble: str) -> None:
    """The worker serves the releases that it has, says that it is not ready, and goes on once the disk can be used."""
    large = publish(stack, tmp_path / f"large-{trouble}", 50, extra_bytes=8 * 2**20)
    size = sum(record["bytes"] for record in large["files"].values())
    health = HealthClient(free_port())
    why = {"full": "No space left on device", "read-only": "Read-only file system"}[trouble]
    with ExitStack() as opened:
        disk = opened.enter_context(small_disk(tmp_path / "disk", 2 * size))
        filler = disk / "filler"
        worker = opened.enter_context(
            stack.process("worker", DARKROOM_CACHE_DIR=str(disk), DARKROOM_METRICS_PORT=str(health.port))
        )
        assert stack.wait(stack.submit(REQUEST)).state == "succeeded"
        make_trouble, end_trouble = {
            "full": (lambda: filler.write_bytes(b"x" * (disk_usage(disk).free - 2**20)), filler.unlink),
            "read-only": (lambda: remount(disk, "ro"), lambda: remount(disk, "rw")),
        }[trouble]
        make_trouble()
        waiting = stack.submit(REQUEST, model=f"large-{trouble}@1")
        stack.wait(waiting, "planned", "running")
        assert [stack.wait(stack.submit(REQUEST), timeout=30).state for _ in range(3)] == ["succeeded"] * 3
        (reason,) = health.wait_until("readyz", bool)
        assert "could not be loaded 3 times: " in reason
        assert f"{why}; make room on that disk" in reason
        assert health.reasons("healthz") == []
        failures = worker.log.read_text().count("is not claimed for")
        samples = scrape_metrics(health.port)
        assert samples["darkroom_release_cache_failures_total"] >= failures >= 3
        assert samples["darkroom_releases_paused"] == 1
        assert stack.wait(stack.submit(REQUEST), timeout=30).state == "succeeded"
        with stack.engine("migrator").connect() as connection:
            spent = connection.execute(
                text("SELECT attempts, losses FROM work WHERE job_id = :id AND kind = 'sample'"), {"id": waiting}
            ).all()
        assert spent == [(0, 0)]
        assert stack.outputs(waiting) == []
        end_trouble()
        assert stack.wait(waiting, timeout=60).state == "succeeded"
        health.wait_until("readyz", lambda reasons: not reasons)
        assert scrape_metrics(health.port)["darkroom_releases_paused"] == 0


@pytest.mark.usefixtures("dispatcher")
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x")], ids=["missing", "damaged"])
def test_a_damaged_copy_of_a_release_is_replaced(stack: Stack, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cache = {"DARKROOM_CACHE_DIR": str(tmp_path / "cache")}
    with stack.process("worker", **cache):
        assert stack.wait(stack.submit(REQUEST)).state == "succeeded"
    (weights,) = (tmp_path / "cache" / "releases").glob("*/unet.safetensors")
    damage(weights)
    with stack.process("worker", **cache) as worker:
        job = stack.wait(stack.submit(REQUEST))
        assert (job.state, job.reason) == ("succeeded", None)
        assert "it is fetched again" in worker.log.read_text()


def test_a_job_of_a_release_without_its_blob_is_told_what_to_do(
    stack: Stack, tmp_path: Path, dispatcher: Process
) -> None:
    manifest = publish(stack, tmp_path / "gone", 51)
    key = layout.blob_key(manifest["files"]["unet.safetensors"]["sha256"])
    stack.store().delete([key])
    with stack.process("worker", DARKROOM_CACHE_DIR=str(tmp_path / "cache")):
        job_id = stack.submit(REQUEST, model="gone@1")
        assert stack.wait(job_id).state == "failed"
        (output,) = stack.outputs(job_id)
        for words in ("release 'gone'", key, "is missing in S3", "an operator has to publish the release again"):
            assert words in output.error
        publish(stack, tmp_path / "gone", 51)
        assert stack.wait(stack.submit(REQUEST, model="gone@1")).state == "succeeded"
