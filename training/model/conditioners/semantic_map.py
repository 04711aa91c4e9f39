"""Semantic maps, a class for each pixel, as conditions."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.conditioners.conditioner import Encode, MapConditioner
from training.model.conditioners.images import describe, png_schema, to_plane
from training.model.trajectory_table import transfer

Method = Literal["nearest", "bilinear", "bicubic", "area"]
METHODS = ("nearest", "bilinear", "bicubic", "area")


class SpatialRescaler(nn.Module):
    """Halves maps `stages` times, then mixes their channels by a 1x1 convolution without bias, as released models do.

    out_channels: None does not mix channels. Raises ValueError for an unknown method.
    """

    def __init__(self, in_channels: int, out_channels: int | None, stages: int, method: Method = "bilinear") -> None:
        if method not in METHODS:
            raise ValueError(f"method: {method!r} is not known; permitted: {', '.join(METHODS)}")
        super().__init__()
        self.in_channels, self.out_channels, self.stages, self.method = in_channels, out_channels, stages, method
        self.project = None if out_channels is None else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Rescale maps: [R, C, H, W] -> [R, C', H / 2^stages, W / 2^stages]."""
        maps = self._halve(maps)
        return maps if self.project is None else torch.as_tensor(self.project(maps))

    def rescale_labels(self, labels: Tensor) -> Tensor:
        """Rescale the one-hot maps of labels: [R, H, W] -> [R, C', H / 2^stages, W / 2^stages].

        Halving is linear over positions and mixing over channels, so they may be swapped. Looking up the convolution's
        columns first avoids building the C one-hot maps.
        """
        if self.project is None:
            columns = torch.eye(self.in_channels, device=labels.device)
        else:
            columns = self.project.weight.flatten(1).t()  # [C, C']
        return self._halve(F.embedding(labels, columns).permute(0, 3, 1, 2))

    def _halve(self, maps: Tensor) -> Tensor:
        halve = partial(F.interpolate, scale_factor=0.5, mode=self.method)
        for _ in range(self.stages):
            maps = halve(maps)
        return maps


class SemanticMapConditioner(MapConditioner):
    """Labels of pixels, rescaled to the latent and concatenated to it (Rombach et al. 2022, section 4.3.2).

    classes: labels are in [0, classes). channels: number K of maps for the U-Net. stages: how often the labels' size is
    halved to get the latent's. The null condition is zeros.
    """

    def __init__(self, classes: int, channels: int, stages: int, method: Method = "bilinear") -> None:
        super().__init__()
        self.classes, self.channels = classes, channels
        self.rescaler = SpatialRescaler(classes, channels, stages, method)

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        return {
            "type": "semantic_map", "classes": self.classes, "channels": self.channels,
            "stages": self.rescaler.stages, "method": self.rescaler.method,
        }  # fmt: skip

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value."""
        factor = 2**self.rescaler.stages
        return png_schema(
            f"Greyscale; a pixel's value is its class, from 0 to {self.classes - 1}. "
            f"{factor} times the latent's height and width."
        )

    def read(self, value: Any) -> Tensor:
        """Convert integer labels, an array or tensor [H, W] or [H, W, 1], to int64 [H, W]. Raises ValueError."""
        labels = to_plane(value)
        if labels.dim() != 2 or labels.is_floating_point() or labels.dtype == torch.bool or not labels.numel():
            raise ValueError(f"{describe(labels)} are not labels; permitted: integers [H, W]")
        labels = labels.to(torch.int64)
        low, high = (int(x) for x in labels.aminmax())
        if low < 0 or high >= self.classes:
            worst = low if low < 0 else high
            raise ValueError(f"label {worst} is not allowed; permitted: an integer from 0 to {self.classes - 1}")
        return labels

    def fit(self, value: Any, size: tuple[int, int]) -> Any:
        """Return the value, whose size is a multiple of the latent's; see `Conditioner.fit`."""
        self._check_size(self.read(value), size)
        return value

    def forward(self, maps: Tensor) -> Tensor:
        """Rescale one-hot maps of labels: [R, classes, H, W] -> [R, K, H / 2^stages, W / 2^stages]."""
        return torch.as_tensor(self.rescaler(maps))

    def embed(self, values: Sequence[Any], size: tuple[int, int], encode: Encode) -> Tensor:
        """Embed R maps of labels, None for the null condition, as maps [R, K, h, w].

        Raises ValueError as `read` does, and for maps that do not fit the size.
        """
        needed = self._labels_size(size)
        labels = [torch.zeros(needed, dtype=torch.int64) if value is None else self.read(value) for value in values]
        for one in labels:
            self._check_size(one, size)
        present = transfer(torch.tensor([value is not None for value in values]), self.device)[:, None, None, None]
        return self.rescaler.rescale_labels(transfer(torch.stack(labels), self.device)) * present

    def _labels_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] * 2**self.rescaler.stages, size[1] * 2**self.rescaler.stages

    def _check_size(self, labels: Tensor, size: tuple[int, int]) -> None:
        needed = self._labels_size(size)
        if tuple(labels.shape) != needed:
            raise ValueError(
                f"a map of {labels.shape[0]}x{labels.shape[1]} does not fit a latent of {size[0]}x{size[1]}; "
                f"permitted: {needed[0]}x{needed[1]}"
            )
