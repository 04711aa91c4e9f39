"""Embeds the numeric inputs of a distilled network for each row, in addition to the timestep."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.model.layers import zero_init
from training.model.timestep_embedding import sinusoidal_embedding

# What each number is, and its factor before it is embedded as timesteps are, which have the same range.
NUMBERS = {
    "step": 1000.0,  # the share of the schedule that the step from this evaluation spans, from 0 to 1
    "guidance": 100.0,  # the guidance scale of the answer (Meng et al. 2023, section 3)
}


class NumberEmbedding(nn.Module):
    """Embeds numbers of each row. Every part begins as zero, so that a network begins as it was without them.

    names: of `NUMBERS`. channels: of the sinusoids. width: of the embedding.
    """

    def __init__(self, names: Sequence[str], channels: int, width: int) -> None:
        super().__init__()
        self.names, self.channels = tuple(names), channels
        self.parts = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(channels, width), nn.SiLU(), zero_init(nn.Linear(width, width)))
                for name in self.names
            }
        )

    def forward(self, numbers: Tensor) -> Tensor:
        """Embed numbers [R, K], in the order of the names: [R, width], in the dtype of the weights."""
        embedded = []
        for name, values in zip(self.names, numbers.float().unbind(1), strict=True):
            part = self.parts[name]
            waves = sinusoidal_embedding(values * NUMBERS[name], self.channels)
            embedded.append(part(waves.to(part[0].weight.dtype)))  # type: ignore[index]  # a Sequential
        return torch.stack(embedded).sum(dim=0)
