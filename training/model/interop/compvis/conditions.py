"""The conditioners that their `cond_stage_config` and `conditioning_key` describe together."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.model.autoencoder import Autoencoder
from training.model.conditioners import ClassConditioner, Conditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.names import is_permitted
from training.model.interop.compvis.conditioners import table_of_classes
from training.model.interop.compvis.embedder_options import TEXT_TOWERS, embedder_options
from training.model.interop.compvis.null import null_class
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.reading import CompVisError, class_name, join_keys
from training.model.interop.compvis.targets import build
from training.model.interop.compvis.text_towers import ARCH, drop_last_layer, rename_tower
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet

TRANSFORMERS = ("BERTEmbedder", "TransformerEmbedder")
EMBEDDERS = (*TRANSFORMERS, "ClassEmbedder", "SpatialRescaler", *TEXT_TOWERS)
UNCONDITIONAL = "__is_unconditional__"
LABELS = "label_emb.weight"  # in the U-Net
# Our names for those that are formats of files, and for those that no condition can have, by the embedder
FIELDS = {"txt": "caption"}
USUAL = {"ClassEmbedder": "class_label", "SpatialRescaler": "semantic_map", "Identity": "class_label"}


def make_conditioners(
    params: Mapping[str, Any],
    unet: UNet,
    first_stage: Autoencoder,
    state: Mapping[str, Tensor],
    labels: Tensor | None,
    options: Options,
) -> dict[str, Conditioner]:
    """Make the conditioners of a model, by the field's name in their data sets; {} for an unconditional model.

    state: of `cond_stage_model`. labels: see `split_class_table`. Raises CompVisError for parameters that are ambiguous
    or not supported.
    """
    config: Any = params.get("cond_stage_config") or UNCONDITIONAL
    entry = params.get("conditioning_key") or ("concat" if params.get("concat_mode", True) else "crossattn")
    field = params.get("cond_stage_key", "image")
    if not isinstance(field, str) or not re.fullmatch(r"\w+", field):  # it becomes part of file names
        raise CompVisError(f"cond_stage_key: {field!r} cannot be read; permitted: letters, digits and _")
    image_channels, latent = first_stage.config.image_channels, first_stage.config.latent_channels
    concatenated = unet.config.in_channels - unet.config.out_channels
    kind = {UNCONDITIONAL: "unconditional", "__is_first_stage__": "first stage"}.get(str(config), class_name(config))
    combination = f"cond_stage_config: {kind} with conditioning_key {entry} and {concatenated} concatenated channels"
    if kind not in (*EMBEDDERS, "unconditional", "first stage", "Identity"):
        raise CompVisError(f"cond_stage_config: {kind} cannot be read; permitted: {', '.join(EMBEDDERS)}, Identity")
    if options.tokenizer and kind not in ("BERTEmbedder", *TEXT_TOWERS):
        raise CompVisError(f"tokenizer: this model cannot use one, because its cond_stage_config is {kind}")
    if kind in EMBEDDERS and labels is None:
        given = embedder_options(kind, config, field, params, options)
        embedder = make_embedder(kind, config, state, given)
        masked = MaskedImageConditioner(first_stage.config.factor, image_channels, style="stable_diffusion")
        field = "layout" if "classes" in given else usual_name(field, kind)
        if entry == "hybrid" and embedder.entry == "cross_attention" and concatenated == latent + 1:
            return {field: embedder, "masked_image": masked}
        if entry != {"concat": "concat", "cross_attention": "crossattn"}[embedder.entry]:
            raise CompVisError(f"{combination} cannot be read; permitted: cross-attention to tokens, concatenated maps")
        return {field: embedder}
    if state and kind != "first stage":  # such a file contains the first stage twice
        stray = [f"cond_stage_model.{key}" for key in sorted(state)]
        raise CompVisError(f"cond_stage_config: {kind}, but the file has {join_keys(stray)}")
    if kind == "unconditional" and labels is None:
        return {}
    if entry == "adm" and kind == "Identity" and labels is not None:
        return {usual_name(field, kind): make_class_conditioner(labels, null_class(params, len(labels), options))}
    if entry == "concat" and kind == "first stage" and concatenated == latent + 1:
        return {"masked_image": MaskedImageConditioner(first_stage.config.factor, image_channels)}
    if entry == "concat" and kind == "Identity" and concatenated == image_channels:
        return {"low_resolution": LowResolutionConditioner(image_channels)}
    raise CompVisError(
        f"{combination} cannot be read; permitted: an embedder, a masked image (latent + 1), a raw image, "
        "labels (Identity, adm, num_classes)"
    )


def usual_name(field: str, kind: str) -> str:
    """Return our name for their field. kind: of its `cond_stage_config`."""
    field = FIELDS.get(field, field)
    return field if is_permitted(field) else USUAL.get(kind, "caption")


def make_embedder(
    kind: str, config: Mapping[str, Any], state: Mapping[str, Tensor], given: Mapping[str, Any]
) -> Conditioner:
    """Make the conditioner of an embedder. given: the options of its reader. Raises CompVisError."""
    if kind in TEXT_TOWERS:
        state = rename_tower(state)
        params = config.get("params") or {}
        if kind == "FrozenOpenCLIPEmbedder" and params.get("layer") == "penultimate":
            state = drop_last_layer(state, params.get("arch", ARCH))
    embedder = build(config, state, **given)
    assert isinstance(embedder, Conditioner)
    return embedder


def split_class_table(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[Mapping[str, Any], Mapping[str, Tensor], Tensor | None]:
    """Split off a U-Net's own table of class embeddings, `num_classes`, which they add to the timestep embedding.

    Returns the U-Net's configuration and state dict without the table, and the table [classes, E] or None.
    Raises CompVisError if the table is missing or has another size.
    """
    params = config.get("params") if isinstance(config, Mapping) else None
    classes = params.get("num_classes") if isinstance(params, Mapping) else None
    if params is None or classes is None:
        return config, state, None
    labels = state.get(LABELS)
    if labels is None or labels.dim() != 2 or len(labels) != classes:
        found = "is missing" if labels is None else f"has the shape {tuple(labels.shape)}"
        raise CompVisError(f"unet_config: num_classes: {classes}, but {LABELS} {found}")
    rest = {name: value for name, value in params.items() if name != "num_classes"}
    return {**config, "params": rest}, {key: value for key, value in state.items() if key != LABELS}, labels


def make_class_conditioner(labels: Tensor, null: int | None) -> ClassConditioner:
    """Make a conditioner for the timestep embedding. null: see `class_embedder`."""
    conditioner = table_of_classes(len(labels), labels.shape[1], null, entry="time_embedding")
    conditioner.embedding.load_state_dict({"weight": labels})
    return conditioner


@torch.no_grad()
def check_conditions(model: LatentDiffusion) -> None:
    """Raise CompVisError unless the conditioners' outputs fit the U-Net's inputs."""
    c = model.unet.config
    size = 2 ** len(c.multipliers)  # more than one position at the coarsest level, for the first stage's norms
    given = model.conditioners([None], (size, size), model.autoencoder.encode)
    for what, parameter, found, wanted in (
        ("tokens of width", "context_dim", None if given.tokens is None else given.tokens.shape[-1], c.context_width),
        ("maps of channels", "in_channels - out_channels", 0 if given.maps is None else given.maps.shape[1],
         c.in_channels - c.out_channels),
        ("embeddings of width", "4 model_channels", given.embedding is not None and given.embedding.shape[-1],
         given.embedding is not None and model.unet.embedding_width),
    ):  # fmt: skip
        if found != wanted:
            raise CompVisError(
                f"cond_stage_config: gives {what} {found or 'none'}; unet_config: {parameter} is {wanted or 'none'}"
            )
