"""Reading the checkpoints of the released latent diffusion models (github.com/CompVis/latent-diffusion).

A block of their configuration, {"target": class path, "params": {...}}, and its part of the state dict give one of
our modules. Reading is strict: every key of theirs is used, every tensor of ours is filled.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from training.model.interop.compvis.first_stage import autoencoder_kl
from training.model.interop.compvis.reading import CompVisError, Names, fill
from training.model.interop.compvis.unet import unet_model

__all__ = ["READERS", "CompVisError", "build"]

READERS: dict[str, Callable[[Mapping[str, Any]], tuple[nn.Module, Names]]] = {
    "AutoencoderKL": autoencoder_kl,
    "UNetModel": unet_model,
}


def build(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The module that `config` describes, with the weights of `state_dict`, in eval mode. Raises CompVisError."""
    target = str(config.get("target"))
    kind = target.rpartition(".")[2]
    if kind not in READERS:
        raise CompVisError(f"target: {target} cannot be read; permitted: {', '.join(sorted(READERS))}")
    try:
        model, names = READERS[kind](config.get("params", {}))
    except (KeyError, ValueError) as error:
        raise CompVisError(f"{kind}: params: {error}") from None
    fill(model, dict(names), state_dict)
    return model.eval()
