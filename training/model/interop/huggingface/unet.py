"""Export of U-Nets, as UNet2DModel or, with cross-attention, as UNet2DConditionModel.

Both classes are the released models' U-Net. A U-Net that they cannot express is refused.
"""

from typing import Any

from torch import Tensor, nn

from training.model.interop.huggingface.component import (
    Component,
    ExportError,
    Names,
    check_expressible,
    model_config,
    rename_tensors,
)
from training.model.layers import Downsample, ResidualBlock, SpatialAttention, SpatialTransformer, Upsample
from training.model.timestep_embedding import renumber_timesteps
from training.model.unet import UNet

HANDLED = ("in_channels", "out_channels", "channels", "multipliers", "res_blocks", "attention_factors", "heads",
           "head_width", "transformer_depth", "context_width", "scale_shift", "resample_in_blocks",
           "dropout", "level_heads", "middle_attention", "norm_eps", "norm_groups", "frequency_shift",
           "asymmetric_downsampling", "coordinates")  # fmt: skip


def unet_component(
    model: UNet,
    *,
    latent_size: int,
    projection: tuple[Tensor, Tensor] | None = None,
    labels: Tensor | None = None,
    first_timestep: int = 0,
) -> Component:
    """Export a U-Net for square latents.

    projection: weight [context_width, K] and bias of a layer that a context of width K passes first
        (`encoder_hid_proj`). With a table of tokens as its columns, a one-hot context selects one.
    labels: [K, 4 channels], a table of embeddings that `class_labels` selects and adds to the timestep embedding.
    first_timestep: the number of diffusers' first timestep. Ours is 0; another one is folded into the weights.
    Coordinates are further input channels. Raises ExportError naming the field that diffusers cannot express.
    """
    c = model.config
    check_expressible("unet", c, HANDLED)
    widths = [multiplier * c.channels for multiplier in c.multipliers]
    attends = [2**level in c.attention_factors for level in range(len(widths))]
    conditional = c.context_width is not None
    config: dict[str, Any] = {
        "sample_size": latent_size,
        "in_channels": c.in_channels + 2 * c.coordinates,
        "out_channels": c.out_channels,
        "down_block_types": [block_type(attends[i], "Down", c) for i in range(len(widths))],
        "up_block_types": [block_type(attends[i], "Up", c) for i in reversed(range(len(widths)))],
        "block_out_channels": widths,
        "layers_per_block": c.res_blocks,
        "dropout": c.dropout,
        "norm_num_groups": c.norm_groups,
        "norm_eps": c.norm_eps,
        "downsample_padding": 0 if c.asymmetric_downsampling else 1,
        "resnet_time_scale_shift": "scale_shift" if c.scale_shift else "default",
        "flip_sin_to_cos": True,  # their order is (sin, cos)
        "freq_shift": c.frequency_shift,
    }
    tensors = rename_tensors(model, unet_names(model))
    if first_timestep:
        embedded = "time_embedding.linear_1.weight"
        tensors[embedded] = renumber_timesteps(tensors[embedded], first_timestep, c.frequency_shift)
    if conditional:
        if c.resample_in_blocks and any(attends) and len(widths) > 1:
            raise ExportError(
                f"unet.resample_in_blocks: True cannot be exported with attention at the factors "
                f"{list(c.attention_factors)} to a context: UNet2DConditionModel's attention blocks resample by "
                "convolution"
            )
        if not c.middle_attention:
            raise ExportError(
                "unet.middle_attention: False cannot be exported with a context; permitted: True, because "
                "UNet2DConditionModel then has one block in the middle"
            )
        heads = level_heads(model, widths)
        config |= {
            "cross_attention_dim": c.context_width,
            "transformer_layers_per_block": c.transformer_depth,
            "attention_head_dim": heads,  # the *number* of heads: diffusers has misnamed the field
        }
    else:
        config |= {
            "attention_head_dim": head_width(model),
            "add_attention": c.middle_attention,
            "attn_norm_num_groups": c.norm_groups,  # without it the middle attention has no norm with scale-shift
            "downsample_type": "resnet" if c.resample_in_blocks else "conv",
            "upsample_type": "resnet" if c.resample_in_blocks else "conv",
        }
    if projection is not None:
        weight, bias = projection
        config |= {"encoder_hid_dim": weight.shape[1], "encoder_hid_dim_type": "text_proj"}
        tensors |= {"encoder_hid_proj.weight": weight, "encoder_hid_proj.bias": bias}
    if labels is not None:
        config["num_class_embeds"] = labels.shape[0]
        tensors["class_embedding.weight"] = labels
    class_name = "UNet2DConditionModel" if conditional else "UNet2DModel"
    return Component("diffusers", class_name, model_config(class_name, **config), tensors)


def block_type(attends: bool, direction: str, config: Any) -> str:
    """Return their name for the block of a level; direction is "Down" or "Up"."""
    if attends:
        return f"{'CrossAttn' if config.context_width is not None else 'Attn'}{direction}Block2D"
    return f"Resnet{direction}sampleBlock2D" if config.resample_in_blocks else f"{direction}Block2D"


def head_width(model: UNet) -> int | None:
    """Return the width of all heads of a UNet2DModel, or None for one head as wide as its level.

    Raises ExportError if heads have several widths.
    """
    found = [
        (module.norm.num_channels, module.attention.heads)
        for module in model.modules()
        if isinstance(module, SpatialAttention)
    ]
    if all(heads == 1 for _, heads in found):
        return None
    head_widths = sorted({channels // heads for channels, heads in found})
    if len(head_widths) == 1:
        return head_widths[0]
    c = model.config
    field = f"heads: {c.heads}" if c.heads is not None else f"head_width: {c.head_width}"
    several = ", ".join(map(str, head_widths))
    raise ExportError(
        f"unet.{field} cannot be exported: heads would be {several} wide, and UNet2DModel has one width for all"
    )


def level_heads(model: UNet, widths: list[int]) -> int | list[int]:
    """Return the number of heads at each level of a UNet2DConditionModel, finest first."""
    c = model.config
    if c.level_heads is not None:
        return list(c.level_heads)
    if c.heads is not None:
        return c.heads
    return [max(1, width // (c.head_width or width)) for width in widths]


# -- names -------------------------------------------------------------------------------------


def unet_names(model: UNet) -> Names:
    """Yield the names of all layers; their levels list residual blocks, attentions and resampling separately."""
    yield from {
        "time.0": "time_embedding.linear_1",
        "time.2": "time_embedding.linear_2",
        "conv_in": "conv_in",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }.items()
    for direction in ("down", "up"):
        level = blocks = 0
        for index, stage in enumerate(model.get_submodule(direction).children()):
            ours, theirs = f"{direction}.{index}", f"{direction}_blocks.{level}"
            if stage.block is not None:
                yield from part_names(model, f"{ours}.block", f"{theirs}.resnets.{blocks}")
                if stage.attention is not None:
                    yield from part_names(model, f"{ours}.attention", f"{theirs}.attentions.{blocks}")
                blocks += 1
            if stage.resample is not None:
                yield from part_names(model, f"{ours}.resample", f"{theirs}.{direction}samplers.0")
                level, blocks = level + 1, 0
    yield from part_names(model, "middle.0.block", "mid_block.resnets.0")
    if model.config.middle_attention:
        yield from part_names(model, "middle.0.attention", "mid_block.attentions.0")
    yield from part_names(model, "middle.1.block", "mid_block.resnets.1")


def part_names(model: nn.Module, ours: str, theirs: str) -> Names:
    """Yield the names in a residual block, an attention or a resampling layer of a U-Net or an autoencoder."""
    part = model.get_submodule(ours)
    if isinstance(part, ResidualBlock):
        pairs = {"norm1": "norm1", "conv1": "conv1", "embedding": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
                 "skip": "conv_shortcut"}  # fmt: skip
    elif isinstance(part, SpatialAttention):
        pairs = {"norm": "group_norm", **attention_names("attention.", "")}
    elif isinstance(part, SpatialTransformer):
        pairs = {"norm": "norm", "project_in": "proj_in", "project_out": "proj_out"}
        for i in range(len(part.blocks)):
            pairs |= transformer_names(f"blocks.{i}.", f"transformer_blocks.{i}.")
    elif isinstance(part, Downsample | Upsample):
        pairs = {"conv": "conv"}
    else:
        raise ExportError(f"{ours}: a {type(part).__name__} has no equivalent in diffusers")
    yield from ((f"{ours}.{mine}", f"{theirs}.{name}") for mine, name in pairs.items())


def transformer_names(ours: str, theirs: str) -> dict[str, str]:
    """Return the names in their BasicTransformerBlock."""
    return {
        **{f"{ours}{norm}": f"{theirs}{norm}" for norm in ("norm1", "norm2", "norm3")},
        **attention_names(f"{ours}self_attention.", f"{theirs}attn1."),
        **attention_names(f"{ours}cross_attention.", f"{theirs}attn2."),
        f"{ours}feed_forward.gate": f"{theirs}ff.net.0.proj",
        f"{ours}feed_forward.out": f"{theirs}ff.net.2",
    }


def attention_names(ours: str, theirs: str) -> dict[str, str]:
    """Return the names in their Attention."""
    pairs = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
    return {f"{ours}{mine}": f"{theirs}{name}" for mine, name in pairs.items()}
