"""Training the second stage: denoising in latent space (Rombach et al. 2022, eq. 2)."""

import copy
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from training.data.image_set import LABEL_FIELD
from training.losses import TimestepSampling, diffusion_loss, drawn_timesteps
from training.model.conditioners import Conditioners, Conditions
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet
from training.randomness import step_generator
from training.recipes import optimiser


class DiffusionRecipe(LightningModule):
    """The U-Net and the conditioners; the autoencoder only lends its latents and is not touched.

    condition_dropout: the share of rows trained without condition (Ho & Salimans 2022, algorithm 1).
    gradient_checkpointing: recompute activations in the backward pass: less memory, more time.
    ema_decay: of the weights' moving average, which is what a release holds; warmed up as min(decay, (1+n)/(10+n)).
    """

    def __init__(
        self,
        model: LatentDiffusion,
        optimiser_config: optimiser.OptimiserConfig,
        *,
        steps: int,
        seed: int,
        min_snr_gamma: float | None = None,
        timestep_sampling: TimestepSampling | None = None,
        gradient_checkpointing: bool = False,
        condition_dropout: float = 0.1,
        ema_decay: float = 0.9999,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # clip, step, average: three lines, in sight
        self.trained = nn.ModuleDict({"unet": model.unet, "conditioners": model.conditioners}).train()
        self.average = copy.deepcopy(self.trained).requires_grad_(False)
        self.diffusion, self.encode = model.diffusion, model.autoencoder.encode
        self.optimiser_config, self.steps, self.seed = optimiser_config, steps, seed
        model.unet.gradient_checkpointing = gradient_checkpointing
        self.timestep_sampling = timestep_sampling or TimestepSampling()
        self.min_snr_gamma, self.condition_dropout, self.ema_decay = min_snr_gamma, condition_dropout, ema_decay
        self.step = 0

    def configure_optimizers(self) -> Any:
        """AdamW over the U-Net and the conditioners."""
        built, schedule = optimiser.build(self.parameters_trained(), self.optimiser_config, self.steps)
        return [built], [schedule]

    def parameters_trained(self) -> list[nn.Parameter]:
        """Those with a gradient: a frozen text encoder has none."""
        return [parameter for parameter in self.trained.parameters() if parameter.requires_grad]

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """One step on moments [R, 2, C, h, w] and labels [R] -> the loss."""
        generator = step_generator(self.seed, self.step, rank=self.global_rank, device=self.device)
        loss = self.loss(batch["moments"], batch["label"], generator)
        optim, schedule = cast(Optimizer, self.optimizers()), cast(LRScheduler, self.lr_schedulers())
        optim.zero_grad()
        self.manual_backward(loss)
        clip_grad_norm_(self.parameters_trained(), self.optimiser_config.clip_norm)
        optim.step()
        schedule.step()
        self.step += 1
        update_average(self.average, self.trained, self.step, self.ema_decay)
        return {"loss": loss.detach()}

    def loss(self, moments: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Moments [R, 2, C, h, w] in scaled units, labels [R] -> scalar. All randomness is the generator's."""
        mean, std = moments.unbind(1)  # [R, C, h, w] each

        def normal() -> Tensor:
            return torch.randn(mean.shape, generator=generator, device=mean.device)

        z0 = mean + std * normal()
        t = drawn_timesteps(len(z0), self.diffusion.config.timesteps, generator, self.timestep_sampling)
        eps = normal()
        conditions = self.conditions(labels, (mean.shape[2], mean.shape[3]), generator)
        seen = self.diffusion.diffuse(z0, eps, t)
        if conditions.maps is not None:
            seen = torch.cat([seen, conditions.maps], dim=1)
        output = self.trained["unet"](seen, t, conditions.tokens, embedding=conditions.embedding)
        target = self.diffusion.target(z0, eps, t)
        return diffusion_loss(self.diffusion, output, target, t, min_snr_gamma=self.min_snr_gamma)

    def conditions(self, labels: Tensor, size: tuple[int, int], generator: torch.Generator) -> Conditions:
        """The conditions of R rows, some of them dropped (Ho & Salimans 2022, algorithm 1)."""
        conditioners = cast(Conditioners, self.trained["conditioners"])
        if not len(conditioners):
            return Conditions()
        dropped = torch.rand(len(labels), generator=generator, device=labels.device) < self.condition_dropout
        pairs = zip(labels.tolist(), dropped.tolist(), strict=True)
        requests = [None if drop else {LABEL_FIELD: label} for label, drop in pairs]
        return cast(Conditions, conditioners(requests, size, self.encode))

    def released(self, model: LatentDiffusion) -> LatentDiffusion:
        """`model`'s autoencoder with the averaged U-Net and conditioners, in eval mode."""
        unet, conditioners = cast(UNet, self.average["unet"]), cast(Conditioners, self.average["conditioners"])
        return LatentDiffusion(model.autoencoder, unet, conditioners, self.diffusion).eval()


@torch.no_grad()
def update_average(average: nn.Module, trained: nn.Module, n: int, decay: float) -> None:
    """Average <- d average + (1 - d) trained, d = min(decay, (1 + n) / (10 + n)), after n optimiser steps."""
    d = min(decay, (1 + n) / (10 + n))
    torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), 1 - d)
