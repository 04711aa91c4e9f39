"""The whole demo, on fewer steps: every part is real, only the training is short."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="darkroom-demo-"))
    folder.chmod(0o711)
    yield folder / "stack"
    darkroom(folder / "stack", "down")
    shutil.rmtree(folder, ignore_errors=True)


def darkroom(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=environment | {"DARKROOM_ROOT": str(root), "COLUMNS": "200"},
    )


def as_json(root: Path, *arguments: str) -> Any:
    done = darkroom(root, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def demo(root: Path) -> str:
    """What the demo printed."""
    done = darkroom(
        root,
        "demo",
        "--autoencoder-override",
        "steps=20",
        "--diffusion-override",
        "steps=10",
        "--evaluation-images",
        "40",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_ends_with_a_sheet_a_manifest_and_where_to_look(demo: str, root: Path) -> None:
    for stage in ("prepare-data", "train-autoencoder", "encode-latents", "train-diffusion", "evaluate", "publish"):
        assert re.search(rf"{stage}\S*\s+\d+\.\d s", demo), stage
    (sheet,) = re.findall(r"\S+\.png", demo.replace("\n  ", "\n"))
    with Image.open(sheet) as picture:
        assert picture.size == (16 * 66 + 2, 10 * 66 + 2)
    assert re.search(r"s3://darkroom/\S+/manifest\.json", demo)
    assert "darkroom down" in demo
    assert "INSERT INTO jobs (model, request) VALUES ('digits@production'" in demo


def test_both_releases_are_in_production_with_what_they_scored(demo: str, root: Path) -> None:
    releases = as_json(root, "releases", "list")
    assert [(release["name"], release["version"], release["aliases"]) for release in releases] == [
        ("digits-autoencoder", 1, ["production"]),
        ("digits", 1, ["production"]),
    ]
    autoencoder, diffusion = (as_json(root, "releases", "show", r["name"]) for r in releases)
    shared = "autoencoder.safetensors"
    assert autoencoder["files"][shared] == diffusion["files"][shared], "stored once, under one sha256"
    assert autoencoder["evaluations"][0]["metrics"]["psnr"] > 10
    assert 0 <= diffusion["evaluations"][0]["metrics"]["class_accuracy"] <= 1


def test_after_sigkill_of_everything_nothing_is_lost(demo: str, root: Path) -> None:
    services = json.loads(darkroom(root, "status", "--json").stdout)["services"]
    assert {service["name"] for service in services} == {"postgres", "broker", "s3", "dispatcher", "worker"}
    for service in services:
        process = psutil.Process(service["pid"])
        for child in [process, *process.children(recursive=True)]:
            child.send_signal(signal.SIGKILL)
    (before,) = re.findall(r"jobs show (\S+)", demo)
    assert darkroom(root, "status").returncode == 1
    up = darkroom(root, "up")
    assert up.returncode == 0, up.stderr
    assert [release["name"] for release in as_json(root, "releases", "list")] == ["digits-autoencoder", "digits"]
    job = as_json(root, "jobs", "show", before)
    assert (job["state"], job["succeeded"]) == ("succeeded", 160)
    images = root / "images"
    assert darkroom(root, "jobs", "outputs", before, "--download", str(images)).returncode == 0
    bodies = {path.read_bytes() for path in images.glob("*.png")}
    assert len(bodies) == 160, "all images distinct, each with its recorded sha256"
    assert Image.open(io.BytesIO(bodies.pop())).size == (32, 32)


def test_a_failing_stage_is_named_with_its_own_words_and_nothing_is_published(demo: str, root: Path) -> None:
    done = darkroom(root, "pipeline", "run", "--autoencoder-override", "steps=0")
    assert done.returncode == 1
    assert "train-autoencoder" in done.stderr
    assert "steps: 0 is not allowed" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(as_json(root, "releases", "list")) == 2
