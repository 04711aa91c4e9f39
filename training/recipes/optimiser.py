"""The optimiser of both recipes: AdamW with a linear warm-up, then a cosine to zero or a constant rate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW (Loshchilov & Hutter 2019) and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)]  # peak value
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]  # gradients are scaled down to this norm
    schedule: Literal["cosine", "constant"] = "cosine"


def build(parameters: Iterable[Parameter], config: OptimiserConfig, rate: float | None = None) -> AdamW:
    """Return the optimiser. `rate` replaces the configured learning rate."""
    rate = config.learning_rate if rate is None else rate
    return AdamW(parameters, lr=rate, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def factor(config: OptimiserConfig, step: int, steps: int, first: int = 0) -> float:
    """Return the learning rate after `step` of `steps` steps as a share of its peak, in (0, 1].

    It is a function of the step without state, so a resumed run has nothing to restore, and the discriminator, which
    starts later, ends with the autoencoder. first: the step at which the cosine begins; the warm-up begins at 0.
    """
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - first) / (steps - first))))


def set_rate(optimiser: Optimizer, share: float) -> None:
    """Set the learning rate of each group to a share of its peak, which the group stores as `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = share * group["rate"]
