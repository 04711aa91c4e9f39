"""The building blocks of the autoencoder and the U-Net.

Numerics follow the released latent diffusion models (Rombach et al. 2022), so that their checkpoints
can be loaded: group norm over 32 groups, nearest-neighbour upsampling, GEGLU with the erf GELU.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.attention_layers import CrossAttention, SelfAttention

NORM_GROUPS = 32
CACHED_TOKENS = 512  # tokens whose feed-forward activations, 8 times as wide, stay in a CPU's cache


def group_norm(channels: int, eps: float, groups: int = NORM_GROUPS) -> "GroupNorm":
    """Return group norm, over 32 groups in all released models. Their autoencoders use eps 1e-6, their U-Nets 1e-5.

    Raises ValueError unless `groups` divides the channels.
    """
    if channels % groups:
        raise ValueError(f"channels: {channels} is not a multiple of {groups}, which group norm needs")
    return GroupNorm(groups, channels, eps=eps)


class GroupNorm(nn.GroupNorm):
    """Group norm (Wu & He 2018) that keeps maps channels-last, also on a GPU, where torch's does not.

    Compiled for a GPU, it reads whole channels. The few channels of one group lie apart in memory, and reading only
    those of one group at a time would waste most of the memory's bandwidth. In training this would keep more memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [R, C, H, W]."""
        if x.device.type == "cuda" and torch.compiler.is_compiling() and not torch.is_grad_enabled():
            return self.by_channels(x)
        return channels_last(super().forward(x))

    def by_channels(self, x: Tensor) -> Tensor:
        """Return the same from the sums of each channel and of its squares, in float32 or more."""
        full = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = torch.stack([full.sum((2, 3)), full.square().sum((2, 3))])  # [2, R, C]
        mean, square = sums.view(2, len(x), self.num_groups, -1).sum(3, keepdim=True) * self.num_groups / x[0].numel()
        variance = square - mean.square()  # [R, groups, 1]
        scale = torch.rsqrt(variance.clamp(min=0) + self.eps) * self.weight.view(1, self.num_groups, -1)
        shift = self.bias.view(1, self.num_groups, -1) - mean * scale
        scale, shift = (part.flatten(1)[:, :, None, None] for part in (scale, shift))  # [R, C, 1, 1]
        return (full * scale + shift).to(x.dtype)


def channels_last(x: Tensor) -> Tensor:
    """Return a map [R, C, H, W] with its channels next to each other in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def concatenate(first: Tensor, second: Tensor) -> Tensor:
    """Join the channels of two maps: [R, C, H, W], [R, C', H, W] -> [R, C + C', H, W].

    Compiled, they are joined as the last dimension, which takes fewer passes over them.
    """
    if not torch.compiler.is_compiling():
        return torch.cat([first, second], dim=1)
    return torch.cat([first.permute(0, 2, 3, 1), second.permute(0, 2, 3, 1)], dim=3).permute(0, 3, 1, 2)


def zero_init(module: nn.Module) -> nn.Module:
    """Set a layer's parameters to zero, so that a residual branch starts as the identity. Returns the layer."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResidualBlock(nn.Module):
    """Two layers of norm, SiLU and convolution, plus a skip; in a U-Net the timestep embedding enters between them.

    eps, groups: of the norms. embedding_width: width of the timestep embedding; None in an autoencoder.
    scale_shift: the embedding scales and shifts the output of the second norm instead of being added before it
        (adaptive group normalisation, Dhariwal & Nichol 2021, section 3).
    resample: "down" or "up" resamples both branches by 2 inside the block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        eps: float,
        embedding_width: int | None = None,
        scale_shift: bool = False,
        resample: str | None = None,
        dropout: float = 0.0,
        groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.norm1 = group_norm(in_channels, eps, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embedding: nn.Linear | None = None
        if embedding_width is not None:
            self.embedding = nn.Linear(embedding_width, out_channels * (2 if scale_shift else 1))
        self.norm2 = group_norm(out_channels, eps, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if embedding_width is not None:
            zero_init(self.conv2)
        self.skip = nn.Identity() if in_channels == out_channels else Pointwise(in_channels, out_channels)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Transform x [R, C, H, W], with an embedding [R, E] after its SiLU -> [R, C', H', W']."""
        h = F.silu(self.norm1(x))
        h, x = self._resample(h), self._resample(x)
        h = self.conv1(h)
        shift = None
        if self.embedding is not None:
            assert embedding is not None, "this block needs a timestep embedding"
            shift = self.embedding(embedding)[:, :, None, None]  # [R, C' or 2C', 1, 1]
        if shift is None:
            h = self.norm2(h)
        elif self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + shift)
        h = self.conv2(self.dropout(F.silu(h)))
        return torch.as_tensor(self.skip(x) + h)

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x


class Downsample(nn.Module):
    """A 3x3 convolution with stride 2.

    asymmetric: pad on the right and below only, as the autoencoder does; the U-Net pads on all sides.
    """

    def __init__(self, channels: int, *, asymmetric: bool) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the sides: [R, C, H, W] -> [R, C, H/2, W/2]."""
        if self.asymmetric:
            x = F.pad(x, (0, 1, 0, 1))
        return torch.as_tensor(self.conv(x))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, then a 3x3 convolution, which avoids checkerboards (Odena et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Double the sides: [R, C, H, W] -> [R, C, 2H, 2W]."""
        return torch.as_tensor(self.conv(F.interpolate(x, scale_factor=2, mode="nearest")))


class Pointwise(nn.Linear):
    """A 1x1 convolution as one matrix product over the positions, without a copy if the map is channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels: [R, C, H, W] -> [R, C', H, W]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """Return the positions of a feature map as a sequence: [R, C, H, W] -> [R, HW, C], a view if channels-last."""
    return channels_last(x).permute(0, 2, 3, 1).flatten(1, 2)


def tokens_to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Undo `map_to_tokens`: [R, HW, C] -> [R, C, H, W], channels-last, with the height and width of `like`."""
    rows, _, height, width = like.shape
    return tokens.reshape(rows, height, width, -1).permute(0, 3, 1, 2)


class SpatialAttention(nn.Module):
    """Self-attention over the positions of a feature map, with a residual."""

    def __init__(self, channels: int, *, heads: int, eps: float, groups: int = NORM_GROUPS) -> None:
        super().__init__()
        self.norm = group_norm(channels, eps, groups)
        self.attention = SelfAttention(channels, heads=heads, qkv_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: [R, C, H, W] -> [R, C, H, W]."""
        return x + tokens_to_map(self.attention(map_to_tokens(self.norm(x))), like=x)


class FeedForward(nn.Module):
    """GEGLU, (x W1) * gelu(x W2), then a projection back to the width (Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, *, expansion: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 2 * expansion * width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token: [R, N, width] -> [R, N, width]."""
        size = math.gcd(
            x.shape[0] * x.shape[1], CACHED_TOKENS
        )  # equal slices, so that a row's position does not matter
        if x.device.type != "cpu" or torch.is_grad_enabled() or size < CACHED_TOKENS // 4:
            return self._transform(x)
        return torch.cat([self._transform(part) for part in torch.split(x.flatten(0, 1), size)]).view(x.shape)

    def _transform(self, x: Tensor) -> Tensor:
        value, gate = self.gate(x).chunk(2, dim=-1)
        return torch.as_tensor(self.out(self.dropout(value * F.gelu(gate))))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the conditions and feed-forward, each after a norm and with a residual."""

    def __init__(self, width: int, *, heads: int, context_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = SelfAttention(width, heads=heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, heads=heads, context_width=context_width)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout=dropout)

    def forward(self, x: Tensor, keys_values: Sequence[Tensor]) -> Tensor:
        """Transform x [R, N, width], with each layer's keys and values [R, M, 2 width] -> [R, N, width]."""
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), keys_values)
        return torch.as_tensor(x + self.feed_forward(self.norm3(x)))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map (Rombach et al. 2022, section 3.3)."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        depth: int,
        context_width: int,
        dropout: float = 0.0,
        groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, 1e-6, groups)
        self.project_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, heads=heads, context_width=context_width, dropout=dropout) for _ in range(depth)
        )
        self.project_out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, keys_values: Sequence[Tensor]) -> Tensor:
        """Transform x [R, C, H, W], with each layer's keys and values [R, M, 2 width] -> [R, C, H, W]."""
        h = self.project_in(map_to_tokens(self.norm(x)))  # [R, HW, C]
        for block in self.blocks:
            h = block(h, keys_values)
        return x + tokens_to_map(self.project_out(h), like=x)
