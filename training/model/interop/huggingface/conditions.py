"""Export of conditions, as a table in the U-Net or as an encoder next to it."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from training.model.conditioners import Conditioners
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.token_transformer import TransformerConditioner
from training.model.interop.huggingface.component import Component, ExportError
from training.model.interop.huggingface.token_transformer import tokenizer_component, transformer_component

Kind = Literal["none", "labels", "tokens", "text", "ids", "low_resolution", "masked_image"]


@dataclass(frozen=True)
class ExportedConditions:
    """An exported condition.

    kind: "labels" and "tokens" are tables of classes, [K, 4 channels] for the timestep embedding and [K, context_width]
        for cross-attention. "text" and "ids" are inputs of a token transformer. The others are maps, which the example
        in the README computes and concatenates to the latent.
    null: the row of the null condition in the table, or its token ids.
    components: the transformer and its tokenizer, by folder.
    """

    kind: Kind = "none"
    table: Tensor | None = None
    null: int | list[int] = 0
    components: dict[str, Component] = field(default_factory=dict)


def export_conditions(conditioners: Conditioners) -> ExportedConditions:
    """Export the conditioners of a model. Raises ExportError naming the condition that diffusers cannot express."""
    if not conditioners:
        return ExportedConditions()
    if len(conditioners) > 1:
        raise ExportError(f"conditioners: {', '.join(conditioners)} cannot be exported together; permitted: one")
    ((name, conditioner),) = conditioners.items()
    if isinstance(conditioner, ClassConditioner):
        null = conditioner.classes if conditioner.null is None else conditioner.null
        kind: Kind = "tokens" if conditioner.entry == "cross_attention" else "labels"
        return ExportedConditions(kind, conditioner.embedding.weight, null)
    if isinstance(conditioner, TransformerConditioner) and conditioner.entry == "cross_attention":
        components = {"bert": transformer_component(conditioner.transformer)}
        if isinstance(conditioner, TextConditioner):
            components["tokenizer"] = tokenizer_component(conditioner)
        return ExportedConditions(
            "text" if isinstance(conditioner, TextConditioner) else "ids",
            null=conditioner.read(conditioner.null),
            components=components,
        )
    if isinstance(conditioner, LowResolutionConditioner):
        return ExportedConditions("low_resolution")
    if isinstance(conditioner, MaskedImageConditioner):
        return ExportedConditions("masked_image")
    raise ExportError(
        f"conditioners.{name}: a {type(conditioner).__name__} that enters by {conditioner.entry} cannot be exported; "
        "permitted: class labels, low-resolution and masked images, and by cross-attention text and token ids"
    )
