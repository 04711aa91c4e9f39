"""Each part of an export, loaded by diffusers, answers as ours does; what diffusers cannot express is refused."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.comparison import random_weights, relative_error
from training.model import conditioners
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.token_ids import TokenIdsConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.interop import huggingface
from training.model.interop.huggingface.component import Component
from training.model.interop.huggingface.conditions import export_conditions
from training.model.interop.huggingface.first_stage import autoencoder_component
from training.model.interop.huggingface.scheduler import scheduler_component
from training.model.interop.huggingface.unet import unet_component
from training.model.unet import UNet, UNetConfig

diffusers = pytest.importorskip("diffusers")

SIZE = 32
VQ = {"regularisation": "vq", "codebook_size": 64}


def load(component: Component, folder: Path) -> Any:
    """What diffusers makes of a component, strictly: no key missing, none left over."""
    component.write(folder)
    model_class = getattr(diffusers, component.class_name)
    model, info = model_class.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(info.values()), info
    return model.eval()


SMALL = {"channels": 32, "multipliers": (1, 2), "res_blocks": 1, "attention_factors": (2,), "head_width": 16}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_factors": (1, 4), "multipliers": (1, 2, 2), "res_blocks": 2, "in_channels": 7},
        {"attention_factors": ()},  # in the middle alone
        {"attention_factors": (1, 2), "heads": 1},
        {"attention_factors": (1, 2), "head_width": None},
        {"heads": 4, "head_width": None},  # one attentive width: a fixed number is a fixed width
        {"norm_eps": 1e-6, "norm_groups": 16, "frequency_shift": 1.0, "asymmetric_downsampling": True},
        {"middle_attention": False, "attention_factors": ()},
        {"context_width": 24, "attention_factors": (1, 2), "level_heads": (4, 2)},
        {"attention_factors": (1,), "scale_shift": True, "resample_in_blocks": True},
        {"context_width": 24, "attention_factors": (1, 2), "transformer_depth": 2},
        {"context_width": 24, "attention_factors": (1, 2), "heads": 4, "head_width": None},
        {"context_width": 24, "attention_factors": (1, 4), "multipliers": (1, 2, 2), "res_blocks": 2, "heads": 1},
        {"context_width": 24, "attention_factors": (), "scale_shift": True, "resample_in_blocks": True},
        {"context_width": 24, "attention_factors": (1,), "multipliers": (1,), "resample_in_blocks": True},
    ],
)
@torch.inference_mode()
def test_u_nets(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = random_weights(UNet(UNetConfig(**{**SMALL, **changes})))
    theirs = load(unet_component(ours, latent_size=8), tmp_path)
    x, t = torch.randn(2, ours.config.in_channels, 8, 8), torch.tensor([3, 700])
    context = torch.randn(2, 5, 24) if ours.config.context_width else None
    expected = theirs(x, t, *([] if context is None else [context])).sample
    assert relative_error(ours(x, t, context), expected) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_levels": (0, 2)}, {"attention_levels": (1,), "middle_attention": False, "image_channels": 1}],
)
@torch.inference_mode()
def test_autoencoders(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = Autoencoder(AutoencoderConfig(**{"channels": 32, "multipliers": (1, 2, 2), "res_blocks": 1, **changes}))
    theirs = load(autoencoder_component(random_weights(ours), image_size=SIZE), tmp_path)
    images, latents = torch.randn(2, ours.config.image_channels, SIZE, SIZE), torch.randn(2, 4, 8, 8)
    assert relative_error(ours.posterior(images).mean, theirs.encode(images).latent_dist.mean) < 1e-5
    assert relative_error(ours.reconstruct_unscaled(latents), theirs.decode(latents).sample) < 1e-5


@pytest.mark.parametrize("changes", [{}, {"z_channels": 6, "attention_levels": (0, 2), "codebook_used": (3, 5)}])
@torch.inference_mode()
def test_autoencoders_with_a_codebook(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"channels": 32, "multipliers": (1, 2, 2), "res_blocks": 1, **VQ, **changes}
    ours = random_weights(Autoencoder(AutoencoderConfig(**shape)))
    theirs = load(autoencoder_component(ours, image_size=SIZE), tmp_path)
    images, latents = torch.randn(2, 3, SIZE, SIZE), torch.randn(2, 4, 8, 8)
    assert relative_error(ours.encode(images), theirs.encode(images).latents) < 1e-5
    assert relative_error(ours.decode(latents), theirs.decode(latents).sample) < 1e-5


@pytest.mark.parametrize(
    "config",
    [
        DiffusionConfig(),
        DiffusionConfig("linear", 1e-4, 2e-2, timesteps=500),
        DiffusionConfig("cosine", parameterisation="v"),
        DiffusionConfig(parameterisation="v", zero_terminal_snr=True),
    ],
)
def test_noise_schedules(config: DiffusionConfig, tmp_path: Path) -> None:
    scheduler_component(config).write(tmp_path)
    theirs = diffusers.DDIMScheduler.from_pretrained(tmp_path)
    assert relative_error(theirs.alphas_cumprod.double().sqrt(), torch.as_tensor(Diffusion(config).alpha)) < 1e-5


@pytest.mark.parametrize("changes", [{}, {"frequency_shift": 1.0}, {"channels": 33, "norm_groups": 11}])
@torch.inference_mode()
def test_timesteps_that_count_from_one(changes: dict[str, Any], tmp_path: Path) -> None:
    """As those of flow matching in diffusers."""
    torch.manual_seed(0)
    ours = random_weights(UNet(UNetConfig(**{**SMALL, "attention_factors": (), "middle_attention": False, **changes})))
    theirs = load(unet_component(ours, latent_size=8, first_timestep=1), tmp_path)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([0.0, 3.0, 999.0])
    assert relative_error(ours(x, t), theirs(x, t + 1).sample) < 1e-5


# -- what diffusers cannot express -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention_factors": (1, 2), "heads": 4, "head_width": None},
            "unet.heads: 4 cannot be exported: heads would be 8, 16 wide, and UNet2DModel has one width for all",
        ),
        (
            {"context_width": 24, "attention_factors": (2,), "resample_in_blocks": True},
            r"unet.resample_in_blocks: True cannot be exported with attention .* \[2\]",
        ),
    ],
)
def test_u_nets_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(huggingface.ExportError, match=message):
        unet_component(UNet(UNetConfig(**{**SMALL, **changes})), latent_size=8)


def test_a_property_newer_than_the_export_is_refused() -> None:
    @dataclass(frozen=True)
    class Newer(UNetConfig):
        gated: bool = False

    with pytest.raises(huggingface.ExportError, match=r"unet\.gated: True cannot be exported; permitted: False"):
        unet_component(UNet(Newer(**SMALL, gated=True)), latent_size=8)  # type: ignore[arg-type]


def test_a_tensor_that_diffusers_lacks_is_refused() -> None:
    model = UNet(UNetConfig(**SMALL))  # type: ignore[arg-type]
    model.gate = nn.Linear(1, 1)
    with pytest.raises(huggingface.ExportError, match=r"gate\.weight: diffusers has no place"):
        unet_component(model, latent_size=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularisation": "identity", "latent_channels": 3}, "darkroom export compvis writes such models"),
        ({"z_channels": 6}, "autoencoder.z_channels: 6 cannot be exported; permitted: 4"),
    ],
)
def test_autoencoders_that_are_refused(changes: dict[str, Any], message: str) -> None:
    model = Autoencoder(AutoencoderConfig(**{"channels": 32, "multipliers": (1, 1), "res_blocks": 1, **changes}))
    with pytest.raises(huggingface.ExportError, match=re.escape(message)):
        autoencoder_component(model, image_size=SIZE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"a": ClassConditioner(2, 24), "b": ClassConditioner(2, 24)},
            "conditioners: a, b cannot be exported together; permitted: one, or one and a masked image that",
        ),
        (
            {"ids": TokenIdsConditioner(11, 4, 128, 1, entry="time_embedding")},
            "conditioners.ids: a TokenIdsConditioner that enters by time_embedding",
        ),
    ],
)
def test_conditions_that_are_refused(fields: dict[str, conditioners.Conditioner], message: str) -> None:
    with pytest.raises(huggingface.ExportError, match=message):
        export_conditions(conditioners.Conditioners(fields))
