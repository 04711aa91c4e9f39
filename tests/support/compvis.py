"""Small checkpoints in the layout of the CompVis code, with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from training.model.interop.compvis.targets import READERS

TINY_UNET = {
    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
    "params": {
        "image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "attention_resolutions": [1],
        "num_res_blocks": 1, "channel_mult": [1], "num_heads": 2,
    },
}  # fmt: skip
TINY_FIRST_STAGE = {
    "target": "ldm.models.autoencoder.AutoencoderKL",
    "params": {
        "embed_dim": 3,
        "ddconfig": {
            "double_z": True, "z_channels": 3, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
        },
    },
}  # fmt: skip


def random_state(block: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return a state dict with random weights for a `target` and `params` block."""
    model, names = READERS[block["target"].rpartition(".")[2]](block["params"], {})
    sources, state = dict(names), {}
    for name, tensor in model.state_dict().items():
        at, _, leaf = name.rpartition(".")
        if at in sources:
            value = torch.randn(tensor.shape) * 0.05
            state[f"{prefix}{sources[at].prefix}.{leaf}"] = (
                value if sources[at].third is None else torch.cat([value] * 3)
            )
    return state


def tiny_checkpoint() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the `model` block and the state dict of an unconditional diffusion model."""
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, "scale_factor": 0.5,
            "unet_config": TINY_UNET, "first_stage_config": TINY_FIRST_STAGE,
            "cond_stage_config": "__is_unconditional__",
        },
    }  # fmt: skip
    state = random_state(TINY_UNET, "model.diffusion_model.") | random_state(TINY_FIRST_STAGE, "first_stage_model.")
    return config, state


def write_checkpoint(folder: Path, config: Any, state: Any) -> tuple[Path, Path]:
    """Write a checkpoint and its configuration. Returns both paths."""
    checkpoint, described = folder / "model.ckpt", folder / "config.yaml"
    torch.save({"state_dict": state}, checkpoint)
    described.write_text(yaml.safe_dump({"model": config}))
    return checkpoint, described


def change_config(path: str, value: Any) -> Any:
    """Return a function that copies a configuration and sets the dotted `path` below its parameters to `value`."""

    def changed(config: dict[str, Any]) -> dict[str, Any]:
        config = json.loads(json.dumps(config))
        *parents, last = path.split(".")
        block = config["params"]
        for name in parents:
            block = block[name]
        block[last] = value
        return config

    return changed
