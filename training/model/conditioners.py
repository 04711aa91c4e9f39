"""Conditions: what a request says, turned into tokens that the U-Net attends to.

A conditioner knows the JSON Schema of its values, so that a bad request is refused before it is run,
and its null value, which stands for "no condition" in classifier-free guidance (Ho & Salimans 2022).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ClassConditioner(nn.Module):
    """A learned token for each class, and one more for the null condition."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes, self.width = classes, width
        self.embedding = nn.Embedding(classes + 1, width)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of one value: an integer in [0, classes)."""
        return {"type": "integer", "minimum": 0, "maximum": self.classes - 1}

    def indices(self, values: Sequence[int | None]) -> Tensor:
        """Class labels, None for the null condition: R values -> [R] int64."""
        return torch.tensor([self.classes if value is None else value for value in values], dtype=torch.int64)

    def forward(self, indices: Tensor) -> Tensor:
        """[R] int64 -> one token each, [R, 1, width]."""
        return torch.as_tensor(self.embedding(indices)[:, None])


CONDITIONERS: dict[str, type[ClassConditioner]] = {"class": ClassConditioner}


def build(config: Mapping[str, Any]) -> ClassConditioner:
    """One conditioner from its configuration, {"type": "class", "classes": 10, "width": 64}."""
    arguments = dict(config)
    kind = arguments.pop("type")
    if kind not in CONDITIONERS:
        raise ValueError(f"conditioner type: {kind!r} is not known; permitted: {', '.join(sorted(CONDITIONERS))}")
    return CONDITIONERS[kind](**arguments)


class Conditioners(nn.ModuleDict):
    """All conditioners of a model by field name; together they make one context."""

    def schema(self) -> dict[str, Any]:
        """JSON Schema of an item's conditions: every field required, nothing else allowed."""
        return {
            "type": "object",
            "properties": {name: conditioner.schema() for name, conditioner in self.items()},  # type: ignore[operator]
            "required": sorted(self),
            "additionalProperties": False,
        }

    def context(self, requests: Sequence[Mapping[str, Any] | None]) -> Tensor:
        """R requests, None for the null condition -> tokens [R, M, width]."""
        tokens = []
        for name, conditioner in self.items():
            values = [None if request is None else request[name] for request in requests]
            indices = conditioner.indices(values)  # type: ignore[operator]
            tokens.append(conditioner(indices.to(next(conditioner.parameters()).device)))
        return torch.cat(tokens, dim=1)
