"""Conditioners in the authors' layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from training.model.conditioners import Conditioners
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.token_transformer import TransformerConditioner
from training.model.interop.compvis.conditioners import transformer_names
from training.model.interop.compvis.reading import Source
from training.model.interop.compvis.text_towers import END, HEAD_WIDTH, TOWER

MODULES = "ldm.modules.encoders.modules."
DROPPED = 0.1  # their field for the share of rows without condition; any above 0 says that the null was trained


@dataclass(frozen=True)
class WrittenConditions:
    """The parameters of a model's conditions, and their embedder.

    module: under `cond_stage_model`, with `names`. labels: a table [K, E] in the U-Net. files: to write beside.
    """

    params: dict[str, Any]
    module: nn.Module | None = None
    names: Mapping[str, Source] = field(default_factory=dict)
    labels: Tensor | None = None
    files: dict[str, bytes] = field(default_factory=dict)


def write_conditions(conditioners: Conditioners, *, guided: bool) -> WrittenConditions:
    """Write the conditioners of a model. Raises ValueError naming the one that the authors' code cannot express."""
    found = dict(conditioners.by_field())
    if not found:
        return WrittenConditions({"cond_stage_config": "__is_unconditional__"})
    masked = found.pop("masked_image", None) if len(found) == 2 else None
    if len(found) > 1 or (masked is not None and getattr(masked, "style", "") != "stable_diffusion"):
        raise ValueError(f"conditioners: {', '.join(conditioners)} cannot be exported together; permitted: one")
    ((name, one),) = found.items()
    entry = {"concat": "concat", "cross_attention": "crossattn", "time_embedding": "adm"}[one.entry]
    if masked is not None:
        entry = "hybrid"
    params: dict[str, Any] = {"cond_stage_key": name, "conditioning_key": entry}
    if isinstance(one, ClassConditioner):
        rows, width = one.embedding.weight.shape
        null = rows - 1 if one.null is None else one.null
        if guided:
            params["ucg_training"] = {name: {"p": DROPPED, "val": null}}
        if entry == "adm":
            return WrittenConditions(
                {**params, "cond_stage_config": block("torch.nn.Identity")}, labels=one.embedding.weight
            )
        config = block(f"{MODULES}ClassEmbedder", embed_dim=width, n_classes=rows)
        return WrittenConditions({**params, "cond_stage_config": config}, one, {"embedding": Source("embedding")})
    if isinstance(one, TransformerConditioner) and one.entry == "cross_attention":
        return write_transformer(params, one)
    if isinstance(one, FrozenTextConditioner) and one.entry == "cross_attention":
        return write_clip(name, params, one)
    if isinstance(one, SemanticMapConditioner):
        r = one.rescaler
        config = block(f"{MODULES}SpatialRescaler", n_stages=r.stages, method=r.method, in_channels=r.in_channels,
                       out_channels=r.out_channels)  # fmt: skip
        names = {"rescaler.project": Source("channel_mapper")}
        return WrittenConditions({**params, "cond_stage_config": config}, one, names)
    if isinstance(one, LowResolutionConditioner):
        return WrittenConditions({**params, "cond_stage_config": block("torch.nn.Identity")})
    if isinstance(one, MaskedImageConditioner) and one.style == "latent_diffusion":
        return WrittenConditions({**params, "cond_stage_config": "__is_first_stage__"})
    raise ValueError(f"conditioners.{name}: a {type(one).__name__} that enters by {one.entry} cannot be exported")


def write_transformer(params: Mapping[str, Any], one: TransformerConditioner) -> WrittenConditions:
    """Write the trained encoder of texts, layouts or token ids."""
    t = one.transformer
    if (t.heads, t.head_width) != (8, 64):
        raise ValueError(f"heads, head_width: {t.heads}, {t.head_width} cannot be exported; permitted: 8, 64")
    text = isinstance(one, TextConditioner)
    config = block(
        f"{MODULES}{'BERTEmbedder' if text else 'TransformerEmbedder'}",
        n_embed=t.width, n_layer=t.depth, vocab_size=t.vocabulary, max_seq_len=t.length,
    )  # fmt: skip
    return WrittenConditions(
        {**params, "cond_stage_config": config}, one, dict(transformer_names(t.depth)), files=one.assets()
    )


def write_clip(name: str, params: Mapping[str, Any], one: FrozenTextConditioner) -> WrittenConditions:
    """Write a frozen CLIP text tower, as in Stable Diffusion 1.x."""
    a = one.architecture
    act, heads = a.get("hidden_act"), max(1, a.get("hidden_size", 0) // HEAD_WIDTH)
    for what, value, permitted in (
        ("encoder", a.get("model_type"), ("clip_text_model",)), ("encoder.hidden_act", act, ("quick_gelu", "gelu")),
        ("encoder.num_attention_heads", a.get("num_attention_heads"), (heads,)), ("padding", one.padding, (END,)),
        ("masked", one.masked, (False,)), ("width", one.width, (a.get("hidden_size"),)),
    ):  # fmt: skip
        if value not in permitted:
            words = ", ".join(map(repr, permitted))
            raise ValueError(f"conditioners.{name}.{what}: {value!r} cannot be exported; permitted: {words}")
    version = "openai/clip-vit-large-patch14" if act == "quick_gelu" else "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    config = block(f"{MODULES}FrozenCLIPEmbedder", version=version, max_length=one.length)
    layers = {tensor.rpartition(".")[0] for tensor in one.encoder.state_dict()}
    names = {f"encoder.{layer}": Source(TOWER + layer.removeprefix("text_model.")) for layer in layers}
    return WrittenConditions({**params, "cond_stage_config": config}, one, names, files=one.assets())


def block(target: str, **params: Any) -> dict[str, Any]:
    """Return a block of their configurations."""
    return {"target": target, "params": params}
