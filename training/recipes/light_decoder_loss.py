"""The settings of the objective of a light decoder."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from training.recipes.losses import Weight


@dataclass(frozen=True)
class LightDecoderLossConfig:
    """See `configs/recipe/light_decoder.yaml`, and `light_decoder` for the objective."""

    image_weight: Weight = 1.0
    decoder_weight: Weight = 1.0
    perceptual_weight: Weight = 0.0
    vgg_weights: str | None = None  # required if perceptual_weight > 0; a path or a URL
    lpips_weights: str | None = None
    sampled_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    sampled: Annotated[int, Field(ge=1)] = 256

    def check(self) -> None:
        """Raise ValueError, naming the field, if nothing would be learned from some rows."""
        if self.image_weight + self.decoder_weight == 0:
            raise ValueError("image_weight, decoder_weight: both are 0; permitted: one of them above 0")
        if self.sampled_share > 0 and self.decoder_weight == 0:
            raise ValueError("decoder_weight: 0 is not allowed with sampled_share, because nothing but the own "
                             "decoder knows the images of sampled latents; permitted: above 0")  # fmt: skip
