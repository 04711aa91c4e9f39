"""Readers of their first stages."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.interop.compvis.reading import Names, Source, check_counts, check_parameters, read_number
from training.model.layers import ResidualBlock, SpatialAttention

TRAINING = (  # parameters of training only
    "lossconfig", "monitor", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "batch_resize_range",
    "scheduler_config", "lr_g_factor", "use_ema", "sane_index_shape", "learn_logvar",
)  # fmt: skip

ATTENTION = ("vanilla", "vanilla-xformers", "none")  # all but none are exact attention


def autoencoder_kl(params: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[Autoencoder, Names]:
    """Read `ldm.models.autoencoder.AutoencoderKL`."""
    check_parameters(params, ("embed_dim", "ddconfig", *TRAINING), {})
    return autoencoder(params, "kl", {})


def autoencoder_vq(params: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[Autoencoder, Names]:
    """Read `ldm.models.autoencoder.VQModel` and `VQModelInterface`; the state dict has the entries of a remap."""
    check_parameters(params, ("embed_dim", "n_embed", "ddconfig", "remap", *TRAINING), {})
    check_counts(params, "n_embed")
    used = state_dict.get("quantize.used")
    if params.get("remap") and used is None:
        raise ValueError("remap: the state dict lacks quantize.used, the entries of the remapped codebook")
    return autoencoder(
        params, "vq", {"codebook_size": params["n_embed"], "codebook_used": None if used is None else used.tolist()}
    )


def identity(params: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[Autoencoder, Names]:
    """Read `ldm.models.autoencoder.IdentityFirstStage`, whose latents are the pixels. channels: not in their blocks."""
    channels = params.get("channels", 3)
    config = AutoencoderConfig(regularisation="identity", image_channels=channels, latent_channels=channels)
    return Autoencoder(config), iter(())


def autoencoder(
    params: Mapping[str, Any], regularisation: Literal["kl", "vq"], codebook: Mapping[str, Any]
) -> tuple[Autoencoder, Names]:
    """Make an autoencoder of a `ddconfig`; their encoder and decoder ignore parameters that they do not know."""
    d = params["ddconfig"]
    check_parameters(
        d,
        d,
        {"double_z": regularisation == "kl", "resamp_with_conv": True, "give_pre_end": False, "tanh_out": False,
         "use_linear_attn": False},
    )  # fmt: skip
    check_counts(params, "embed_dim")
    check_counts(d, "z_channels", "resolution", "in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks")
    if d["out_ch"] != d["in_channels"]:
        raise ValueError(f"out_ch: {d['out_ch']} cannot be read; permitted: {d['in_channels']}, as in_channels")
    if d.get("double_z", True) != (regularisation == "kl"):
        raise ValueError(f"double_z: {d.get('double_z', True)} cannot be read; permitted: {regularisation == 'kl'}")
    if d.get("attn_type", "vanilla") not in ATTENTION:
        permitted = ", ".join(map(repr, ATTENTION))
        raise ValueError(f"attn_type: {d['attn_type']!r} cannot be read; permitted: {permitted}")
    attentive = d.get("attn_type", "vanilla") != "none"
    levels = range(len(d["ch_mult"]))
    model = Autoencoder(
        AutoencoderConfig(
            image_channels=d["in_channels"],
            latent_channels=params["embed_dim"],
            channels=d["ch"],
            multipliers=tuple(d["ch_mult"]),
            res_blocks=d["num_res_blocks"],
            attention_levels=tuple(i for i in levels if attentive and d["resolution"] >> i in d["attn_resolutions"]),
            middle_attention=attentive,
            dropout=read_number(d, "dropout", 0.0),
            regularisation=regularisation,
            z_channels=None if d["z_channels"] == params["embed_dim"] else d["z_channels"],
            **codebook,
        )
    )
    return model, autoencoder_names(model)


def autoencoder_names(model: Autoencoder) -> Names:
    """Yield the names of both networks. Their `up.0` is the finest level; blocks and attentions count separately."""
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
    yield "quantiser.codebook", Source("quantize.embedding")
    yield "quantiser", Source("quantize")  # `used`, of a remapped codebook


def autoencoder_block(ours: str, theirs: str) -> Names:
    """Yield the names in their ResnetBlock."""
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{ours}.{name}", Source(f"{theirs}.{name}")
    yield f"{ours}.skip", Source(f"{theirs}.nin_shortcut")


def autoencoder_attention(ours: str, theirs: str) -> Names:
    """Yield the names in their AttnBlock, which has one head and 1x1 convolutions."""
    yield f"{ours}.norm", Source(f"{theirs}.norm")
    for mine, name in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "proj_out")):
        yield f"{ours}.attention.{mine}", Source(f"{theirs}.{name}")
