"""Whole sampling runs of Stable Diffusion's files, read here and by diffusers' own converters."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.compvis import write_checkpoint
from tests.support.stable_diffusion import SIZE, diffusers_parts, stable_diffusion, write_tokenizer
from training.model import sampling
from training.model.guidance import Guidance
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.release import import_release
from training.model.latent_diffusion import load_diffusion

TEXTS = ["A red cat", "cats, " * 20]
STEPS, SCALE = 5, 7.5
KINDS: dict[str, dict[str, Any]] = {
    "1.x": {"version": 1},
    "1.5 inpainting": {"version": 1, "inpainting": True},
    "2.x base": {"version": 2},
    "2.x v-prediction": {"version": 2, "prediction": "v"},
    "2.x inpainting": {"version": 2, "inpainting": True},
}


def start_noise() -> Tensor:
    return torch.randn(2, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def masked_images() -> tuple[Tensor, Tensor]:
    """Return images [2, 3, H, W] in [-1, 1] and their masks [2, 1, H, W], 1 in the hole."""
    images = torch.rand(2, 3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    masks = torch.zeros(2, 1, 2 * SIZE, 2 * SIZE)
    masks[:, :, 4:11, 3:9] = 1
    return images, masks


def write_files(kind: str, folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Write a checkpoint with its tokenizer beside it and its configuration; 2.x as safetensors.

    Returns both paths and the parts of diffusers' pipelines.
    """
    vocabulary = write_tokenizer(folder / "tokenizer")
    config, state = stable_diffusion(vocabulary, **KINDS[kind])
    checkpoint, described = write_checkpoint(folder, config, state)
    if KINDS[kind]["version"] == 2:
        checkpoint = checkpoint.with_suffix(".safetensors")
        save_file(state, checkpoint)
    return checkpoint, described, diffusers_parts(config, state, folder / "tokenizer")


@torch.inference_mode()
def sample_here(release: Path) -> Tensor:
    """Return two images of a release, [2, 3, H, W] in [-1, 1]; of an inpainting model, their holes alone."""
    model, _ = load_diffusion(release)
    requests: list[dict[str, Any]] = [{"caption": text} for text in TEXTS]
    images, masks = masked_images()
    inpainting = model.unet.config.in_channels == 9
    if inpainting:
        for i, request in enumerate(requests):
            request["masked_image"] = {"image": images[i], "mask": masks[i, 0]}
    found = sampling.generate(
        model,
        requests,
        [0, 1],
        latent_shape=(4, SIZE, SIZE),
        start=start_noise(),
        sampler=sampling.Sampler("ddim", STEPS, "leading"),
        guidance=Guidance(SCALE),
    )
    return found * masks if inpainting else found


@torch.inference_mode()
def sample_there(parts: dict[str, Any], prediction: str = "eps") -> Tensor:
    """Return the same images of diffusers' pipeline."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline

    inpainting = parts["unet"].config.in_channels == 9
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, timestep_spacing="leading",
        prediction_type="v_prediction" if prediction == "v" else "epsilon",
    )  # fmt: skip
    pipeline = (StableDiffusionInpaintPipeline if inpainting else StableDiffusionPipeline)(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    more: dict[str, Any] = {}
    images, masks = masked_images()
    if inpainting:
        more = {"image": images / 2 + 0.5, "mask_image": masks, "height": 2 * SIZE, "width": 2 * SIZE, "strength": 1.0}
        parts["vae"].quant_conv.register_forward_hook(mean_only)
    theirs = pipeline(
        TEXTS, latents=start_noise(), num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt", **more
    ).images
    expected = torch.as_tensor(theirs) * 2 - 1
    return expected * masks if inpainting else expected


def mean_only(layer: Any, inputs: Any, moments: Tensor) -> Tensor:
    """Make diffusers encode with the mean of the posterior, as we do; it would draw a sample."""
    mean, logvar = moments.chunk(2, dim=1)
    return torch.cat([mean, torch.full_like(logvar, -30.0)], dim=1)


def import_files(kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Import a kind's files as a release. Returns its folder, and the parts of diffusers' pipelines."""
    checkpoint, config, parts = write_files(kind, folder)
    import_release(checkpoint, config, folder / "release", name="sd", options=Options())
    return folder / "release", parts
