"""Conditioners in the authors' layout."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from training.model.conditioners import Conditioner, Conditioners
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.layout import LayoutConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.text_tokenizer import TOKENIZER_FILE, load
from training.model.conditioners.token_transformer import TransformerConditioner
from training.model.interop.compvis.conditioners import transformer_names
from training.model.interop.compvis.embedder_options import LAYOUT_KEY
from training.model.interop.compvis.reading import Source
from training.model.interop.compvis.text_towers import ARCH, DEPTHS, END, HEAD_WIDTH, TOWER

MODULES = "ldm.modules.encoders.modules."
NAMES: dict[type[Conditioner], str] = {  # which reading gives these conditions, whatever they were called
    LayoutConditioner: "layout", LowResolutionConditioner: "low_resolution", MaskedImageConditioner: "masked_image",
}  # fmt: skip
OPEN_CLIP_NAMES = {
    "embeddings.token_embedding": "token_embedding", "embeddings.position_embedding": "positional_embedding",
    "final_layer_norm": "ln_final", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
THIRDS = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}  # of a fused layer
DROPPED = 0.1  # their field for the share of rows without condition; any above 0 says that the null was trained


@dataclass(frozen=True)
class WrittenConditions:
    """The parameters of a model's conditions, and their embedder.

    module: under `cond_stage_model`, with `names`. spelling: patterns of keys and what replaces them.
    labels: a table [K, E] in the U-Net. files: to write beside. inpainting: whether a masked image is concatenated too.
    """

    params: dict[str, Any]
    module: nn.Module | None = None
    names: Mapping[str, Source] = field(default_factory=dict)
    labels: Tensor | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    spelling: Mapping[str, str] = field(default_factory=dict)
    inpainting: bool = False


def write_conditions(conditioners: Conditioners, *, guided: bool) -> WrittenConditions:
    """Write the conditioners of a model. Raises ValueError naming the one that the authors' code cannot express."""
    found = dict(conditioners.by_field())
    if not found:
        return WrittenConditions({"cond_stage_config": "__is_unconditional__"})
    for name, one in found.items():
        permitted = NAMES.get(type(one), name)
        if name != permitted:
            raise ValueError(f"conditioners.{name}: this name cannot be exported; permitted: {permitted}")
    masked = found.pop("masked_image", None) if len(found) == 2 else None
    if masked is not None and (style := getattr(masked, "style", "")) != "stable_diffusion":
        raise ValueError(
            f"conditioners.masked_image.style: {style!r} cannot be exported with another condition; permitted: "
            "'stable_diffusion'"
        )
    if len(found) > 1:
        raise ValueError(
            f"conditioners: {', '.join(conditioners)} cannot be exported together; permitted: one, or a context and a "
            "masked image"
        )
    ((name, one),) = found.items()
    if masked is None:
        return write_condition(name, one, guided=guided)
    if one.entry != "cross_attention":
        raise ValueError(
            f"conditioners.{name}: enters by {one.entry}, which cannot be exported with a masked image; permitted: "
            "cross_attention"
        )
    written = write_condition(name, one, guided=guided)
    return replace(written, params=written.params | {"conditioning_key": "hybrid"}, inpainting=True)


def write_condition(name: str, one: Conditioner, *, guided: bool) -> WrittenConditions:
    """Write one conditioner. Raises ValueError."""
    entry = {"concat": "concat", "cross_attention": "crossattn", "time_embedding": "adm"}[one.entry]
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
    if isinstance(one, MaskedImageConditioner):
        raise ValueError(f"conditioners.{name}.style: {one.style!r} cannot be exported without a context")
    raise ValueError(f"conditioners.{name}: a {type(one).__name__} that enters by {one.entry} cannot be exported")


def write_transformer(params: Mapping[str, Any], one: TransformerConditioner) -> WrittenConditions:
    """Write the trained encoder of texts, layouts or token ids."""
    t = one.transformer
    if (t.heads, t.head_width) != (8, 64):
        raise ValueError(f"heads, head_width: {t.heads}, {t.head_width} cannot be exported; permitted: 8, 64")
    if isinstance(one, LayoutConditioner):
        params = {**params, "cond_stage_key": LAYOUT_KEY}
        if one.crops != one.groups:
            raise ValueError(f"crops, groups: {one.crops}, {one.groups} cannot be exported; permitted: both or neither")
    text = isinstance(one, TextConditioner)
    config = block(
        f"{MODULES}{'BERTEmbedder' if text else 'TransformerEmbedder'}",
        n_embed=t.width, n_layer=t.depth, vocab_size=t.vocabulary, max_seq_len=t.length,
    )  # fmt: skip
    return WrittenConditions(
        {**params, "cond_stage_config": config}, one, dict(transformer_names(t.depth)), files=one.assets()
    )


def write_clip(name: str, params: Mapping[str, Any], one: FrozenTextConditioner) -> WrittenConditions:
    """Write a frozen text tower of CLIP, as in Stable Diffusion 1.x, or of OpenCLIP, as in 2.x, which fills with 0."""
    a = one.architecture
    act, heads = a.get("hidden_act"), max(1, a.get("hidden_size", 0) // HEAD_WIDTH)
    zero = str(load(one.assets()[TOKENIZER_FILE]).id_to_token(0))
    for what, value, permitted in (
        ("encoder", a.get("model_type"), ("clip_text_model",)), ("encoder.hidden_act", act, ("quick_gelu", "gelu")),
        ("encoder.num_attention_heads", a.get("num_attention_heads"), (heads,)), ("padding", one.padding, (END, zero)),
        ("masked", one.masked, (False,)), ("width", one.width, (a.get("hidden_size"),)),
    ):  # fmt: skip
        if value not in permitted:
            words = ", ".join(map(repr, permitted))
            raise ValueError(f"conditioners.{name}.{what}: {value!r} cannot be exported; permitted: {words}")
    layers = {tensor.rpartition(".")[0] for tensor in one.encoder.state_dict()}
    if one.padding != END:
        return write_open_clip(params, one, layers)
    version = "openai/clip-vit-large-patch14" if act == "quick_gelu" else "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    config = block(f"{MODULES}FrozenCLIPEmbedder", version=version, max_length=one.length)
    names = {f"encoder.{layer}": Source(TOWER + layer.removeprefix("text_model.")) for layer in layers}
    return WrittenConditions({**params, "cond_stage_config": config}, one, names, files=one.assets())


def write_open_clip(params: Mapping[str, Any], one: FrozenTextConditioner, layers: Iterable[str]) -> WrittenConditions:
    """Write a text tower of OpenCLIP. That of a released model, without its last layer, is read as penultimate."""
    a, quick = one.architecture, one.architecture["hidden_act"] == "quick_gelu"
    arch = next((name for name, depth in DEPTHS.items() if depth == a["num_hidden_layers"] + 1 and not quick), None)
    config = block(
        f"{MODULES}FrozenOpenCLIPEmbedder", arch=(arch or ARCH) + ("-quickgelu" if quick else ""),
        layer="last" if arch is None else "penultimate", max_length=one.length,
    )  # fmt: skip
    names = {f"encoder.{layer}": open_clip_source(layer.removeprefix("text_model.")) for layer in layers}
    spelling = {r"attn\.in_proj\.": "attn.in_proj_", r"positional_embedding\.weight$": "positional_embedding"}
    return WrittenConditions({**params, "cond_stage_config": config}, one, names, files=one.assets(), spelling=spelling)


def open_clip_source(layer: str) -> Source:
    """Return the place in OpenCLIP of a layer by its name in the library `transformers`."""
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", layer)
    if found is None:
        return Source(f"model.{OPEN_CLIP_NAMES[layer]}")
    layers, part = f"model.transformer.resblocks.{found[1]}.", found[2]
    if part in THIRDS:
        return Source(f"{layers}attn.in_proj", THIRDS[part])
    return Source(layers + OPEN_CLIP_NAMES[part])


def block(target: str, **params: Any) -> dict[str, Any]:
    """Return a block of their configurations."""
    return {"target": target, "params": params}
