"""The sinusoidal embedding of timesteps, and its dependence on where timesteps begin."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PERIOD = 10_000.0


def frequencies(
    width: int, shift: float, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return w_i = MAX_PERIOD^(-i / (half - shift)), [half] with half = width // 2.

    shift: 0 in the released latent diffusion models; 1 in those of Ho et al. 2020, whose last one is 1 / MAX_PERIOD.
    """
    half = width // 2
    return torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=dtype, device=device) / (half - shift))


def sinusoidal_embedding(t: Tensor, width: int, shift: float = 0.0) -> Tensor:
    """Embed timesteps: [R] -> [R, width] = cat(cos(t w), sin(t w)), w = `frequencies`.

    Vaswani et al. 2017, section 3.5, in the order (cos, sin) of the released models. Computed in float32.
    """
    angles = t.float()[:, None] * frequencies(width, shift, t.device)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, width % 2))


def renumber_timesteps(weight: Tensor, by: float, shift: float = 0.0) -> Tensor:
    """Return a layer's weight [E, width] that makes of the embedding of t + by what `weight` makes of that of t.

    Another origin of t rotates each pair (cos(t w), sin(t w)) by the angle `by` w, so the layer that reads the
    embedding can undo it, for every t. Computed in float64.
    """
    half = weight.shape[1] // 2
    angles = by * frequencies(weight.shape[1], shift, weight.device, torch.float64)
    cos, sin = angles.cos(), angles.sin()
    a, b, rest = torch.split(weight.double(), [half, half, weight.shape[1] % 2], dim=1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=1).to(weight.dtype)
