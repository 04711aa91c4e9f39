"""The losses of the autoencoder and of the diffusion model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from training import lpips
from training.model.autoencoder import Posterior
from training.model.diffusion import Diffusion


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the autoencoder's terms (Rombach et al. 2022, eq. 25). All terms are per image, in nats or L1 sums."""

    kl_weight: float = 1e-6
    perceptual_weight: float = 0.0
    vgg_weights: str | None = None  # needed when perceptual_weight > 0
    lpips_weights: str | None = None
    adversarial_weight: float = 0.0
    adversarial_start: int = 50_001  # optimiser steps of the autoencoder before the discriminator takes part


class ReconstructionLoss(nn.Module):
    """L1 + LPIPS, and the KL term: what the autoencoder minimises beside the adversarial term.

    LPIPS is one number per image, weighted like the mean absolute error, so that its weight means the same at
    every resolution; the sum over pixels makes the KL weight comparable with the published ones.
    """

    def __init__(self, config: AutoencoderLossConfig) -> None:
        super().__init__()
        self.config = config
        self.perceptual: lpips.LPIPS | None = None
        if config.perceptual_weight > 0:
            self.perceptual = lpips.load(
                Path(config.vgg_weights or "(vgg_weights is not set)"),
                Path(config.lpips_weights or "(lpips_weights is not set)"),
            )

    def forward(self, images: Tensor, reconstructions: Tensor, posterior: Posterior) -> dict[str, Tensor]:
        """images, reconstructions [R, C, H, W] in [-1, 1] -> scalars: l1, perceptual, kl and their weighted total."""
        pixels = images[0].numel()
        l1 = (images - reconstructions).abs().mean()
        perceptual = self.perceptual(images, reconstructions).mean() if self.perceptual else l1.new_zeros(())
        kl = posterior.kl().mean() / pixels
        total = l1 + self.config.perceptual_weight * perceptual + self.config.kl_weight * kl
        return {"total": total, "reconstruction": l1 + self.config.perceptual_weight * perceptual, "l1": l1,
                "perceptual": perceptual, "kl": kl}  # fmt: skip


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """lambda = |grad reconstruction| / |grad adversarial| at the decoder's last layer (Esser et al. 2021, eq. 7)."""
    (by_reconstruction,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (by_adversary,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio: Tensor = by_reconstruction.norm() / (by_adversary.norm() + 1e-4)
    return ratio.clamp(0.0, 1e4).detach()


@dataclass(frozen=True)
class TimestepSampling:
    """Which timesteps are trained on: all alike, or by the sigmoid of N(mean, std) (Esser et al. 2024, eq. 19)."""

    distribution: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0  # above 0: more noise
    std: Annotated[float, Field(gt=0)] = 1.0


def drawn_timesteps(rows: int, timesteps: int, generator: torch.Generator, sampling: TimestepSampling) -> Tensor:
    """[R] int64 in [0, timesteps), on the generator's device."""
    device = generator.device
    if sampling.distribution == "uniform":
        return torch.randint(timesteps, (rows,), generator=generator, device=device)
    u = torch.sigmoid(sampling.mean + sampling.std * torch.randn(rows, generator=generator, device=device))
    return (u * timesteps).long().clamp(max=timesteps - 1)


def diffusion_loss(
    diffusion: Diffusion, output: Tensor, target: Tensor, t: Tensor, *, min_snr_gamma: float | None
) -> Tensor:
    """Mean squared error of the network's answer, [R, ...] -> scalar.

    min_snr_gamma caps each timestep's weight on z_0 at gamma (Hang et al. 2023, eq. 5): the factor is
    min(SNR, gamma) / SNR for eps, min(SNR, gamma) for x0, min(SNR, gamma) / (SNR + 1) for v. At pure noise it is 0.
    None weighs all timesteps equally (Ho et al. 2020, L_simple).
    """
    error = (output - target).square().flatten(1).mean(1)
    if min_snr_gamma is None:
        return error.mean()
    snr = diffusion.signal_to_noise(t)
    capped = snr.clamp(max=min_snr_gamma)
    match diffusion.config.parameterisation:
        case "eps":
            weight = capped / snr
        case "x0":
            weight = capped
        case "v" | "flow":  # both are linear in z_0 by 1 / sigma; of v it is capped / (SNR + 1)
            _, sigma = diffusion.at(t, error)
            weight = capped * sigma.square()
    return (weight * error).mean()
