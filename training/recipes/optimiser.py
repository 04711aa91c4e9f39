"""The optimiser of both recipes: AdamW, a linear warm-up, then a cosine to zero or a constant rate."""

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

    learning_rate: Annotated[float, Field(gt=0)]  # at its highest
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]  # gradients are scaled down to this norm
    schedule: Literal["cosine", "constant"] = "cosine"


def build(parameters: Iterable[Parameter], config: OptimiserConfig, rate: float | None = None) -> AdamW:
    """The optimiser; `rate` in place of the configuration's."""
    rate = config.learning_rate if rate is None else rate
    return AdamW(parameters, lr=rate, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def factor(config: OptimiserConfig, step: int, steps: int) -> float:
    """The share of the highest rate that the step after `step` steps of `steps` takes: above 0, to 1.

    A function of the step, not a schedule with a state of its own: a resumed run has nothing to restore, and a
    network that joins late, as the discriminator does, ends when the others do.
    """
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def set_rate(optimiser: Optimizer, share: float) -> None:
    """Each group's learning rate: this share of its highest, which it has as `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = share * group["rate"]
