"""Solvers, step counts and guidance compared: `python -m tests.benchmarks.sampling_sweep RELEASE DATA OUTPUT`.

One class-conditional model with the same seeds and classes throughout. Reports the distance to the training images and
the class accuracy against the network's rows per image (two for an evaluation with guidance). The figures are appended
to OUTPUT/sweep.jsonl line by line, so that an interrupted sweep can resume. The plot is OUTPUT/sweep.png.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from rich.progress import track

from training.data import image_set
from training.data.image_set import ImageSet
from training.evaluation import networks
from training.evaluation.fidelity import Fidelity
from training.evaluation.networks import Weights
from training.metrics import DigitJudge, condition_accuracy
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, load_diffusion
from training.model.release import Release
from training.model.sampling import Sampler, generate, trajectory

SOLVERS = ("ddim", "ddpm", "plms", "heun", "dpm_solver_2m", "dpm_solver_3m", "dpm_solver_2m_sde", "deis", "unipc")
STEPS = (5, 8, 12, 20, 30, 50)
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
INTERVALS = ((0.0, 1.0), (0.0, 0.8), (0.2, 0.8), (0.2, 1.0))
FIXED_SOLVER, FIXED_STEPS, FIXED_SCALE = "dpm_solver_2m", 20, 2.0
BATCH = 50

Setting = tuple[str, int, float, tuple[float, float]]  # solver, steps, guidance scale, its interval


def settings() -> list[Setting]:
    """Return the settings: solvers by steps at one guidance scale, then guidance scales by interval with one solver."""
    whole = INTERVALS[0]
    found = [(solver, steps, FIXED_SCALE, whole) for solver, steps in product(SOLVERS, STEPS)]
    found += [(FIXED_SOLVER, FIXED_STEPS, scale, span) for scale, span in product(SCALES, INTERVALS)]
    return list(dict.fromkeys(found))


def measure(
    model: LatentDiffusion, release: Release, fidelity: Fidelity, judge: DigitJudge, setting: Setting, count: int
) -> dict[str, Any]:
    """Measure a setting."""
    solver, steps, scale, interval = setting
    guidance = Guidance(scale, interval)
    field = next(iter(release.architecture["conditioners"]))
    classes = release.architecture["conditioners"][field]["classes"]
    labels = [i * classes // count for i in range(count)]
    parts = [
        generate(
            model, [{field: label} for label in labels[start : start + BATCH]], range(start, start + BATCH),
            latent_shape=release.latent_shape, sampler=Sampler(solver, steps), guidance=guidance,
        )
        for start in range(0, count, BATCH)
    ]  # fmt: skip
    samples = torch.cat(parts)
    path = trajectory(model, Sampler(solver, steps))
    rows = sum(1 + guidance.applies(float(t), model.diffusion.config.timesteps) for t in path.t)
    return {
        "solver": solver, "steps": steps, "scale": scale, "interval": list(interval), "evaluations": len(path),
        "rows": rows, "images": count, "frechet_distance": fidelity.distance(samples),
        "class_accuracy": condition_accuracy(judge, samples, labels),
    }  # fmt: skip


def draw(found: Sequence[dict[str, Any]], floor: float, path: Path) -> None:
    """Plot the distance against rows for each solver, and against guidance for each interval."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    by_solver = [one for one in found if one["scale"] == FIXED_SCALE and one["interval"] == [0.0, 1.0]]
    for solver in SOLVERS:
        line = sorted((one["rows"], one["frechet_distance"]) for one in by_solver if one["solver"] == solver)
        left.plot(*zip(*line, strict=True), marker=".", label=solver)
    left.set(xscale="log", yscale="log", xlabel="network rows an image", ylabel="Fréchet distance, digits-CNN features")
    by_guidance = [one for one in found if (one["solver"], one["steps"]) == (FIXED_SOLVER, FIXED_STEPS)]
    for interval in INTERVALS:
        line = sorted((o["scale"], o["frechet_distance"]) for o in by_guidance if tuple(o["interval"]) == interval)
        right.plot(*zip(*line, strict=True), marker=".", label=f"{interval[0]:g} to {interval[1]:g}")
    right.set(yscale="log", xlabel=f"guidance scale ({FIXED_SOLVER}, {FIXED_STEPS} steps)")
    for axes, title in ((left, f"guidance {FIXED_SCALE:g}"), (right, "where guidance applies, 1 is the noise")):
        axes.axhline(floor, color="grey", linestyle=":", linewidth=1)
        axes.legend(title=title, fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    images: ImageSet = image_set.read(options.data)
    model, release = load_diffusion(options.release)
    fidelity = Fidelity(networks.load(Weights(), images, options.data, options.output).features, images)
    train = images.rows("train")
    judge = DigitJudge(images.pixels(train), images.labels(train))
    table = options.output / "sweep.jsonl"
    done = [json.loads(line) for line in table.read_text().splitlines()] if table.is_file() else []
    known = {(one["solver"], one["steps"], one["scale"], tuple(one["interval"])) for one in done}
    with table.open("a") as file:
        for setting in track([one for one in settings() if one not in known], "settings"):
            done.append(measure(model, release, fidelity, judge, setting, options.images))
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    real = fidelity.compare(fidelity.held_out)["frechet_distance"]
    draw(done, real, options.output / "sweep.png")
    print(f"held-out images: {real:.4f} of {len(fidelity.held_out)}")


if __name__ == "__main__":
    main()
