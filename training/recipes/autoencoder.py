"""Trains the first stage: L1, perceptual, KL or codebook, and adversarial losses (Rombach et al. 2022, eq. 25)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from training.model.autoencoder import Autoencoder
from training.model.latent_diffusion import load_autoencoder
from training.recipes import optimiser
from training.recipes.codebook import CodebookRestarts
from training.recipes.discriminator import PatchDiscriminator, hinge, smallest_image
from training.recipes.equivariance import Turn, draw_turn
from training.recipes.losses import AutoencoderLossConfig, ReconstructionLoss, adaptive_weight, r1_penalty
from training.recipes.optimiser import OptimiserConfig
from training.recipes.randomness import StepDraws, mix_seeds
from training.recipes.recipe import Recipe, Terms, load_weights, mean_terms

LOGVAR_RATE = 3e-2  # of the scalar s, which would take most of a run to converge at the networks' rate


class AutoencoderRecipe(Recipe):
    """Trains the autoencoder with its reconstruction loss and, from `adversarial_start`, a patch discriminator."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        loss: AutoencoderLossConfig,
        optimiser_config: OptimiserConfig,
        *,
        steps: int,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
    ) -> None:
        super().__init__(optimiser_config, steps=steps, seed=seed, batch_size=batch_size, accumulate=accumulate)
        self.autoencoder, self.config = autoencoder.train(), loss
        self.reconstruction_loss = ReconstructionLoss(loss)
        self.discriminator: PatchDiscriminator | None = None
        if loss.adversarial_weight > 0:
            self.discriminator = PatchDiscriminator(autoencoder.config.image_channels, layers=loss.adversarial_layers)
        self.restarts: CodebookRestarts | None = None
        if autoencoder.config.regularisation == "vq" and loss.codebook_restart is not None:
            self.restarts = CodebookRestarts(autoencoder.config.codebook_size, loss.codebook_restart)

    def build_optimisers(self) -> Sequence[Optimizer]:
        """Return the optimiser of the autoencoder and the logvar, and that of the discriminator."""
        first = optimiser.build(self.autoencoder.parameters(), self.optimiser_config)
        if self.config.learned_logvar:
            logvar = self.reconstruction_loss.logvar
            first.add_param_group({"params": [logvar], "rate": LOGVAR_RATE, "weight_decay": 0.0})
        if self.discriminator is None:
            return [first]
        parameters = self.discriminator.parameters()
        return [first, optimiser.build(parameters, self.optimiser_config, self.config.adversarial_rate)]

    def load_initial(self, release: Path) -> None:
        """Load the autoencoder of a release of either kind, including the latent scale."""
        load_weights(self.autoencoder, lambda: load_autoencoder(release)[0].state_dict(), "initial")

    def take_step(self, batch: dict[str, Any], draws: StepDraws) -> Terms:
        """Take one step of each network on images [R, C, H, W] in [-1, 1]."""
        optimisers = self.optimiser_list()
        noise = self.noise(batch["image"], draws)
        turn = draw_turn(
            mix_seeds(self.seed, self.step), self.config.equivariance, batch["image"], self.autoencoder,
            smallest=smallest_image(self.config.adversarial_layers),
        )  # fmt: skip
        adversary = self.discriminator if self.step >= self.config.adversarial_start else None
        if adversary is not None:
            adversary.requires_grad_(False)
        terms, pairs = [], []
        for part, rows, where in self.parts(batch):
            found, images, reconstructions = self.reconstruct(rows["image"], noise[where], turn, adversary)
            self.backward_part(part, found.pop("objective"))
            terms.append(found)
            pairs.append((images, reconstructions.detach()))
        self.optimise(optimisers[0])
        if self.restarts is not None:
            self.restarts.restart(self.autoencoder.quantiser.codebook, self.seed, self.step)
        if adversary is not None:
            adversary.requires_grad_(True)
            for part, (images, reconstructions) in enumerate(pairs):
                terms[part] |= self.discriminator_terms(adversary, images, reconstructions)
                self.backward_part(part, terms[part].pop("judgement"))
            self.optimise(optimisers[1])
        return mean_terms(terms)

    def reconstruct(
        self, images: Tensor, noise: Tensor, turn: Turn, adversary: PatchDiscriminator | None
    ) -> tuple[Terms, Tensor, Tensor]:
        """Return the terms with the objective for images [R, C, H, W], the turned images and their reconstructions."""
        config = self.config
        if self.autoencoder.config.regularisation == "kl":
            posterior = self.autoencoder.posterior(images)
            kl = posterior.kl().mean() / images[0].numel()
            more, regularisation = {"kl": kl}, config.kl_weight * kl
            z = turn.latents(posterior.sample(noise))
            reconstructions = self.autoencoder.reconstruct_unscaled(z)
        else:
            z = self.autoencoder.encode(images) / self.autoencoder.latent_scale
            z = turn.latents(z)
            quantised = self.autoencoder.quantise(z)
            if self.restarts is not None:
                self.restarts.note(z, quantised.indices)
            more = {
                "codebook": quantised.loss,
                "perplexity": perplexity(quantised.indices, self.autoencoder.config.codebook_size),
            }
            regularisation = config.codebook_weight * quantised.loss
            reconstructions = self.autoencoder.reconstruct_unscaled(quantised.latents, quantise=False)
        images = turn.images(images)
        terms = {**self.reconstruction_loss(images, reconstructions, regularisation), **more}
        objective = terms["total"]
        if self.discriminator is not None:  # the same terms at every step, because they are columns of losses.csv
            zero = objective.new_zeros(())
            terms |= {"adversarial": zero, "discriminator": zero, "real": zero, "fake": zero}
        if adversary is not None:
            adversarial = -adversary(reconstructions).mean()
            weight = adaptive_weight(terms["nll"], adversarial, self.autoencoder.decoder.last_layer)  # type: ignore[arg-type]  # the weight of a convolution
            terms["adversarial"] = adversarial
            objective = objective + config.adversarial_weight * weight * adversarial
        return {**terms, "objective": objective}, images, reconstructions

    def discriminator_terms(self, adversary: PatchDiscriminator, images: Tensor, reconstructions: Tensor) -> Terms:
        """Return the discriminator's terms; its objective is called `judgement`."""
        real, fake = adversary(images), adversary(reconstructions)
        loss = hinge(real, fake)
        judgement = loss
        if self.config.r1_weight > 0:
            judgement = loss + self.config.r1_weight * r1_penalty(adversary, images)
        return {"discriminator": loss, "real": real.mean(), "fake": fake.mean(), "judgement": judgement}

    def noise(self, images: Tensor, draws: StepDraws) -> Tensor:
        """Draw the noise for the posteriors of all ranks' images: [batch size, C, h, w]."""
        config = self.autoencoder.config
        return draws.normal(config.latent_channels, *(side // config.factor for side in images.shape[2:]))


def perplexity(indices: Tensor, size: int) -> Tensor:
    """Return exp(entropy) of the entries' frequencies, from 1 to the codebook's size."""
    share = torch.bincount(indices.flatten(), minlength=size).float() / indices.numel()
    return torch.exp(-(share * torch.log(share.clamp(min=1e-12))).sum())
