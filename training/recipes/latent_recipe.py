"""The base of recipes of networks in a latent space: the parts of a step, the moving average, the latents' shape."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.model.autoencoder import AutoencoderConfig
from training.recipes.recipe import Recipe, Terms, mean_terms


class LatentRecipe(Recipe):
    """Trains the networks of `trained` with one optimiser, and keeps their moving average in `average`."""

    trained: nn.ModuleDict
    average: nn.ModuleDict
    ema_decay: float

    @property
    @abstractmethod
    def first_stage_config(self) -> AutoencoderConfig:
        """The configuration of the autoencoder of the latents."""

    @abstractmethod
    def loss(self, rows: dict[str, Any], drawn: dict[str, Tensor]) -> Tensor:
        """Return the loss of rows of a batch, with the random numbers drawn for them."""

    def step_on(self, batch: dict[str, Any], drawn: Mapping[str, Tensor]) -> Terms:
        """Take one step on this rank's rows, with the random numbers drawn for the rows of all ranks."""
        terms = []
        for part, rows, where in self.parts(batch):
            loss = self.loss(rows, {name: values[where] for name, values in drawn.items()})
            self.backward_part(part, loss)
            terms.append({"loss": loss})
        self.optimise(self.optimiser_list()[0])
        update_average(self.average, self.trained, self.step + 1, self.ema_decay)
        return mean_terms(terms)

    def latent_shape(self, batch: dict[str, Any]) -> Sequence[int]:
        """Return the (C, h, w) of a batch's latents."""
        if "moments" in batch:
            return tuple(batch["moments"].shape[2:])
        config = self.first_stage_config
        return config.latent_channels, *(side // config.factor for side in batch["image"].shape[2:])


@torch.no_grad()
def update_average(average: nn.Module, trained: nn.Module, n: int, decay: float) -> None:
    """Update average <- d average + (1 - d) trained, d = min(decay, (1 + n) / (10 + n)), after n optimiser steps."""
    d = min(decay, (1 + n) / (10 + n))
    pairs = [(a, b) for a, b in zip(average.parameters(), trained.parameters(), strict=True) if b.requires_grad]
    torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - d)
