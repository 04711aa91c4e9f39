"""Trains the second stage: denoising in latent space (Rombach et al. 2022, eq. 2)."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.model.autoencoder import AutoencoderConfig
from training.model.conditioners import Conditioners, Conditions
from training.model.latent_diffusion import LatentDiffusion, load_diffusion
from training.model.unet import UNet
from training.recipes import optimiser
from training.recipes.latent_recipe import LatentRecipe
from training.recipes.losses import Norm, TimestepSampling, diffusion_loss, draw_timesteps
from training.recipes.optimiser import OptimiserConfig
from training.recipes.randomness import StepDraws
from training.recipes.recipe import Terms, load_weights


class DiffusionRecipe(LatentRecipe):
    """Trains the U-Net and the conditioners; the autoencoder is fixed.

    A batch has "moments" [R, 2, C, h, w], or "image" [R, C, H, W] to be encoded first; and "requests", a mapping of
    conditions for each row.

    condition_dropout: share of rows trained without condition (Ho & Salimans 2022, algorithm 1).
    ema_decay: of the moving average of the weights, which the release holds; warmed up as min(decay, (1+n)/(10+n)).
    """

    def __init__(
        self,
        model: LatentDiffusion,
        optimiser_config: OptimiserConfig,
        *,
        steps: int,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        min_snr_gamma: float | None = None,
        timestep_sampling: TimestepSampling | None = None,
        condition_dropout: float = 0.1,
        norm: Norm = "l2",
        ema_decay: float = 0.9999,
    ) -> None:
        super().__init__(optimiser_config, steps=steps, seed=seed, batch_size=batch_size, accumulate=accumulate)
        self.trained: nn.ModuleDict = nn.ModuleDict({"unet": model.unet, "conditioners": model.conditioners}).train()
        self.average: nn.ModuleDict = copy.deepcopy(self.trained).requires_grad_(False)
        self.diffusion = model.diffusion
        self.first_stage = (model.autoencoder,)  # in a tuple, so that it is neither trained nor saved
        self.light_decoder = (model.light_decoder,)
        self.timestep_sampling = timestep_sampling or TimestepSampling()
        self.min_snr_gamma, self.condition_dropout, self.ema_decay = min_snr_gamma, condition_dropout, ema_decay
        self.norm: Norm = norm

    def build_optimisers(self) -> Sequence[Optimizer]:
        """Return AdamW over the trained weights of the U-Net and the conditioners."""
        trained = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        return [optimiser.build(trained, self.optimiser_config)]  # without a frozen text encoder

    def load_initial(self, release: Path) -> None:
        """Load the U-Net and the conditioners of a diffusion release."""
        model, _ = load_diffusion(release)
        for name, module in (("unet", model.unet), ("conditioners", model.conditioners)):
            load_weights(self.trained[name], module.state_dict, f"initial: {name}")
        self.average.load_state_dict(self.trained.state_dict())

    def on_fit_start(self) -> None:
        """Move the first stage to the device of the recipe."""
        self.first_stage[0].to(self.device).eval()

    def take_step(self, batch: dict[str, Any], draws: StepDraws) -> Terms:
        """Take one step on this rank's rows."""
        return self.step_on(batch, self.draw(batch, draws))

    def draw(self, batch: dict[str, Any], draws: StepDraws) -> dict[str, Tensor]:
        """Draw the random numbers of a step, for the rows of all ranks."""
        shape = self.latent_shape(batch)
        return {
            "posterior": draws.normal(*shape),
            "eps": draws.normal(*shape),
            "t": draw_timesteps(draws, self.diffusion.config.timesteps, self.timestep_sampling),
            "dropped": draws.uniform_on_host() < self.condition_dropout,
        }

    @property
    def first_stage_config(self) -> AutoencoderConfig:
        """The configuration of the autoencoder of the latents."""
        return self.first_stage[0].config

    def loss(self, rows: dict[str, Any], drawn: dict[str, Tensor], networks: nn.ModuleDict | None = None) -> Tensor:
        """Return the loss of rows of a batch, with the random numbers drawn for them.

        networks: the ones that are trained by default.
        """
        networks = networks or self.trained
        with torch.no_grad():
            if "moments" in rows:
                mean, std = rows["moments"].unbind(1)  # [R, C, h, w] each
            else:
                mean, std = self.first_stage[0].moments(rows["image"])
        z0 = mean + std * drawn["posterior"]
        t, eps = drawn["t"], drawn["eps"]
        conditions = self.conditions(rows["requests"], drawn["dropped"], (mean.shape[2], mean.shape[3]), networks)
        network_input = self.diffusion.diffuse(z0, eps, t)
        if conditions.maps is not None:
            network_input = torch.cat([network_input, conditions.maps], dim=1)
        output = networks["unet"](network_input, t, conditions.tokens, embedding=conditions.embedding)
        target = self.diffusion.target(z0, eps, t)
        return diffusion_loss(self.diffusion, output, target, t, min_snr_gamma=self.min_snr_gamma, norm=self.norm)

    def conditions(
        self,
        requests: Sequence[dict[str, Any]],
        dropped: Tensor,
        size: tuple[int, int],
        networks: nn.ModuleDict | None = None,
    ) -> Conditions:
        """Return the conditions of R rows: the null condition where `dropped` [R], on the CPU, is true."""
        conditioners = cast(Conditioners, (networks or self.trained)["conditioners"])
        kept = [None if drop else request for request, drop in zip(requests, dropped.tolist(), strict=True)]
        return cast(Conditions, conditioners(kept, size, self.first_stage[0].encode))

    def averaged_model(self) -> LatentDiffusion:
        """Return the averaged U-Net and conditioners with the autoencoder, in eval mode."""
        unet, conditioners = cast(UNet, self.average["unet"]), cast(Conditioners, self.average["conditioners"])
        light = self.light_decoder[0]
        return LatentDiffusion(self.first_stage[0], unet, conditioners, self.diffusion, light).eval()
