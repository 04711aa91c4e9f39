"""How a latent diffusion model is trained: on latents that were encoded once (Rombach et al. 2022, eq. 2)."""

import torch
from lightning import LightningModule
from torch import Tensor

from training.losses import diffusion_loss
from training.model.latent_diffusion import LatentDiffusion
from training.recipes import optimisation
from training.recipes.optimisation import OptimiserConfig


class DiffusionRecipe(LightningModule):
    """Denoising with condition dropout, min-SNR weights and an exponential moving average of the weights."""

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        optimiser: OptimiserConfig,
        steps: int,
        seed: int,
        condition_dropout: float = 0.1,
        min_snr_gamma: float | None = None,
        ema_decay: float = 0.9999,
    ) -> None:
        super().__init__()
        self.model, self.optimiser_config, self.steps, self.seed = model, optimiser, steps, seed
        self.condition_dropout, self.min_snr_gamma, self.ema_decay = condition_dropout, min_snr_gamma, ema_decay
        # The first stage is finished.
        model.autoencoder.requires_grad_(False)
        self.trained = [*model.unet.parameters(), *model.conditioners.parameters()]
        self.average = [parameter.detach().clone() for parameter in self.trained]

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW over the U-Net and the conditioners."""
        config = self.optimiser_config
        optimiser = optimisation.make(config, self.trained)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: optimisation.factor(step, steps=self.steps, warmup=config.warmup)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """The average follows the weights to their device."""
        self.average = [average.to(self.device) for average in self.average]

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """batch["moments"] [B, 2, C, h, w], batch["labels"] [B]. Returns the loss."""
        mean, std = batch["moments"].unbind(1)
        generator = optimisation.step_generator(self.seed, self.global_step, mean.device)

        def normal() -> Tensor:
            return torch.randn(mean.shape, generator=generator, device=mean.device)

        z0, eps = mean + std * normal(), normal()
        diffusion = self.model.diffusion
        t = torch.randint(diffusion.config.timesteps, (len(z0),), generator=generator, device=mean.device)
        dropped = torch.rand(len(z0), generator=generator, device=mean.device) < self.condition_dropout
        # The null condition in place of some: classifier-free guidance needs both (Ho & Salimans 2022, algorithm 1).
        requests = [
            None if drop else dict.fromkeys(self.model.conditioners, label)
            for drop, label in zip(dropped.tolist(), batch["labels"].tolist(), strict=True)
        ]
        z_t = diffusion.diffuse(z0, eps, t)
        output = self.model.unet(z_t, t, self.model.context(requests))
        loss = diffusion_loss(diffusion, output, diffusion.target(z0, eps, t), t, min_snr_gamma=self.min_snr_gamma)
        self.log("loss", loss.detach())
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, outputs: object, batch: object, batch_index: int) -> None:
        """Move the average; early on it forgets faster, min(decay, (1 + n) / (10 + n)), as the authors' does."""
        n = self.global_step
        decay = min(self.ema_decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.trained], 1 - decay)

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the averaged weights into the model: they are what is released."""
        for parameter, average in zip(self.trained, self.average, strict=True):
            parameter.copy_(average)
