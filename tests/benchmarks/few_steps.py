"""A distilled release beside its teacher: `python -m tests.benchmarks.few_steps STUDENT TEACHER DATA OUTPUT`.

Every row of the table has the same requests and seeds. Differences are those to the teacher's 40 rows an image, with
paired bootstrap intervals that hold for a row's figures together. Writes `fewstep.png`: the teacher above the student
in 8, 4, 2 and 1 evaluations.
"""

import argparse
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("student", "teacher", "data", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--guidance", type=float, default=1.5)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    images = image_set.read(options.data)
    (teacher, taught), (student, made) = load_diffusion(options.teacher), load_diffusion(options.student)
    requested = second_stage.build_requests(taught, images, options.images)
    _, obeys = judge(taught, images, requested)
    features = networks.load(Weights(), images, options.data, options.output).features
    rows = spread(images.rows("train"), MOST_REAL)
    real = compute_features(features, images, rows)
    (field,) = types_of(taught)
    labels = torch.tensor([request[field] for request in requested.requests]), torch.as_tensor(images.labels(rows))
    distilled = [
        ("student", student, made, Sampling(options.images, "shortcut", n, options.guidance)) for n in (8, 4, 2, 1)
    ]
    ways = [
        ("teacher", teacher, taught, Sampling(options.images, guidance=options.guidance)),
        ("teacher", teacher, taught, Sampling(options.images, steps=4, guidance=options.guidance)),
        ("teacher", teacher, taught, Sampling(options.images, steps=2, guidance=options.guidance)),
        *distilled,
    ]
    reference: tuple[Tensor, Tensor] | None = None
    sheet = []
    for who, model, description, sampling in ways:
        samples = second_stage.generate(model, description, requested.requests, sampling)
        found = features.features(samples), torch.as_tensor(obeys(samples) if obeys else []).double()
        reference = reference or found
        count = sampling.steps * (2 if who == "teacher" else 1)
        print(f"{who}, {sampling.solver}, {sampling.steps} steps, {count} rows an image")
        for one in paired.compare(found[0], reference[0], real, labels, {"obeyed": (found[1], reference[1])}):
            interval = f"{one.first - one.second:+.4f} ({one.low:+.4f} to {one.high:+.4f})"
            print(f"  {one.name.replace('_', ' '):28} {one.first:8.4f}  {interval}  {one.verdict}")
        if sampling.steps == 20 or who == "student":
            sheet.append(samples[spread(range(len(samples)), SHOWN)])
    contact_sheet.save(options.output / "fewstep.png", torch.cat(sheet), columns=SHOWN)


if __name__ == "__main__":
    main()
