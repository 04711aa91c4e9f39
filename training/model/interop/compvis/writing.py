"""Export to the authors' layout: a checkpoint and its configuration, which their code and `import compvis` read.

Writing inverts reading: the names are those of the readers, and what a reader would not read back is refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from training.errors import DarkroomError
from training.model import release
from training.model.autoencoder import Autoencoder
from training.model.interop.compvis.checkpoint import CONDITION, FIRST_STAGE, SCHEDULES, UNET
from training.model.interop.compvis.first_stage import autoencoder_names
from training.model.interop.compvis.reading import Source
from training.model.interop.compvis.unet import unet_names
from training.model.interop.compvis.written_conditions import WrittenConditions, write_conditions
from training.model.interop.licenses import copy_licenses
from training.model.latent_diffusion import LatentDiffusion, load_autoencoder, load_diffusion
from training.model.layers import Pointwise, SpatialAttention, SpatialTransformer
from training.model.unet import LATER_FIELDS, UNet

CHECKPOINT, CONFIG = "model.ckpt", "config.yaml"


class CompVisExportError(DarkroomError):
    """A model that the authors' code cannot express, or a folder that cannot be written; names the field."""


def export(source: Path, folder: Path) -> str:
    """Export a release folder of either kind into a new or empty folder. Returns the class of the model.

    License files are copied.

    Raises ReleaseError for a release that cannot be read, and CompVisExportError.
    """
    description = release.read(source)
    _, height, width = description.image_shape
    if height != width:
        raise CompVisExportError(f"image_shape: {height}x{width} pixels cannot be exported; permitted: square images")
    if description.kind == "autoencoder":
        autoencoder, _ = load_autoencoder(source)
        block, state, files = *write_first_stage(autoencoder, height), dict[str, bytes]()
    else:
        model, _ = load_diffusion(source)
        block, state, files = write_diffusion(model, height, guided=description.guided)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CompVisExportError(f"{folder}: not empty; name a folder that does not exist yet")
        (folder / CONFIG).write_text(yaml.safe_dump({"model": block}, sort_keys=False))
        for name, content in files.items():
            (folder / name).write_bytes(content)
        torch.save({"state_dict": state}, folder / CHECKPOINT)
        copy_licenses(source, folder)
    except OSError as error:
        raise CompVisExportError(f"{folder}: cannot be written ({error.strerror})") from None
    return str(block["target"]).rpartition(".")[2]


def write_diffusion(
    model: LatentDiffusion, image_size: int, *, guided: bool
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, bytes]]:
    """Return the configuration, the state dict and further files of a model. Raises CompVisExportError."""
    c = model.diffusion.config
    schedules = {ours: theirs for theirs, ours in SCHEDULES.items()}
    check("diffusion", "schedule", c.schedule, tuple(schedules))
    check("diffusion", "zero_terminal_snr", c.zero_terminal_snr, (False,))
    first, first_state = write_first_stage(model.autoencoder, image_size)
    if first["target"].endswith("VQModel"):
        first["target"] += "Interface"  # whose latents are those before the codebook
    try:
        conditions = write_conditions(model.conditioners, guided=guided)
    except ValueError as error:
        raise CompVisExportError(str(error)) from None
    unet, unet_state = write_unet(model.unet, image_size // model.autoencoder.config.factor, conditions)
    block = {
        "target": f"ldm.models.diffusion.ddpm.Latent{'Inpaint' if conditions.inpainting else ''}Diffusion",
        "params": {
            "linear_start": c.beta_start,
            "linear_end": c.beta_end,
            "beta_schedule": schedules[c.schedule],
            "timesteps": c.timesteps,
            "parameterization": c.parameterisation,
            "image_size": image_size // model.autoencoder.config.factor,
            "channels": model.unet.config.out_channels,
            "scale_factor": float(model.autoencoder.latent_scale),
            "unet_config": unet,
            "first_stage_config": first,
            **conditions.params,
        },
    }
    encoder: dict[str, Tensor] = {}
    if conditions.module is not None:
        encoder = respell(rename(conditions.module, conditions.names), conditions.spelling)
    state = {UNET + name: tensor for name, tensor in unet_state.items()}
    state |= {FIRST_STAGE + name: tensor for name, tensor in first_state.items()}
    state |= {CONDITION + name: tensor for name, tensor in encoder.items()}
    return block, state, conditions.files


def write_first_stage(model: Autoencoder, image_size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the state dict of an autoencoder. Raises CompVisExportError."""
    c = model.config
    if c.regularisation == "identity":
        return {"target": "ldm.models.autoencoder.IdentityFirstStage"}, {}
    check("autoencoder", "codebook_used", c.codebook_used, (None,))
    check("autoencoder", "codebook_unknown", c.codebook_unknown, ("random",))
    if not c.middle_attention:
        check("autoencoder", "attention_levels", tuple(c.attention_levels), ((),))
    params: dict[str, Any] = {
        "embed_dim": c.latent_channels,
        "lossconfig": {"target": "torch.nn.Identity"},
        "ddconfig": {
            "double_z": c.regularisation == "kl",
            "z_channels": c.encoder_channels,
            "resolution": image_size,
            "in_channels": c.image_channels,
            "out_ch": c.image_channels,
            "ch": c.channels,
            "ch_mult": list(c.multipliers),
            "num_res_blocks": c.res_blocks,
            "attn_resolutions": [image_size >> level for level in c.attention_levels],
            "dropout": c.dropout,
            **({} if c.middle_attention else {"attn_type": "none"}),
        },
    }
    if c.regularisation == "vq":
        params["n_embed"] = c.codebook_size
    kind = "AutoencoderKL" if c.regularisation == "kl" else "VQModel"
    state = rename(model, dict(autoencoder_names(model)), leave_out=("latent_scale",))
    return {"target": f"ldm.models.autoencoder.{kind}", "params": params}, state


def write_unet(model: UNet, size: int, conditions: WrittenConditions) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the state dict of a U-Net. Raises CompVisExportError."""
    c = model.config
    for field, default in LATER_FIELDS.items():
        value = getattr(c, field)
        check("unet", field, list(value) if isinstance(value, tuple) else value, (default,))
    one = c.heads is None and c.head_width is None
    params: dict[str, Any] = {
        "image_size": size,
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "model_channels": c.channels,
        "attention_resolutions": list(c.attention_factors),
        "num_res_blocks": c.res_blocks,
        "channel_mult": list(c.multipliers),
        **({"num_head_channels": c.head_width} if c.heads is None and not one else {"num_heads": c.heads or 1}),
        "use_scale_shift_norm": c.scale_shift,
        "resblock_updown": c.resample_in_blocks,
        "conv_resample": c.resample_convolution,
        "dropout": c.dropout,
        "legacy": False,
    }
    if c.context_width is not None:
        params |= {
            "use_spatial_transformer": True, "transformer_depth": c.transformer_depth, "context_dim": c.context_width
        }  # fmt: skip
    state = rename(model, dict(unet_names(model, by_head=True)))
    if conditions.labels is not None:
        params["num_classes"] = len(conditions.labels)
        state["label_emb.weight"] = conditions.labels
    return {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": params}, state


def rename(module: nn.Module, names: Mapping[str, Source], leave_out: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return a module's tensors in their layout: fused qkv, and convolutions for our linear layers over positions."""
    state: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, tensor in module.state_dict().items():
        if name in leave_out:
            continue
        prefix, _, leaf = name.rpartition(".")
        if prefix not in names:
            raise CompVisExportError(f"{name}: the authors' code has no place for this tensor")
        source = names[prefix]
        tensor = tensor.detach().contiguous()
        key = f"{source.prefix}.{leaf}"
        if tensor.dim() == 2:
            tensor = tensor.reshape(*tensor.shape, *[1] * convolved(module, prefix))
        if source.third is None:
            state[key] = tensor
            continue
        found = thirds.setdefault(key, {})
        found[source.third] = tensor.reshape(source.heads, -1, *tensor.shape[1:])
        if len(found) == 3:
            state[key] = torch.stack([found[i] for i in range(3)], dim=1).flatten(0, 2)
    return state


def respell(state: Mapping[str, Tensor], spelling: Mapping[str, str]) -> dict[str, Tensor]:
    """Return tensors by keys of another spelling. spelling: patterns and what replaces them."""
    respelled = dict(state)
    for pattern, replacement in spelling.items():
        respelled = {re.sub(pattern, replacement, key): tensor for key, tensor in respelled.items()}
    return respelled


def convolved(module: nn.Module, prefix: str) -> int:
    """Return the number of spatial dimensions that a linear layer of ours has in their code, as a convolution."""
    if isinstance(module.get_submodule(prefix), Pointwise):
        return 2
    *parents, _ = prefix.split(".")
    above = [module.get_submodule(".".join(parents[:n])) for n in range(1, len(parents) + 1)]
    if any(isinstance(one, SpatialAttention) for one in above):
        return 1 if isinstance(module, UNet) else 2
    return 2 if above and isinstance(above[-1], SpatialTransformer) else 0


def check(part: str, field: str, value: Any, permitted: tuple[Any, ...]) -> None:
    """Raise CompVisExportError unless a field has a value that their code knows."""
    if value not in permitted:
        words = ", ".join(map(repr, permitted))
        raise CompVisExportError(f"{part}.{field}: {value!r} cannot be exported; permitted: {words}")
