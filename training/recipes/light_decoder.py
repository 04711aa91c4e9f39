"""Distils the decoder of a release into a light one."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.metrics import lpips
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.light_decoder import LightDecoder
from training.recipes import optimiser
from training.recipes.latent_recipe import LatentRecipe
from training.recipes.light_decoder_loss import LightDecoderLossConfig
from training.recipes.optimiser import OptimiserConfig
from training.recipes.randomness import StepDraws
from training.recipes.recipe import Terms


class LightDecoderRecipe(LatentRecipe):
    """Trains a light decoder x' = L(z) on latents z of images x that the autoencoder with decoder D encodes.

        loss = a |x' - x| + b |x' - D(z)| + w LPIPS(x', x)

    Both differences are means over pixels. A share of the rows has latents that the diffusion model sampled, whose
    images are those of D: there D(z) replaces x. The autoencoder is fixed.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        decoder: LightDecoder,
        loss: LightDecoderLossConfig,
        optimiser_config: OptimiserConfig,
        *,
        steps: int,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        ema_decay: float = 0.999,
        sampled: Tensor | None = None,
    ) -> None:
        """sampled: latents of the diffusion model, [N, C, h, w], of the size of the batches'; None if there are none.

        Raises ValueError or FileNotFoundError for the weights of LPIPS.
        """
        super().__init__(optimiser_config, steps=steps, seed=seed, batch_size=batch_size, accumulate=accumulate)
        self.config, self.ema_decay = loss, ema_decay
        self.trained: nn.ModuleDict = nn.ModuleDict({"decoder": decoder}).train()
        self.average: nn.ModuleDict = copy.deepcopy(self.trained).requires_grad_(False)
        self.sampled = sampled
        # in tuples, so that they are neither trained nor saved
        self.own = (autoencoder.requires_grad_(False).eval(),)
        self.perceptual = (lpips.load(loss.vgg_weights, loss.lpips_weights),) if loss.perceptual_weight > 0 else ()

    def build_optimisers(self) -> Sequence[Optimizer]:
        """Return AdamW over the light decoder."""
        return [optimiser.build(self.trained.parameters(), self.optimiser_config)]

    def load_initial(self, release: Path) -> None:
        """Raise ValueError: a light decoder begins with random weights."""
        raise ValueError("initial: a light decoder begins with random weights; permitted: null")

    def on_fit_start(self) -> None:
        """Move what is fixed to the device of the recipe."""
        for module in (*self.own, *self.perceptual):
            module.to(self.device)
        self.sampled = None if self.sampled is None else self.sampled.to(self.device)

    @property
    def first_stage_config(self) -> AutoencoderConfig:
        """The configuration of the autoencoder of the latents."""
        return self.own[0].config

    def take_step(self, batch: dict[str, Any], draws: StepDraws) -> Terms:
        """Take one step on this rank's rows of images."""
        drawn = {"posterior": draws.normal(*self.latent_shape(batch)), "share": draws.uniform(), "row": draws.uniform()}
        return self.step_on(batch, drawn)

    def loss(self, rows: dict[str, Any], drawn: dict[str, Tensor]) -> Tensor:
        """Return the loss of images [R, C, H, W], with the random numbers drawn for them."""
        images, own = rows["image"], self.own[0]
        with torch.no_grad():
            mean, std = own.moments(images)
            z = mean + std * drawn["posterior"]
            is_sampled = drawn["share"] < self.config.sampled_share
            if self.sampled is not None:
                latents = self.sampled[(drawn["row"] * len(self.sampled)).long()]
                z = torch.where(is_sampled[:, None, None, None], latents, z)
            decoded = own.decode(z)
            if self.sampled is not None:
                images = torch.where(is_sampled[:, None, None, None], decoded, images)
        answer = self.light(self.trained).decode(z)
        loss = self.config.image_weight * (answer - images).abs().mean()
        loss = loss + self.config.decoder_weight * (answer - decoded).abs().mean()
        for perceptual in self.perceptual:
            loss = loss + self.config.perceptual_weight * perceptual(images, answer).mean()
        return cast(Tensor, loss)

    def light(self, networks: nn.ModuleDict) -> LightDecoder:
        """Return the decoder of `trained` or `average`."""
        return cast(LightDecoder, networks["decoder"])
