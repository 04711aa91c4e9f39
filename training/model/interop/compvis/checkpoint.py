"""Their whole checkpoints: one file with a first stage, a U-Net, an embedder of the condition, and averages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from training.model.autoencoder import Autoencoder
from training.model.conditioners import Conditioners
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.interop.compvis.conditions import check_conditions, class_labels, conditioners
from training.model.interop.compvis.files import read_config, read_state
from training.model.interop.compvis.reading import STRAYS, CompVisError, kind_of, listed, number, part, permitted
from training.model.interop.compvis.targets import build
from training.model.latent_diffusion import LatentDiffusion
from training.model.unet import UNet

Weights = Literal["ema", "raw"]
UNET, FIRST_STAGE, CONDITION, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema."
FIRST_STAGES = ("AutoencoderKL", "VQModel", "VQModelInterface")
DIFFUSIONS = ("DDPM", "LatentDiffusion", "Layout2ImgDiffusion")  # DDPM: without a first stage
SCHEDULES = {"linear": "scaled_linear", "cosine": "cosine", "sqrt_linear": "linear"}  # what they call them
PARAMETERISATIONS = ("eps", "x0", "v")
# Parameters that change what a model computes, at the only values that are read
FIXED = {"given_betas": None, "cosine_s": 0.008, "num_timesteps_cond": 1, "cond_stage_forward": None}
# State beside the modules: schedule buffers, the sampler's, a learned variance's, counters
STATE = (
    "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "lvlb_weights", "ddim_", "logvar",
    "scale_factor", "global_step", "cond_ids", "learned_vlb",
)  # fmt: skip


def read(
    checkpoint: Path, config: Path, *, weights: Weights | None = None, tokenizer: Path | None = None
) -> LatentDiffusion | Autoencoder:
    """The model of a checkpoint and its YAML configuration, in eval mode.

    weights: "ema" or "raw"; None takes the average where the file has one. Of a diffusion model that is the U-Net's.
    tokenizer: tokenizer.json or vocab.txt of a text model; without it the condition is a list of token ids.
    Nothing is unpickled but tensors. Raises CompVisError naming the file, the field or the keys.
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
    kind = kind_of(described)
    if kind in FIRST_STAGES:
        raw = {key: tensor for key, tensor in state.items() if not key.startswith(STRAYS)}
        model = build(described, averaged(raw, state, "") if weights == "ema" else raw)
        assert isinstance(model, Autoencoder)
        return model
    if kind not in DIFFUSIONS:
        raise CompVisError(
            f"model.target: {described.get('target')} cannot be read; "
            f"permitted: {', '.join((*DIFFUSIONS, *FIRST_STAGES))}"
        )
    params = described.get("params")
    if not isinstance(params, Mapping):
        raise CompVisError("model.params: missing; give the configuration that the model was trained with")
    try:
        return latent_diffusion(params, state, weights, tokenizer)
    except KeyError as error:
        raise CompVisError(f"model.params: {error.args[0]} is missing") from None
    except ValueError as error:
        raise CompVisError(f"model.params: {error}") from None


def latent_diffusion(
    params: Mapping[str, Any], state: Mapping[str, Tensor], weights: Weights, tokenizer: Path | None
) -> LatentDiffusion:
    """`ldm.models.diffusion.ddpm.LatentDiffusion`. Raises CompVisError, and KeyError or ValueError for `params`."""
    known = (UNET, FIRST_STAGE, CONDITION, EMA, *STATE)
    if stray := sorted(key for key in state if not key.startswith(known)):
        raise CompVisError(f"The state dict does not fit the configuration. Keys unexpected: {listed(stray)}")
    raw = part(state, UNET)
    unet_config, unet_state, labels = class_labels(
        params["unet_config"], averaged(raw, state, "diffusion_model.") if weights == "ema" else raw
    )
    unet = build(unet_config, unet_state)
    assert isinstance(unet, UNet)
    first_stage = build(first_stage_config(params, unet), part(state, FIRST_STAGE))
    assert isinstance(first_stage, Autoencoder)
    if first_stage.config.latent_channels != unet.config.out_channels:
        raise CompVisError(
            f"unet_config: out_channels: {unet.config.out_channels}; "
            f"the first stage has {first_stage.config.latent_channels} latent channels"
        )
    scale = state.get("scale_factor")  # in the file where it was measured
    first_stage.latent_scale.fill_(number(params, "scale_factor", 1.0) if scale is None else float(scale))
    conditions = conditioners(params, unet, first_stage, part(state, CONDITION), labels, tokenizer)
    model = LatentDiffusion(first_stage, unet, Conditioners(conditions), Diffusion(diffusion_config(params))).eval()
    check_conditions(model)
    return model


def first_stage_config(params: Mapping[str, Any], unet: UNet) -> Mapping[str, Any]:
    """Their block; where it is the identity, which never says how many channels, those of the U-Net."""
    identity = {"target": "IdentityFirstStage", "params": {"channels": unet.config.out_channels}}
    config: Mapping[str, Any] = params.get("first_stage_config", identity)
    return identity if kind_of(config) == "IdentityFirstStage" else config


def averaged(raw: Mapping[str, Tensor], state: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    """The averages of a module's tensors: an average lies under its parameter's name without any dot.

    Buffers have none and stay. Raises CompVisError where the file has no average, or not every one.
    """
    names = {name: EMA + (module + name).replace(".", "") for name in raw if name not in ("quantize.used", "colorize")}
    missing = sorted(key for key in names.values() if key not in state)
    if len(missing) == len(names):
        raise CompVisError("weights: the file holds no averaged (ema) weights; take raw")
    if missing:
        raise CompVisError(f"The state dict does not fit the configuration. Keys missing: {listed(missing)}")
    return {name: state[names[name]] if name in names else tensor for name, tensor in raw.items()}


def diffusion_config(params: Mapping[str, Any]) -> DiffusionConfig:
    """Their schedule. Raises ValueError."""
    permitted({name: params[name] for name in FIXED if params.get(name) is not None}, (), FIXED)
    schedule, target = params.get("beta_schedule", "linear"), params.get("parameterization", "eps")
    for name, value, known in (
        ("beta_schedule", schedule, SCHEDULES), ("parameterization", target, PARAMETERISATIONS)
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name}: {value!r} cannot be read; permitted: {', '.join(known)}")
    return DiffusionConfig(
        schedule=SCHEDULES[schedule],  # type: ignore[arg-type]
        beta_start=number(params, "linear_start", 1e-4),
        beta_end=number(params, "linear_end", 2e-2),
        timesteps=int(number(params, "timesteps", 1000)),
        parameterisation=target,
    )


def image_size(block: Mapping[str, Any], model: LatentDiffusion | Autoencoder) -> int:
    """Height and width of the images that a model was trained on, in pixels. Raises CompVisError."""
    if isinstance(model, Autoencoder):
        return int(block["params"]["ddconfig"]["resolution"])
    size, factor = block["params"].get("image_size", 256), 2 ** (len(model.unet.config.multipliers) - 1)
    if type(size) is not int or size < 1 or size % factor:
        raise CompVisError(
            f"model.params: image_size: {size!r} cannot be read; permitted: multiples of {factor}, for the U-Net"
        )
    return size * model.autoencoder.config.factor
