"""A light decoder: a second, smaller decoder of a release's latents, distilled from its own one.

It is of the same family as the own decoder: residual blocks, and nearest-neighbour upsampling before a convolution.
It has fewer channels, one block a level and no attention, as in TAESD (https://github.com/madebyollin/taesd).
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.model.autoencoder import Autoencoder, AutoencoderConfig, Decoder
from training.model.release import LIGHT_DECODER

LIGHT_GROUPS = 4  # of the norms: narrow layers are not multiples of 32 channels
SIDE = 16  # of the latents for which operations are compared


@dataclass(frozen=True)
class LightDecoderConfig:
    """The architecture of a light decoder; the channels of images and latents are those of the autoencoder.

    multipliers: channels of each level, finest first, as many as the autoencoder has. channels: a multiple of 4.
    """

    channels: int
    multipliers: Sequence[int]
    res_blocks: int = 0  # per level; there is one more
    middle_attention: bool = False

    def as_autoencoder(self, own: AutoencoderConfig) -> AutoencoderConfig:
        """Return the configuration of an autoencoder with such a decoder. Raises ValueError naming the field."""
        if own.regularisation == "identity":
            raise ValueError("autoencoder: its latents are the pixels, so there is nothing to decode")
        if len(self.multipliers) != len(own.multipliers):
            raise ValueError(
                f"multipliers: {len(self.multipliers)} levels; permitted: {len(own.multipliers)}, as the autoencoder"
            )
        if self.channels < LIGHT_GROUPS or self.channels % LIGHT_GROUPS:
            raise ValueError(f"channels: {self.channels} is not allowed; permitted: multiples of {LIGHT_GROUPS}")
        return AutoencoderConfig(
            image_channels=own.image_channels, latent_channels=own.latent_channels, channels=self.channels,
            multipliers=tuple(self.multipliers), res_blocks=self.res_blocks, middle_attention=self.middle_attention,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the field of a release's architecture."""
        return {**asdict(self), "multipliers": list(self.multipliers)}


class LightDecoder(nn.Module):
    """Decodes the scaled latents of an autoencoder. It reads the latents of a codebook before they are quantised."""

    def __init__(self, light: LightDecoderConfig, own: AutoencoderConfig) -> None:
        """own: of the autoencoder. Raises ValueError naming the field that does not fit."""
        super().__init__()
        self.light, self.config = light, light.as_autoencoder(own)
        self.decoder = Decoder(self.config, groups=LIGHT_GROUPS)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub leaves memory_format out

    @classmethod
    def build(cls, architecture: Mapping[str, Any]) -> Self:
        """Build the light decoder of a release's architecture with fresh weights.

        Raises KeyError, TypeError or ValueError for an architecture that does not fit.
        """
        return cls(LightDecoderConfig(**architecture[LIGHT_DECODER]), AutoencoderConfig(**architecture["autoencoder"]))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents [R, C, h, w] to images [R, channels, h f, w f], about in [-1, 1], not clamped.

        The network runs in the dtype of its weights; the images have that of the latents.
        """
        return torch.as_tensor(self.decoder(latents.to(self.decoder.last_layer.dtype))).to(latents.dtype)


LatentDecoder = Autoencoder | LightDecoder  # what maps scaled latents to images


def count_operations(decoder: LatentDecoder, height: int, width: int) -> int:
    """Return the multiply-adds of decoding one latent of height x width.

    Those of convolutions and matrix products are counted, without the search of a codebook.
    """
    if isinstance(decoder, LightDecoder):
        return count_light(decoder.light, decoder.config, height, width)
    return count_own(decoder.config, height, width)


def count_own(own: AutoencoderConfig, height: int, width: int) -> int:
    """Return the multiply-adds of an autoencoder's decoder; see `count_operations`."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(own.latent_channels, own.encoder_channels, 1), Decoder(own))
    return _count(network, torch.empty(1, own.latent_channels, height, width, device="meta"))


def count_light(light: LightDecoderConfig, own: AutoencoderConfig, height: int, width: int) -> int:
    """Return the multiply-adds of a light decoder; see `count_operations`."""
    with torch.device("meta"):
        network = LightDecoder(light, own).decoder
    return _count(network, torch.empty(1, own.latent_channels, height, width, device="meta"))


def _count(network: nn.Module, latents: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(latents)
    return int(counter.get_total_flops()) // 2


def widest(light: LightDecoderConfig, own: AutoencoderConfig, share: float) -> LightDecoderConfig:
    """Return `light` with the most channels whose operations are at most `share` of the own decoder's.

    Raises ValueError if not even the fewest are.
    """
    most = share * count_own(own, SIDE, SIDE)

    def is_too_wide(groups: int) -> bool:
        return count_light(replace(light, channels=groups * LIGHT_GROUPS), own, SIDE, SIDE) > most

    too_wide = bisect_left(range(1, own.channels // LIGHT_GROUPS + 1), True, key=is_too_wide) + 1
    if too_wide == 1:
        raise ValueError(f"share: {share:g} is too little for {LIGHT_GROUPS} channels; permitted: more")
    return replace(light, channels=(too_wide - 1) * LIGHT_GROUPS)
