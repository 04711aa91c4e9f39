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
    autoencoder.check(images)
    return blended(autoencoder.encode, images, tile, overlap, num=1, den=f)


def decode(autoencoder: Autoencoder, latents: Tensor, *, tile: int = 64, overlap: int = 16) -> Tensor:
    """As `autoencoder.decode`, in tiles of `tile` latent positions of which neighbours share `overlap`.

    latents [R, C, h, w] -> [R, channels, h f, w f]. Raises ValueError naming what does not fit.
    """
    return blended(autoencoder.decode, latents, tile, overlap, num=autoencoder.config.factor, den=1)


def blended(function: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, *, num: int, den: int) -> Tensor:
    """`function` of each tile of x, the answers blended; it scales lengths by num / den."""
    if x.dim() != 4:
        raise ValueError(f"shape {list(x.shape)} is not allowed; permitted: [R, C, height, width]")
    if tile < 1:
        raise ValueError(f"tile: {tile} is not allowed; permitted: at least 1")
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap: {overlap} is not allowed; permitted: 0 to {tile // 2}, half a tile")
    height, width = x.shape[2], x.shape[3]
    total: Tensor | None = None
    rows, columns = (windows(length, tile, overlap, num, den) for length in (height, width))
    for top, down in rows.items():
        for left, across in columns.items():
            answer = function(x[:, :, top : top + tile, left : left + tile])
            if total is None:
                total = answer.new_zeros(*answer.shape[:2], height * num // den, width * num // den)
            at = (top * num // den, left * num // den)
            weight = (down[:, None] * across).to(answer)
            total[:, :, at[0] : at[0] + len(down), at[1] : at[1] + len(across)] += weight * answer
    assert total is not None
    return total


def windows(length: int, tile: int, overlap: int, num: int, den: int) -> dict[int, Tensor]:
    """Where tiles begin along one side, and the weights of each one's answer, float64; they sum to 1 everywhere.

    Tiles are all as long as each other, for a short one would be normalised otherwise: the last is moved back. Where
    tiles overlap, the outer quarter is dropped, for there a tile lacks its surroundings; over the middle half the
    weight rises linearly.
    """
    stride, tile = tile - overlap, min(tile, length)
    starts = sorted({*range(0, length - tile, stride), length - tile})
    size, shared = tile * num // den, overlap * num // den
    position = torch.arange(size, dtype=torch.float64) + 0.5
    total = torch.zeros(length * num // den, dtype=torch.float64)
    weights = {}
    for start in starts:
        inwards = torch.full_like(position, torch.inf)  # how far from the nearest border that is not the image's
        if start > 0:
            inwards = torch.minimum(inwards, position)
        if start + tile < length:
            inwards = torch.minimum(inwards, size - position)
        weights[start] = ((inwards - shared / 4) / max(shared / 2, 1e-9)).clamp(0, 1)
        total[start * num // den :][:size] += weights[start]
    return {start: weight / total[start * num // den :][:size] for start, weight in weights.items()}
