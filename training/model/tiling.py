"""Encoding and decoding images that are too large for memory: overlapping tiles, blended without a seam.

Three things would tell tiles apart. A tile lacks its surroundings: what lies near its border is dropped. Group norms
would see one tile at a time, and an empty one would come out in another colour: all tiles use the statistics of a
sketch of the whole. Attention sees one tile at a time: the overlaps blend what that changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.autoencoder import Autoencoder


def encode(autoencoder: Autoencoder, images: Tensor, *, tile: int = 512, overlap: int = 128) -> Tensor:
    """As `autoencoder.encode`, in tiles of `tile` pixels of which neighbours share `overlap`.

    images [R, channels, H, W], both sides multiples of the factor f, as tile and overlap have to be. Returns
    [R, C, H/f, W/f], near the answer without tiles, not equal to it. Raises ValueError naming what does not fit.
    """
    f = autoencoder.config.factor
    if tile % f or overlap % f:
        raise ValueError(f"tile, overlap: {tile}, {overlap} are not allowed; permitted: multiples of the factor {f}")
    autoencoder.check(images)
    check(images, tile, overlap)
    if max(images.shape[2:]) <= tile:
        return autoencoder.encode(images)
    with shared_norms(autoencoder, lambda: autoencoder.encode(shrink(images, tile, f, "area"))):
        return blend_tiles(autoencoder.encode, images, tile, overlap, num=1, den=f)


def decode(autoencoder: Autoencoder, latents: Tensor, *, tile: int = 64, overlap: int = 16) -> Tensor:
    """As `autoencoder.decode`, in tiles of `tile` latent positions of which neighbours share `overlap`.

    latents [R, C, h, w] -> [R, channels, h f, w f]. Raises ValueError naming what does not fit.
    """
    check(latents, tile, overlap)
    if max(latents.shape[2:]) <= tile:
        return autoencoder.decode(latents)
    # Latents are left out, not averaged: a decoder knows them with their spread alone
    with shared_norms(autoencoder, lambda: autoencoder.decode(shrink(latents, tile, 1, "nearest-exact"))):
        return blend_tiles(autoencoder.decode, latents, tile, overlap, num=autoencoder.config.factor, den=1)


def check(x: Tensor, tile: int, overlap: int) -> None:
    """Raise ValueError naming what cannot be tiled."""
    if x.dim() != 4:
        raise ValueError(f"shape {list(x.shape)} is not allowed; permitted: [R, C, height, width]")
    if tile < 1:
        raise ValueError(f"tile: {tile} is not allowed; permitted: at least 1")
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap: {overlap} is not allowed; permitted: 0 to {tile // 2}, half a tile")


def shrink(x: Tensor, tile: int, unit: int, mode: str) -> Tensor:
    """x made smaller, to about the area of a tile, its sides multiples of `unit`: [R, C, h, w] -> [R, C, h', w']."""
    height, width = x.shape[2], x.shape[3]
    share = min(1.0, tile / (height * width) ** 0.5)
    size = [max(unit, round(side * share / unit) * unit) for side in (height, width)]
    return F.interpolate(x, size=size, mode=mode)


@contextmanager
def shared_norms(network: nn.Module, run: Callable[[], Tensor]) -> Iterator[None]:
    """Within it, all group norms of `network` use the mean and variance that they have in `run`, row by row."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    moments: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def groups(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        return x.reshape(len(x), norm.num_groups, -1).float()

    def record(norm: Any, arguments: tuple[Tensor], answer: Tensor) -> None:
        moments[norm] = torch.var_mean(groups(norm, arguments[0]), dim=-1, correction=0, keepdim=True)

    def replace(norm: Any, arguments: tuple[Tensor], answer: Tensor) -> Tensor:
        variance, mean = moments[norm]
        x = (groups(norm, arguments[0]) - mean) * torch.rsqrt(variance + norm.eps)
        return torch.as_tensor(
            x.view(answer.shape).to(answer.dtype) * norm.weight[:, None, None] + norm.bias[:, None, None]
        )

    hooks = [norm.register_forward_hook(record) for norm in norms]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    hooks = [norm.register_forward_hook(replace) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def blend_tiles(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, *, num: int, den: int
) -> Tensor:
    """`function` of each tile of x, the answers blended; it scales lengths by num / den. Raises ValueError."""
    check(x, tile, overlap)
    height, width = x.shape[2], x.shape[3]
    total: Tensor | None = None
    rows, columns = (tile_weights(length, tile, overlap, num, den) for length in (height, width))
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


def tile_weights(length: int, tile: int, overlap: int, num: int, den: int) -> dict[int, Tensor]:
    """Where tiles begin along one side, and the weights of each one's answer, float64; they sum to 1 everywhere.

    Tiles are all as long as each other, so that a network meets one shape only: the last is moved back. Where
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
