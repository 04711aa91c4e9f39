"""Reading UNet2DModel and UNet2DConditionModel."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.model.interop.huggingface.reading.first_stage import multipliers
from training.model.interop.huggingface.reading.folders import (
    DiffusersError,
    check_blocks,
    one_value,
    read_fields,
    refused,
)
from training.model.interop.huggingface.reading.tensors import fill, modern_names
from training.model.interop.huggingface.unet import unet_names
from training.model.timestep_embedding import renumber_timesteps
from training.model.unet import UNet, UNetConfig

SHARED = {
    "sample_size": None, "in_channels": 4, "out_channels": 4, "center_input_sample": False, "flip_sin_to_cos": True,
    "freq_shift": 0, "layers_per_block": 2, "downsample_padding": 1, "mid_block_scale_factor": 1, "dropout": 0.0,
    "act_fn": "silu", "attention_head_dim": 8, "norm_num_groups": 32, "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default", "class_embed_type": None, "num_class_embeds": None,
    "time_embedding_type": "positional", "time_embedding_dim": None,
}  # fmt: skip
PLAIN = {
    **SHARED, "in_channels": 3, "out_channels": 3, "mid_block_type": "UNetMidBlock2D", "downsample_type": "conv",
    "upsample_type": "conv", "attn_norm_num_groups": None, "add_attention": True, "num_train_timesteps": None,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
}  # fmt: skip
CONDITIONAL = {
    **SHARED, "mid_block_type": "UNetMidBlock2DCrossAttn", "only_cross_attention": False,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1280, "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "num_attention_heads": None, "dual_cross_attention": False, "use_linear_projection": False,
    "addition_embed_type": None, "addition_time_embed_dim": None, "upcast_attention": False,
    "resnet_skip_time_act": False, "resnet_out_scale_factor": 1.0, "time_embedding_act_fn": None,
    "timestep_post_act": None, "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None, "attention_type": "default", "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None, "cross_attention_norm": None, "addition_embed_type_num_heads": 64,
}  # fmt: skip
FIXED = ("center_input_sample", "mid_block_scale_factor", "mid_block_type", "time_embedding_type", "class_embed_type")
FIXED_PLAIN = (*FIXED, "num_train_timesteps")
FIXED_CONDITIONAL = (
    *FIXED, "reverse_transformer_layers_per_block", "num_attention_heads", "dual_cross_attention",
    "resnet_skip_time_act", "resnet_out_scale_factor", "time_embedding_act_fn", "timestep_post_act",
    "time_cond_proj_dim", "conv_in_kernel", "conv_out_kernel", "attention_type", "cross_attention_norm",
    "mid_block_only_cross_attention",
)  # fmt: skip
BLOCKS = {  # kinds of blocks, without their direction: (attends, resamples in a residual block; None: see the config)
    "DownBlock2D": (False, False), "ResnetDownsampleBlock2D": (False, True),
    "AttnDownBlock2D": (True, None), "CrossAttnDownBlock2D": (True, False),
}  # fmt: skip


class ReadUNet(NamedTuple):
    """A U-Net, and the tables of conditions that are stored in it.

    labels: [K, 4 channels], added to the timestep embedding. projection: weight [context_width, K] and bias of a layer
    that a context of width K passes first; in our own exports its columns are class tokens.
    """

    unet: UNet
    labels: Tensor | None
    projection: tuple[Tensor, Tensor] | None


def read_unet(where: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, first_timestep: int) -> ReadUNet:
    """Make the U-Net of a configuration. Raises DiffusersError.

    first_timestep: the number of the first timestep; ours is 0. Another one, and (sin, cos) in place of (cos, sin), is
    folded into the layer that reads the embedding.
    """
    conditional = config.get("_class_name") == "UNet2DConditionModel"
    if conditional and config.get("addition_embed_type") is not None:
        what = "it makes a U-Net of Stable Diffusion XL or of Kandinsky"
        raise refused(where, "addition_embed_type", config["addition_embed_type"], f"None; {what}")
    c = read_fields(
        where, config, CONDITIONAL if conditional else PLAIN, FIXED_CONDITIONAL if conditional else FIXED_PLAIN
    )
    model = UNet(unet_config(where, c, conditional))
    tensors = modern_names(tensors)
    tables = {"labels": c["num_class_embeds"] and "class_embedding.weight"}
    if conditional:
        tables["projection"] = c["encoder_hid_dim_type"] and "encoder_hid_proj.weight"
        if c["encoder_hid_dim_type"] not in (None, "text_proj"):
            raise refused(where, "encoder_hid_dim_type", c["encoder_hid_dim_type"], "None, 'text_proj'")
    found = {name: tensors.pop(key, None) for name, key in tables.items() if key}
    if missing := [key for name, key in tables.items() if key and found[name] is None]:
        raise DiffusersError(f"{where}: the weights do not fit the configuration. Tensors missing: {missing[0]}")
    projection = None
    if (weight := found.get("projection")) is not None:
        projection = (weight, tensors.pop("encoder_hid_proj.bias", torch.zeros(len(weight))))
    fill(where, model, unet_names(model), tensors)
    first = model.time[0]
    assert isinstance(first, torch.nn.Linear)
    with torch.no_grad():
        if not c["flip_sin_to_cos"]:
            half = first.in_features // 2
            sin, cos, rest = torch.split(first.weight, [half, half, first.in_features % 2], dim=1)
            first.weight.copy_(torch.cat([cos, sin, rest], dim=1))
        if first_timestep:
            first.weight.copy_(renumber_timesteps(first.weight, -first_timestep, model.config.frequency_shift))
    return ReadUNet(model.eval(), found.get("labels"), projection)


def unet_config(where: str, c: Mapping[str, Any], conditional: bool) -> UNetConfig:
    """Translate the architecture. Raises DiffusersError naming what cannot be read."""
    widths = c["block_out_channels"]
    if c["time_embedding_dim"] not in (None, 4 * widths[0]):
        raise refused(where, "time_embedding_dim", c["time_embedding_dim"], f"None, {4 * widths[0]}")
    for name, permitted in (
        ("act_fn", ("silu", "swish")), ("resnet_time_scale_shift", ("default", "scale_shift")),
        ("downsample_padding", (0, 1)),
    ):  # fmt: skip
        if c[name] not in permitted:
            raise refused(where, name, c[name], ", ".join(map(repr, permitted)))
    attends, in_blocks = blocks(where, c, conditional)
    scale_shift = c["resnet_time_scale_shift"] == "scale_shift"
    groups = c["norm_num_groups"]
    if not conditional and c["add_attention"]:  # without a number, and with scale and shift, the middle has no norm
        normed = c["attn_norm_num_groups"]
        if normed not in ((groups,) if scale_shift else (groups, None)):
            raise refused(where, "attn_norm_num_groups", normed, f"{groups}, as norm_num_groups")
    if conditional and one_value(where, "only_cross_attention", c["only_cross_attention"]):
        raise refused(where, "only_cross_attention", c["only_cross_attention"], "False")
    return UNetConfig(
        in_channels=c["in_channels"],
        out_channels=c["out_channels"],
        channels=widths[0],
        multipliers=multipliers(where, widths),
        res_blocks=one_value(where, "layers_per_block", c["layers_per_block"]),
        attention_factors=tuple(2**level for level, at in enumerate(attends) if at),
        transformer_depth=(
            one_value(where, "transformer_layers_per_block", c["transformer_layers_per_block"]) if conditional else 1
        ),
        context_width=one_value(where, "cross_attention_dim", c["cross_attention_dim"]) if conditional else None,
        scale_shift=scale_shift,
        resample_in_blocks=in_blocks,
        dropout=c["dropout"],
        middle_attention=conditional or c["add_attention"],
        norm_eps=c["norm_eps"],
        norm_groups=groups,
        frequency_shift=float(c["freq_shift"]),
        asymmetric_downsampling=c["downsample_padding"] == 0 and not in_blocks,
        **heads(where, c["attention_head_dim"], widths, conditional),
    )


def blocks(where: str, c: Mapping[str, Any], conditional: bool) -> tuple[list[bool], bool]:
    """Return at which levels the U-Net attends, and whether residual blocks resample. Raises DiffusersError."""
    down = c["down_block_types"]
    permitted = (name for name in BLOCKS if name != ("AttnDownBlock2D" if conditional else "CrossAttnDownBlock2D"))
    check_blocks(where, down, c["up_block_types"], permitted, ("Down", "Up"))
    if len(down) != len(c["block_out_channels"]):
        raise refused(where, "down_block_types", list(down), "one for each of block_out_channels")
    own = not conditional and c["downsample_type"] == "resnet"
    if not conditional and c["upsample_type"] != c["downsample_type"] and "AttnDownBlock2D" in down:
        raise refused(where, "upsample_type", c["upsample_type"], f"{c['downsample_type']!r}, as downsample_type")
    ways = {own if (way := BLOCKS[name][1]) is None else way for name in down} if len(down) > 1 else {False}
    if len(ways) > 1:
        raise refused(where, "down_block_types", list(down), "blocks that all resample in the same way")
    return [BLOCKS[name][0] for name in down], ways.pop()


def heads(where: str, given: Any, widths: Sequence[int], conditional: bool) -> dict[str, Any]:
    """Return the fields for attention heads: diffusers gives their width for UNet2DModel, else their number."""
    if not conditional:
        return {"heads": None, "head_width": given}
    numbers = list(given) if isinstance(given, list | tuple) else [given] * len(widths)
    if len(numbers) != len(widths) or not all(type(each) is int and each > 0 for each in numbers):
        raise refused(where, "attention_head_dim", given, "a number of heads, or one for each level")
    if len(set(numbers)) == 1:
        return {"heads": numbers[0], "head_width": None}
    head_widths = {width // number for width, number in zip(widths, numbers, strict=True)}
    if len(head_widths) == 1:
        return {"heads": None, "head_width": head_widths.pop()}
    return {"heads": None, "head_width": None, "level_heads": tuple(numbers)}
