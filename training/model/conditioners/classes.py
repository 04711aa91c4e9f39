"""Class labels."""

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from training.model.conditioners.conditioner import Entry, TokenConditioner


class ClassConditioner(TokenConditioner):
    """A learned token for each class, and one more for the null condition (Rombach et al. 2022, section 4.3).

    null: the label of that token; None appends one behind the classes. A released model may have it among them:
    the last of the 1001 of `cin256-v2`.
    """

    def __init__(self, classes: int, width: int, entry: Entry = "cross_attention", null: int | None = None) -> None:
        super().__init__(entry)
        if null is not None and not 0 <= null < classes:
            raise ValueError(f"null: {null} is not allowed; permitted: an integer from 0 to {classes - 1}")
        self.classes, self.width, self.null = classes, width, null
        self.embedding = nn.Embedding(classes if null is not None else classes + 1, width)

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        return {
            "type": "class", "classes": self.classes, "width": self.width, "entry": self.entry, "null": self.null
        }  # fmt: skip

    def schema(self) -> dict[str, Any]:
        """JSON Schema of one value: an integer in [0, classes)."""
        return {"type": "integer", "minimum": 0, "maximum": self.classes - 1}

    def read(self, value: Any) -> int:
        """A label. Raises ValueError where it is no class."""
        try:
            label = index(value)
        except TypeError:
            label = -1
        if not 0 <= label < self.classes:
            raise ValueError(f"{value!r} is not allowed; permitted: an integer from 0 to {self.classes - 1}")
        return label

    def embed(self, values: Sequence[Any]) -> Tensor:
        """R labels, None for the null condition -> one token each, [R, 1, width]. Raises ValueError."""
        null = self.classes if self.null is None else self.null
        labels = [null if value is None else self.read(value) for value in values]
        return self.forward(torch.tensor(labels, device=self.device))

    def forward(self, labels: Tensor) -> Tensor:
        """Labels [R] int64 -> one token each, [R, 1, width]."""
        return torch.as_tensor(self.embedding(labels)[:, None])
