"""Sampling images from requests and seeds, starting from noise or from an image, as a whole or in part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.model import solvers, spacing
from training.model.batch import Batch, Known, Run
from training.model.distilled_solvers import DISTILLED_SOLVERS
from training.model.guidance import Guidance, ImageGuider
from training.model.latent_diffusion import LatentDiffusion
from training.model.noise import seeded_noise
from training.model.release import DecoderName
from training.model.solver_table import Trajectory


@dataclass(frozen=True)
class Sampler:
    """A choice of trajectory; see `solvers.SOLVERS` and `spacing.SPACINGS`.

    eta: from 0, deterministic, to 1, ancestral; for "ddim" only.
    strength: the share of the steps to run, the last ones, rounded down as in diffusers; below 1 the run starts from an
        image with noise (SDEdit, Meng et al. 2022).
    """

    solver: str = "ddim"
    steps: int = 30
    spacing: str = "trailing"
    eta: float = 0.0
    strength: float = 1.0


def trajectory(model: LatentDiffusion, sampler: Sampler) -> Trajectory:
    """Return the trajectory of a sampler. Raises ValueError naming the invalid field and what is permitted."""
    is_told_step = "step" in model.unet.config.numbers
    permitted = DISTILLED_SOLVERS if is_told_step else solvers.SOLVERS
    if sampler.solver not in permitted:
        is_known = sampler.solver in solvers.SOLVERS or sampler.solver in DISTILLED_SOLVERS
        problem = "not allowed" if is_known else "not known"
        reason = " for a model that was distilled to few steps" if is_told_step else ""
        known = ", ".join(sorted(permitted))
        raise ValueError(f"solver: {sampler.solver!r} is {problem}{reason}; permitted: {known}")
    if is_told_step and sampler.spacing != "trailing":
        raise ValueError(f"spacing: {sampler.spacing!r} is not allowed for a model that was distilled to few steps; "
                         "permitted: trailing")  # fmt: skip
    if not 0 <= sampler.eta <= 1 or (sampler.eta and sampler.solver != "ddim"):
        raise ValueError(f"eta: {sampler.eta} is not allowed; permitted: 0 to 1, and 0 unless the solver is ddim")
    if not 0 < sampler.strength <= 1:
        raise ValueError(f"strength: {sampler.strength} is not allowed; permitted: above 0, to 1")
    levels = spacing.levels(model.diffusion, sampler.steps, sampler.spacing)
    steps = len(levels) - 1 if sampler.strength == 1 else solvers.steps_taken(sampler.steps, sampler.strength)
    options = {"eta": sampler.eta} if sampler.solver == "ddim" else {}
    return solvers.build(sampler.solver, levels[-steps - 1 :], model.diffusion, **options)


def generate(
    model: LatentDiffusion,
    requests: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    latent_shape: Sequence[int],
    sampler: Sampler | None = None,
    guidance: Guidance | None = None,
    start: Tensor | None = None,
    images: Tensor | None = None,
    keep: Tensor | None = None,
    guider: ImageGuider | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    on_latents: Callable[[Tensor], None] | None = None,
    decoder: DecoderName = "full",
) -> Tensor:
    """Sample one image for each request and seed: [R, channels, H, W] in [-1, 1].

    latent_shape: (C, h, w). h and w may differ from training, because the networks are convolutional (Rombach et al.
        2022, section 4.3.2; the latent scale keeps the signal-to-noise ratio right, appendix D.1).
    start: the initial noise, [R, *latent_shape]; drawn from the seeds by default.
    images: [R, channels, H, W] in [-1, 1], the images to start from if the sampler's strength is below 1.
    keep: [R, 1, h, w], 1 where the latent of `images` is kept: inpainting by an unconditional model.
    guider: guides an unconditional model, with one target per request.
    on_step: called with the number of evaluations so far and the current estimates of z_0, [R, C, h, w].
    on_latents: called with the final latents before they are decoded, [R, C, h, w].
    decoder: the name of one of the model's `decoders`.
    Raises ValueError naming what does not fit.
    """
    sampler, guidance = sampler or Sampler(), guidance or Guidance()
    path = trajectory(model, sampler)
    if decoder not in model.decoders:
        raise ValueError(f"decoder: {decoder!r} is not allowed; permitted: {', '.join(model.decoders)}")
    if images is None and (keep is not None or sampler.strength < 1):
        raise ValueError("images: missing; strength below 1 and keep need images to start from")
    size = (int(latent_shape[1]), int(latent_shape[2]))
    device = model.device
    with torch.no_grad():
        conditions = model.conditions(requests, size)
        null = model.conditions([None], size).row(0) if model.has_null else None
        known = None if images is None else model.autoencoder.encode(images.to(device))
        if known is not None and tuple(known.shape[1:]) != tuple(latent_shape):
            raise ValueError(f"images: their latents are {tuple(known.shape[1:])}; wanted {tuple(latent_shape)}")
        if start is None:
            start = torch.stack([seeded_noise(seed, 0, latent_shape) for seed in seeds])
        x = start.to(device)
        if known is not None and sampler.strength < 1:
            t = torch.full((len(x),), float(path.t[0]), dtype=torch.float64, device=device)
            x = model.diffusion.diffuse(known, x, t)
        guided = null is not None and guidance.scale != 1.0
        batch = Batch(model, rows=max(2, len(requests) * (2 if guided else 1)), shape=latent_shape)
        runs = []
        for i, seed in enumerate(seeds):
            kept = None if known is None or keep is None else Known(known[i], keep[i].to(known))
            row = conditions.row(i)
            compared = None if null is None else model.null_of(row, null)
            run = Run(seed, path, x[i], row, compared, guidance, kept)
            batch.join(run)
            runs.append(run)
        for done in range(1, len(path) + 1):
            denoised = batch.step(guider)
            if on_step is not None:
                on_step(done, denoised[: len(runs)])
        latents = torch.stack([batch.leave(run) for run in runs])
        if on_latents is not None:
            on_latents(latents)
        generated = model.decoders[decoder].decode(latents).clamp(-1, 1)
        pairs = zip(generated, requests, strict=True)
        return torch.stack([model.conditioners.finish(image, request) for image, request in pairs])
