"""Evaluates a diffusion model on its samples: fidelity, copies of training images, and agreement with conditions."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import track
from torch import Tensor

from training.data.batches import row_generator
from training.data.conditions import request_maker, types_of
from training.data.image_set import ImageSet
from training.data.rows import read_image
from training.evaluation.agreement import SCORES, Answer
from training.evaluation.fidelity import Fidelity
from training.evaluation.networks import Networks
from training.model.distilled_solvers import DISTILLED_SOLVERS
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion
from training.model.release import Release
from training.model.sampling import Sampler
from training.model.sampling import generate as sample
from training.previews import contact_sheet
from training.previews.samples import requests_of_rows

BATCH = 40
GUIDANCE = 1.5
COLUMNS = 16  # of the sheet of samples


@dataclass(frozen=True)
class Sampling:
    """How a diffusion release is sampled; the defaults are the service's.

    For a release that was distilled to few steps the default solver and steps stand for its own.
    Two evaluations are comparable only if these are equal. Raises ValueError naming the invalid field.
    """

    images: int = 1000
    solver: str = "dpm_solver_2m"
    steps: int = 20
    guidance: float | None = None  # None: GUIDANCE, or 1 (none) for a release trained without condition dropout
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("images", 1), ("steps", 1), ("seed", 0)):
            if (value := getattr(self, field)) < least:
                raise ValueError(f"{field}: {value} is not allowed; permitted: at least {least}")
        if self.guidance is not None and not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance: {self.guidance:g} is not allowed; permitted: a number from 0, the null "
                             "condition alone; 1 is no guidance")  # fmt: skip

    @classmethod
    def parsers(cls) -> dict[str, type]:
        """Return the type of each field."""
        return {one.name: float if one.default is None else type(one.default) for one in fields(cls)}


@dataclass(frozen=True)
class EvaluationRequests:
    """The requests of an evaluation. rows: the held-out image that each describes, if any."""

    requests: Sequence[dict[str, Any]]
    rows: Sequence[int] | None


def score(
    model: LatentDiffusion,
    description: Release,
    images: ImageSet,
    output: Path,
    sampling: Sampling,
    networks: Networks,
) -> dict[str, Any]:
    """Return the figures of samples; draw `samples.png` and `nearest.png`.

    Each class is requested equally often. Other conditions are those of held-out images, in turn.
    """
    sampling = complete_sampling(sampling, description)
    requested = build_requests(description, images, sampling.images)
    samples = generate(model, description, requested.requests, sampling)
    draw_samples(description, images, requested, samples, output)
    fidelity = Fidelity(networks.features, images)
    scores: dict[str, Any] = {"sampling": asdict(sampling), **fidelity.scores(samples)}
    scores |= fidelity.nearest_neighbours(samples, output)
    originals = None if requested.rows is None else images.pixels(requested.rows)
    for field, kind in types_of(description).items():
        values = [request[field] for request in requested.requests]
        given = [i for i, value in enumerate(values) if value is not None]
        if given and kind in SCORES:
            answer = Answer(
                images, [values[i] for i in given], samples[given], None if originals is None else originals[given],
                networks, fidelity, request_maker(description).scale,
            )  # fmt: skip
            scores |= SCORES[kind](answer)
    return scores


def complete_sampling(sampling: Sampling, description: Release) -> Sampling:
    """Return the sampling with what its defaults stand for. Raises ValueError for what the release forbids."""
    distilled = description.distilled
    if sampling.steps > description.timesteps:
        raise ValueError(f"steps: {sampling.steps} is not allowed for {description.name}; permitted: 1 to "
                         f"{description.timesteps}, its timesteps")  # fmt: skip
    if distilled is None:
        usual = GUIDANCE if description.guided else 1.0
        return replace(sampling, guidance=usual if sampling.guidance is None else sampling.guidance)
    (solver,) = DISTILLED_SOLVERS
    if sampling.solver not in (solver, Sampling.solver):
        raise ValueError(f"solver: {sampling.solver!r} is not allowed for {description.name}; permitted: {solver}")
    steps, guidance = sampling.steps, distilled.best_guidance if sampling.guidance is None else sampling.guidance
    if steps not in distilled.steps:
        if steps != Sampling.steps:
            permitted = ", ".join(map(str, distilled.steps))
            raise ValueError(f"steps: {steps} is not allowed for {description.name}; permitted: {permitted}")
        steps = distilled.best_steps
    low, high = distilled.guidance
    if not low <= guidance <= high:
        raise ValueError(
            f"guidance: {guidance:g} is not allowed for {description.name}; permitted: {low:g} to {high:g}"
        )
    return replace(sampling, solver=solver, steps=steps, guidance=guidance)


def build_requests(description: Release, images: ImageSet, count: int) -> EvaluationRequests:
    """Return `count` requests."""
    types = types_of(description)
    if not types:
        return EvaluationRequests([{}] * count, None)
    if set(types.values()) == {"class"}:
        classes = images.used_classes
        labels = [classes[i * len(classes) // count] for i in range(count)]
        return EvaluationRequests([dict.fromkeys(types, label) for label in labels], None)
    held_out = images.rows("held_out")
    rows = [held_out[i % len(held_out)] for i in range(count)]
    requests = request_maker(description)
    made = [
        requests(read_image(images, row, images.records[row]), row_generator(0, 0, i)) for i, row in enumerate(rows)
    ]
    return EvaluationRequests(made, rows)


def draw_samples(
    description: Release, images: ImageSet, requested: EvaluationRequests, samples: Tensor, output: Path
) -> None:
    """Draw `samples.png`: a named row per class, or the conditions, their samples, and the images they describe."""
    path = output / "samples.png"
    if requested.rows is not None:
        what = requests_of_rows(images, request_maker(description), requested.rows[:COLUMNS])
        parts = [part[:COLUMNS] for part in (what.conditions, samples, what.originals) if part is not None]
        contact_sheet.save(path, torch.cat(parts), columns=len(parts[0]), captions=what.captions)
        return
    classes = images.description.classes
    labels = dict.fromkeys(label for request in requested.requests for label in request.values())
    names = [classes[label] for label in labels] if classes else []
    rows = len(names) or min(4, len(samples))
    across = max(1, min(COLUMNS, len(samples) // rows))
    order = [-(-row * len(samples) // rows) + i for row in range(rows) for i in range(across)]
    contact_sheet.save(path, samples[order], columns=across, rows=names)


def generate(
    model: LatentDiffusion, description: Release, requests: Sequence[dict[str, Any]], sampling: Sampling
) -> Tensor:
    """Sample one image per request, with seeds from `sampling.seed` upwards: [R, C, H, W] in [-1, 1].

    Calls the `generate` that the service uses.
    """
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    sampling = complete_sampling(sampling, description)
    sampler, guidance = Sampler(sampling.solver, sampling.steps), Guidance(cast(float, sampling.guidance))
    parts = []
    for start in track(range(0, len(requests), BATCH), "sampling", transient=True):
        batch = requests[start : start + BATCH]
        seeds = range(sampling.seed + start, sampling.seed + start + len(batch))
        shape = description.latent_shape
        parts.append(sample(model, batch, seeds, latent_shape=shape, sampler=sampler, guidance=guidance).cpu())
    return torch.cat(parts)
