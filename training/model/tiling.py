"""Encoding and decoding images that are too large for memory: overlapping tiles, blended without a seam."""

from collections.abc import Callable

import torch
from torch import Tensor

from training.model.autoencoder import Autoencoder


def encode(autoencoder: Autoencoder, images: Tensor, *, tile: int = 512, overlap: int = 128) -> Tensor:
    """As `autoencoder.encode`, in tiles of `tile` pixels of which neighbours share `overlap`.

    images [R, channels, H, W], both sides multiples of the factor f, as tile and overlap have to be. Returns
    [R, C, H/f, W/f]. Group norm and attention see one tile, so the answer is near the whole one, not equal.
    Raises ValueError naming what does not fit.
    """
    f = autoencoder.config.factor
    if tile % f or overlap % f:
        raise ValueError(f"tile, overlap: {tile}, {overlap} are not allowed; permitted: multiples of the factor {f}")
    return blended(autoencoder.encode, images, tile, overlap, num=1, den=f)


def decode(autoencoder: Autoencoder, latents: Tensor, *, tile: int = 64, overlap: int = 16) -> Tensor:
    """As `autoencoder.decode`, in tiles of `tile` latent positions of which neighbours share `overlap`.

    latents [R, C, h, w] -> [R, channels, h f, w f]. Raises ValueError naming what does not fit.
    """
    return blended(autoencoder.decode, latents, tile, overlap, num=autoencoder.config.factor, den=1)


def blended(function: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, *, num: int, den: int) -> Tensor:
    """`function` of each tile of x, the answers blended; it scales lengths by num / den."""
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap: {overlap} is not allowed; permitted: 0 to {tile // 2}, half a tile")
    height, width = x.shape[2], x.shape[3]
    total: Tensor | None = None
    for top in starts(height, tile, overlap):
        for left in starts(width, tile, overlap):
            answer = function(x[:, :, top : top + tile, left : left + tile])
            if total is None:
                total = answer.new_zeros(*answer.shape[:2], height * num // den, width * num // den)
            place = (top * num // den, left * num // den)
            weights = [
                ramp(length, begin, whole, overlap * num // den)
                for length, begin, whole in zip(answer.shape[2:], place, total.shape[2:], strict=True)
            ]
            weight = (weights[0][:, None] * weights[1]).to(answer)
            here = (..., slice(place[0], place[0] + answer.shape[2]), slice(place[1], place[1] + answer.shape[3]))
            total[here] += weight * answer
    assert total is not None
    return total


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: every tile - overlap; the last may be shorter."""
    return [0, *range(tile - overlap, max(tile - overlap, length - overlap), tile - overlap)]


def ramp(length: int, begin: int, whole: int, overlap: int) -> Tensor:
    """A tile's weights along one side, float64 [length]: it rises over the overlap with the tile before, and falls over
    that with the tile behind, where the two sum to 1."""
    weight = torch.ones(length, dtype=torch.float64)
    rise = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    if begin > 0:
        weight[:overlap] *= rise[:length]
    if begin + length < whole:
        weight[length - overlap :] *= rise.flip(0)
    return weight
