"""A stage of the U-Net."""

from collections.abc import Sequence

from torch import Tensor, nn

from training.model.layers import ResidualBlock, SpatialTransformer


class Stage(nn.Module):
    """A residual block, attention if the level has any, and resampling at the end of a level; each is optional."""

    def __init__(
        self, block: nn.Module | None = None, attention: nn.Module | None = None, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.block, self.attention, self.resample = block, attention, resample

    def forward(self, h: Tensor, embedding: Tensor, keys_values: Sequence[Tensor]) -> Tensor:
        """Transform h [R, C, h, w] with an embedding [R, E] and each cross-attention's keys_values: [R, C', h', w']."""
        if self.block is not None:
            h = self.block(h, embedding)
        if isinstance(self.attention, SpatialTransformer):
            h = self.attention(h, keys_values)
        elif self.attention is not None:
            h = self.attention(h)
        if isinstance(self.resample, ResidualBlock):
            h = self.resample(h, embedding)
        elif self.resample is not None:
            h = self.resample(h)
        return h
