"""Whole pipelines of diffusers, read by us: our images are theirs."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.support import diffusers_folders as made
from training.model.guidance import Guidance
from training.model.interop.huggingface import reading
from training.model.interop.huggingface.reading.release import import_release
from training.model.latent_diffusion import LatentDiffusion, load_diffusion
from training.model.sampling import Sampler, generate

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # in diffusers, of its numpy

STEPS, SCALE = 8, 3.0
TRAILING = {"timestep_spacing": "trailing", "steps_offset": 1}
CAPTIONS = ["a cat", "a dog"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def compare(found: reading.ReadModel, requests: list[Any], start: Tensor, expected: Any, scale: float = 1.0) -> float:
    """The largest difference between our images and theirs, which are in [0, 1] and channels-last."""
    model, schedule = found.model, found.schedule
    assert isinstance(model, LatentDiffusion)
    assert schedule is not None
    assert schedule.sampler, schedule.reason
    sampler = Sampler(schedule.sampler["solver"], STEPS, schedule.sampler["spacing"])
    images = generate(
        model, requests, range(len(requests)), latent_shape=start.shape[1:], sampler=sampler, start=start,
        guidance=Guidance(scale),
    )  # fmt: skip
    return float((images.permute(0, 2, 3, 1) / 2 + 0.5 - torch.as_tensor(expected)).abs().max())


def drawn(channels: int, size: int = 8) -> tuple[Tensor, torch.Generator]:
    """The noise that a pipeline will draw, and its generator."""
    noise = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(5))
    return noise, torch.Generator().manual_seed(5)


@pytest.mark.parametrize("first", ["vq", "kl"])
@torch.inference_mode()
def test_ldm(first: str, tmp_path: Path) -> None:
    autoencoder = made.vq() if first == "vq" else made.vae(latent_channels=3)
    scheduler = diffusers.DDIMScheduler(**made.SD_BETAS, **made.LEADING)
    theirs = diffusers.LDMPipeline(autoencoder, made.plain_unet(), scheduler)
    theirs.save_pretrained(tmp_path)
    noise, generator = drawn(3)
    expected = theirs(batch_size=2, generator=generator, num_inference_steps=STEPS, output_type="np").images
    assert compare(reading.read(tmp_path), [{}, {}], noise, expected) < 1e-4


@torch.inference_mode()
def test_pixels(tmp_path: Path) -> None:
    """A U-Net without an autoencoder, as by Ho et al. 2020."""
    unet = made.plain_unet(flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, attention_head_dim=None)
    theirs = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))
    theirs.save_pretrained(tmp_path)
    noise, generator = drawn(3)
    expected = theirs(batch_size=2, generator=generator, num_inference_steps=STEPS, output_type="np").images
    assert compare(reading.read(tmp_path), [{}, {}], noise, expected) < 1e-4


@torch.inference_mode()
def test_ldm_text_to_image(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(**made.SD_BETAS, **made.LEADING)
    theirs = diffusers.LDMTextToImagePipeline(
        made.vae(), made.bert(), made.bert_tokenizer(tmp_path / "words"), made.cross_unet(), scheduler
    )
    theirs.save_pretrained(tmp_path / "saved")
    noise, generator = drawn(4)
    expected = theirs(
        CAPTIONS, 64, 64, num_inference_steps=STEPS, guidance_scale=SCALE, generator=generator, output_type="np"
    ).images
    found = reading.read(tmp_path / "saved")
    assert compare(found, [{"caption": text} for text in CAPTIONS], noise, expected, SCALE) < 1e-4
    assert found.guided


@pytest.mark.parametrize(
    ("scheduler", "unet", "text"),
    [
        (diffusers.PNDMScheduler(**made.SD_BETAS, skip_prk_steps=True, steps_offset=1), {}, {}),
        (
            diffusers.DDIMScheduler(**made.SD_BETAS, **made.LEADING, prediction_type="v_prediction"),
            {"attention_head_dim": [1, 2], "use_linear_projection": True},
            {"hidden_act": "gelu", "num_hidden_layers": 3},
        ),
        (
            diffusers.DDIMScheduler(
                **made.SD_BETAS, clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True,
                timestep_spacing="trailing", steps_offset=1,
            ),
            {},
            {},
        ),
        (diffusers.EulerDiscreteScheduler(**made.SD_BETAS, **TRAILING), {}, {}),
        (diffusers.DPMSolverMultistepScheduler(**made.SD_BETAS, **TRAILING), {}, {}),
    ],
    ids=["1.x", "2.x", "zero terminal SNR", "euler", "dpm"],
)  # fmt: skip
@torch.inference_mode()
def test_stable_diffusion(scheduler: Any, unet: dict[str, Any], text: dict[str, Any], tmp_path: Path) -> None:
    padding = "!" if text else "<|endoftext|>"
    theirs = made.stable_diffusion(tmp_path / "words", scheduler, made.cross_unet(**unet), made.clip(**text), padding)
    theirs.save_pretrained(tmp_path / "saved")
    noise, generator = drawn(4)
    expected = theirs(
        CAPTIONS, height=16, width=16, num_inference_steps=STEPS, guidance_scale=SCALE, generator=generator,
        output_type="np",
    ).images  # fmt: skip
    found = reading.read(tmp_path / "saved")
    if isinstance(scheduler, diffusers.EulerDiscreteScheduler):  # it begins with noise alone
        noise = noise * (1 - scheduler.alphas_cumprod[-1]).sqrt()
    assert compare(found, [{"caption": text} for text in CAPTIONS], noise, expected, SCALE) < 1e-4


@torch.inference_mode()
def test_stable_diffusion_inpainting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask comes first, the hole is grey, and guidance concerns the text alone."""
    theirs = made.stable_diffusion(
        tmp_path / "words",
        diffusers.DDIMScheduler(**made.SD_BETAS, **made.LEADING),
        made.cross_unet(in_channels=9),
        kind=diffusers.StableDiffusionInpaintPipeline,
    )
    theirs.save_pretrained(tmp_path / "saved")
    # theirs draws the masked image's latent from the posterior, ours is its mean
    posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(posterior, "sample", lambda self, generator=None: self.mean)
    noise, _ = drawn(4)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:12, 2:9] = 1
    expected = theirs(
        CAPTIONS, image=image / 2 + 0.5, mask_image=mask, height=16, width=16, num_inference_steps=STEPS,
        guidance_scale=SCALE, latents=noise, strength=1.0, output_type="pt",
    ).images  # fmt: skip
    found = reading.read(tmp_path / "saved")
    assert isinstance(found.model, LatentDiffusion)
    requests = [
        {"caption": text, "masked_image": {"image": one, "mask": hole[0]}}
        for text, one, hole in zip(CAPTIONS, image, mask, strict=True)
    ]
    images = generate(
        found.model, requests, [0, 1], latent_shape=(4, 8, 8), sampler=Sampler("ddim", STEPS, "leading"), start=noise,
        guidance=Guidance(SCALE),
    )  # fmt: skip
    inside = mask.bool().expand_as(images)
    assert float((images / 2 + 0.5 - expected)[inside].abs().max()) < 1e-4


@torch.inference_mode()
def test_super_resolution(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(**made.SD_BETAS, **made.LEADING)
    theirs = diffusers.LDMSuperResolutionPipeline(made.vq(), made.plain_unet(in_channels=6), scheduler)
    theirs.save_pretrained(tmp_path)
    noise, generator = drawn(3)
    small = torch.rand(2, 3, 8, 8) * 2 - 1
    expected = theirs(small, 2, num_inference_steps=STEPS, generator=generator, output_type="np").images
    assert compare(reading.read(tmp_path), [{"low_resolution": one} for one in small], noise, expected) < 1e-4


@torch.inference_mode()
def test_a_flow_model_answers_as_theirs(tmp_path: Path) -> None:
    """Their timesteps count from 1, ours from 0."""
    theirs, scheduler = made.plain_unet(), diffusers.FlowMatchEulerDiscreteScheduler()
    theirs.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    found = reading.read(tmp_path / "unet", reading.Sources(scheduler=tmp_path / "scheduler"))
    model = found.model
    assert isinstance(model, LatentDiffusion)
    noise, _ = drawn(3)
    scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)])
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(theirs(x, t).sample, t, x).prev_sample
    ours = generate(model, [{}, {}], [0, 1], latent_shape=(3, 8, 8), start=noise,
                    sampler=Sampler("euler", STEPS, "trailing"))  # fmt: skip
    assert float((ours - x.clamp(-1, 1)).abs().max()) < 1e-4
    at = torch.tensor([0.0, 400.0])
    given = model.conditions([{}, {}], (8, 8))
    assert float((model.predict(noise, at, given) - theirs(noise, at + 1).sample).abs().max()) < 1e-5


# -- releases --------------------------------------------------------------------------------------


def test_a_folder_becomes_a_release(tmp_path: Path) -> None:
    theirs = made.stable_diffusion(tmp_path / "words", diffusers.PNDMScheduler(**made.SD_BETAS, steps_offset=1))
    theirs.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "LICENSE.md").write_text("Use it well.")
    release, parameters = import_release(tmp_path / "saved", tmp_path / "release", name="small")
    assert release.guided
    assert release.image_shape == (3, 16, 16)
    assert "LICENSE.md" in release.files
    assert parameters["unet"] == sum(p.numel() for p in theirs.unet.parameters())
    model, _ = load_diffusion(tmp_path / "release")
    assert list(model.conditioners) == ["caption"]
    assert float(model.autoencoder.latent_scale) == pytest.approx(0.7)
    assert json.loads((tmp_path / "release" / "release.json").read_text())["lineage"]["layout"] == "diffusers"
