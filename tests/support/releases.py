"""Small random releases."""

from pathlib import Path
from typing import Any

MAP_MODEL = "tiny-map"
RESOLUTION_MODEL = "tiny-sr"
CLASS_LABEL = {"class_label": {"type": "class", "classes": 10, "width": 32}}


def make_tiny_release(
    folder: Path, *, seed: int = 0, name: str = "tiny", conditioners: Any = CLASS_LABEL, in_channels: int = 2
) -> Path:
    """Write a release of a small model with random weights. Returns the folder."""
    architecture = {
        "autoencoder": {
            "image_channels": 1,
            "channels": 32,
            "multipliers": (1, 1, 1),
            "res_blocks": 1,
            "latent_channels": 2,
            "middle_attention": False,
        },
        "unet": {
            "in_channels": in_channels,
            "out_channels": 2,
            "channels": 32,
            "multipliers": (1, 1),
            "res_blocks": 1,
            "attention_factors": (2,),
            "context_width": 32 if conditioners is CLASS_LABEL else None,
        },
        "conditioners": conditioners,
    }
    return write_random(folder, architecture, name=name, image_size=32, seed=seed)


def make_digits_release(folder: Path) -> Path:
    """Write a release with the architecture of the demo's digits and random weights. Returns the folder."""
    autoencoder = {"image_channels": 1, "channels": 32, "multipliers": (1, 1, 2), "res_blocks": 1, "latent_channels": 2}
    unet = {
        "in_channels": 2, "out_channels": 2, "channels": 64, "multipliers": (1, 1), "res_blocks": 1,
        "attention_factors": (1, 2), "context_width": 64,
    }  # fmt: skip
    architecture = {
        "autoencoder": {**autoencoder, "middle_attention": False},
        "unet": unet,
        "conditioners": {"class_label": {"type": "class", "classes": 10, "width": 64}},
    }
    return write_random(folder, architecture, name="digits", image_size=32)


def write_random(folder: Path, architecture: dict[str, Any], *, name: str, image_size: int, seed: int = 0) -> Path:
    """Write a release with random weights, none of which are zero. Returns the folder."""
    import torch

    from training.model.latent_diffusion import LatentDiffusion, save_diffusion

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LatentDiffusion.build({"diffusion": {}, **architecture})
        for parameter in model.unet.parameters():
            if not parameter.any():  # the zeroed last layers of each branch would hide the rest
                torch.nn.init.normal_(parameter, std=0.1)
    save_diffusion(folder, model.eval(), name=name, image_size=image_size)
    return folder


def make_small_release(folder: Path) -> Path:
    """Write a release of one level with few layers, which is compiled soonest: 8x8 latents. Returns the folder."""
    autoencoder = {"image_channels": 1, "channels": 32, "multipliers": (1,), "res_blocks": 0, "latent_channels": 2}
    unet = {
        "in_channels": 2, "out_channels": 2, "channels": 32, "multipliers": (1,), "res_blocks": 1,
        "attention_factors": (1,), "context_width": 8, "middle_attention": False,
    }  # fmt: skip
    architecture = {
        "autoencoder": {**autoencoder, "middle_attention": False},
        "unet": unet,
        "conditioners": {"class_label": {"type": "class", "classes": 10, "width": 8}},
    }
    return write_random(folder, architecture, name="small", image_size=8)


def make_map_release(folder: Path) -> Path:
    """Write a release that takes a semantic map of 32x32 pixels and four classes. Returns the folder."""
    conditioners = {"semantic_map": {"type": "semantic_map", "classes": 4, "channels": 2, "stages": 2}}
    return make_tiny_release(folder, name=MAP_MODEL, conditioners=conditioners, in_channels=4)


def make_resolution_release(folder: Path) -> Path:
    """Write a release that takes a low-resolution image in RGB. Returns the folder."""
    conditioners = {"low_resolution": {"type": "low_resolution", "channels": 3}}
    return make_tiny_release(folder, name=RESOLUTION_MODEL, conditioners=conditioners, in_channels=5)


def make_distilled_release(folder: Path) -> Path:
    """Write a release of a model with random weights that is told the step and the guidance. Returns the folder."""
    import torch

    from training.model.latent_diffusion import LatentDiffusion, save_diffusion
    from training.model.release import Distilled

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LatentDiffusion.build(
            {
                "autoencoder": {
                    "image_channels": 1, "channels": 32, "multipliers": (1, 1, 1), "res_blocks": 1,
                    "latent_channels": 2, "middle_attention": False,
                },
                "unet": {
                    "in_channels": 2, "out_channels": 2, "channels": 32, "multipliers": (1, 1), "res_blocks": 1,
                    "attention_factors": (2,), "context_width": 32, "numbers": ("step", "guidance"),
                    "scale_shift": True,  # a group norm of one channel would undo a shift
                },
                "conditioners": CLASS_LABEL,
                "diffusion": {"parameterisation": "v"},
            }
        )  # fmt: skip
        for parameter in model.unet.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    best = Distilled((1, 2, 4, 8), (1.0, 4.0), 4, 1.5)
    save_diffusion(folder, model.eval(), name="tiny-distilled", image_size=32, distilled=best)
    return folder


def make_upscaling_release(folder: Path) -> Path:
    """Write a release that takes a grey low-resolution image, best of 8x8 pixels, for one of 32x32."""
    conditioners = {"low_resolution": {"type": "low_resolution", "channels": 1}}
    return make_tiny_release(folder, name="tiny-up", conditioners=conditioners, in_channels=3)


def make_light_release(folder: Path, *, loss: float = 0.1, name: str = "tiny-light") -> Path:
    """Write a release that has a light decoder, which loses so many dB of PSNR. Returns the folder."""
    import torch

    from training.model import light_release, release
    from training.model.autoencoder import AutoencoderConfig
    from training.model.light_decoder import LightDecoder, LightDecoderConfig

    made = release.read(make_tiny_release(folder, name=name))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        own = AutoencoderConfig(**made.architecture["autoencoder"])
        light_release.add(folder, LightDecoder(LightDecoderConfig(8, (1, 1, 1)), own), made, {})
    light_release.write_scores(folder, {"psnr_loss": loss})
    return folder
