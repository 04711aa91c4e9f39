"""Reading the checkpoints of the released latent diffusion models (github.com/CompVis/latent-diffusion).

A block of their configuration, {"target": class path, "params": {...}}, and its part of the state dict give one of
our modules. Reading is strict: every key of theirs is used, every tensor of ours is filled.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.layers import Attention, Downsample, ResidualBlock, SpatialAttention, SpatialTransformer
from training.model.unet import UNet, UNetConfig


class CompVisError(Exception):
    """A configuration or a state dict that cannot be read; the message names the parameter or the keys."""


class Source(NamedTuple):
    """Where a layer of ours finds its weight and bias: their prefix, and which third of a fused qkv."""

    prefix: str
    third: int | None = None
    heads: int = 1


Names = Iterator[tuple[str, Source]]  # (our prefix, theirs)


def build(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The module that `config` describes, with the weights of `state_dict`, in eval mode. Raises CompVisError."""
    target = str(config.get("target"))
    kind = target.rpartition(".")[2]
    if kind not in READERS:
        raise CompVisError(f"target: {target} cannot be read; permitted: {', '.join(sorted(READERS))}")
    try:
        model, names = READERS[kind](config.get("params", {}))
    except (KeyError, ValueError) as error:
        raise CompVisError(f"{kind}: params: {error}") from None
    fill(model, dict(names), state_dict)
    return model.eval()


def fill(model: nn.Module, names: Mapping[str, Source], state_dict: Mapping[str, Tensor]) -> None:
    """Copy their tensors into ours. Raises CompVisError listing missing, unexpected and misshapen keys."""
    unused, missing, misshapen = set(state_dict), [], []
    for name, tensor in model.state_dict().items():
        prefix, _, leaf = name.rpartition(".")
        if prefix not in names:
            continue  # latent_scale: theirs lies outside the module
        source = names[prefix]
        key = f"{source.prefix}.{leaf}"
        unused.discard(key)
        if key not in state_dict:
            missing.append(key)
            continue
        value = state_dict[key]
        if source.third is not None:  # rows of a fused qkv are ordered head, then q k v, then channel
            value = value.reshape(source.heads, 3, -1, *value.shape[1:])[:, source.third].flatten(0, 1)
        if value.dim() > tensor.dim():  # their projections are 1x1 convolutions, ours linear layers
            value = value.flatten(1)
        if value.shape != tensor.shape:
            misshapen.append(f"{key} {tuple(state_dict[key].shape)}")
            continue
        tensor.copy_(value)
    problems = {"missing": sorted(set(missing)), "unexpected": sorted(unused), "of another shape": misshapen}
    if any(problems.values()):
        told = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise CompVisError(f"The state dict does not fit the configuration. Keys {told}")


def permitted(params: Mapping[str, Any], fields: Sequence[str], fixed: Mapping[str, Any]) -> None:
    """Raise ValueError for a parameter that is neither among `fields` nor at the only value that is read."""
    for name, value in params.items():
        if name in fixed:
            if value != fixed[name]:
                raise ValueError(f"{name}: {value!r} cannot be read; permitted: {fixed[name]!r}")
        elif name not in fields:
            raise ValueError(f"{name}: is not known")


# -- the autoencoder ---------------------------------------------------------------------------


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


# -- the U-Net ---------------------------------------------------------------------------------


def unet_model(params: Mapping[str, Any]) -> tuple[nn.Module, Names]:
    """`ldm.modules.diffusionmodules.openaimodel.UNetModel`."""
    permitted(
        params,
        ("image_size", "in_channels", "out_channels", "model_channels", "attention_resolutions", "num_res_blocks",
         "channel_mult", "num_heads", "num_head_channels", "use_spatial_transformer", "transformer_depth",
         "context_dim", "use_scale_shift_norm", "resblock_updown", "dropout", "use_checkpoint", "use_fp16"),
        {"conv_resample": True, "dims": 2, "num_classes": None, "num_heads_upsample": -1,
         "use_new_attention_order": False, "n_embed": None, "legacy": True},
    )  # fmt: skip
    head_width = params.get("num_head_channels", -1)
    transformer = params.get("use_spatial_transformer", False)
    if transformer != (params.get("context_dim") is not None):
        raise ValueError("context_dim: needed with use_spatial_transformer, and only then")
    model = UNet(
        UNetConfig(
            in_channels=params["in_channels"],
            out_channels=params["out_channels"],
            channels=params["model_channels"],
            multipliers=tuple(params.get("channel_mult", (1, 2, 4, 8))),
            res_blocks=params["num_res_blocks"],
            attention_factors=tuple(params["attention_resolutions"]),
            heads=params["num_heads"] if head_width == -1 else None,
            head_width=None if head_width == -1 else head_width,
            transformer_depth=params.get("transformer_depth", 1),
            context_width=params.get("context_dim"),
            scale_shift=params.get("use_scale_shift_norm", False),
            resample_in_blocks=params.get("resblock_updown", False),
            dropout=params.get("dropout", 0.0),
        )
    )
    return model, unet_names(model)


def unet_names(model: UNet) -> Names:
    """Our stages are their input, middle and output blocks, in the same order; parts are counted in each."""
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
                yield from unet_part(f"{ours}.{index}.{name}", where, part)
    yield "norm_out", Source("out.0")
    yield "conv_out", Source("out.2")


def unet_part(ours: str, theirs: str, part: nn.Module) -> Names:
    """A residual block, an attention or a change of resolution."""
    if isinstance(part, ResidualBlock):
        pairs = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1", "norm2": "out_layers.0",
                 "conv2": "out_layers.3", "skip": "skip_connection"}  # fmt: skip
    elif isinstance(part, SpatialAttention):
        for third, name in enumerate(("query", "key", "value")):
            yield f"{ours}.attention.{name}", Source(f"{theirs}.qkv", third, part.attention.heads)
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
    """Their BasicTransformerBlock."""
    for mine, name in (("self_attention", "attn1"), ("cross_attention", "attn2")):
        assert isinstance(block.get_submodule(mine), Attention)
        for layer, theirs_layer in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("out", "to_out.0")):
            yield f"{ours}.{mine}.{layer}", Source(f"{theirs}.{name}.{theirs_layer}")
    for name in ("norm1", "norm2", "norm3"):
        yield f"{ours}.{name}", Source(f"{theirs}.{name}")
    yield f"{ours}.feed_forward.gate", Source(f"{theirs}.ff.net.0.proj")
    yield f"{ours}.feed_forward.out", Source(f"{theirs}.ff.net.2")


READERS: dict[str, Callable[[Mapping[str, Any]], tuple[nn.Module, Names]]] = {
    "AutoencoderKL": autoencoder_kl,
    "UNetModel": unet_model,
}
