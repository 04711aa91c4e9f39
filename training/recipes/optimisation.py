"""AdamW with warm-up and cosine decay, shared by the recipes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW (Loshchilov & Hutter 2019)."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 50  # steps
    clip: float = 1.0  # of the gradient's norm


def make(config: OptimiserConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """The optimiser of a recipe."""
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


def factor(step: int, *, steps: int, warmup: int) -> float:
    """The learning rate at `step`, as a share of its peak: linear up, then half a cosine down to 0."""
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Randomness as a function of (seed, step), so that a resumed run draws what it would have drawn."""
    # SplitMix64's odd constant keeps neighbouring seeds' streams apart.
    return torch.Generator(device=device).manual_seed((seed * 0x9E3779B97F4A7C15 + step) % 2**63)
