"""Distilled releases beside their teacher: `python -m tests.benchmarks.few_steps TEACHER DATA OUTPUT STUDENT ...`.

Every row of the table has the same requests and seeds. Differences are those to the teacher in the first number of
--teacher-steps, then those of students to its other numbers, and of each further student to the first one with as many
evaluations, with paired bootstrap intervals that hold for a row's figures together. Writes `fewstep.png`: the teacher
above each student in 8, 4, 2 and 1 evaluations. Samples are kept in OUTPUT, so the same command goes on where it ended,
and students may be added.
"""

import argparse
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.data import image_set
from training.data.conditions import types_of
from training.data.image_set import ImageSet
from training.data.rows import spread
from training.evaluation import networks, obedience, second_stage
from training.evaluation.against import comparable_rows, conditions_of
from training.evaluation.networks import MOST_REAL, Weights, compute_features
from training.evaluation.second_stage import EvaluationRequests, Sampling
from training.metrics import paired
from training.model import release
from training.model.latent_diffusion import load_diffusion
from training.model.pixels import to_bytes, to_unit
from training.model.release import Release
from training.previews import contact_sheet
from training.previews.samples import describe_request, draw_condition

SHOWN = 20  # columns of the sheet
STUDENT_STEPS = (8, 4, 2, 1)


class Images(NamedTuple):
    """What is compared of a set of images: features [N, D], and how well each obeys its request [N], by its name."""

    features: Tensor
    obeyed: dict[str, Tensor]


class Real(NamedTuple):
    """The real images: features [M, D], and the classes of requests [N] and of them [M], if requests are classes."""

    features: Tensor
    classes: tuple[Tensor, Tensor] | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("teacher", "data", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("students", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--teacher-steps", type=int, nargs="+", default=[20, 4, 2])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    ways = [
        (folder, Sampling(options.images, solver, steps, options.guidance))
        for folders, solver, every in (
            ([options.teacher], Sampling.solver, options.teacher_steps),
            (options.students, "shortcut", STUDENT_STEPS),
        )
        for folder in folders
        for steps in every
    ]
    images = image_set.read(options.data)
    requested = second_stage.build_requests(release.read(options.teacher), images, options.images)
    drawn = {(folder, way.steps): draw(folder, way, requested, options.output) for folder, way in ways}
    measure(drawn, requested, images, options)


def draw(folder: Path, sampling: Sampling, requested: EvaluationRequests, output: Path) -> Tensor:
    """Return the samples of a release, [N, C, H, W], from OUTPUT if they were drawn before."""
    model, description = load_diffusion(folder)
    kept = output / f"{description.digest[:12]}-{sampling.steps}-{sampling.images}-{sampling.guidance:g}.npy"
    if not kept.is_file():
        np.save(kept, second_stage.generate(model, description, requested.requests, sampling).numpy())
    return torch.from_numpy(np.load(kept, allow_pickle=False))


def measure(
    drawn: dict[tuple[Path, int], Tensor], requested: EvaluationRequests, images: ImageSet, options: Namespace
) -> None:
    """Print the table, and write the sheet. drawn: the samples of each release in a number of steps."""
    taught = release.read(options.teacher)
    judged = obedience.find(types_of(taught), images, requested)
    features = networks.load(Weights(), images, options.data, options.output).features
    rows = spread(comparable_rows(taught, images), MOST_REAL)
    real = Real(compute_features(features, images, rows), conditions_of(taught, images, requested, rows))
    found = {
        way: Images(features.features(samples), {judged.name: judged.measure(samples)} if judged else {})
        for way, samples in drawn.items()
    }
    guided = 2 if options.guidance != 1 else 1
    reference = options.teacher, options.teacher_steps[0]
    for way, one in found.items():
        folder, steps = way
        print(f"{folder}, {steps} steps, {steps * (guided if folder == options.teacher else 1)} rows an image")
        tell(one, found[reference], real)
    for other in options.teacher_steps[1:]:
        for folder in options.students:
            for steps in STUDENT_STEPS:
                print(f"{folder}, {steps} steps, beside the teacher's {other}")
                tell(found[folder, steps], found[options.teacher, other], real)
    first, *others = options.students
    for folder in others:
        for steps in STUDENT_STEPS:
            print(f"{folder} beside {first}, {steps} steps")
            tell(found[folder, steps], found[first, steps], real)
    draw_sheet(taught, requested, drawn, images, options)


def draw_sheet(
    taught: Release,
    requested: EvaluationRequests,
    drawn: dict[tuple[Path, int], Tensor],
    images: ImageSet,
    options: Namespace,
) -> None:
    """Write the sheet, with the conditions above and the images that they describe below."""
    columns, types = spread(range(options.images), SHOWN), types_of(taught)
    shown = [samples[columns] for samples in drawn.values()]
    captions = list[str]()
    if requested.rows is not None:
        described = [(requested.requests[column], images.pixels([requested.rows[column]])) for column in columns]
        pictures = [draw_condition(request, types, to_bytes(original)[0]) for request, original in described]
        if all(picture is not None for picture in pictures):
            shown.insert(0, to_unit(torch.from_numpy(np.stack([one for one in pictures if one is not None]))))
        shown.append(torch.cat([original for _, original in described]))
        captions = [describe_request(request, types, ()) for request, _ in described]
    contact_sheet.save(
        options.output / "fewstep.png", torch.cat(shown), columns=SHOWN, captions=captions if any(captions) else ()
    )


def tell(one: Images, other: Images, real: Real) -> None:
    """Print the figures of images, and their differences to those of others."""
    obeyed = {name: (values, other.obeyed[name]) for name, values in one.obeyed.items()}
    for each in paired.compare(one.features, other.features, real.features, real.classes, obeyed):
        interval = f"{each.first - each.second:+.4f} ({each.low:+.4f} to {each.high:+.4f})"
        print(f"  {each.name.replace('_', ' '):28} {each.first:8.4f}  {interval}  {each.verdict}", flush=True)


if __name__ == "__main__":
    main()
