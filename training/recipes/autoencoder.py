"""Training the first stage: L1, perceptual, KL and adversarial losses (Rombach et al. 2022, eq. 25)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from training.discriminator import PatchDiscriminator, hinge
from training.losses import AutoencoderLossConfig, ReconstructionLoss, adaptive_weight
from training.model.autoencoder import Autoencoder
from training.randomness import step_generator
from training.recipes import optimiser


class AutoencoderRecipe(LightningModule):
    """The autoencoder against its reconstruction loss and, from `adversarial_start` on, a patch discriminator.

    Optimisation is manual, with a step count of its own: Lightning's global_step counts the steps of every
    optimiser, so a start or a schedule read from it would move when the discriminator joins.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        loss: AutoencoderLossConfig,
        optimiser_config: optimiser.OptimiserConfig,
        *,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.autoencoder, self.config = autoencoder.train(), loss
        self.reconstruction_loss = ReconstructionLoss(loss)
        self.discriminator: PatchDiscriminator | None = None
        if loss.adversarial_weight > 0:
            self.discriminator = PatchDiscriminator(autoencoder.config.image_channels)
        self.optimiser_config, self.steps, self.seed = optimiser_config, steps, seed
        self.step = 0  # optimiser steps of the autoencoder taken so far

    def configure_optimizers(self) -> Any:
        """One optimiser and schedule for each network."""
        networks = [network for network in (self.autoencoder, self.discriminator) if network is not None]
        built = [optimiser.build(n.parameters(), self.optimiser_config, self.steps) for n in networks]
        return [pair[0] for pair in built], [pair[1] for pair in built]

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        """One step of each network on images [R, C, H, W] in [-1, 1] -> the terms of the loss."""
        images = batch["image"]
        optimisers, schedules = as_list(self.optimizers()), as_list(self.lr_schedulers())
        generator = step_generator(self.seed, self.step, rank=self.global_rank, device=images.device)
        posterior = self.autoencoder.posterior(images)
        noise = torch.randn(posterior.mean.shape, generator=generator, device=images.device)
        reconstructions = self.autoencoder.reconstruct_unscaled(posterior.sample(noise))

        terms = self.reconstruction_loss(images, reconstructions, posterior)
        loss = terms["total"]
        if self.discriminator is not None:  # the same terms at every step: they are the columns of a table
            terms |= {"adversarial": loss.new_zeros(()), "discriminator": loss.new_zeros(())}
        adversary = self.discriminator if self.step >= self.config.adversarial_start else None
        if adversary is not None:
            adversary.requires_grad_(False)
            adversarial = -adversary(reconstructions).mean()
            weight = adaptive_weight(terms["reconstruction"], adversarial, self.autoencoder.decoder.last_layer)
            terms["adversarial"] = adversarial
            loss = loss + self.config.adversarial_weight * weight * adversarial
        self._descend(loss, self.autoencoder, optimisers[0], schedules[0])

        if adversary is not None:
            adversary.requires_grad_(True)
            terms["discriminator"] = hinge(adversary(images), adversary(reconstructions.detach()))
            self._descend(terms["discriminator"], adversary, optimisers[1], schedules[1])
        self.step += 1
        return {name: term.detach() for name, term in terms.items()} | {"loss": loss.detach()}

    def _descend(self, loss: Tensor, network: torch.nn.Module, optim: Optimizer, schedule: LRScheduler) -> None:
        optim.zero_grad()
        self.manual_backward(loss)
        clip_grad_norm_(network.parameters(), self.optimiser_config.clip_norm)
        optim.step()
        schedule.step()


def as_list(one_or_many: Any) -> list[Any]:
    """Lightning gives a single optimiser or schedule bare."""
    return one_or_many if isinstance(one_or_many, list) else [one_or_many]


@torch.no_grad()
def measure_latent_scale(autoencoder: Autoencoder, images: Iterator[Tensor], *, seed: int) -> float:
    """Set `latent_scale` to 1 / std of posterior samples over every image that the iterator yields, on all ranks.

    images: batches [R, C, H, W] in [-1, 1]; each rank brings its own. The standard deviation is over images,
    channels and positions together, as in Rombach et al. 2022, appendix G, which takes it from one batch.
    """
    device = autoencoder.latent_scale.device
    rank = dist.get_rank() if dist.is_initialized() else 0
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # count, sum, sum of squares
    for index, batch in enumerate(images):
        posterior = autoencoder.posterior(batch.to(device))
        generator = step_generator(seed, index, rank=rank, device=device)
        z = posterior.sample(torch.randn(posterior.mean.shape, generator=generator, device=device)).double()
        sums += torch.stack([torch.tensor(z.numel(), device=device).double(), z.sum(), z.square().sum()])
    if dist.is_initialized():
        dist.all_reduce(sums)
    count, total, squares = sums.tolist()
    variance = squares / count - (total / count) ** 2
    autoencoder.latent_scale.fill_(max(variance, 1e-12) ** -0.5)
    return float(autoencoder.latent_scale)
