"""Their whole checkpoints: one file with a first stage, a U-Net, an embedder of the condition, and averages."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.model.autoencoder import Autoencoder
from training.model.conditioners import Conditioner, Conditioners
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.text_tokenizer import read_assets
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.interop.compvis.reading import CompVisError, listed
from training.model.interop.compvis.targets import build
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet

Weights = Literal["ema", "raw"]
UNET, FIRST_STAGE, CONDITION, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema."
FIRST_STAGES = ("AutoencoderKL", "VQModel", "VQModelInterface")
EMBEDDERS = ("BERTEmbedder", "ClassEmbedder", "SpatialRescaler", "TransformerEmbedder")
SCHEDULES = {"linear": "scaled_linear", "cosine": "cosine", "sqrt_linear": "linear"}  # what they call them
# State beside the modules: schedule buffers, the sampler's, a learned variance's, counters
STATE = (
    "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "lvlb_weights", "ddim_", "logvar",
    "scale_factor", "global_step", "cond_ids", "learned_vlb",
)  # fmt: skip


def read(
    checkpoint: Path, config: Path, *, weights: Weights | None = None, tokenizer: Path | None = None
) -> LatentDiffusion | Autoencoder:
    """The model of a checkpoint and its YAML configuration, in eval mode.

    weights: of the U-Net, "ema" or "raw"; None takes the average where the file has one. tokenizer: tokenizer.json or
    vocab.txt of a text model; without it the condition is a list of token ids. Nothing is unpickled but tensors.
    Raises CompVisError naming the file, the field or the keys.
    """
    described, state = read_config(config), read_state(checkpoint)
    return model_of(described, state, weights or default_weights(state), tokenizer)


def default_weights(state: Mapping[str, Tensor]) -> Weights:
    """The average where the file has one."""
    return "ema" if any(key.startswith(EMA) for key in state) else "raw"


def model_of(
    described: Mapping[str, Any], state: Mapping[str, Tensor], weights: Weights, tokenizer: Path | None
) -> LatentDiffusion | Autoencoder:
    """The model of a configuration's `model` block and a whole state dict. Raises CompVisError."""
    if kind_of(described) in FIRST_STAGES:
        model = build(described, state)
        assert isinstance(model, Autoencoder)
        return model
    if kind_of(described) != "LatentDiffusion":
        raise CompVisError(
            f"model.target: {described.get('target')} cannot be read; "
            f"permitted: LatentDiffusion, {', '.join(FIRST_STAGES)}"
        )
    return latent_diffusion(described.get("params") or {}, state, weights, tokenizer)


def latent_diffusion(
    params: Mapping[str, Any], state: Mapping[str, Tensor], weights: Weights, tokenizer: Path | None
) -> LatentDiffusion:
    """`ldm.models.diffusion.ddpm.LatentDiffusion`."""
    known = (UNET, FIRST_STAGE, CONDITION, EMA, *STATE)
    if stray := sorted(key for key in state if not key.startswith(known)):
        raise CompVisError(f"The state dict does not fit the configuration. Keys unexpected: {listed(stray)}")
    try:
        unet = build(params["unet_config"], unet_state(state, weights))
        first_stage = build(params["first_stage_config"], part(state, FIRST_STAGE))
        diffusion = Diffusion(diffusion_config(params))
    except KeyError as error:
        raise CompVisError(f"model.params: {error.args[0]} is missing") from None
    except ValueError as error:
        raise CompVisError(f"model.params: {error}") from None
    assert isinstance(unet, UNet)
    assert isinstance(first_stage, Autoencoder)
    if first_stage.config.latent_channels != unet.config.out_channels:
        raise CompVisError(
            f"unet_config: out_channels: {unet.config.out_channels}; "
            f"the first stage has {first_stage.config.latent_channels} latent channels"
        )
    scale = state.get("scale_factor", torch.tensor(float(params.get("scale_factor", 1.0))))
    first_stage.latent_scale.copy_(scale)
    conditions = conditioners(params, unet, first_stage, part(state, CONDITION), tokenizer)
    return LatentDiffusion(first_stage, unet, Conditioners(conditions), diffusion).eval()


def unet_state(state: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """The U-Net's tensors, raw or averaged. An average lies under its name without any dot."""
    raw = part(state, UNET)
    averaged = {name: EMA + f"diffusion_model.{name}".replace(".", "") for name in raw}
    if weights == "raw":
        return raw
    missing = sorted(key for key in averaged.values() if key not in state)
    if len(missing) == len(averaged):
        raise CompVisError("weights: the file holds no averaged (ema) weights; take raw")
    if missing:
        raise CompVisError(f"The state dict does not fit the configuration. Keys missing: {listed(missing)}")
    return {name: state[key] for name, key in averaged.items()}


def diffusion_config(params: Mapping[str, Any]) -> DiffusionConfig:
    """Their schedule. Raises ValueError."""
    schedule, target = params.get("beta_schedule", "linear"), params.get("parameterization", "eps")
    if schedule not in SCHEDULES:
        raise ValueError(f"beta_schedule: {schedule!r} cannot be read; permitted: {', '.join(SCHEDULES)}")
    return DiffusionConfig(
        schedule=SCHEDULES[schedule],  # type: ignore[arg-type]
        beta_start=params.get("linear_start", 1e-4),
        beta_end=params.get("linear_end", 2e-2),
        timesteps=params.get("timesteps", 1000),
        parameterisation=target,
    )


def conditioners(
    params: Mapping[str, Any], unet: UNet, first_stage: Autoencoder, state: Mapping[str, Tensor], tokenizer: Path | None
) -> dict[str, Conditioner]:
    """The condition under its own name, as their data sets call it. Raises CompVisError where its meaning is open."""
    config = params.get("cond_stage_config")
    entry = params.get("conditioning_key") or ("concat" if params.get("concat_mode", True) else "crossattn")
    field = str(params.get("cond_stage_key", "image"))
    if config is None or config == "__is_unconditional__":
        if state:
            raise CompVisError(f"cond_stage_config: unconditional, but the file has {CONDITION}{min(state)}")
        return {}
    concatenated = unet.config.in_channels - unet.config.out_channels
    kind = "first stage" if config == "__is_first_stage__" else kind_of(config)
    told = f"cond_stage_config: {kind} with conditioning_key {entry} and {concatenated} concatenated channels"
    if kind in EMBEDDERS:
        options = {"assets": read_tokenizer(tokenizer)} if tokenizer and kind == "BERTEmbedder" else {}
        embedder = build(config, state, **options)
        assert isinstance(embedder, Conditioner)
        if entry != {"concat": "concat", "cross_attention": "crossattn"}[embedder.entry]:
            raise CompVisError(f"{told} cannot be read; permitted: cross-attention to tokens, concatenated maps")
        return {field: embedder}
    image_channels, latent = first_stage.config.image_channels, first_stage.config.latent_channels
    if entry == "concat" and kind == "first stage" and concatenated == latent + 1:
        return {"masked_image": MaskedImageConditioner(first_stage.config.factor, image_channels)}
    if entry == "concat" and kind == "Identity" and concatenated == image_channels:
        return {"low_resolution": LowResolutionConditioner(image_channels)}
    raise CompVisError(f"{told} cannot be read; permitted: an embedder, a masked image (latent + 1), a raw image")


# -- files ---------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """The `model` block of a configuration, or the block itself. Raises CompVisError."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CompVisError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise CompVisError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    block = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(block, dict) or "target" not in block:
        raise CompVisError(f"{path}: model.target is missing; give the configuration that the model was trained with")
    return block


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt or .safetensors file. Raises CompVisError for any other content, code above all."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's version: it is refused or read, and either is told
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CompVisError(f"{path}: refused, it holds more than tensors, or is damaged ({reason})") from None
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0]
        raise CompVisError(f"{path}: cannot be read, it is missing or damaged ({reason})") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CompVisError(f"{path}: holds no state_dict of tensors")
    return state


def read_tokenizer(path: Path) -> Mapping[str, bytes]:
    """A tokenizer's files. Raises CompVisError."""
    try:
        return read_assets(path)
    except (OSError, ValueError) as error:
        raise CompVisError(f"tokenizer: {error}") from None


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def kind_of(block: Any) -> str:
    """The class name of a {"target", "params"} block."""
    target = block.get("target") if isinstance(block, dict) else block
    return str(target).rpartition(".")[2]
