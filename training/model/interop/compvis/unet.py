"""Reader of their U-Net."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from training.model.interop.compvis.reading import Names, Source, check_counts, check_parameters, read_number
from training.model.layers import Downsample, ResidualBlock, SpatialAttention, SpatialTransformer
from training.model.unet import UNet, UNetConfig


def unet_model(params: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[UNet, Names]:
    """Read `ldm.modules.diffusionmodules.openaimodel.UNetModel`.

    `legacy` only concerns num_heads_upsample. Projections are linear or convolutions of 1x1 (the same), and attention
    is exact in whichever way `spatial_transformer_attn_type` computes it.
    """
    check_parameters(
        params,
        ("image_size", "in_channels", "out_channels", "model_channels", "attention_resolutions", "num_res_blocks",
         "channel_mult", "num_heads", "num_head_channels", "use_spatial_transformer", "transformer_depth",
         "context_dim", "use_scale_shift_norm", "resblock_updown", "dropout", "use_checkpoint", "use_fp16", "legacy",
         "num_heads_upsample", "use_new_attention_order", "conv_resample", "use_linear_in_transformer",
         "spatial_transformer_attn_type"),
        {"dims": 2, "num_classes": None, "n_embed": None, "adm_in_channels": None, "disable_self_attentions": None,
         "num_attention_blocks": None, "disable_middle_self_attn": False},
    )  # fmt: skip
    check_counts(params, "in_channels", "out_channels", "model_channels", "num_res_blocks")
    check_counts(params, *{"channel_mult", "transformer_depth"} & params.keys())
    given = {name: value for name, value in params.items() if value is not None}
    head_width, heads = given.get("num_head_channels", -1), given.get("num_heads", -1)
    check_counts(given, *(name for name in ("num_head_channels", "num_heads") if given.get(name, -1) != -1))
    check_counts(given, *{"context_dim"} & given.keys())
    transformer, context_width = params.get("use_spatial_transformer", False), params.get("context_dim")
    if transformer != (context_width is not None):
        raise ValueError("context_dim: needed with use_spatial_transformer, and only then")
    if isinstance(context_width, list | tuple):
        if len(set(context_width)) != 1:
            raise ValueError(f"context_dim: {context_width} cannot be read; permitted: one width")
        context_width = context_width[0]
    if head_width == heads == -1:
        raise ValueError("num_heads: missing; give it, or num_head_channels")
    upsample = params.get("num_heads_upsample", -1)  # it has an effect only in the case below
    if upsample not in (-1, heads) and head_width == -1 and not transformer and params.get("legacy", True):
        raise ValueError(f"num_heads_upsample: {upsample} cannot be read; permitted: -1, {heads}")
    if not isinstance(params["num_res_blocks"], int):
        raise ValueError(f"num_res_blocks: {params['num_res_blocks']} cannot be read; permitted: one number")
    model = UNet(
        UNetConfig(
            in_channels=params["in_channels"],
            out_channels=params["out_channels"],
            channels=params["model_channels"],
            multipliers=tuple(params.get("channel_mult", (1, 2, 4, 8))),
            res_blocks=params["num_res_blocks"],
            attention_factors=tuple(params["attention_resolutions"]),
            heads=heads if head_width == -1 else None,
            head_width=None if head_width == -1 else head_width,
            transformer_depth=params.get("transformer_depth", 1),
            context_width=context_width,
            scale_shift=params.get("use_scale_shift_norm", False),
            resample_in_blocks=params.get("resblock_updown", False),
            resample_convolution=params.get("conv_resample", True),
            dropout=read_number(params, "dropout", 0.0),
        )
    )
    return model, unet_names(model, by_head=not params.get("use_new_attention_order", False))


def unet_names(model: UNet, *, by_head: bool) -> Names:
    """Yield the names of all layers. Our stages are their input, middle and output blocks, in the same order.

    by_head: a fused qkv is split into heads first, then into q, k and v (their legacy order).
    """
    yield "time.0", Source("time_embed.0")
    yield "time.2", Source("time_embed.2")
    yield "conv_in", Source("input_blocks.0.0")
    middle = 0
    for ours, theirs in (("down", "input_blocks"), ("middle", "middle_block"), ("up", "output_blocks")):
        for index, stage in enumerate(model.get_submodule(ours).children()):
            parts = [(n, part) for n in ("block", "attention", "resample") if (part := getattr(stage, n)) is not None]
            for position, (name, part) in enumerate(parts):
                if ours == "middle":  # one flat sequence: block, attention, block
                    where = f"{theirs}.{middle}"
                    middle += 1
                else:
                    where = f"{theirs}.{index + 1 if ours == 'down' else index}.{position}"
                yield from unet_part(f"{ours}.{index}.{name}", where, part, by_head=by_head)
    yield "norm_out", Source("out.0")
    yield "conv_out", Source("out.2")


def unet_part(ours: str, theirs: str, part: nn.Module, *, by_head: bool) -> Names:
    """Yield the names in a residual block, an attention, or a layer that resamples."""
    if isinstance(part, ResidualBlock):
        pairs = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1", "norm2": "out_layers.0",
                 "conv2": "out_layers.3", "skip": "skip_connection"}  # fmt: skip
    elif isinstance(part, SpatialAttention):
        for third, name in enumerate(("query", "key", "value")):
            heads = part.attention.heads if by_head else 1
            yield f"{ours}.attention.{name}", Source(f"{theirs}.qkv", third, heads)
        pairs = {"norm": "norm", "attention.out": "proj_out"}
    elif isinstance(part, SpatialTransformer):
        for i, block in enumerate(part.blocks):
            yield from transformer_block(f"{ours}.blocks.{i}", f"{theirs}.transformer_blocks.{i}", block)
        pairs = {"norm": "norm", "project_in": "proj_in", "project_out": "proj_out"}
    else:
        pairs = {"conv": "op" if isinstance(part, Downsample) else "conv"}
    for mine, name in pairs.items():
        yield f"{ours}.{mine}", Source(f"{theirs}.{name}")


def transformer_block(ours: str, theirs: str, block: nn.Module) -> Names:
    """Yield the names in their BasicTransformerBlock."""
    for mine, name in (("self_attention", "attn1"), ("cross_attention", "attn2")):
        for layer, theirs_layer in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("out", "to_out.0")):
            yield f"{ours}.{mine}.{layer}", Source(f"{theirs}.{name}.{theirs_layer}")
    for name in ("norm1", "norm2", "norm3"):
        yield f"{ours}.{name}", Source(f"{theirs}.{name}")
    yield f"{ours}.feed_forward.gate", Source(f"{theirs}.ff.net.0.proj")
    yield f"{ours}.feed_forward.out", Source(f"{theirs}.ff.net.2")
