"""An experiment: Hydra composes it from `configs/`, the dataclasses below check it.

Every mistake becomes an ExperimentError of one line that names the field.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from training.losses import AutoencoderLossConfig, TimestepSampling
from training.model.autoencoder import AutoencoderConfig
from training.model.diffusion import DiffusionConfig
from training.model.unet import UNetConfig
from training.recipes.optimiser import OptimiserConfig

CONFIGS = Path(__file__).parent / "configs"
STRICT = ConfigDict(extra="forbid")  # nested dataclasses inherit it

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class ExperimentError(Exception):
    """An experiment that cannot be run; the message names the field and what is permitted."""


class Diverged(Exception):
    """The loss is not a number any more; the message names the step and what to try."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and where."""

    name: str
    root: str
    latents: str | None  # of the diffusion recipe; None encodes them first


@dataclass(frozen=True)
class ClassCondition:
    """A learned token for each label of the image set."""

    type: Literal["class"]
    classes: Positive
    width: Positive
    entry: Literal["cross_attention", "time_embedding"] = "cross_attention"


@dataclass(frozen=True)
class DiffusionModelConfig:
    """The denoiser: everything of a diffusion release but its autoencoder."""

    unet: UNetConfig
    conditioners: dict[str, ClassCondition]
    diffusion: DiffusionConfig


@dataclass(frozen=True)
class DiffusionLossConfig:
    """See `losses.diffusion_loss` and `recipes.diffusion`."""

    min_snr_gamma: Annotated[float, Field(gt=0)] | None
    timestep_sampling: TimestepSampling
    condition_dropout: Share


@dataclass(frozen=True)
class Shared:
    """The fields of every experiment; `configs/train.yaml` documents them."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    output: str
    seed: Annotated[int, Field(ge=0)]
    data: DataConfig
    steps: Positive
    batch_size: Positive
    optimiser: OptimiserConfig
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]


@checked_dataclass(frozen=True, config=STRICT)
class AutoencoderExperiment(Shared):
    """A first stage."""

    recipe: Literal["autoencoder"]
    model: AutoencoderConfig
    loss: AutoencoderLossConfig


@checked_dataclass(frozen=True, config=STRICT)
class DiffusionExperiment(Shared):
    """A second stage, over the release folder `autoencoder`."""

    recipe: Literal["diffusion"]
    autoencoder: str
    model: DiffusionModelConfig
    loss: DiffusionLossConfig
    ema_decay: Share
    gradient_checkpointing: bool


Experiment = AutoencoderExperiment | DiffusionExperiment
RECIPES: dict[str, type[AutoencoderExperiment] | type[DiffusionExperiment]] = {
    "autoencoder": AutoencoderExperiment,
    "diffusion": DiffusionExperiment,
}


def names() -> list[str]:
    """The experiments that ship with the project."""
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def load(experiment: str, overrides: Sequence[str] = ()) -> Experiment:
    """The checked experiment of `configs/experiment/{experiment}.yaml`, with Hydra overrides such as `steps=500`."""
    if experiment not in names():
        raise ExperimentError(f"experiment: {experiment!r} is not known; permitted: {', '.join(names())}")
    config = composed([f"experiment={experiment}", *overrides])
    try:
        if missing := OmegaConf.missing_keys(config):
            raise ExperimentError(f"{min(missing)}: needed and not set; add {min(missing)}=VALUE")
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ExperimentError(first_line(error)) from None
    assert isinstance(content, dict)
    return checked({str(key): value for key, value in content.items()})


def composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of the files and the overrides. Raises ExperimentError."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException:
            raise ExperimentError(f"{override!r} is not an override; write field=value, quoted where needed") from None
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("train", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        if match := re.search(r"Could not override '([^']+)'", str(error)):
            field = match[1]
            known = [str(key) for key in flat(composed(list(overrides)[:1]))]
            close = difflib.get_close_matches(field, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ExperimentError(f"{field}: there is no such field{hint}") from None
        raise ExperimentError(first_line(error)) from None


def flat(config: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """The dotted names of all fields."""
    found = []
    for key in config:
        name = f"{prefix}{key}"
        found.append(name)
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], Mapping | DictConfig):
            found += flat(config[key], f"{name}.")
    return found


def checked(content: Mapping[str, Any]) -> Experiment:
    """A composed experiment as dataclasses. Raises ExperimentError naming the first field that does not fit."""
    recipe = content.get("recipe")
    if recipe not in RECIPES:
        raise ExperimentError(f"recipe: {recipe!r} is not known; permitted: {', '.join(sorted(RECIPES))}")
    try:
        experiment = TypeAdapter[Experiment](RECIPES[recipe]).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "unexpected_keyword_argument":
            raise ExperimentError(f"{field}: there is no such field") from None
        if first["type"] == "value_error":  # of a dataclass that checks itself: it names its field
            raise ExperimentError(f"{field}.{first['ctx']['error']}") from None
        raise ExperimentError(f"{field}: {first['input']!r} is not allowed; {first['msg']}") from None
    if isinstance(experiment, AutoencoderExperiment) and experiment.model.regularisation != "kl":
        given = experiment.model.regularisation
        raise ExperimentError(f"model.regularisation: {given!r} is not trained yet; permitted: 'kl'")
    if isinstance(experiment, DiffusionExperiment) and experiment.model.diffusion.ends_in_pure_noise:
        gamma = experiment.loss.min_snr_gamma
        if gamma is not None:
            raise ExperimentError(
                f"loss.min_snr_gamma: {gamma} is not allowed with zero_terminal_snr or the schedule 'flow': "
                "pure noise, where sampling begins, would have weight 0; permitted: null"
            )
    return experiment


def first_line(error: Exception) -> str:
    """What an exception of Hydra says, without its further lines."""
    return str(error).strip().splitlines()[0]
