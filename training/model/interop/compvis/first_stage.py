"""Their first stages."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.interop.compvis.reading import Names, Source, permitted
from training.model.layers import ResidualBlock, SpatialAttention


def autoencoder_kl(params: Mapping[str, Any]) -> tuple[nn.Module, Names]:
    """`ldm.models.autoencoder.AutoencoderKL`."""
    ignored = ("lossconfig", "monitor", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels")
    permitted(params, ("embed_dim", "ddconfig", *ignored), {})
    d = params["ddconfig"]
    permitted(
        d,
        ("z_channels", "resolution", "in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks", "attn_resolutions",
         "dropout", "attn_type"),
        {"double_z": True, "resamp_with_conv": True, "give_pre_end": False, "tanh_out": False},
    )  # fmt: skip
    if d["out_ch"] != d["in_channels"]:
        raise ValueError(f"out_ch: {d['out_ch']} cannot be read; permitted: {d['in_channels']}, as in_channels")
    if params["embed_dim"] != d["z_channels"]:
        raise ValueError(
            f"embed_dim: {params['embed_dim']} cannot be read; permitted: {d['z_channels']}, as z_channels"
        )
    if d.get("attn_type", "vanilla") not in ("vanilla", "none"):
        raise ValueError(f"attn_type: {d['attn_type']!r} cannot be read; permitted: 'vanilla', 'none'")
    attentive = d.get("attn_type", "vanilla") == "vanilla"
    levels = range(len(d["ch_mult"]))
    model = Autoencoder(
        AutoencoderConfig(
            image_channels=d["in_channels"],
            latent_channels=d["z_channels"],
            channels=d["ch"],
            multipliers=tuple(d["ch_mult"]),
            res_blocks=d["num_res_blocks"],
            attention_levels=tuple(i for i in levels if attentive and d["resolution"] >> i in d["attn_resolutions"]),
            middle_attention=attentive,
            dropout=d.get("dropout", 0.0),
        )
    )
    return model, autoencoder_names(model)


def autoencoder_names(model: Autoencoder) -> Names:
    """Encoder and decoder; their `up.0` is the finest level, and a level's blocks and attentions are counted apart."""
    last = len(model.config.multipliers) - 1
    for ours, levels in (("encoder.down", range(last + 1)), ("decoder.up", range(last, -1, -1))):
        part, direction = ours.split(".")
        remaining = iter(levels)
        at, blocks, attentions = next(remaining), 0, 0
        for index, layer in enumerate(model.get_submodule(ours).children()):
            if isinstance(layer, ResidualBlock):
                yield from autoencoder_block(f"{ours}.{index}", f"{part}.{direction}.{at}.block.{blocks}")
                blocks += 1
            elif isinstance(layer, SpatialAttention):
                yield from autoencoder_attention(f"{ours}.{index}", f"{part}.{direction}.{at}.attn.{attentions}")
                attentions += 1
            else:
                yield f"{ours}.{index}.conv", Source(f"{part}.{direction}.{at}.{direction}sample.conv")
                at, blocks, attentions = next(remaining), 0, 0
        yield from autoencoder_block(f"{part}.middle.block1", f"{part}.mid.block_1")
        yield from autoencoder_attention(f"{part}.middle.attention", f"{part}.mid.attn_1")
        yield from autoencoder_block(f"{part}.middle.block2", f"{part}.mid.block_2")
        for name in ("conv_in", "norm_out", "conv_out"):
            yield f"{part}.{name}", Source(f"{part}.{name}")
    for name in ("quant_conv", "post_quant_conv"):
        yield name, Source(name)


def autoencoder_block(ours: str, theirs: str) -> Names:
    """Their ResnetBlock."""
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{ours}.{name}", Source(f"{theirs}.{name}")
    yield f"{ours}.skip", Source(f"{theirs}.nin_shortcut")


def autoencoder_attention(ours: str, theirs: str) -> Names:
    """Their AttnBlock: one head, 1x1 convolutions."""
    yield f"{ours}.norm", Source(f"{theirs}.norm")
    for mine, name in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "proj_out")):
        yield f"{ours}.attention.{mine}", Source(f"{theirs}.{name}")
