"""Export of conditions, as a table in the U-Net or as an encoder next to it."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from training.model.conditioners import Conditioners
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.conditioner import MapConditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.layout_map import LayoutMapConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner, Style
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.token_transformer import TransformerConditioner
from training.model.interop.huggingface.clip import clip_component
from training.model.interop.huggingface.component import Component, ExportError
from training.model.interop.huggingface.token_transformer import tokenizer_component, transformer_component

Kind = Literal[
    "none", "labels", "tokens", "text", "clip", "ids", "low_resolution", "masked_image", "semantic_map", "layout_map"
]


@dataclass(frozen=True)
class ExportedConditions:
    """An exported condition.

    kind: "labels" and "tokens" are tables of classes, [K, 4 channels] for the timestep embedding and [K, context_width]
        for cross-attention. "text" and "ids" are inputs of a token transformer. The others are maps, which the example
        in the README computes and concatenates to the latent.
    null: the row of the null condition in the table, or its token ids.
    projection: of an encoder's tokens to the context's width. components: an encoder and its tokenizer, by folder.
    masked: the style of a masked image that is concatenated to the latent, besides or alone; or None.
    fields: the names of the conditions in requests and that style, which only Darkroom reads.
    tensors: what the example in the README needs besides, in conditions.safetensors; values: its numbers.
    """

    kind: Kind = "none"
    table: Tensor | None = None
    null: int | list[int] = 0
    projection: tuple[Tensor, Tensor] | None = None
    components: dict[str, Component] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    masked: Style | None = None
    fields: dict[str, str | None] = field(default_factory=dict)


def export_conditions(conditioners: Conditioners) -> ExportedConditions:
    """Export the conditioners of a model. Raises ExportError naming the condition that diffusers cannot express."""
    found = dict(conditioners.items())
    kept = [name for name, one in found.items() if isinstance(one, MaskedImageConditioner) and one.kept_in_null]
    if not found:
        return ExportedConditions(fields={"field": None})
    masked = found.pop(kept[0]) if len(found) == 2 and len(kept) == 1 else None
    if len(found) > 1:
        raise ExportError(
            f"conditioners: {', '.join(conditioners)} cannot be exported together; permitted: one, or one and a masked "
            "image that the null condition keeps, as in Stable Diffusion"
        )
    ((name, conditioner),) = found.items()
    exported = export_condition(name, conditioner)
    fields: dict[str, str | None] = {"field": name}
    if masked is None:
        if exported.masked is not None:
            fields |= {"masked": name, "style": exported.masked}
        return replace(exported, fields=fields)
    if isinstance(conditioner, MapConditioner):
        raise ExportError(
            f"conditioners: {', '.join(conditioners)} cannot be exported together; permitted: one map or image"
        )
    fields |= {"masked": kept[0], "style": "stable_diffusion"}
    return replace(exported, masked="stable_diffusion", fields=fields)


def export_condition(name: str, conditioner: nn.Module) -> ExportedConditions:
    """Export one conditioner. Raises ExportError."""
    if isinstance(conditioner, ClassConditioner):
        null = conditioner.classes if conditioner.null is None else conditioner.null
        kind: Kind = "tokens" if conditioner.entry == "cross_attention" else "labels"
        table = conditioner.embedding.weight
        projection = (table.T, table.new_zeros(table.shape[1])) if kind == "tokens" else None
        return ExportedConditions(kind, table, null, projection)
    if isinstance(conditioner, TransformerConditioner) and conditioner.entry == "cross_attention":
        components = {"bert": transformer_component(conditioner.transformer)}
        if isinstance(conditioner, TextConditioner):
            length = conditioner.transformer.length
            components["tokenizer"] = tokenizer_component(conditioner.assets(), padding="[PAD]", length=length)
        return ExportedConditions(
            "text" if isinstance(conditioner, TextConditioner) else "ids",
            null=conditioner.read(conditioner.null),
            components=components,
        )
    if isinstance(conditioner, FrozenTextConditioner) and conditioner.entry == "cross_attention":
        return export_clip(name, conditioner)
    if isinstance(conditioner, SemanticMapConditioner):
        rescaler = conditioner.rescaler
        assert rescaler.project is not None
        return ExportedConditions(
            "semantic_map",
            tensors={"columns": rescaler.project.weight.flatten(1).t()},
            values={"classes": conditioner.classes, "stages": rescaler.stages, "method": rescaler.method},
        )
    if isinstance(conditioner, LayoutMapConditioner):
        return ExportedConditions("layout_map", tensors={"vectors": conditioner.vectors.weight})
    if isinstance(conditioner, LowResolutionConditioner):
        return ExportedConditions("low_resolution")
    if isinstance(conditioner, MaskedImageConditioner):
        return ExportedConditions("masked_image", masked=conditioner.style)
    raise ExportError(
        f"conditioners.{name}: a {type(conditioner).__name__} that enters by {conditioner.entry} cannot be exported; "
        "permitted: class labels, maps and images that are concatenated, and by cross-attention text and token ids"
    )


def export_clip(name: str, conditioner: FrozenTextConditioner) -> ExportedConditions:
    """Export a frozen encoder of the library transformers. Raises ExportError unless it is CLIP's."""
    kind = conditioner.architecture.get("model_type")
    if kind != "clip_text_model":
        raise ExportError(f"conditioners.{name}.encoder: {kind!r} cannot be exported; permitted: 'clip_text_model'")
    if conditioner.masked:
        raise ExportError(
            f"conditioners.{name}.masked: True cannot be exported; permitted: False, because diffusers' pipelines "
            "pass padding to the U-Net as it is"
        )
    project = conditioner.project
    tokenizer = tokenizer_component(conditioner.assets(), padding=conditioner.padding, length=conditioner.length)
    return ExportedConditions(
        "clip",
        null=conditioner.read("")[0],
        projection=(project.weight, project.bias) if isinstance(project, nn.Linear) else None,
        components={"text_encoder": clip_component(conditioner), "tokenizer": tokenizer},
    )
