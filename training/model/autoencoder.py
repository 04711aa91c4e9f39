"""The perceptual autoencoder, from pixels to scaled latents and back (Rombach et al. 2022, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.layers import NORM_GROUPS, Downsample, ResidualBlock, SpatialAttention, Upsample, group_norm
from training.model.quantiser import Quantisation, VectorQuantiser
from training.model.ranges import check_at_least, check_share

EPS = 1e-6
LEAST = {"image_channels": 1, "latent_channels": 1, "channels": 1, "multipliers": 1, "res_blocks": 0, "z_channels": 1}

Regularisation = Literal["kl", "vq", "identity"]


@dataclass(frozen=True)
class AutoencoderConfig:
    """The architecture of an autoencoder. Its downsampling factor is 2^(levels - 1): 1, 2, 4 ... 32.

    regularisation: "kl" is a Gaussian posterior, "vq" a codebook that is applied when decoding (Rombach et al. 2022,
    section 3.1). With "identity" the latents are the pixels, and only the channel counts matter.
    Raises ValueError naming the invalid field.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 4)  # channels of each level, finest first
    res_blocks: int = 2  # per level; the decoder has one more
    attention_levels: Sequence[int] = ()  # 0 is the finest
    middle_attention: bool = True
    dropout: float = 0.0
    regularisation: Regularisation = "kl"
    z_channels: int | None = None  # between the networks and the 1x1 convolutions; None: latent_channels
    codebook_size: int = 8192  # entries, for "vq"
    codebook_used: Sequence[int] | None = None  # the entries in use, if indices are renumbered; see VectorQuantiser
    codebook_unknown: str | int = "random"  # see VectorQuantiser

    def __post_init__(self) -> None:
        known = get_args(Regularisation)
        if self.regularisation not in known:
            raise ValueError(f"regularisation: {self.regularisation!r} is not known; permitted: {', '.join(known)}")
        levels = len(self.multipliers)
        if not levels:
            raise ValueError("multipliers: none; permitted: one for each level, at least one")
        check_at_least(self, LEAST)
        check_share(self, "dropout")
        if wrong := [i for i in self.attention_levels if not 0 <= i < levels]:
            raise ValueError(f"attention_levels: {wrong[0]} is not allowed; permitted: 0 to {levels - 1}")
        if self.regularisation == "identity" and self.latent_channels != self.image_channels:
            raise ValueError(
                f"latent_channels: {self.latent_channels} is not allowed with the identity; "
                f"permitted: {self.image_channels}, as image_channels"
            )

    @property
    def factor(self) -> int:
        """Image height divided by latent height."""
        return 1 if self.regularisation == "identity" else int(2 ** (len(self.multipliers) - 1))

    @property
    def encoder_channels(self) -> int:
        """Channels that the encoder writes (for "kl" twice as many) and the decoder reads, see `z_channels`."""
        return self.latent_channels if self.z_channels is None else self.z_channels


class Posterior:
    """A diagonal Gaussian over unscaled latents, from moments [R, 2C, h, w]: means, then log variances."""

    def __init__(self, moments: Tensor) -> None:
        self.mean, logvar = moments.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)  # as the released models do

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Return mean + std * noise, [R, C, h, w]; draws standard normal noise if none is given."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """Return KL(posterior || N(0, I)) of each image in nats, summed over its latent: [R]."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).flatten(1).sum(1)


class Middle(nn.Module):
    """The coarsest level: a residual block, attention, a residual block."""

    def __init__(self, channels: int, *, attention: bool, dropout: float, groups: int = NORM_GROUPS) -> None:
        super().__init__()
        self.block1 = ResidualBlock(channels, channels, eps=EPS, dropout=dropout, groups=groups)
        self.attention = SpatialAttention(channels, heads=1, eps=EPS, groups=groups) if attention else nn.Identity()
        self.block2 = ResidualBlock(channels, channels, eps=EPS, dropout=dropout, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a feature map: [R, C, h, w] -> [R, C, h, w]."""
        return torch.as_tensor(self.block2(self.attention(self.block1(x))))


def level(
    in_channels: int, out_channels: int, blocks: int, *, attention: bool, dropout: float, groups: int = NORM_GROUPS
) -> list[nn.Module]:
    """Return the residual blocks of one resolution, each followed by attention if `attention`."""
    layers: list[nn.Module] = []
    for i in range(blocks):
        before = in_channels if i == 0 else out_channels
        layers.append(ResidualBlock(before, out_channels, eps=EPS, dropout=dropout, groups=groups))
        if attention:
            layers.append(SpatialAttention(out_channels, heads=1, eps=EPS, groups=groups))
    return layers


class Encoder(nn.Module):
    """Maps pixels to moments, finest level first."""

    def __init__(self, config: AutoencoderConfig) -> None:
        if not config.res_blocks and any(multiplier != 1 for multiplier in config.multipliers):
            multipliers = list(config.multipliers)  # only blocks change the number of channels
            raise ValueError(f"res_blocks: 0 is not allowed with the multipliers {multipliers}; permitted: at least 1")
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(config.image_channels, config.channels, 3, padding=1)
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            attention = i in config.attention_levels
            layers += level(before, width, config.res_blocks, attention=attention, dropout=config.dropout)
            if i < len(widths) - 1:
                layers.append(Downsample(width, asymmetric=True))
        self.down = nn.Sequential(*layers)
        self.middle = Middle(widths[-1], attention=config.middle_attention, dropout=config.dropout)
        self.norm_out = group_norm(widths[-1], EPS)
        moments = 2 if config.regularisation == "kl" else 1
        self.conv_out = nn.Conv2d(widths[-1], moments * config.encoder_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images [R, channels, H, W] to moments [R, 2C, H/f, W/f] for "kl", else to [R, C, H/f, W/f]."""
        h = self.middle(self.down(self.conv_in(x.contiguous(memory_format=torch.channels_last))))
        return torch.as_tensor(self.conv_out(F.silu(self.norm_out(h))))


class Decoder(nn.Module):
    """Maps latents to pixels, coarsest level first. groups: of the norms."""

    def __init__(self, config: AutoencoderConfig, groups: int = NORM_GROUPS) -> None:
        super().__init__()
        widths = [config.channels * m for m in reversed(config.multipliers)]
        self.conv_in = nn.Conv2d(config.encoder_channels, widths[0], 3, padding=1)
        given: dict[str, Any] = {"dropout": config.dropout, "groups": groups}
        self.middle = Middle(widths[0], attention=config.middle_attention, **given)
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            attention = len(widths) - 1 - i in config.attention_levels
            layers += level(before, width, config.res_blocks + 1, attention=attention, **given)
            if i < len(widths) - 1:
                layers.append(Upsample(width))
        self.up = nn.Sequential(*layers)
        self.norm_out = group_norm(widths[-1], EPS, groups)
        self.conv_out = nn.Conv2d(widths[-1], config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents: [R, C, h, w] -> images [R, channels, h f, w f]."""
        h = self.up(self.middle(self.conv_in(z.contiguous(memory_format=torch.channels_last))))
        return torch.as_tensor(self.conv_out(F.silu(self.norm_out(h))))

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients set the adaptive adversarial weight (Esser et al. 2021, eq. 7)."""
        return self.conv_out.weight


class Autoencoder(nn.Module):
    """Maps images in [-1, 1] to latents of unit standard deviation and back.

    The diffusion model needs latents of about unit variance (Rombach et al. 2022, appendix G). Therefore `encode`
    multiplies by `latent_scale` = 1 / std(latents), which is measured after training, and `decode` divides by it.
    """

    latent_scale: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        c, latent, z = config, config.latent_channels, config.encoder_channels
        self.encoder: nn.Module = nn.Identity()
        self.decoder: nn.Module = nn.Identity()
        self.quant_conv: nn.Module = nn.Identity()
        self.post_quant_conv: nn.Module = nn.Identity()
        if c.regularisation != "identity":
            moments = 2 if c.regularisation == "kl" else 1
            self.encoder = Encoder(c)
            self.quant_conv = nn.Conv2d(moments * z, moments * latent, 1)
            self.post_quant_conv = nn.Conv2d(latent, z, 1)
            self.decoder = Decoder(c)
        if c.regularisation == "vq":
            self.quantiser = VectorQuantiser(c.codebook_size, latent, used=c.codebook_used, unknown=c.codebook_unknown)
        self.register_buffer("latent_scale", torch.ones(()))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub leaves memory_format out

    def posterior(self, images: Tensor) -> Posterior:
        """Return the unscaled posterior over latents [R, C, H/f, W/f] of images [R, channels, H, W] in [-1, 1].

        Raises ValueError if the regularisation is not "kl", and for images that `check` refuses.
        """
        if self.config.regularisation != "kl":
            raise ValueError(f"regularisation: {self.config.regularisation} has no posterior; only kl has one")
        return Posterior(self._encode_unscaled(images))

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of each image's scaled latents: [R, C, H/f, W/f] each.

        The standard deviation is zero unless the regularisation is "kl". Raises ValueError as `check` does.
        """
        if self.config.regularisation != "kl":
            latents = self.encode(images)
            return latents, torch.zeros_like(latents)
        posterior = self.posterior(images)
        return posterior.mean * self.latent_scale, torch.exp(0.5 * posterior.logvar) * self.latent_scale

    def quantise(self, z: Tensor) -> Quantisation:
        """Replace unscaled latents [R, C, h, w] by their nearest codebook entries.

        Raises ValueError if the regularisation is not "vq".
        """
        if self.config.regularisation != "vq":
            raise ValueError(f"regularisation: {self.config.regularisation} has no codebook; only vq has one")
        return cast(Quantisation, self.quantiser(z))

    def reconstruct_unscaled(self, z: Tensor, *, quantise: bool = True) -> Tensor:
        """Decode unscaled latents [R, C, h, w] to images [R, channels, h f, w f], about in [-1, 1], not clamped.

        quantise: with "vq", replace latents by their nearest codebook entries first.
        Raises ValueError for a wrong number of channels.
        """
        if z.dim() != 4 or z.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents: shape {list(z.shape)}; this autoencoder needs [R, {self.config.latent_channels}, h, w]"
            )
        if quantise and self.config.regularisation == "vq":
            z = self.quantise(z).latents
        weights = next(self.decoder.parameters(), z).dtype  # the decoder may have another precision than the rest
        return torch.as_tensor(self.decoder(self.post_quant_conv(z.to(weights)))).to(z.dtype)

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [R, channels, H, W] in [-1, 1] to scaled latents [R, C, H/f, W/f]; with "kl", the means.

        Raises ValueError as `check` does.
        """
        z = self.posterior(images).mean if self.config.regularisation == "kl" else self._encode_unscaled(images)
        return z * self.latent_scale

    def decode(self, latents: Tensor, *, quantise: bool = True) -> Tensor:
        """Decode scaled latents [R, C, h, w] to images [R, channels, h f, w f], about in [-1, 1], not clamped.

        quantise: see `reconstruct_unscaled`. Raises ValueError for a wrong number of channels.
        """
        return self.reconstruct_unscaled(latents / self.latent_scale, quantise=quantise)

    def check(self, images: Tensor) -> None:
        """Raise ValueError unless images have shape [R, image_channels, H, W], with H and W multiples of f."""
        if images.dim() != 4:
            raise ValueError(f"images: shape {list(images.shape)}; permitted: [R, {self.config.image_channels}, H, W]")
        channels, height, width = images.shape[1:]
        f = self.config.factor
        if channels != self.config.image_channels:
            raise ValueError(f"images: {channels} channels; this autoencoder needs {self.config.image_channels}")
        if height % f or width % f:
            raise ValueError(f"images: {height}x{width} pixels; both sides must be multiples of {f}")

    def _encode_unscaled(self, images: Tensor) -> Tensor:
        self.check(images)
        return torch.as_tensor(self.quant_conv(self.encoder(images)))
