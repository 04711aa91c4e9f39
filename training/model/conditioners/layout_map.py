"""Layouts painted over the latent."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.model.conditioners import boxes
from training.model.conditioners.boxes import PlacedObject
from training.model.conditioners.conditioner import Encode, MapConditioner
from training.model.trajectory_table import transfer


class LayoutMapConditioner(MapConditioner):
    """Bounding boxes painted with the learned vectors of their classes, and concatenated to the latent.

    Each cell of the latent gets the sum of its objects' vectors, weighted by the share of the cell that the object's
    box covers, so that a box is placed to a fraction of a cell:

        map[y, x] = sum_o |cell(y, x) ∩ box_o| / |cell| · e(class_o)

    Cross-attention to the tokens of corners (`layout`) has to learn which positions a corner's token concerns; here a
    convolution reads it directly. Where objects overlap, their vectors add up. The null condition has no objects.
    """

    def __init__(self, classes: int, channels: int, objects: int = 30) -> None:
        super().__init__()
        self.classes, self.channels, self.objects = classes, channels, objects
        self.vectors = nn.Embedding(classes, channels)

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        return {"type": "layout_map", "classes": self.classes, "channels": self.channels, "objects": self.objects}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value."""
        return boxes.schema(self.classes, self.objects)

    def read(self, value: Any) -> list[PlacedObject]:
        """Return the objects of a layout. Raises ValueError naming what is not allowed."""
        found = boxes.read(value, self.classes, self.objects)
        if any(one.group for one in found):
            raise ValueError("group: this model does not know groups")
        if "crop" in value:
            raise ValueError("crop: this model does not know crops")
        return found

    def embed(self, values: Sequence[Any], size: tuple[int, int], encode: Encode) -> Tensor:
        """Embed R layouts, None for the null condition, as maps [R, K, h, w]. Raises ValueError as `read` does."""
        layouts = [[] if value is None else self.read(value) for value in values]
        maps = torch.zeros(len(layouts), self.channels, *size, device=self.device)
        for place in range(
            max(map(len, layouts), default=0)
        ):  # the first objects of all rows, then the second ones, and so on
            here = [layout[place] if place < len(layout) else None for layout in layouts]
            labels = transfer(torch.tensor([0 if one is None else one.label for one in here]), self.device)
            cover = transfer(torch.stack([cell_shares(one, size) for one in here]), self.device)  # [R, h, w]
            maps = maps + cover[:, None] * self.vectors(labels)[:, :, None, None]
        return maps


def cell_shares(one: PlacedObject | None, size: tuple[int, int]) -> Tensor:
    """Return the share of each cell that an object's box covers, [h, w]; zeros for None."""
    if one is None:
        return torch.zeros(size)
    x0, y0, x1, y1 = one.box
    (rows, columns) = (
        ((torch.arange(n) + 1).clamp(max=b * n) - torch.arange(n).clamp(min=a * n)).clamp(min=0)
        for n, a, b in ((size[0], y0, y1), (size[1], x0, x1))
    )
    return rows[:, None] * columns
