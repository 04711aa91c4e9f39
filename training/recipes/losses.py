"""The losses of the autoencoder and of the diffusion model."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from training.metrics import lpips
from training.model.diffusion import Diffusion
from training.recipes.randomness import StepDraws

Weight = Annotated[float, Field(ge=0)]
Norm = Literal["l2", "l1"]


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the autoencoder's terms (Rombach et al. 2022, eq. 25); see `configs/recipe/autoencoder.yaml`."""

    kl_weight: Weight = 1e-6
    codebook_weight: Weight = 1.0
    codebook_restart: Annotated[int, Field(gt=0)] | None = None
    learned_logvar: bool = True
    perceptual_weight: Weight = 0.0
    vgg_weights: str | None = None  # required if perceptual_weight > 0; a path or a URL
    lpips_weights: str | None = None
    adversarial_weight: Weight = 0.0
    adversarial_start: Annotated[int, Field(ge=0)] = 50_001
    adversarial_rate: Annotated[float, Field(gt=0)] | None = None
    adversarial_layers: Annotated[int, Field(ge=1, le=5)] = 3
    r1_weight: Weight = 0.0
    equivariance: Annotated[float, Field(ge=0, le=1)] = 0.0


class ReconstructionLoss(nn.Module):
    """The loss of the autoencoder without the adversarial term.

        reconstruction = L1 + w LPIPS,    nll = reconstruction / exp(s) + s,    total = nll + regularisation

    s, the log variance of the reconstruction, is a trained scalar; its optimum is the log of the reconstruction.
    All terms are means over pixels and images. LPIPS is one number per image, weighted like the mean absolute error,
    so its weight does not depend on the resolution. KL is in nats per pixel, so kl_weight is comparable with published
    values, where all terms are sums.
    """

    def __init__(self, config: AutoencoderLossConfig) -> None:
        super().__init__()
        self.config = config
        self.logvar = nn.Parameter(torch.zeros(()), requires_grad=config.learned_logvar)
        self.perceptual: lpips.LPIPS | None = None
        if config.perceptual_weight > 0:
            self.perceptual = lpips.load(config.vgg_weights, config.lpips_weights)

    def forward(self, images: Tensor, reconstructions: Tensor, regularisation: Tensor) -> dict[str, Tensor]:
        """images, reconstructions [R, C, H, W] in [-1, 1], the weighted regularisation -> scalars of each term."""
        l1 = (images - reconstructions).abs().mean()
        perceptual = self.perceptual(images, reconstructions).mean() if self.perceptual else l1.new_zeros(())
        reconstruction = l1 + self.config.perceptual_weight * perceptual
        nll = reconstruction * torch.exp(-self.logvar) + self.logvar
        return {"loss": reconstruction, "total": nll + regularisation, "nll": nll, "l1": l1, "perceptual": perceptual,
                "logvar": self.logvar}  # fmt: skip


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """lambda = |grad reconstruction| / |grad adversarial| at the decoder's last layer (Esser et al. 2021, eq. 7)."""
    (by_reconstruction,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (by_adversary,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    if dist.is_initialized():  # the weight of the whole batch, on all ranks
        dist.all_reduce(by_reconstruction)
        dist.all_reduce(by_adversary)
    ratio: Tensor = by_reconstruction.norm() / (by_adversary.norm() + 1e-4)
    return ratio.clamp(0.0, 1e4).detach()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Return the penalty on the logits at real images, |grad D(x)|^2 / 2 (Mescheder et al. 2018, eq. 9)."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real).mean((1, 2, 3)).sum(), real, create_graph=True)
    return 0.5 * gradient.square().sum((1, 2, 3)).mean()


@dataclass(frozen=True)
class TimestepSampling:
    """The distribution of timesteps: uniform, or the sigmoid of N(mean, std) (Esser et al. 2024, eq. 19)."""

    distribution: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0  # above 0: more noise
    std: Annotated[float, Field(gt=0)] = 1.0


def draw_timesteps(draws: StepDraws, timesteps: int, sampling: TimestepSampling) -> Tensor:
    """Draw timesteps: [R] int64 in [0, timesteps), on the draws' device."""
    if sampling.distribution == "uniform":
        u = draws.uniform()
    else:
        u = torch.sigmoid(sampling.mean + sampling.std * draws.normal())
    return (u * timesteps).long().clamp(max=timesteps - 1)


def diffusion_loss(
    diffusion: Diffusion,
    output: Tensor,
    target: Tensor,
    t: Tensor,
    *,
    min_snr_gamma: float | None,
    norm: Norm = "l2",
) -> Tensor:
    """Return the mean error of the network's output, [R, ...] -> scalar: its square, or for l1 its absolute value.

    min_snr_gamma caps each timestep's weight on z_0 at gamma (Hang et al. 2023, eq. 5): the factor is
    min(SNR, gamma) / SNR for eps, min(SNR, gamma) for x0, min(SNR, gamma) / (SNR + 1) for v. At pure noise it is 0.
    None weighs all timesteps equally (Ho et al. 2020, L_simple).
    """
    difference = output - target
    error = (difference.square() if norm == "l2" else difference.abs()).flatten(1).mean(1)
    if min_snr_gamma is None:
        return error.mean()
    snr = diffusion.signal_to_noise(t)
    capped = snr.clamp(max=min_snr_gamma)
    match diffusion.config.parameterisation:
        case "eps":
            weight = capped / snr
        case "x0":
            weight = capped
        case "v" | "flow":  # both are linear in z_0 by 1 / sigma; for v the weight is capped / (SNR + 1)
            _, sigma = diffusion.alpha_sigma(t, error)
            weight = capped * sigma.square()
    return (weight * error).mean()
