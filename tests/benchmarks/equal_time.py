"""Variants of a model after equal training time: `python -m tests.benchmarks.equal_time VARIANTS.yaml DATA OUTPUT`.

VARIANTS.yaml maps the name of each variant to the fields of its training. The variants are trained in turns up to each
of the given minutes; startup and the encoding of latents count. Everything runs on one thread and is timed by processor
time, which is fair on a busy machine. Then samples are compared with the training images, at the last mark with several
step counts. The figures are appended to OUTPUT/equal_time.jsonl line by line, so that an interrupted comparison can
resume. The plot is OUTPUT/equal_time.png.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import psutil
import torch
import yaml

from training.data import image_set
from training.data.image_set import ImageSet
from training.evaluation import networks, second_stage
from training.evaluation.fidelity import Fidelity
from training.evaluation.second_stage import Sampling
from training.model.latent_diffusion import load_diffusion

SOLVER, STEPS = "dpm_solver_2m", 20
STEP_COUNTS = (5, 10, 20, 40)
ENDLESS = 10_000_000
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
STOPPED_AT = re.compile(r"stopped at step (\d+)")

Row = dict[str, Any]


def train(fields: Sequence[str], output: Path, seconds: float) -> int:
    """Train for `seconds` of processor time, then send SIGTERM. Returns the step that was reached."""
    command = [
        sys.executable, "-m", "training.train", *fields, f"output={output}", f"steps={ENDLESS}",
        "optimiser.schedule=constant", f"pictures_every={ENDLESS}", "checkpoint.every_minutes=1000",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log, env=ONE_THREAD) as process:
        while process.poll() is None and sum(psutil.Process(process.pid).cpu_times()[:2]) < seconds:
            time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.wait()
        log.seek(0)
        told = log.read().decode()
    reached = STOPPED_AT.search(told)
    if reached is None:
        raise SystemExit(told)
    return int(reached[1])


def release_of_step(fields: Sequence[str], output: Path, step: int, name: str) -> Path:
    """Return the release of the step at which a run was stopped."""
    command = [*fields, f"output={output}", f"steps={step}", "optimiser.schedule=constant", "resume=anyway"]
    subprocess.run(
        [sys.executable, "-m", "training.train", *command], check=True, stdout=subprocess.DEVNULL, env=ONE_THREAD
    )
    kept = output / name
    shutil.rmtree(kept, ignore_errors=True)
    (output / "release").rename(kept)
    return kept


def measure(release: Path, images: ImageSet, fidelity: Fidelity, sampling: Sampling) -> Row:
    """Measure the distance to the training images and the speed of sampling."""
    model, description = load_diffusion(release)
    asked = second_stage.build_requests(description, images, sampling.images)
    begun = time.process_time()
    samples = second_stage.generate(model, description, asked.requests, sampling)
    speed = len(samples) / (time.process_time() - begun)
    return {
        "sampling_steps": sampling.steps,
        "images_per_second": speed,
        "frechet_distance": fidelity.distance(samples),
    }


def draw(rows: Sequence[Row], floor: float, path: Path) -> None:
    """Plot the distance against training time, and at the end against the speed of sampling."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    last = max(row["minutes"] for row in rows)
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        line = sorted((row["minutes"], row["frechet_distance"]) for row in own if row["sampling_steps"] == STEPS)
        left.plot(*zip(*line, strict=True), marker="o", label=name)
        line = sorted((row["images_per_second"], row["frechet_distance"]) for row in own if row["minutes"] == last)
        right.plot(*zip(*line, strict=True), marker="o", label=name)
    left.set(
        xlabel="minutes of training on one thread",
        ylabel="Fréchet distance, own-CNN features",
        title=f"{SOLVER}, {STEPS} steps",
    )
    right.set(xscale="log", xlabel="images sampled per second", title=f"after {last:g} minutes, {STEP_COUNTS} steps")
    for axes in (left, right):
        axes.axhline(floor, color="grey", linestyle=":", linewidth=1)
        axes.set_yscale("log")
        axes.legend()
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure what is missing, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", type=Path)
    parser.add_argument("data", type=Path, help="folder of an image set")
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 5.0, 10.0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=1.0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    variants: dict[str, list[str]] = yaml.safe_load(options.variants.read_text())
    images = image_set.read(options.data)
    fidelity = Fidelity(networks.find_classifier(images, [options.data / networks.CLASSIFIER]), images)
    table = options.output / "equal_time.jsonl"
    rows: list[Row] = [json.loads(line) for line in table.read_text().splitlines()] if table.is_file() else []
    marks = [0.0, *sorted(options.minutes)]
    for before, mark in pairwise(marks):
        for name, fields in variants.items():
            if any((row["variant"], row["minutes"]) == (name, mark) for row in rows):
                continue
            folder = options.output / re.sub(r"\W+", "-", name)
            step = train(fields, folder, 60 * (mark - before))
            release = release_of_step(fields, folder, step, f"release-{mark:g}")
            found = []
            for steps in STEP_COUNTS if mark == marks[-1] else (STEPS,):
                sampling = Sampling(options.images, SOLVER, steps, options.guidance)
                found.append({"variant": name, "minutes": mark, "training_steps": step,
                              **measure(release, images, fidelity, sampling)})  # fmt: skip
                print(found[-1], flush=True)
            rows += found
            with table.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in found)
    floor = fidelity.compare(fidelity.held_out)["frechet_distance"]
    draw(rows, floor, options.output / "equal_time.png")
    print(f"held-out images: {floor:.4f} of {len(fidelity.held_out)}")


if __name__ == "__main__":
    main()
