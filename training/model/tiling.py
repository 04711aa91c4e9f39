"""Encoding and decoding images that are too large for memory, in overlapping tiles that are blended without seams.

Three effects could make tiles visible. Near its border a tile lacks context, so that part is dropped. Group norms that
saw one tile at a time would change its colours, so all tiles use the statistics of a small version of the whole image.
Attention sees one tile at a time; the overlaps blend the difference.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.autoencoder import Autoencoder
from training.model.light_decoder import LatentDecoder


def encode(autoencoder: Autoencoder, images: Tensor, *, tile: int = 512, overlap: int = 128) -> Tensor:
    """Encode in tiles of `tile` pixels a side, where neighbours share `overlap` pixels.

    images: [R, channels, H, W]; H, W, tile and overlap must be multiples of the factor f. Returns latents
    [R, C, H/f, W/f], close to those of `autoencoder.encode` but not equal. Raises ValueError naming what does not fit.
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


def decode(decoder: LatentDecoder, latents: Tensor, *, tile: int = 64, overlap: int = 16) -> Tensor:
    """Decode in tiles of `tile` latent positions a side, where neighbours share `overlap` positions.

    latents [R, C, h, w] -> images [R, channels, h f, w f]. Raises ValueError naming what does not fit.
    """
    check(latents, tile, overlap)
    if max(latents.shape[2:]) <= tile:
        return decoder.decode(latents)
    # Skip latents instead of averaging them: a decoder only knows latents with their usual spread
    with shared_norms(decoder, lambda: decoder.decode(shrink(latents, tile, 1, "nearest-exact"))):
        return blend_tiles(decoder.decode, latents, tile, overlap, num=decoder.config.factor, den=1)


def check(x: Tensor, tile: int, overlap: int) -> None:
    """Raise ValueError unless x can be tiled so."""
    if x.dim() != 4:
        raise ValueError(f"shape {list(x.shape)} is not allowed; permitted: [R, C, height, width]")
    if tile < 1:
        raise ValueError(f"tile: {tile} is not allowed; permitted: at least 1")
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap: {overlap} is not allowed; permitted: 0 to {tile // 2}, half a tile")


def shrink(x: Tensor, tile: int, unit: int, mode: str) -> Tensor:
    """Shrink x to about the area of a tile, with sides that are multiples of `unit`: [R, C, h, w] -> [R, C, h', w']."""
    height, width = x.shape[2], x.shape[3]
    share = min(1.0, tile / (height * width) ** 0.5)
    size = [max(unit, round(side * share / unit) * unit) for side in (height, width)]
    return F.interpolate(x, size=size, mode=mode)


@contextmanager
def shared_norms(network: nn.Module, run: Callable[[], Tensor]) -> Iterator[None]:
    """Within this context, all group norms of `network` use the mean and variance of each row in `run`."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    moments: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def groups(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        return x.reshape(len(x), norm.num_groups, -1).float()

    def record(norm: nn.GroupNorm, arguments: tuple[Tensor], answer: Tensor) -> None:
        moments[norm] = torch.var_mean(groups(norm, arguments[0]), dim=-1, correction=0, keepdim=True)

    def replace(norm: nn.GroupNorm, arguments: tuple[Tensor], answer: Tensor) -> Tensor:
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
    """Apply `function`, which scales lengths by num / den, to each tile of x, and blend the results.

    Raises ValueError as `check` does.
    """
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
    """Return the start of each tile along one side, with the weights of its result, float64, which sum to 1 everywhere.

    All tiles have the same length, so that the network sees a single shape; the last tile is moved back to fit. In an
    overlap, the outer quarter of a tile is dropped because it lacks context, and the weight rises linearly over the
    middle half.
    """
    stride, tile = tile - overlap, min(tile, length)
    starts = sorted({*range(0, length - tile, stride), length - tile})
    size, shared = tile * num // den, overlap * num // den
    position = torch.arange(size, dtype=torch.float64) + 0.5
    total = torch.zeros(length * num // den, dtype=torch.float64)
    weights = {}
    for start in starts:
        inwards = torch.full_like(position, torch.inf)  # distance to the nearest border inside the image
        if start > 0:
            inwards = torch.minimum(inwards, position)
        if start + tile < length:
            inwards = torch.minimum(inwards, size - position)
        weights[start] = ((inwards - shared / 4) / max(shared / 2, 1e-9)).clamp(0, 1)
        total[start * num // den :][:size] += weights[start]
    return {start: weight / total[start * num // den :][:size] for start, weight in weights.items()}
