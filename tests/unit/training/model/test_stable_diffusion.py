"""Stable Diffusion's files, read here and by diffusers' own converters: whole sampling runs are equal."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.comparison import relative_error
from tests.support.compvis import write_checkpoint
from tests.support.stable_diffusion import SIZE, diffusers_parts, stable_diffusion, write_tokenizer
from training.model import sampling
from training.model.guidance import Guidance
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.release import import_release
from training.model.latent_diffusion import LatentDiffusion, load_diffusion

TEXTS = ["A red cat", "cats, " * 20]
STEPS, SCALE = 5, 7.5
KINDS: dict[str, dict[str, Any]] = {
    "1.x": {"version": 1},
    "1.5 inpainting": {"version": 1, "inpainting": True},
    "2.x base": {"version": 2},
    "2.x v-prediction": {"version": 2, "prediction": "v"},
    "2.x inpainting": {"version": 2, "inpainting": True},
}


@pytest.fixture(params=KINDS)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Any]:
    """A checkpoint with its tokenizer beside it, its configuration, and the parts of diffusers' pipelines."""
    kind = KINDS[request.param]
    vocabulary = write_tokenizer(tmp_path / "tokenizer")
    config, state = stable_diffusion(vocabulary, **kind)
    checkpoint, described = write_checkpoint(tmp_path, config, state)
    if kind["version"] == 2:
        checkpoint = checkpoint.with_suffix(".safetensors")
        save_file(state, checkpoint)
    return checkpoint, described, diffusers_parts(config, state, tmp_path / "tokenizer")


def import_model(checkpoint: Path, config: Path) -> LatentDiffusion:
    folder = checkpoint.parent / "release"
    release, _ = import_release(checkpoint, config, folder, name="sd", options=Options())
    assert release.guided, "texts were dropped in training"
    model, _ = load_diffusion(folder)
    assert float(model.autoencoder.latent_scale) == pytest.approx(0.18215)
    return model


@torch.inference_mode()
def test_a_sampling_run_equals_that_of_diffusers(files: tuple[Path, Path, Any]) -> None:
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline

    checkpoint, config, parts = files
    model = import_model(checkpoint, config)
    inpainting, v = model.unet.config.in_channels == 9, model.diffusion.config.parameterisation == "v"
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, timestep_spacing="leading", prediction_type="v_prediction" if v else "epsilon",
    )  # fmt: skip
    pipeline_class = StableDiffusionInpaintPipeline if inpainting else StableDiffusionPipeline
    pipeline = pipeline_class(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    start = torch.randn(2, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    requests: list[dict[str, Any]] = [{"caption": text} for text in TEXTS]
    more: dict[str, Any] = {}
    if inpainting:
        image = torch.rand(2, 3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1
        mask = torch.zeros(2, 1, 2 * SIZE, 2 * SIZE)
        mask[:, :, 4:11, 3:9] = 1
        for i, request in enumerate(requests):
            request["masked_image"] = {"image": image[i], "mask": mask[i, 0]}
        more = {"image": image / 2 + 0.5, "mask_image": mask, "height": 2 * SIZE, "width": 2 * SIZE, "strength": 1.0}
        parts["vae"].quant_conv.register_forward_hook(mean_only)
    images = sampling.generate(
        model,
        requests,
        [0, 1],
        latent_shape=start.shape[1:],
        start=start,
        sampler=sampling.Sampler("ddim", STEPS, "leading"),
        guidance=Guidance(SCALE),
    )
    theirs = pipeline(
        TEXTS, latents=start, num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt", **more
    ).images
    expected = theirs * 2 - 1
    if inpainting:  # ours has the known pixels exactly
        images, expected = images * mask, expected * mask
    assert relative_error(images, expected) < 1e-4


def mean_only(layer: Any, inputs: Any, moments: torch.Tensor) -> torch.Tensor:
    """Make diffusers encode with the mean of the posterior, as we do; it would draw a sample."""
    mean, logvar = moments.chunk(2, dim=1)
    return torch.cat([mean, torch.full_like(logvar, -30.0)], dim=1)
