"""Class labels as conditions."""

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from training.model.conditioners.conditioner import Entry, TokenConditioner
from training.model.trajectory_table import transfer


class ClassConditioner(TokenConditioner):
    """A learned token for each class, and one for the null condition (Rombach et al. 2022, section 4.3).

    classes: labels are in [0, classes). width: of the tokens. entry: see `TokenConditioner`.
    null: the label of the null token; None adds a token after the classes. The released `cin256-v2` uses the last of
        its 1001 classes. Raises ValueError naming the invalid argument.
    """

    def __init__(self, classes: int, width: int, entry: Entry = "cross_attention", null: int | None = None) -> None:
        super().__init__(entry)
        if null is not None and not 0 <= null < classes:
            raise ValueError(f"null: {null} is not allowed; permitted: an integer from 0 to {classes - 1}")
        self.classes, self.width, self.null = classes, width, null
        self.names: tuple[str, ...] = ()  # of the classes, for requests; not part of the architecture
        self.embedding = nn.Embedding(classes if null is not None else classes + 1, width)

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        return {
            "type": "class", "classes": self.classes, "width": self.width, "entry": self.entry, "null": self.null
        }  # fmt: skip

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value: an integer in [0, classes), or a name if the classes have names."""
        number = {"type": "integer", "minimum": 0, "maximum": self.classes - 1}
        return {"anyOf": [number, {"enum": list(self.names)}]} if self.names else number

    def read(self, value: Any) -> int:
        """Return a label as an int. Raises ValueError unless it is in [0, classes)."""
        try:
            label = index(value)
        except TypeError:
            label = -1
        if not 0 <= label < self.classes:
            raise ValueError(f"{value!r} is not allowed; permitted: an integer from 0 to {self.classes - 1}")
        return label

    def embed(self, values: Sequence[Any]) -> Tensor:
        """Embed R labels, None for the null condition, as one token each: [R, 1, width]. Raises ValueError."""
        null = self.classes if self.null is None else self.null
        labels = [null if value is None else self.read(value) for value in values]
        return self.forward(transfer(torch.tensor(labels), self.device))

    def forward(self, labels: Tensor) -> Tensor:
        """Embed labels, int64 [R], as one token each: [R, 1, width]."""
        return torch.as_tensor(self.embedding(labels)[:, None])
