"""The denoising U-Net (Rombach et al. 2022, section 3.3; after Dhariwal & Nichol 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.model.attention_layers import CrossAttention
from training.model.layers import (
    Downsample,
    ResidualBlock,
    SpatialAttention,
    SpatialTransformer,
    Upsample,
    concatenate,
    group_norm,
    zero_init,
)
from training.model.number_embedding import NUMBERS, NumberEmbedding
from training.model.ranges import check_at_least, check_share
from training.model.timestep_embedding import sinusoidal_embedding
from training.model.unet_stage import Stage

LEAST = {
    "in_channels": 1, "out_channels": 1, "channels": 2, "multipliers": 1, "res_blocks": 0, "transformer_depth": 1,
    "context_width": 1, "heads": 1, "head_width": 1, "norm_groups": 1, "norm_eps": 0, "frequency_shift": 0,
}  # fmt: skip


@dataclass(frozen=True)
class UNetConfig:
    """The architecture of a U-Net. Without a `context_width` it has self-attention only, no cross-attention.

    Raises ValueError naming the invalid field.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: int = 192
    multipliers: Sequence[int] = (1, 2, 4)
    res_blocks: int = 2  # per level on the way down; one more on the way up
    attention_factors: Sequence[int] = (4, 2, 1)  # the downsampling factors at which a level attends
    heads: int | None = None  # number of attention heads; None: channels // head_width
    head_width: int | None = 32  # width of each head, if `heads` is None
    transformer_depth: int = 1
    context_width: int | None = None
    scale_shift: bool = False
    resample_in_blocks: bool = False  # residual blocks resample instead of convolutions
    resample_convolution: bool = True  # False: resampling only pools or repeats, without a convolution
    dropout: float = 0.0
    coordinates: bool = False  # add the position to the input, for conditions that name places
    level_heads: Sequence[int] | None = None  # heads of each level, finest first; instead of `heads` and `head_width`
    middle_attention: bool = True
    norm_eps: float = 1e-5
    norm_groups: int = 32
    frequency_shift: float = 0.0  # of the timestep embedding, see `timestep_embedding.frequencies`
    asymmetric_downsampling: bool = False  # pad on the right and below only, as the models of Ho et al. 2020
    numbers: Sequence[str] = ()  # told for each row, of `number_embedding.NUMBERS`; distilled networks have them

    def __post_init__(self) -> None:
        if not self.multipliers:
            raise ValueError("multipliers: none; permitted: one for each level, at least one")
        check_at_least(self, LEAST)
        if not self.res_blocks and self.middle_attention and self.multipliers[-1] != 1:
            multipliers = list(self.multipliers)  # only blocks change the number of channels
            raise ValueError(f"res_blocks: 0 is not allowed with middle_attention and the multipliers {multipliers}; "
                             "permitted: at least 1")  # fmt: skip
        check_share(self, "dropout")
        if self.frequency_shift >= (half := self.channels // 2):
            raise ValueError(f"frequency_shift: {self.frequency_shift} is not allowed; permitted: less than {half}, "
                             "half of channels")  # fmt: skip
        if self.context_width is not None and not self.attends:
            raise ValueError(
                f"context_width: {self.context_width} is not allowed, because no level attends to a context; "
                "permitted: null, or middle_attention, or a level in attention_factors"
            )
        if self.level_heads is not None and len(self.level_heads) != len(self.multipliers):
            raise ValueError(
                f"level_heads: {len(self.level_heads)} levels; permitted: {len(self.multipliers)}, as multipliers"
            )
        if unknown := [name for name in self.numbers if name not in NUMBERS]:
            raise ValueError(f"numbers: {unknown[0]!r} is not known; permitted: {', '.join(NUMBERS)}")
        if len(set(self.numbers)) < len(self.numbers):
            raise ValueError(f"numbers: {', '.join(self.numbers)}; permitted: each name once")

    @property
    def attends(self) -> bool:
        """Whether there is any attention."""
        return self.middle_attention or any(
            2**level in self.attention_factors for level in range(len(self.multipliers))
        )


# Fields that older versions do not know. A release names them only if it uses them, so that older versions can read it.
LATER_FIELDS: dict[str, Any] = {
    "coordinates": False, "level_heads": None, "middle_attention": True, "norm_eps": 1e-5, "norm_groups": 32,
    "frequency_shift": 0.0, "asymmetric_downsampling": False, "numbers": [],
}  # fmt: skip


class UNet(nn.Module):
    """Predicts eps (or v, x0, the flow) from a noisy latent, its timestep and a context."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        c, width = config, config.channels
        self.embedding_width = 4 * width
        self.time = nn.Sequential(
            nn.Linear(width, self.embedding_width), nn.SiLU(), nn.Linear(self.embedding_width, self.embedding_width)
        )
        self.numbers = NumberEmbedding(c.numbers, width, self.embedding_width) if c.numbers else None
        self.conv_in = nn.Conv2d(c.in_channels + 2 * c.coordinates, width, 3, padding=1)

        channels, factor, skips = width, 1, [width]
        self.down = nn.ModuleList()
        for i, multiplier in enumerate(c.multipliers):
            for _ in range(c.res_blocks):
                self.down.append(Stage(self._block(channels, multiplier * width), self._attention(i, factor)))
                channels = multiplier * width
                skips.append(channels)
            if i < len(c.multipliers) - 1:
                self.down.append(Stage(resample=self._resample(channels, "down")))
                skips.append(channels)
                factor *= 2

        self.middle = nn.ModuleList(
            [
                Stage(self._block(channels, channels), self._attention_of(-1) if c.middle_attention else None),
                Stage(self._block(channels, channels)),
            ]
        )

        self.up = nn.ModuleList()
        for i, multiplier in reversed(list(enumerate(c.multipliers))):
            for j in range(c.res_blocks + 1):
                last = i > 0 and j == c.res_blocks
                stage = Stage(
                    self._block(channels + skips.pop(), multiplier * width),
                    self._attention(i, factor),
                    self._resample(multiplier * width, "up") if last else None,
                )
                self.up.append(stage)
                channels = multiplier * width
            factor //= 2
        self.norm_out = group_norm(channels, c.norm_eps, c.norm_groups)
        self.conv_out = zero_init(nn.Conv2d(channels, c.out_channels, 3, padding=1))
        self.gradient_checkpointing = False  # recompute activations in the backward pass to save memory

        self.widths: list[int] = []  # of each cross-attention's keys and values
        for i, layer in enumerate(self.cross_attentions()):
            layer.index = i
            self.widths.append(2 * layer.width)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # attention reads such maps without a copy

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        *,
        keys_values: Tensor | None = None,
        embedding: Tensor | None = None,
        numbers: Tensor | None = None,
    ) -> Tensor:
        """Predict from x [R, in_channels, h, w] and t [R] in [0, T): [R, out_channels, h, w].

        context: [R, M, context_width] if the configuration has a context width; or give its `keys_values`.
        embedding: [R, 4 channels], added to the timestep embedding. numbers: [R, K], those of the configuration.
        Raises ValueError if the shapes do not fit the configuration.
        """
        self._check(x, context if keys_values is None else keys_values, keys_values is not None, embedding, numbers)
        if context is not None and keys_values is None:
            keys_values = self.keys_values(context)
        time = self.time(sinusoidal_embedding(t, self.config.channels, self.config.frequency_shift).to(x.dtype))
        if self.numbers is not None:
            time = time + self.numbers(numbers)
        embedding = F.silu(time if embedding is None else time + embedding)  # [R, 4 channels]
        if self.config.coordinates:
            x = torch.cat([x, coordinates(x)], dim=1)
        h = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        parts = () if keys_values is None else torch.split(keys_values, self.widths, dim=2)
        skips = [h]
        for stage in self.down:
            h = self._run(stage, h, embedding, parts)
            skips.append(h)
        for stage in self.middle:
            h = self._run(stage, h, embedding, parts)
        for stage in self.up:
            h = self._run(stage, concatenate(h, skips.pop()), embedding, parts)
        return torch.as_tensor(self.conv_out(F.silu(self.norm_out(h))))

    def keys_values(self, context: Tensor) -> Tensor:
        """Return the keys and values of all cross-attentions: [R, M, context_width] -> [R, M, 2 x sum of widths].

        They depend on the context alone, so a sampling run computes them once.
        """
        projections = [part.weight for layer in self.cross_attentions() for part in (layer.key, layer.value)]
        return F.linear(context, torch.cat(projections))

    def cross_attentions(self) -> list[CrossAttention]:
        """Return all cross-attentions, in the order of the packed keys and values."""
        return [module for module in self.modules() if isinstance(module, CrossAttention)]

    def _run(self, stage: nn.Module, h: Tensor, embedding: Tensor, keys_values: Sequence[Tensor]) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return torch.as_tensor(checkpoint(stage, h, embedding, keys_values, use_reentrant=False))
        return torch.as_tensor(stage(h, embedding, keys_values))

    def _check(
        self, x: Tensor, context: Tensor | None, projected: bool, embedding: Tensor | None, numbers: Tensor | None
    ) -> None:
        c = self.config
        factor = 2 ** (len(c.multipliers) - 1)
        if x.shape[1] != c.in_channels:
            raise ValueError(f"x: {x.shape[1]} channels; this U-Net needs {c.in_channels}")
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"x: {x.shape[2]}x{x.shape[3]} latent; both sides must be multiples of {factor}")
        if (context is None) != (c.context_width is None):
            wanted = "a context" if c.context_width is not None else "no context"
            raise ValueError(f"context: this U-Net needs {wanted}")
        if context is not None and not projected and context.shape[-1] != c.context_width:
            raise ValueError(f"context: width {context.shape[-1]}; this U-Net needs {c.context_width}")
        if embedding is not None and embedding.shape[-1] != self.embedding_width:
            raise ValueError(f"embedding: width {embedding.shape[-1]}; this U-Net needs {self.embedding_width}")
        if (0 if numbers is None else numbers.shape[-1]) != len(c.numbers):
            raise ValueError(f"numbers: this U-Net needs {', '.join(c.numbers) or 'none'}")

    def _block(self, in_channels: int, out_channels: int, resample: str | None = None) -> ResidualBlock:
        return ResidualBlock(
            in_channels,
            out_channels,
            eps=self.config.norm_eps,
            groups=self.config.norm_groups,
            embedding_width=self.embedding_width,
            scale_shift=self.config.scale_shift,
            resample=resample,
            dropout=self.config.dropout,
        )

    def _attention(self, level: int, factor: int) -> nn.Module | None:
        return self._attention_of(level) if factor in self.config.attention_factors else None

    def _attention_of(self, level: int) -> nn.Module:
        c = self.config
        channels, heads = c.multipliers[level] * c.channels, heads_of(c, level)
        if c.context_width is None:
            return SpatialAttention(channels, heads=heads, eps=c.norm_eps, groups=c.norm_groups)
        return SpatialTransformer(
            channels,
            heads=heads,
            depth=c.transformer_depth,
            context_width=c.context_width,
            dropout=c.dropout,
            groups=c.norm_groups,
        )

    def _resample(self, channels: int, direction: str) -> nn.Module:
        c = self.config
        if c.resample_in_blocks:
            return self._block(channels, channels, direction)
        if not c.resample_convolution:
            return nn.AvgPool2d(2) if direction == "down" else nn.Upsample(scale_factor=2, mode="nearest")
        return Downsample(channels, asymmetric=c.asymmetric_downsampling) if direction == "down" else Upsample(channels)


def heads_of(config: UNetConfig, level: int) -> int:
    """Return the number of attention heads at a level, 0 the finest."""
    channels = config.multipliers[level] * config.channels
    if config.level_heads is not None:
        return config.level_heads[level]
    return config.heads if config.heads is not None else channels // (config.head_width or channels)


def coordinates(x: Tensor) -> Tensor:
    """Return the x and y of each position of feature maps [R, C, h, w], between -1 and 1: [R, 2, h, w].

    They are two more input channels (Liu et al. 2018, CoordConv). Without them a convolution over noise can locate only
    positions near the edges, by its padding; cross-attention to "left of" needs the position in its queries.
    """
    across, down = ((torch.arange(n, device=x.device) * 2.0 + 1) / n - 1 for n in (x.shape[3], x.shape[2]))
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"))
    return grid.to(x.dtype).expand(len(x), -1, -1, -1)
