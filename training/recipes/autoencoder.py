"""How an autoencoder is trained (Rombach et al. 2022, appendix G; Esser et al. 2021)."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from training import discriminator
from training.losses import AutoencoderLossConfig, ReconstructionLoss, adaptive_weight
from training.model.autoencoder import Autoencoder
from training.recipes import optimisation
from training.recipes.optimisation import OptimiserConfig


class AutoencoderRecipe(LightningModule):
    """L1 + LPIPS + KL, and an adversarial term that begins after `adversarial_start` steps of the autoencoder.

    Steps are counted here: Lightning's global_step counts every optimiser, so that with two of them a
    discriminator would start at half its time.
    """

    def __init__(
        self, model: Autoencoder, *, loss: AutoencoderLossConfig, optimiser: OptimiserConfig, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.optimiser_config, self.steps, self.seed = model, optimiser, steps, seed
        self.loss_config = loss
        self.loss = ReconstructionLoss(loss)
        self.discriminator: discriminator.PatchDiscriminator | None = None
        if loss.adversarial_weight > 0:
            self.discriminator = discriminator.PatchDiscriminator(model.config.image_channels)
        self.step = 0

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser for the autoencoder and one for the discriminator."""
        parts = [self.model, *([self.discriminator] if self.discriminator else [])]
        return [optimisation.make(self.optimiser_config, part.parameters()) for part in parts]

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """batch["images"] [B, C, H, W] in [-1, 1]."""
        images = batch["images"]
        optimisers: Any = self.optimizers(use_pl_optimizer=True)
        generator_optimiser, *rest = optimisers if isinstance(optimisers, list) else [optimisers]
        posterior = self.model.posterior(images)
        generator = optimisation.step_generator(self.seed, self.step, images.device)
        noise = torch.randn(posterior.mean.shape, generator=generator, device=images.device)
        reconstructions = self.model.reconstruct_unscaled(posterior.sample(noise))
        terms = self.loss(images, reconstructions, posterior)
        total = terms["total"]
        adversarial = self.discriminator is not None and self.step >= self.loss_config.adversarial_start
        if adversarial:
            assert self.discriminator is not None
            generator_loss = -self.discriminator(reconstructions).mean()
            weight = adaptive_weight(terms["reconstruction"], generator_loss, self.model.decoder.last_layer)
            total = total + self.loss_config.adversarial_weight * weight * generator_loss
        self._update(generator_optimiser, self.model, total)
        if adversarial:
            assert self.discriminator is not None
            real, fake = self.discriminator(images), self.discriminator(reconstructions.detach())
            self._update(rest[0], self.discriminator, discriminator.hinge(real, fake))
        self.log("loss", terms["total"].detach())
        self.step += 1

    def _update(self, optimiser: Any, module: torch.nn.Module, loss: Tensor) -> None:
        config = self.optimiser_config
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * optimisation.factor(self.step, steps=self.steps, warmup=config.warmup)
        optimiser.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        optimiser.step()


@torch.no_grad()
def measure_latent_scale(model: Autoencoder, images: Tensor, *, batch_size: int, seed: int) -> float:
    """Set `latent_scale` to 1 / std of posterior samples over all images and all ranks. Returns it.

    images [N, C, H, W]: this rank's share. The released models took one batch, on one rank (appendix G).
    """
    sums = torch.zeros(3, dtype=torch.float64, device=images.device)  # count, sum, sum of squares
    for i, batch in enumerate(images.split(batch_size)):
        posterior = model.posterior(batch)
        generator = optimisation.step_generator(seed, i, images.device)
        noise = torch.randn(posterior.mean.shape, generator=generator, device=images.device)
        z = posterior.sample(noise).double()
        sums += torch.stack([torch.tensor(z.numel(), dtype=torch.float64).to(z), z.sum(), z.square().sum()])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    count, total, squares = sums.tolist()
    std = (squares / count - (total / count) ** 2) ** 0.5
    model.latent_scale.fill_(1 / std)
    return 1 / std
