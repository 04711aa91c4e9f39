"""The optimiser of both recipes: AdamW, a linear warm-up, a cosine to zero."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW (Loshchilov & Hutter 2019) and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)]  # at its highest
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]  # gradients are scaled down to this norm


def build(parameters: Iterable[Parameter], config: OptimiserConfig, steps: int) -> tuple[AdamW, LambdaLR]:
    """The optimiser and its schedule over `steps` steps; the schedule is advanced once a step."""

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    rate, betas, decay = config.learning_rate, config.betas, config.weight_decay
    optimiser = AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, fused=True)
    return optimiser, LambdaLR(optimiser, factor)
