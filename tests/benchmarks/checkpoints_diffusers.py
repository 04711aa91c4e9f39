"""Folders of diffusers against diffusers itself, see `checkpoints`."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor

from tests.support import diffusers_folders as made
from tests.support.comparison import relative_error
from training.model.guidance import Guidance
from training.model.interop import huggingface
from training.model.interop.huggingface.reading.release import import_release
from training.model.latent_diffusion import load_autoencoder, load_diffusion
from training.model.sampling import Sampler, generate

STEPS, SCALE, SEED = 8, 3.0, 5
CAPTIONS = ["a cat", "a dog"]


class Case(NamedTuple):
    """A pipeline of diffusers, what it is called with, and the same as requests to us."""

    pipeline: Any
    given: dict[str, Any]
    requests: list[dict[str, Any]]
    channels: int = 3
    scale: float = 1.0
    size: int = 8


def ddim(**changes: Any) -> Any:
    return diffusers.DDIMScheduler(**made.SD_BETAS, **{**made.LEADING, **changes})


def text_case(folder: Path) -> Case:
    pipeline = diffusers.LDMTextToImagePipeline(
        made.vae(), made.bert(), made.bert_tokenizer(folder / "words"), made.cross_unet(), ddim()
    )
    given = {"prompt": CAPTIONS, "height": 64, "width": 64, "guidance_scale": SCALE}
    return Case(pipeline, given, [{"caption": text} for text in CAPTIONS], 4, SCALE)


def stable_case(folder: Path, scheduler: Any, unet: dict[str, Any], text: dict[str, Any]) -> Case:
    padding = "!" if text else "<|endoftext|>"
    pipeline = made.stable_diffusion(
        folder / "words", scheduler, made.cross_unet(**unet), made.clip(**text), padding
    )  # fmt: skip
    given = {"prompt": CAPTIONS, "height": 16, "width": 16, "guidance_scale": SCALE}
    return Case(pipeline, given, [{"caption": text} for text in CAPTIONS], 4, SCALE)


def small_case(folder: Path) -> Case:
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1
    pipeline = diffusers.LDMSuperResolutionPipeline(made.vq(), made.plain_unet(in_channels=6), ddim())
    return Case(pipeline, {"image": small, "batch_size": 2}, [{"low_resolution": one} for one in small])


def pixels_case(folder: Path) -> Case:
    unet = made.plain_unet(flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, attention_head_dim=None)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    return Case(diffusers.DDIMPipeline(unet, scheduler), {"batch_size": 2}, [{}, {}])


V2 = {"attention_head_dim": [1, 2], "use_linear_projection": True}
OPEN_CLIP = {"hidden_act": "gelu", "num_hidden_layers": 3}
CASES: dict[str, Callable[[Path], Case]] = {
    "LDMPipeline with VQModel": lambda _: Case(
        diffusers.LDMPipeline(made.vq(), made.plain_unet(), ddim()), {"batch_size": 2}, [{}, {}]
    ),
    "LDMPipeline with AutoencoderKL": lambda _: Case(
        diffusers.LDMPipeline(made.vae(latent_channels=3), made.plain_unet(), ddim()), {"batch_size": 2}, [{}, {}]
    ),
    "DDIMPipeline, pixels": pixels_case,
    "LDMTextToImagePipeline": text_case,
    "LDMSuperResolutionPipeline": small_case,
    "StableDiffusionPipeline 1.x, PNDM": lambda folder: stable_case(
        folder, diffusers.PNDMScheduler(**made.SD_BETAS, skip_prk_steps=True, steps_offset=1), {}, {}
    ),
    "StableDiffusionPipeline 2.x, v-prediction": lambda folder: stable_case(
        folder, ddim(prediction_type="v_prediction"), V2, OPEN_CLIP
    ),
}


def run(pipeline: Any, case: Case) -> Tensor:
    """Return two images of a pipeline, [2, C, H, W] in [-1, 1], from the noise of SEED by DDIM or its own scheduler."""
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        **case.given, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(SEED), output_type="np"
    ).images
    return torch.as_tensor(found).permute(0, 3, 1, 2) * 2 - 1


@torch.inference_mode()
def measure(name: str, folder: Path) -> tuple[float, str]:
    """Return the difference of our images from diffusers' of the folder, and of diffusers' of the export from ours."""
    torch.manual_seed(0)
    with contextlib.redirect_stderr(io.StringIO()):
        case = CASES[name](folder)
        case.pipeline.save_pretrained(folder / "saved")
        release, _ = import_release(folder / "saved", folder / "release", name="folder")
        model, _ = load_diffusion(folder / "release")
    start = torch.randn(2, case.channels, case.size, case.size, generator=torch.Generator().manual_seed(SEED))

    def ours(solver: str, spacing: str) -> Tensor:
        return generate(
            model, case.requests, [0, 1], latent_shape=start.shape[1:], start=start,
            sampler=Sampler(solver, STEPS, spacing), guidance=Guidance(case.scale),
        )  # fmt: skip

    imported = relative_error(ours(**release.lineage["sampler"]), run(case.pipeline, case))
    try:
        huggingface.export(folder / "release", folder / "exported")
    except huggingface.ExportError as error:
        return imported, f"refused: {str(error).partition(' cannot be')[0]}"
    with contextlib.redirect_stderr(io.StringIO()):
        again = diffusers.DiffusionPipeline.from_pretrained(folder / "exported", low_cpu_mem_usage=False)
    return imported, f"{relative_error(run(again, case), ours('ddim', 'leading_exact')):.1e}"


@torch.inference_mode()
def measure_autoencoder(kind: str, folder: Path) -> tuple[float, str]:
    """Return the same for an autoencoder alone, of images that are encoded and decoded."""
    torch.manual_seed(0)
    theirs = made.vae() if kind == "AutoencoderKL" else made.vq()
    theirs.save_pretrained(folder / "saved")
    import_release(folder / "saved", folder / "release", name="first")
    ours, _ = load_autoencoder(folder / "release")
    images = torch.rand(2, 3, 16, 16) * 2 - 1

    def of(autoencoder: Any) -> Tensor:
        encoded = autoencoder.encode(images)
        latents = encoded.latent_dist.mean if kind == "AutoencoderKL" else encoded.latents
        return torch.as_tensor(autoencoder.decode(latents).sample)

    found = ours.decode(ours.encode(images))
    huggingface.export(folder / "release", folder / "exported")
    again = getattr(diffusers, kind).from_pretrained(folder / "exported", low_cpu_mem_usage=False).eval()
    return relative_error(found, of(theirs)), f"{relative_error(of(again), found):.1e}"
