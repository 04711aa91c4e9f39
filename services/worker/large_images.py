"""Images that are encoded and decoded in tiles, because as a whole they would take too much memory."""

from collections.abc import Sequence

from torch import Tensor

from training.model import tiling
from training.model.autoencoder import Autoencoder
from training.model.light_decoder import LatentDecoder

# The decoder of kl_f8, of the released ones that of a usual size, takes 0.82 GiB for 512 x 512 pixels in fp32, and in
# proportion to the area.
WHOLE_PIXELS = 1024 * 1024
TILE = 512  # pixels a side
OVERLAP = 128


def is_large(autoencoder: Autoencoder, shape: Sequence[int]) -> bool:
    """Return whether latents of shape (C, h, w) are those of an image that is decoded in tiles."""
    return shape[1] * shape[2] * autoencoder.config.factor**2 > WHOLE_PIXELS


def decode_in_tiles(decoder: LatentDecoder, latents: Tensor) -> Tensor:
    """Decode scaled latents [R, C, h, w] to images [R, channels, H, W]."""
    factor = decoder.config.factor
    return tiling.decode(decoder, latents, tile=TILE // factor, overlap=OVERLAP // factor)


def encode_in_tiles(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """Encode images [R, channels, H, W] in [-1, 1] to scaled latents [R, C, h, w]."""
    return tiling.encode(autoencoder, images, tile=TILE, overlap=OVERLAP)
