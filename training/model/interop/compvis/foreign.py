"""Models that are other architectures, named for what they are."""

from collections.abc import Iterable, Mapping
from typing import Any

# The module or class of a configuration's target -> what it is
TARGETS = {
    "sgm.": "Stable Diffusion XL or another model of Stability's sgm code",
    "cldm.": "a ControlNet",
    "lvdm.": "a video model",
    "ddpm3d": "a video model",
    "videoldm": "a video model",
    "LatentUpscaleDiffusion": "Stable Diffusion's upscaler, which knows a noise level",
    "LatentUpscaleFinetuneDiffusion": "Stable Diffusion's upscaler, which knows a noise level",
    "LatentDepth2ImageDiffusion": "Stable Diffusion with a depth map",
    "ImageEmbeddingConditionedLatentDiffusion": "Stable unCLIP",
    "DiT": "a diffusion transformer (DiT)",
}
# A part of a key in the weights -> what it is
KEYS = {
    "conditioner.embedders.": "Stable Diffusion XL",
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "Flux",
    "adaLN_modulation": "a diffusion transformer (DiT)",
    "time_stack.": "a video model",
    "motion_modules.": "a video model",
    "temporal_transformer": "a video model",
    "control_model.": "a ControlNet",
    "lora_down.": "a LoRA, which changes the weights of another model",
    "lora_up.": "a LoRA, which changes the weights of another model",
    "lora_unet_": "a LoRA, which changes the weights of another model",
    "lora_A.": "a LoRA, which changes the weights of another model",
    "string_to_param": "a textual inversion, which adds words to another model",
    "depth_model.": "Stable Diffusion with a depth map",
}


def describe_target(block: Mapping[str, Any]) -> str | None:
    """Return what a configuration's target is, if it is known to be another architecture."""
    target = str(block.get("target"))
    return next((what for part, what in TARGETS.items() if part in target), None)


def describe_keys(keys: Iterable[str]) -> str | None:
    """Return what weights are, if their names are known to be those of another architecture."""
    present = list(keys)
    return next((what for part, what in KEYS.items() if any(part in key for key in present)), None)
