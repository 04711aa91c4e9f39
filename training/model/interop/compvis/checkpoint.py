"""Whole checkpoints: one file with a first stage, a U-Net, an embedder of conditions, and averaged weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from training.model.autoencoder import Autoencoder
from training.model.conditioners import Conditioners
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.interop.compvis.conditions import check_conditions, make_conditioners, split_class_table
from training.model.interop.compvis.files import read_config, read_state
from training.model.interop.compvis.foreign import describe_keys, describe_target
from training.model.interop.compvis.options import Options, Weights
from training.model.interop.compvis.reading import (
    STRAYS,
    CompVisError,
    check_parameters,
    class_name,
    join_keys,
    misfit,
    read_number,
    select_prefix,
)
from training.model.interop.compvis.scale import latent_scale
from training.model.interop.compvis.targets import build
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet

UNET, FIRST_STAGE, CONDITION, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema."
FIRST_STAGES = ("AutoencoderKL", "VQModel", "VQModelInterface")
DIFFUSIONS = (  # DDPM has no first stage
    "DDPM", "LatentDiffusion", "LatentFinetuneDiffusion", "LatentInpaintDiffusion", "Layout2ImgDiffusion",
)  # fmt: skip
AVERAGING = ("decay", "num_updates")  # of the averages, which a file may have without them
SCHEDULES = {"linear": "scaled_linear", "cosine": "cosine", "sqrt_linear": "linear"}  # their names and ours
PARAMETERISATIONS = ("eps", "x0", "v")
# Parameters that change what a model computes, with the only value that can be read
FIXED = {"given_betas": None, "cosine_s": 0.008, "num_timesteps_cond": 1, "cond_stage_forward": None}
# State outside the modules: buffers of the schedule and the sampler, a learned variance, counters
STATE = (
    "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "lvlb_weights", "ddim_", "logvar",
    "scale_factor", "global_step", "cond_ids", "learned_vlb",
)  # fmt: skip


def read(
    checkpoint: Path, config: Path, *, weights: Weights | None = None, tokenizer: Path | None = None
) -> LatentDiffusion | Autoencoder:
    """Read the model of a checkpoint and its YAML configuration, in eval mode.

    weights, tokenizer: see `Options`; without a tokenizer the condition of BERT's text models is a list of token ids.
    Unpickles only tensors. Raises CompVisError naming the file, the field or the keys.
    """
    options = Options(weights, tokenizer, checkpoint.parent, token_ids=True)
    return make_model(read_config(config), read_state(checkpoint), options)


def default_weights(state: Mapping[str, Tensor]) -> Weights:
    """Return "ema" if a state dict has averaged weights, else "raw"."""
    averages = {key for key in state if key.startswith(EMA)} - {EMA + name for name in AVERAGING}
    return "ema" if averages else "raw"


def make_model(
    block: Mapping[str, Any], state: Mapping[str, Tensor], options: Options
) -> LatentDiffusion | Autoencoder:
    """Make the model of a configuration's `model` block and a whole state dict. Raises CompVisError."""
    kind, weights = class_name(block), options.weights or default_weights(state)
    if foreign := describe_target(block):
        raise CompVisError(f"model.target: {block.get('target')} is {foreign}; Darkroom has no such model")
    if foreign := describe_keys(state):
        raise CompVisError(f"the weights are those of {foreign}; Darkroom has no such model")
    if kind not in (*FIRST_STAGES, *DIFFUSIONS):
        raise CompVisError(
            f"model.target: {block.get('target')} cannot be read; permitted: {', '.join((*DIFFUSIONS, *FIRST_STAGES))}"
        )
    check_finite(state, weights)
    if kind in FIRST_STAGES:
        raw = {key: tensor for key, tensor in state.items() if not key.startswith(STRAYS)}
        model = build(block, use_averages(raw, state, "") if weights == "ema" else raw)
        assert isinstance(model, Autoencoder)
        model.latent_scale.fill_(options.latent_scale or 1.0)  # measured when a second stage encodes its images
        return model
    params = block.get("params")
    if not isinstance(params, Mapping):
        raise CompVisError("model.params: missing; give the configuration that the model was trained with")
    try:
        return latent_diffusion(params, state, weights, options)
    except KeyError as error:
        raise CompVisError(f"model.params: {error.args[0]} is missing") from None
    except ValueError as error:
        raise CompVisError(f"model.params: {error}") from None


def check_finite(state: Mapping[str, Tensor], weights: Weights) -> None:
    """Raise CompVisError if the weights that will be read contain NaN or infinity.

    Buffers of the schedule may be infinite, and what is not read may be anything.
    """
    unread = (*STATE, "loss.", "first_stage_model.loss.", UNET if weights == "ema" else EMA)
    broken = [
        key
        for key, tensor in state.items()
        if not key.startswith(unread) and tensor.is_floating_point() and not tensor.float().isfinite().all()
    ]
    if broken:
        raise CompVisError(
            f"the weights contain NaN or infinity, as after an overflow of half precision: {join_keys(broken)}. "
            "Take the file in full precision, or another checkpoint"
        )


def latent_diffusion(
    params: Mapping[str, Any], state: Mapping[str, Tensor], weights: Weights, options: Options
) -> LatentDiffusion:
    """Make the model of `ldm.models.diffusion.ddpm.LatentDiffusion`.

    Raises CompVisError, and KeyError or ValueError for a missing or wrong parameter.
    """
    known = (UNET, FIRST_STAGE, CONDITION, EMA, *STATE)
    if stray := sorted(key for key in state if not key.startswith(known)):
        raise misfit(f"unexpected: {join_keys(stray)}")
    raw = select_prefix(state, UNET)
    unet_config, unet_state, labels = split_class_table(
        params["unet_config"], use_averages(raw, state, "diffusion_model.") if weights == "ema" else raw
    )
    unet = build(unet_config, unet_state)
    assert isinstance(unet, UNet)
    first_stage = build(first_stage_config(params, unet), select_prefix(state, FIRST_STAGE))
    assert isinstance(first_stage, Autoencoder)
    if first_stage.config.latent_channels != unet.config.out_channels:
        raise CompVisError(
            f"unet_config: out_channels: {unet.config.out_channels}; "
            f"the first stage has {first_stage.config.latent_channels} latent channels"
        )
    first_stage.latent_scale.fill_(latent_scale(params, state, options.latent_scale).value)
    conditions = make_conditioners(params, unet, first_stage, select_prefix(state, CONDITION), labels, options)
    model = LatentDiffusion(first_stage, unet, Conditioners(conditions), Diffusion(diffusion_config(params))).eval()
    check_conditions(model)
    return model


def first_stage_config(params: Mapping[str, Any], unet: UNet) -> Mapping[str, Any]:
    """Return the first stage's block. The identity's block does not state its channels; they are the U-Net's."""
    identity = {"target": "IdentityFirstStage", "params": {"channels": unet.config.out_channels}}
    config: Mapping[str, Any] = params.get("first_stage_config", identity)
    return identity if class_name(config) == "IdentityFirstStage" else config


def use_averages(raw: Mapping[str, Tensor], state: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    """Replace a module's parameters by their averages, which have the parameter's name without its dots.

    Buffers have no averages and do not change. Raises CompVisError if the file lacks any average.
    """
    names = {name: EMA + (module + name).replace(".", "") for name in raw if name not in ("quantize.used", "colorize")}
    missing = sorted(key for key in names.values() if key not in state)
    if len(missing) == len(names):
        raise CompVisError("weights: the file has no averaged (ema) weights; choose raw")
    if missing:
        raise misfit(f"missing: {join_keys(missing)}")
    return {name: state[names[name]] if name in names else tensor for name, tensor in raw.items()}


def diffusion_config(params: Mapping[str, Any]) -> DiffusionConfig:
    """Translate their schedule and parameterisation. Raises ValueError naming what cannot be read."""
    check_parameters({name: params[name] for name in FIXED if params.get(name) is not None}, (), FIXED)
    schedule, target = params.get("beta_schedule", "linear"), params.get("parameterization", "eps")
    for name, value, known in (
        ("beta_schedule", schedule, SCHEDULES), ("parameterization", target, PARAMETERISATIONS)
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name}: {value!r} cannot be read; permitted: {', '.join(known)}")
    return DiffusionConfig(
        schedule=SCHEDULES[schedule],  # type: ignore[arg-type]  # one of the literals
        beta_start=read_number(params, "linear_start", 1e-4),
        beta_end=read_number(params, "linear_end", 2e-2),
        timesteps=int(read_number(params, "timesteps", 1000)),
        parameterisation=target,
    )


def image_size(block: Mapping[str, Any], model: LatentDiffusion | Autoencoder) -> int:
    """Return the side of the images that a model was trained on, in pixels. Raises CompVisError."""
    if isinstance(model, Autoencoder):
        return int(block["params"]["ddconfig"]["resolution"])
    size, factor = block["params"].get("image_size", 256), 2 ** (len(model.unet.config.multipliers) - 1)
    if type(size) is not int or size < 1 or size % factor:
        raise CompVisError(
            f"model.params: image_size: {size!r} cannot be read; permitted: multiples of {factor}, for the U-Net"
        )
    return size * model.autoencoder.config.factor
