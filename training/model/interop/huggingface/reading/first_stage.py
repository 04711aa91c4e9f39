"""Reading AutoencoderKL and VQModel."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.interop.huggingface.first_stage import first_stage_names
from training.model.interop.huggingface.reading.folders import check_blocks, read_fields, refused
from training.model.interop.huggingface.reading.tensors import fill, modern_names

SHARED = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"], "block_out_channels": [64], "layers_per_block": 1, "act_fn": "silu",
    "norm_num_groups": 32, "sample_size": 32, "scaling_factor": 0.18215, "mid_block_add_attention": True,
}  # fmt: skip
KL = {
    **SHARED, "latent_channels": 4, "shift_factor": None, "latents_mean": None, "latents_std": None,
    "force_upcast": True, "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip
VQ = {
    **SHARED, "latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None, "norm_type": "group",
    "lookup_from_codebook": False, "force_upcast": False,
}  # fmt: skip


def read_autoencoder(where: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Autoencoder:
    """Make the autoencoder of a configuration, with its latent scale.

    Their latents are (z - shift_factor) * scaling_factor, or (z - mean) / std * scaling_factor by channel. The shift
    and std are folded into the two 1x1 convolutions next to the latent, exactly. Raises DiffusersError.
    """
    kl = config.get("_class_name") == "AutoencoderKL"
    fixed = ("act_fn", "norm_num_groups") if kl else ("act_fn", "norm_num_groups", "norm_type", "lookup_from_codebook")
    c = read_fields(where, config, KL if kl else VQ, fixed)
    if c["out_channels"] != c["in_channels"]:
        raise refused(where, "out_channels", c["out_channels"], f"{c['in_channels']}, as in_channels")
    z = c["latent_channels"]
    model = Autoencoder(
        AutoencoderConfig(
            image_channels=c["in_channels"],
            latent_channels=z if kl else c["vq_embed_dim"] or z,
            channels=c["block_out_channels"][0],
            multipliers=multipliers(where, c["block_out_channels"]),
            res_blocks=c["layers_per_block"],
            attention_levels=attention_levels(where, c["down_block_types"], c["up_block_types"]),
            middle_attention=c["mid_block_add_attention"],
            regularisation="kl" if kl else "vq",
            z_channels=None if kl or c["vq_embed_dim"] in (None, z) else z,
            **({} if kl else {"codebook_size": c["num_vq_embeddings"]}),
        )
    )
    tensors = modern_names(tensors)
    if kl:
        tensors |= identities(c)
    fill(where, model, first_stage_names(model), tensors)
    scale = c["scaling_factor"]
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise refused(where, "scaling_factor", scale, "a number above 0")
    model.latent_scale.fill_(scale)
    if kl:
        fold_statistics(where, model, c)
    return model.eval()


def multipliers(where: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of the levels as multiples of the first. Raises DiffusersError."""
    if not widths or any(width % widths[0] for width in widths):
        raise refused(where, "block_out_channels", list(widths), "multiples of the first")
    return tuple(width // widths[0] for width in widths)


def attention_levels(where: str, down: Sequence[str], up: Sequence[str]) -> tuple[int, ...]:
    """Return the levels with attention, 0 the finest. Raises DiffusersError for other kinds of blocks."""
    known = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
    check_blocks(where, down, up, known, ("DownEncoder", "UpDecoder"))
    return tuple(level for level, name in enumerate(down) if known[name])


def identities(c: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights for the 1x1 convolutions that a KL autoencoder leaves out."""
    found = {}
    for field, name, channels in (
        ("use_quant_conv", "quant_conv", 2 * c["latent_channels"]),
        ("use_post_quant_conv", "post_quant_conv", c["latent_channels"]),
    ):
        if not c[field]:
            found[f"{name}.weight"] = torch.eye(channels)[:, :, None, None]
            found[f"{name}.bias"] = torch.zeros(channels)
    return found


@torch.no_grad()
def fold_statistics(where: str, model: Autoencoder, c: Mapping[str, Any]) -> None:
    """Fold shift_factor, latents_mean and latents_std into the convolutions next to the latent."""
    channels = model.config.latent_channels
    mean, std = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    for name, target in (("shift_factor", mean), ("latents_mean", mean), ("latents_std", std)):
        if c[name] is None:
            continue
        given = torch.tensor(c[name], dtype=torch.float64).flatten()
        if len(given) not in (1, channels) or (name == "latents_std" and not (given > 0).all()):
            raise refused(where, name, c[name], f"one number for each of {channels} channels")
        target.copy_(given)
    encode, decode = model.quant_conv, model.post_quant_conv
    assert isinstance(encode, torch.nn.Conv2d)
    assert isinstance(decode, torch.nn.Conv2d)
    assert encode.bias is not None
    assert decode.bias is not None
    weight, bias, decoding = encode.weight.double(), encode.bias.double(), decode.weight.double()
    weight[:channels] /= std[:, None, None, None]
    bias[:channels] = (bias[:channels] - mean) / std
    bias[channels:] -= 2 * std.log()  # log variances
    encode.weight.copy_(weight)
    encode.bias.copy_(bias)
    decode.bias.copy_(decode.bias.double() + decoding[:, :, 0, 0] @ mean)
    decode.weight.copy_(decoding * std[None, :, None, None])
