"""What a training run can be told: dataclasses that Hydra's YAML is checked against, field by field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from training.losses import AutoencoderLossConfig
from training.model.autoencoder import AutoencoderConfig
from training.model.diffusion import DiffusionConfig
from training.model.unet import UNetConfig
from training.recipes.optimisation import OptimiserConfig

CONFIGS = Path(__file__).parent / "configs"


class ConfigurationError(Exception):
    """A run cannot be configured as asked; each line names a field and what is wrong with it."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images are."""

    name: str = "digits"  # a built-in set, written under `root` when it is not there yet
    root: str = "outputs/data"
    latents: str | None = None  # encoded images, for a diffusion model; encoded on the spot when unset


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Training:
    """What both recipes share."""

    name: str  # of the release
    steps: int
    batch_size: int = 32
    seed: int = 0
    output: str = "outputs/training"
    precision: Literal["auto", "32", "bf16"] = "auto"  # auto: bf16 on a GPU, else 32
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining(Training):
    """A first stage."""

    recipe: Literal["autoencoder"]
    model: AutoencoderConfig
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)


@dataclass(frozen=True)
class DiffusionLossConfig:
    """What the network is trained for beside the mean squared error."""

    condition_dropout: float = 0.1
    min_snr_gamma: float | None = None
    ema_decay: float = 0.9999


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class DiffusionTraining(Training):
    """A second stage, on the latents of the autoencoder release `autoencoder`."""

    recipe: Literal["diffusion"]
    autoencoder: str  # a release folder
    model: UNetConfig  # in_channels and out_channels follow the autoencoder
    conditioners: dict[str, dict[str, Any]] = field(default_factory=dict)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    loss: DiffusionLossConfig = field(default_factory=DiffusionLossConfig)


SHAPES: dict[str, type[Training]] = {"autoencoder": AutoencoderTraining, "diffusion": DiffusionTraining}


def read(experiment: str, overrides: Sequence[str]) -> Training:
    """Compose an experiment with Hydra overrides and check it. Raises ConfigurationError."""
    known = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
    if experiment not in known:
        raise ConfigurationError(f"experiment: {experiment!r} is not known; permitted: {', '.join(known)}")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", [f"+experiment={experiment}", *overrides])
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(str(error).strip().splitlines()[0]) from None
    assert isinstance(values, dict)
    return check({str(key): value for key, value in values.items()})


def check(values: Mapping[str, Any]) -> Training:
    """Values as one of the two trainings. Raises ConfigurationError."""
    recipe = values.get("recipe")
    if recipe not in SHAPES:
        raise ConfigurationError(f"recipe: {recipe!r} is not known; permitted: {', '.join(SHAPES)}")
    try:
        training = TypeAdapter(SHAPES[recipe]).validate_python(values)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_line(problem) for problem in error.errors())) from None
    for name, value in (("steps", training.steps), ("batch_size", training.batch_size)):
        if value < 1:
            raise ConfigurationError(f"{name}: {value} is not allowed; permitted: 1 or more")
    return training


def _line(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: not a known field"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{where}: missing; set it with {where}=..."
    return f"{where}: {problem['input']!r} is not allowed; {problem['msg'].lower()}"
