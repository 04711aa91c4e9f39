"""A pipeline on this machine ends with the command that runs it, and the same command goes on with it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.support import fork_server

pytestmark = pytest.mark.long

COMMAND = """
import json, os, sys
from pathlib import Path
from kfp_pipelines.running import local
local.run("full", json.loads(sys.argv[2]), Path(sys.argv[1]), environment=os.environ,
          on_event=lambda event: print(event, flush=True))
"""
SHOWN = """
import json, sys
from rich.console import Console
from kfp_pipelines.commands.local_run import run_here
from services.cli.failures import exit_on_error
with exit_on_error():
    run_here("full", json.loads(sys.argv[1]), Console())
"""
DEADLINE_S = 240.0
OVERRIDES = ["steps=1000000", "batch_size=1", "model.channels=32", "model.multipliers=[1]", "model.res_blocks=1",
             "model.middle_attention=false", "loss.adversarial_weight=0", "checkpoint.every_minutes=1000",
             "device=cpu"]  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def run_and_kill(arguments: list[str], output: Path, reached: Callable[[], bool]) -> None:
    """Run a command, kill it when `reached` holds, and wait until every process that it started has ended."""
    server = fork_server.server(fork_server.TRAINING)
    process = server.start(fork_server.FORKS + COMMAND, arguments, output, os.environ)
    children: list[psutil.Process] = []
    try:
        end = time.monotonic() + DEADLINE_S
        while not reached():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < end, output.read_text()
            time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3, "the pipeline, the server of its stages and a stage"
        process.kill()
        process.wait()
        _, left = psutil.wait_procs(children, timeout=DEADLINE_S)
        assert not left
    finally:
        process.kill()
        for child in children:
            if child.is_running():
                child.kill()


def saved_steps(folder: Path) -> set[int]:
    return {int(path.parent.name.removeprefix("step-")) for path in folder.glob("**/step-*/run.json")}


def test_a_killed_command_leaves_no_process_and_resumes(pictures: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    data = [f"data.root={pictures}", "data.image_size=8", "data.channels=1", "data.held_out=0"]
    arguments = {
        "data": "images", "data_overrides": data, "autoencoder_experiment": "digits_autoencoder",
        "autoencoder_overrides": OVERRIDES, "checkpoints": str(checkpoints),
    }  # fmt: skip
    command = [str(tmp_path / "root"), json.dumps(arguments)]
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    run_and_kill(command, first, lambda: any(losses.stat().st_size for losses in tmp_path.glob("root/**/losses.csv")))
    (step,) = saved_steps(checkpoints)  # it was told to stop: nothing else saves in the first thousand minutes
    assert step < 1_000_000
    run_and_kill(command, second, lambda: f"resuming from step {step} of 1000000" in second.read_text())


def test_ctrl_c_says_how_to_resume(pictures: Path, tmp_path: Path) -> None:
    arguments = {
        "data": "images", "data_overrides": [f"data.root={pictures}", "data.image_size=8", "data.held_out=0"],
        "autoencoder_experiment": "digits_autoencoder", "autoencoder_overrides": OVERRIDES,
        "checkpoints": str(tmp_path / "checkpoints"),
    }  # fmt: skip
    root = tmp_path / "stack"
    command = [sys.executable, "-c", SHOWN, json.dumps(arguments)]
    process = subprocess.Popen(
        command, env={**os.environ, "DARKROOM_ROOT": str(root)}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # else ignored in the background
    )  # fmt: skip
    try:
        end = time.monotonic() + DEADLINE_S
        while not any(root.glob("pipeline/*/prepare-data")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert output.strip().endswith("Interrupted. Run the same command again to resume.")
    assert "Traceback" not in output
