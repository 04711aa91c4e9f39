"""Distilled releases beside their teacher: `python -m tests.benchmarks.few_steps TEACHER DATA OUTPUT STUDENT ...`.

Every row of the table has the same requests and seeds. Differences are those to the teacher's 40 rows an image, and of
each further student to the first one with as many evaluations, with paired bootstrap intervals that hold for a row's
figures together. Writes `fewstep.png`: the teacher above each student in 8, 4, 2 and 1 evaluations. The teacher has one
condition, a class. Samples are kept in OUTPUT, so the same command goes on where it ended, and students may be added.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.data import image_set
from training.data.conditions import types_of
from training.data.rows import spread
from training.evaluation import networks, second_stage
from training.evaluation.against import judge
from training.evaluation.networks import MOST_REAL, Weights, compute_features
from training.evaluation.second_stage import Sampling
from training.metrics import paired
from training.model.latent_diffusion import load_diffusion
from training.previews import contact_sheet

SHOWN = 20  # columns of the sheet
TEACHER_STEPS, STUDENT_STEPS = (20, 4, 2), (8, 4, 2, 1)


class Images(NamedTuple):
    """What is compared of a set of images: features [N, D], and whether each obeys its request [N]."""

    features: Tensor
    obeyed: Tensor


class Real(NamedTuple):
    """The real images: features [M, D], and the classes of requests [N] and of them [M]."""

    features: Tensor
    classes: tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("teacher", "data", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("students", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--guidance", type=float, default=1.5)
    options = parser.parse_args()
    measure(options.teacher, options.students, options.data, options.output, options.images, options.guidance)


def measure(teacher: Path, students: Sequence[Path], data: Path, output: Path, count: int, guidance: float) -> None:
    """Print the table and write the sheet."""
    output.mkdir(parents=True, exist_ok=True)
    images = image_set.read(data)
    model, taught = load_diffusion(teacher)
    requested = second_stage.build_requests(taught, images, count)
    _, obeys = judge(taught, images, requested)
    assert obeys is not None
    features = networks.load(Weights(), images, data, output).features
    rows = spread(images.rows("train"), MOST_REAL)
    (field,) = types_of(taught)
    labels = torch.tensor([request[field] for request in requested.requests]), torch.as_tensor(images.labels(rows))
    real = Real(compute_features(features, images, rows), labels)
    ways = [(taught, model, Sampling(count, steps=n, guidance=guidance)) for n in TEACHER_STEPS]
    for folder in students:
        student, description = load_diffusion(folder)
        ways += [(description, student, Sampling(count, "shortcut", n, guidance)) for n in STUDENT_STEPS]
    found: dict[tuple[str, int], Images] = {}
    sheet = []
    for description, network, sampling in ways:
        kept = output / f"{description.digest[:12]}-{sampling.steps}-steps-{count}-images-{guidance:g}.npy"
        if not kept.is_file():
            made = second_stage.generate(network, description, requested.requests, sampling)
            np.save(kept, made.numpy(), allow_pickle=False)
        samples = torch.from_numpy(np.load(kept, allow_pickle=False))
        one = Images(features.features(samples), torch.as_tensor(obeys(samples)).double())
        cost = sampling.steps * (1 if description.distilled else 2)
        print(f"{description.name}, {sampling.solver}, {sampling.steps} steps, {cost} rows an image")
        tell(one, found.setdefault((taught.name, TEACHER_STEPS[0]), one), real)
        found[description.name, sampling.steps] = one
        if sampling.steps == TEACHER_STEPS[0] or description.distilled:
            sheet.append(samples[spread(range(len(samples)), SHOWN)])
    first, *others = (ways[len(TEACHER_STEPS) + i * len(STUDENT_STEPS)][0].name for i in range(len(students)))
    for name in others:
        for steps in STUDENT_STEPS:
            print(f"{name} beside {first}, {steps} steps")
            tell(found[name, steps], found[first, steps], real)
    contact_sheet.save(output / "fewstep.png", torch.cat(sheet), columns=SHOWN)


def tell(one: Images, other: Images, real: Real) -> None:
    """Print the figures of images, and their differences to those of others."""
    obeyed = {"obeyed": (one.obeyed, other.obeyed)}
    for each in paired.compare(one.features, other.features, real.features, real.classes, obeyed):
        interval = f"{each.first - each.second:+.4f} ({each.low:+.4f} to {each.high:+.4f})"
        print(f"  {each.name.replace('_', ' '):28} {each.first:8.4f}  {interval}  {each.verdict}", flush=True)


if __name__ == "__main__":
    main()
