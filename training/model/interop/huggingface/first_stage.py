"""Export of autoencoders, as AutoencoderKL or, with a codebook, as VQModel.

VQModel quantises when decoding, as we do, so the diffusion model's latents are those before the codebook.
"""

from typing import Any

from training.model.autoencoder import Autoencoder
from training.model.interop.huggingface.component import (
    Component,
    ExportError,
    Names,
    check_expressible,
    model_config,
    rename_tensors,
)
from training.model.interop.huggingface.unet import part_names
from training.model.layers import ResidualBlock, SpatialAttention

HANDLED = ("image_channels", "latent_channels", "channels", "multipliers", "res_blocks", "attention_levels",
           "middle_attention", "dropout", "regularisation", "z_channels", "codebook_size", "codebook_used",
           "codebook_unknown")  # fmt: skip
CLASSES = {"kl": "AutoencoderKL", "vq": "VQModel"}


def autoencoder_component(model: Autoencoder, *, image_size: int) -> Component:
    """Export an autoencoder with its latent scale. Raises ExportError naming what diffusers cannot express."""
    c = model.config
    check_expressible("autoencoder", c, HANDLED)
    if c.regularisation not in CLASSES:
        permitted = ", ".join(CLASSES)
        raise ExportError(
            f"autoencoder.regularisation: {c.regularisation!r} cannot be exported; permitted: {permitted}, because "
            "diffusers has no first stage for models of pixels; darkroom export compvis writes such models"
        )
    if c.regularisation == "kl" and c.encoder_channels != c.latent_channels:
        raise ExportError(
            f"autoencoder.z_channels: {c.z_channels} cannot be exported; permitted: {c.latent_channels}, because "
            "AutoencoderKL's encoder and latents have the same number of channels"
        )
    attends = [i in c.attention_levels for i in range(len(c.multipliers))]
    config: dict[str, Any] = {
        "in_channels": c.image_channels,
        "out_channels": c.image_channels,
        "down_block_types": [f"{'Attn' if a else ''}DownEncoderBlock2D" for a in attends],
        "up_block_types": [f"{'Attn' if a else ''}UpDecoderBlock2D" for a in reversed(attends)],
        "block_out_channels": [c.channels * multiplier for multiplier in c.multipliers],
        "layers_per_block": c.res_blocks,
        "act_fn": "silu",
        "latent_channels": c.encoder_channels,  # VQModel calls the channels of its encoder and decoder so
        "norm_num_groups": 32,
        "sample_size": image_size,
        "scaling_factor": float(model.latent_scale),
        "mid_block_add_attention": c.middle_attention,
    }
    if c.regularisation == "vq":
        config |= {"num_vq_embeddings": c.codebook_size, "vq_embed_dim": c.latent_channels}
    class_name = CLASSES[c.regularisation]
    tensors = rename_tensors(model, first_stage_names(model), leave_out=("latent_scale", "quantiser.used"))
    return Component("diffusers", class_name, model_config(class_name, **config), tensors)


def first_stage_names(model: Autoencoder) -> Names:
    """Yield the names of both networks, which count their levels in the order of execution, as we do."""
    for part, direction in (("encoder", "down"), ("decoder", "up")):
        level = blocks = 0
        for index, layer in enumerate(model.get_submodule(f"{part}.{direction}").children()):
            ours, theirs = f"{part}.{direction}.{index}", f"{part}.{direction}_blocks.{level}"
            if isinstance(layer, ResidualBlock):
                yield from part_names(model, ours, f"{theirs}.resnets.{blocks}")
                blocks += 1
            elif isinstance(layer, SpatialAttention):  # it follows its block
                yield from part_names(model, ours, f"{theirs}.attentions.{blocks - 1}")
            else:
                yield from part_names(model, ours, f"{theirs}.{direction}samplers.0")
                level, blocks = level + 1, 0
        yield from part_names(model, f"{part}.middle.block1", f"{part}.mid_block.resnets.0")
        if model.config.middle_attention:
            yield from part_names(model, f"{part}.middle.attention", f"{part}.mid_block.attentions.0")
        yield from part_names(model, f"{part}.middle.block2", f"{part}.mid_block.resnets.1")
        for mine, theirs in (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")):
            yield f"{part}.{mine}", f"{part}.{theirs}"
    for name in ("quant_conv", "post_quant_conv"):
        yield name, name
    yield "quantiser.codebook", "quantize.embedding"
