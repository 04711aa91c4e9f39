"""Chooses the models: the first stage and the U-Net for pictures of a size, on a CPU or a GPU."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from training.planning.survey import MOST, PlanError, Survey

Device = Literal["cpu", "cuda"]
Condition = Literal["class", "caption", "none"]
Fields = dict[str, Any]

SIZES = (256, 192, 128, 96, 64, 48, 32, 24, 16)  # pixels, to which larger pictures are reduced
LARGEST = {"cpu": 128, "cuda": 256}
PIXELS = 16  # up to this size the pixels are the latents
MEASUREMENTS = 8  # of the held-out loss, whose best weights the release holds
PATIENCE = 4  # measurements without a lower loss, after which the second stage ends
SECOND_BATCH = {"cpu": 32, "cuda": 64}  # pictures of a step of the second stage
CONTEXT = 128  # width of the tokens of a condition


def candidate_sizes(found: Survey, device: Device, wanted: int | None = None) -> list[int]:
    """Return the image sizes to consider, the largest first. Pictures are never more than doubled.

    wanted: the only size. Raises PlanError if that does not fit the pictures.
    """
    largest = 2 * found.small_side
    if wanted is not None:
        if wanted > largest or wanted < 8 or (wanted > PIXELS and wanted % factor_of(wanted)):
            raise PlanError(
                f"--size: {wanted} is not allowed; permitted: 8 to {largest} pixels, multiples of "
                f"{factor_of(max(wanted, PIXELS + 1))} above {PIXELS}"
            )
        return [wanted]
    own = min(found.side, largest, LARGEST[device])
    own -= own % factor_of(own) if own > PIXELS else 0
    if found.same_size and found.side <= LARGEST[device]:
        return [own, *(size for size in SIZES if size <= own / 2)]
    return [size for size in SIZES if size <= own] or [own]


def factor_of(size: int) -> int:
    """Return how many times smaller the latents of pictures of a size are."""
    return 1 if size <= PIXELS else 4 if size < 96 else 8


def first_stage(size: int, channels: int, device: Device) -> Fields:
    """Return the fields of the first stage's experiment, but for its steps."""
    if size <= PIXELS:
        return {
            "defaults": [{"override /data": "images"}, {"override /recipe": "autoencoder"}],
            "steps": 1, "batch_size": 1,
            "model": {"latent_channels": channels, "regularisation": "identity"},
            "optimiser": {"learning_rate": 1.0},
        }  # fmt: skip
    large = device == "cuda"
    wide = {4: [1, 2, 2], 8: [1, 2, 2, 4]}[factor_of(size)]
    return {
        "defaults": [{"override /data": "images"}, {"override /recipe": "autoencoder"}],
        "batch_size": 16 if large else 8,
        "model": {
            "latent_channels": 4 if channels == 3 or size > 32 else 2,
            "channels": 64 if large else 32,
            "multipliers": wide if size > 32 or large else [1, 1, 2],
            "res_blocks": 2 if large else 1,
            "middle_attention": large,
        },
        "optimiser": {"learning_rate": 5.0e-4 if large else 1.0e-3 if size > 32 else 2.0e-3, "betas": [0.9, 0.95]},
    }


def second_stage(size: int, latent_channels: int, factor: int, condition: Condition, device: Device) -> Fields:
    """Return the fields of the second stage's experiment, but for its steps and what depends on them."""
    side = size // factor
    halvings = 2 if side % 4 == 0 and side >= 16 else 1 if side % 2 == 0 and side >= 8 else 0
    unet: Fields = {
        "in_channels": latent_channels,
        "channels": 128 if device == "cuda" else 64,
        "multipliers": [[2], [1, 2], [1, 2, 2]][halvings] if side >= 16 or not halvings else [1, 1],
        "res_blocks": 2 if device == "cuda" else 1,
        "attention_factors": [2**level for level in range(halvings + 1) if side >> level <= 8] or [2**halvings],
    }
    conditioners: Fields = {}
    if condition == "class":
        conditioners = {"class_label": {"type": "class", "width": CONTEXT}}
    elif condition == "caption":
        conditioners = {
            "caption": {"type": "text", "width": CONTEXT, "depth": 2, "length": 32, "heads": 4, "head_width": 32}
        }
    if condition != "none":
        unet["context_width"] = CONTEXT
    return {
        "defaults": [{"override /data": "images"}, {"override /recipe": "diffusion"}],
        "batch_size": SECOND_BATCH[device],
        "model": {
            "unet": unet,
            "conditioners": conditioners,
            "diffusion": {"schedule": "flow", "parameterisation": "flow"},
        },
        "loss": {
            "timestep_sampling": {"distribution": "logit_normal", "mean": 0.5 if condition == "class" else 0.0},
            "condition_dropout": 0.0 if condition == "none" else 0.1,
        },
    }


def data_fields(found: Survey, size: int, source: str) -> Fields:
    """Return the fields of both experiments that say how the pictures are prepared."""
    return {
        "root": source, "image_size": size, "channels": found.channels, "held_out": found.held_out,
        "max_bad": found.max_bad,
    }  # fmt: skip


def permit_missing(found: Survey, condition: Condition) -> Fields:
    """Return data.max_bad where some pictures lack the condition; they are trained on without it."""
    share = {"class": found.labelled, "caption": found.captioned, "none": 1.0}[condition]
    return {"max_bad": max(found.max_bad, round(1 - MOST + 0.05, 4))} if share < 0.99 else {}


def with_steps(fields: Mapping[str, Any], steps: int, *, previews: int, rate: float | None = None) -> Fields:
    """Return an experiment with its number of steps, and what follows from it.

    previews: how many are drawn during the training. rate: the learning rate of the second stage, instead of a usual
    one.
    """
    done = {**fields, "steps": steps, "pictures_every": max(1, -(-steps // (previews + 1)))}
    warm_up = {"warmup_steps": max(1, min(200, steps // 10))}
    if "conditioners" not in fields["model"]:
        return {**done, "optimiser": {**fields["optimiser"], **warm_up}}
    return {
        **done,
        "held_out": {"every_steps": max(1, -(-steps // MEASUREMENTS)), "patience": PATIENCE},
        "ema_decay": 0.995 if steps < 3000 else 0.999 if steps < 30_000 else 0.9999,
        "optimiser": {"learning_rate": rate or (1.0e-3 if steps < 3000 else 5.0e-4), **warm_up},
    }


def count_weights(*networks: nn.Module) -> int:
    """Return the number of weights of networks."""
    return sum(weights.numel() for network in networks for weights in network.parameters())
