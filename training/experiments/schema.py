"""The schema of an experiment: the dataclasses against which its composed configuration is checked.

`configs/train.yaml` and `configs/recipe/*.yaml` document every field; `compose` fills them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from training.errors import DarkroomError
from training.experiments.attention import check_heads
from training.experiments.conditions import Condition, Positive
from training.model.autoencoder import AutoencoderConfig
from training.model.conditioners.names import check_name
from training.model.diffusion import DiffusionConfig
from training.model.unet import UNetConfig
from training.recipes.distillation_loss import DistillationLossConfig
from training.recipes.light_decoder_loss import LightDecoderLossConfig
from training.recipes.losses import AutoencoderLossConfig, Norm, TimestepSampling
from training.recipes.optimiser import OptimiserConfig

STRICT = ConfigDict(extra="forbid")  # nested dataclasses inherit it

Tracker = Literal["tensorboard", "mlflow", "wandb"]
Share = Annotated[float, Field(ge=0, lt=1)]
Built = TypeVar("Built")
SHAPELESS = ("class", "text", "frozen_text")  # conditions that say nothing of positions in the image


class ExperimentError(DarkroomError):
    """An experiment cannot be run; the message names the field and what is permitted."""


@dataclass(frozen=True)
class DegradationConfig:
    """How low-resolution conditions are made; see `data.degradations`."""

    kind: Literal["bicubic", "bsr", "bsr_light"]
    scale: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DataConfig:
    """The image set, and how its images are prepared and augmented."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    root: str
    prepared: str | None
    image_size: Positive
    bucket_step: Positive | None
    channels: Literal[1, 3]
    held_out: Share
    max_bad: Share
    classes: tuple[str, ...] | None
    background: Annotated[str, Field(pattern=r"^(white|black|grey|#[0-9a-fA-F]{6})$")]
    flip: bool
    crop: Positive | None
    latents: str | None
    degradation: DegradationConfig
    masks: Literal["narrow", "medium", "wide", "boxes", "mixed", "given"]
    workers: Annotated[int, Field(ge=0)]

    def whole_size(self, unit: int) -> str:
        """Return the field that makes the sides of images multiples of `unit` pixels, such as data.image_size=32."""
        if self.crop is None:
            return f"data.image_size={-(-self.image_size // unit) * unit}"
        return f"data.crop={max(1, self.crop // unit) * unit}"


@dataclass(frozen=True)
class DiffusionModelConfig:
    """The denoiser: a diffusion model without its autoencoder."""

    unet: UNetConfig
    conditioners: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], Condition]
    diffusion: DiffusionConfig


@dataclass(frozen=True)
class DiffusionLossConfig:
    """The loss; see `losses.diffusion_loss` and `recipes.diffusion`."""

    norm: Norm
    min_snr_gamma: Annotated[float, Field(gt=0)] | None
    timestep_sampling: TimestepSampling
    condition_dropout: Share


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run's state is saved, and how many checkpoints are kept; see `runs.checkpoints`."""

    every_minutes: Annotated[float, Field(gt=0)]
    every_steps: Positive | None
    keep: Positive


@dataclass(frozen=True)
class HeldOutConfig:
    """When the loss on held-out images is measured, and when a run ends because of it; see `runs.held_out`."""

    every_steps: Positive | None
    patience: Positive | None
    copies: Share | None


@dataclass(frozen=True)
class SharedFields:
    """The fields of every experiment."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    output: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    data: DataConfig
    steps: Positive
    batch_size: Positive
    accumulate: Positive
    optimiser: OptimiserConfig
    device: Literal["auto", "cpu", "cuda"]
    devices: Positive
    precision: Literal["auto", "fp32", "bf16"]
    compile: bool
    checkpoint: CheckpointConfig
    resume: bool | Literal["anyway"]
    initial: str | None
    pictures_every: Positive | None
    logger: Tracker | tuple[Tracker, ...]


@checked_dataclass(frozen=True, config=STRICT)
class AutoencoderExperiment(SharedFields):
    """The training of a first stage."""

    recipe: Literal["autoencoder"]
    model: AutoencoderConfig
    loss: AutoencoderLossConfig


@checked_dataclass(frozen=True, config=STRICT)
class DiffusionExperiment(SharedFields):
    """The training of a second stage over the latents of the release folder `autoencoder`."""

    recipe: Literal["diffusion"]
    autoencoder: str
    encode_each_step: bool
    model: DiffusionModelConfig
    loss: DiffusionLossConfig
    ema_decay: Share
    held_out: HeldOutConfig
    gradient_checkpointing: bool


@checked_dataclass(frozen=True, config=STRICT)
class DistillationExperiment(SharedFields):
    """The distillation of the release folder `teacher` to few evaluations."""

    recipe: Literal["distillation"]
    teacher: str
    encode_each_step: bool
    loss: DistillationLossConfig
    ema_decay: Share
    gradient_checkpointing: bool


@dataclass(frozen=True)
class LightDecoderModelConfig:
    """The architecture of a light decoder; see `configs/recipe/light_decoder.yaml`."""

    channels: Positive | None
    multipliers: list[Positive] | None
    res_blocks: Annotated[int, Field(ge=0)]
    middle_attention: bool
    share: Annotated[float, Field(gt=0, le=1)]


@checked_dataclass(frozen=True, config=STRICT)
class LightDecoderExperiment(SharedFields):
    """The distillation of the decoder of the release folder `teacher`, of either kind, into a light one."""

    recipe: Literal["light_decoder"]
    teacher: str
    model: LightDecoderModelConfig
    loss: LightDecoderLossConfig
    ema_decay: Share


@checked_dataclass(frozen=True, config=STRICT)
class DataOnly:
    """The part of an experiment that prepares images."""

    data: DataConfig


Experiment = AutoencoderExperiment | DiffusionExperiment | DistillationExperiment | LightDecoderExperiment
RECIPES: dict[str, type[Experiment]] = {
    "autoencoder": AutoencoderExperiment,
    "diffusion": DiffusionExperiment,
    "distillation": DistillationExperiment,
    "light_decoder": LightDecoderExperiment,
}


def check(experiment: Experiment) -> None:
    """Raise ExperimentError if fields contradict each other."""
    if experiment.batch_size % (experiment.accumulate * experiment.devices):
        raise ExperimentError(
            f"batch_size: {experiment.batch_size} is not allowed; permitted: multiples of accumulate x devices, "
            f"{experiment.accumulate} x {experiment.devices}, because all parts of a batch have the same size"
        )
    crop = experiment.data.crop
    if crop is not None and crop > experiment.data.image_size:
        raise ExperimentError(f"data.crop: {crop} is not allowed; permitted: up to image_size, "
                              f"{experiment.data.image_size}")  # fmt: skip
    check_buckets(experiment)
    if isinstance(experiment, AutoencoderExperiment):
        return
    if isinstance(experiment, LightDecoderExperiment):
        check_no_initial(experiment, "a light decoder begins with random weights")
        convert_errors("loss", experiment.loss.check)
        return
    if crop is not None and not experiment.encode_each_step:
        raise ExperimentError("data.crop: latents that are encoded once cannot be cropped; permitted: null, "
                              "or encode_each_step=true")  # fmt: skip
    if isinstance(experiment, DistillationExperiment):
        check_no_initial(experiment, "a distillation begins with the weights of its teacher")
        convert_errors("loss", experiment.loss.check)
        return
    if experiment.model.unet.numbers:
        raise ExperimentError(f"model.unet.numbers: {', '.join(experiment.model.unet.numbers)} are inputs of distilled "
                              "models alone; permitted: []")  # fmt: skip
    if experiment.held_out.patience is not None and experiment.held_out.every_steps is None:
        raise ExperimentError(f"held_out.patience: {experiment.held_out.patience} is not allowed without "
                              "held_out.every_steps; permitted: null")  # fmt: skip
    convert_errors("model.unet", lambda: check_heads(experiment.model.unet))
    for field in experiment.model.conditioners:
        convert_errors("model.conditioners", partial(check_name, field))
    gamma = experiment.loss.min_snr_gamma
    if gamma is not None and experiment.loss.norm != "l2":
        raise ExperimentError(
            f"loss.min_snr_gamma: {gamma} is not allowed with loss.norm=l1, because it weighs squares; permitted: null"
        )
    if experiment.model.diffusion.ends_in_pure_noise and gamma is not None:
        raise ExperimentError(
            f"loss.min_snr_gamma: {gamma} is not allowed with zero_terminal_snr or the schedule 'flow': "
            "pure noise, where sampling starts, would have weight 0; permitted: null"
        )


def check_no_initial(experiment: Experiment, because: str) -> None:
    """Raise ExperimentError if an experiment that begins with other weights names a release to begin with."""
    if experiment.initial is not None:
        raise ExperimentError(f"initial: {experiment.initial} is not allowed, because {because}; permitted: null")


def check_buckets(experiment: Experiment) -> None:
    """Raise ExperimentError if the experiment cannot train on whole images of several shapes."""
    data = experiment.data
    if data.bucket_step is None:
        return
    if data.image_size % data.bucket_step:
        raise ExperimentError(f"data.bucket_step: {data.bucket_step} is not allowed; permitted: divisors of "
                              f"image_size={data.image_size}")  # fmt: skip
    if data.crop is not None:
        raise ExperimentError("data.crop: whole images of several shapes are not cropped at random; permitted with "
                              "data.bucket_step: null")  # fmt: skip
    if isinstance(experiment, DiffusionExperiment):
        for field, condition in experiment.model.conditioners.items():
            if condition.type not in SHAPELESS:
                raise ExperimentError(f"model.conditioners.{field}: {condition.type} is not allowed with "
                                      f"data.bucket_step; permitted: {', '.join(SHAPELESS)}")  # fmt: skip


def convert_errors(field: str, build: Callable[[], Built]) -> Built:
    """Call `build`, and convert its ValueError or FileNotFoundError to an ExperimentError that names the field."""
    try:
        return build()
    except (ValueError, FileNotFoundError) as error:
        raise ExperimentError(f"{field}: {error}") from None


def to_plain(config: Any) -> dict[str, Any]:
    """Return a configuration as nested dictionaries and lists, as in YAML and JSON."""
    return {key: tuples_to_lists(value) for key, value in asdict(config).items()}


def tuples_to_lists(value: Any) -> Any:
    """Return a value with its tuples as lists, at every depth."""
    if isinstance(value, dict):
        return {key: tuples_to_lists(inner) for key, inner in value.items()}
    return [tuples_to_lists(inner) for inner in value] if isinstance(value, tuple | list) else value
