"""Conditions: what a request says, turned into what the U-Net takes (Rombach et al. 2022, section 3.3).

Several conditioners work side by side, each under the name of a request field and each with its own entry:
cross-attention, concatenation to the latent, or the timestep embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.conditioner import Conditioner, Conditions, Encode, MapConditioner, TokenConditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.layout import LayoutConditioner
from training.model.conditioners.layout_map import LayoutMapConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.token_ids import TokenIdsConditioner

__all__ = ["TYPES", "ClassConditioner", "Conditioner", "Conditioners", "Conditions", "Encode", "build"]

Build = Callable[..., Conditioner]  # arguments of the configuration, and `assets` where it has any

TYPES: dict[str, Build] = {
    "class": ClassConditioner,
    "frozen_text": FrozenTextConditioner,
    "layout": LayoutConditioner,
    "layout_map": LayoutMapConditioner,
    "low_resolution": LowResolutionConditioner,
    "masked_image": MaskedImageConditioner,
    "semantic_map": SemanticMapConditioner,
    "text": TextConditioner,
    "token_ids": TokenIdsConditioner,
}


def build(config: Mapping[str, Any], assets: Mapping[str, bytes] | None = None) -> Conditioner:
    """One conditioner from its configuration, such as {"type": "class", "classes": 10, "width": 64}.

    assets: the files it was saved with. Raises ValueError naming what does not fit; TypeError for a wrong argument.
    """
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind not in TYPES:
        raise ValueError(f"conditioner type: {kind!r} is not known; permitted: {', '.join(sorted(TYPES))}")
    if assets:
        arguments["assets"] = assets
    return TYPES[kind](**arguments)


class Conditioners(nn.ModuleDict):
    """All conditioners of a model by field name."""

    def schema(self) -> dict[str, Any]:
        """JSON Schema of an item's conditions: every field required, nothing else allowed."""
        return {
            "type": "object",
            "properties": {name: conditioner.schema() for name, conditioner in self.items()},  # type: ignore[operator]
            "required": sorted(self),
            "additionalProperties": False,
        }

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise ValueError naming the first field whose value cannot be used, even where the schema permits it.

        Before a batch is run, so that one bad request does not fail its companions.
        """
        for name, conditioner in self.items():
            assert isinstance(conditioner, Conditioner)
            value = field(request, name)
            if value is not None:
                with_field(name, conditioner.read, value)

    def finish(self, image: Tensor, request: Mapping[str, Any]) -> Tensor:
        """A generated image [C, H, W] in [-1, 1] with the pixels that the request already knows."""
        for name, conditioner in self.items():
            assert isinstance(conditioner, Conditioner)
            if request.get(name) is not None:
                image = conditioner.finish(image, request[name])
        return image

    def forward(
        self, requests: Sequence[Mapping[str, Any] | None], size: tuple[int, int], encode: Encode
    ) -> Conditions:
        """R requests, None for the null condition of every field -> their conditions.

        size: height and width of the latent. encode: the first stage, for conditions that are images.
        A request may hold None for one field: that field's null alone. Rows do not depend on each other.
        Raises ValueError naming the field.
        """
        tokens: list[Tensor] = []
        maps: list[Tensor] = []
        embeddings: list[Tensor] = []
        for name, conditioner in self.items():
            values = [None if request is None else field(request, name) for request in requests]
            if isinstance(conditioner, MapConditioner):
                maps.append(with_field(name, conditioner.embed, values, size, encode))
                continue
            assert isinstance(conditioner, TokenConditioner)
            embedded = with_field(name, conditioner.embed, values)  # [R, M, width]
            if conditioner.entry == "cross_attention":
                tokens.append(embedded)
            else:
                embeddings.append(embedded.mean(dim=1))
        return Conditions(
            tokens=torch.cat(tokens, dim=1) if tokens else None,
            maps=torch.cat(maps, dim=1) if maps else None,
            embedding=torch.stack(embeddings).sum(dim=0) if embeddings else None,
        )


def field(request: Mapping[str, Any], name: str) -> Any:
    """A field of a request. Raises ValueError."""
    if name not in request:
        raise ValueError(f"{name}: is missing; every request needs it")
    return request[name]


def with_field(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), whose ValueErrors then name the field."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
