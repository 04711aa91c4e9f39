"""Conditioners turn the fields of a request into inputs of the U-Net (Rombach et al. 2022, section 3.3).

A model may have several, each under the name of a request field and each with its own entry: cross-attention,
concatenation to the latent, or the timestep embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

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

Build = Callable[..., Conditioner]  # takes the arguments of the configuration, and `assets` if it has any
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

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
    """Build a conditioner from its configuration, such as {"type": "class", "classes": 10, "width": 64}.

    assets: the files that it was saved with. Raises ValueError naming what does not fit, TypeError for an unknown or
    missing argument.
    """
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind not in TYPES:
        raise ValueError(f"conditioner type: {kind!r} is not known; permitted: {', '.join(sorted(TYPES))}")
    if assets:
        arguments["assets"] = assets
    return TYPES[kind](**arguments)


class Conditioners(nn.ModuleDict):
    """All conditioners of a model by request field."""

    def by_field(self) -> dict[str, Conditioner]:
        """Return the conditioners by request field."""
        return {name: module for name, module in self.items() if isinstance(module, Conditioner)}

    @property
    def keeps_maps_in_null(self) -> bool:
        """Whether the null condition of a request has the request's own maps; see `MapConditioner`."""
        maps = [part for part in self.by_field().values() if isinstance(part, MapConditioner)]
        return bool(maps) and all(part.kept_in_null for part in maps)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of an item's conditions: every field is required, and no other is allowed."""
        return {
            "type": "object",
            "properties": {name: conditioner.schema() for name, conditioner in self.by_field().items()},
            "required": sorted(self),
            "additionalProperties": False,
        }

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise ValueError naming the first field whose value cannot be used, even if the schema permits it.

        Call it before a batch runs, so that one bad request does not fail the others.
        """
        for name, conditioner in self.by_field().items():
            value = get_field(request, name)
            if value is not None:
                name_errors(name, conditioner.read, value)

    def fit(self, request: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        """Return the request with values of bounded size for latents of `size` (h, w); see `Conditioner.fit`.

        Raises ValueError naming the first field that is missing or cannot be used.
        """
        fitted = {}
        for name, conditioner in self.by_field().items():
            value = get_field(request, name)
            fitted[name] = None if value is None else name_errors(name, conditioner.fit, value, size)
        return fitted

    def finish(self, image: Tensor, request: Mapping[str, Any]) -> Tensor:
        """Return a generated image [C, H, W] in [-1, 1] with the known pixels of the request restored."""
        for name, conditioner in self.by_field().items():
            if request.get(name) is not None:
                image = conditioner.finish(image, request[name])
        return image

    def forward(
        self, requests: Sequence[Mapping[str, Any] | None], size: tuple[int, int], encode: Encode
    ) -> Conditions:
        """Embed R requests; None is a request whose fields all have their null condition.

        size: height and width of the latents. encode: the first stage, for conditions that are images.
        A field of a request may be None, for its null condition. Rows do not depend on each other.
        Raises ValueError naming the invalid field.
        """
        tokens: list[Tensor] = []
        maps: list[Tensor] = []
        embeddings: list[Tensor] = []
        for name, conditioner in self.by_field().items():
            values = [None if request is None else get_field(request, name) for request in requests]
            if isinstance(conditioner, MapConditioner):
                maps.append(name_errors(name, conditioner.embed, values, size, encode))
                continue
            assert isinstance(conditioner, TokenConditioner)
            embedded = name_errors(name, conditioner.embed, values)  # [R, M, width]
            if conditioner.entry == "cross_attention":
                tokens.append(embedded)
            else:
                embeddings.append(embedded.mean(dim=1))
        return Conditions(
            tokens=torch.cat(tokens, dim=1) if tokens else None,
            maps=torch.cat(maps, dim=1) if maps else None,
            embedding=torch.stack(embeddings).sum(dim=0) if embeddings else None,
        )


def get_field(request: Mapping[str, Any], name: str) -> Any:
    """Return a field of a request. Raises ValueError if it is missing."""
    if name not in request:
        raise ValueError(f"{name}: is missing; every request needs it")
    return request[name]


def name_errors(
    name: str, function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Return function(*arguments, **options), and prefix its ValueErrors with the field's name."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
