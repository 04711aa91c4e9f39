"""A diffusion model's samples: alike to real images, no copies of them, and what was asked for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from training.data.batches import row_generator
from training.data.conditions import Requests
from training.data.image_set import ImageSet
from training.data.rows import picture
from training.evaluation.fidelity import Fidelity
from training.evaluation.networks import Networks
from training.evaluation.obedience import SCORES, Answer
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion
from training.model.release import Release
from training.model.sampling import Sampler
from training.model.sampling import generate as sample
from training.previews import contact_sheet
from training.previews.samples import asked_of

BATCH = 40
GUIDANCE = 1.5
COLUMNS = 16  # of a sheet


@dataclass(frozen=True)
class Sampling:
    """How a diffusion release is sampled, as the service does unless told otherwise.

    Two evaluations compare only where these are equal.
    """

    images: int = 1000
    solver: str = "dpm_solver_2m"
    steps: int = 20
    guidance: float = 0.0  # 0: GUIDANCE, or 1 (none) for a release that never learned to do without conditions
    seed: int = 0


@dataclass(frozen=True)
class Questions:
    """What a model is asked for: requests, and the held-out image that each is of, if any."""

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
    """Figures of samples; `samples.png` and `nearest.png`.

    Classes are asked for alike often; other conditions are those of held-out images, in turn.
    """
    if sampling.guidance == 0:
        sampling = replace(sampling, guidance=GUIDANCE if description.guided else 1.0)
    asked = questions(description, images, sampling.images)
    samples = generate(model, description, asked.requests, sampling)
    show(description, images, asked, samples, output)
    fidelity = Fidelity(networks.features, images)
    scores: dict[str, Any] = {"sampling": asdict(sampling), **fidelity.scores(samples)}
    scores |= fidelity.copies(samples, output)
    originals = None if asked.rows is None else images.pixels(asked.rows)
    for field, kind in types_of(description).items():
        values = [request[field] for request in asked.requests]
        told = [i for i, value in enumerate(values) if value is not None]
        if told and kind in SCORES:
            answer = Answer(
                images, [values[i] for i in told], samples[told], None if originals is None else originals[told],
                networks, fidelity, requests_of(description).scale,
            )  # fmt: skip
            scores |= SCORES[kind](answer)
    return scores


def questions(description: Release, images: ImageSet, count: int) -> Questions:
    """As many questions as images are wanted."""
    types = types_of(description)
    classes = len(images.description.classes)
    if not types:
        return Questions([{}] * count, None)
    if set(types.values()) == {"class"}:
        labels = [i * classes // count for i in range(count)]
        return Questions([dict.fromkeys(types, label) for label in labels], None)
    held_out = images.rows("held_out")
    rows = [held_out[i % len(held_out)] for i in range(count)]
    requests = requests_of(description)
    made = [requests(picture(images, row, images.records[row]), row_generator(0, 0, i)) for i, row in enumerate(rows)]
    return Questions(made, rows)


def show(description: Release, images: ImageSet, asked: Questions, samples: Tensor, output: Path) -> None:
    """`samples.png`: a row for each class; else what was asked for, the samples, and the images that it is of."""
    path = output / "samples.png"
    if asked.rows is not None:
        what = asked_of(images, requests_of(description), asked.rows[:COLUMNS])
        parts = [part[:COLUMNS] for part in (what.pictures, samples, what.originals) if part is not None]
        contact_sheet.save(path, torch.cat(parts), columns=len(parts[0]), captions=what.captions)
        return
    rows = len(images.description.classes) if types_of(description) else 4
    across = max(1, min(COLUMNS, len(samples) // rows))
    chosen = [-(-row * len(samples) // rows) + i for row in range(rows) for i in range(across)]
    contact_sheet.save(path, samples[chosen], columns=across)


def types_of(description: Release) -> dict[str, str]:
    """The type of each conditioner, by its request field."""
    return {name: config["type"] for name, config in description.architecture["conditioners"].items()}


def requests_of(description: Release) -> Requests:
    """What makes requests of images as the release's training made them."""
    conditioners = description.architecture["conditioners"]
    data = description.lineage.get("experiment", {}).get("data", {})
    degradation = data.get("degradation", {"kind": "bicubic", "scale": 4})
    return Requests(
        types_of(description),
        degradation["kind"],
        degradation["scale"],
        data.get("masks", "mixed"),
        min((config["objects"] for config in conditioners.values() if "objects" in config), default=None),
    )


def generate(
    model: LatentDiffusion, description: Release, requests: Sequence[dict[str, Any]], sampling: Sampling
) -> Tensor:
    """One image a request, with seeds counted up from `sampling.seed`: [R, C, H, W] in [-1, 1].

    By the `generate` that serves.
    """
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    sampler, guidance = Sampler(sampling.solver, sampling.steps), Guidance(sampling.guidance)
    parts = []
    for start in track(range(0, len(requests), BATCH), "sampling", transient=True):
        batch = requests[start : start + BATCH]
        seeds = range(sampling.seed + start, sampling.seed + start + len(batch))
        shape = description.latent_shape
        parts.append(sample(model, batch, seeds, latent_shape=shape, sampler=sampler, guidance=guidance).cpu())
    return torch.cat(parts)
