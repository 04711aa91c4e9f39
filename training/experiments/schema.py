"""What an experiment says: the dataclasses that its composed configuration is checked against.

`configs/train.yaml` and `configs/recipe/*.yaml` document every field; `composition` fills them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from training.errors import DarkroomError
from training.model.autoencoder import AutoencoderConfig
from training.model.diffusion import DiffusionConfig
from training.model.unet import UNetConfig
from training.recipes.losses import AutoencoderLossConfig, TimestepSampling
from training.recipes.optimiser import OptimiserConfig

STRICT = ConfigDict(extra="forbid")  # nested dataclasses inherit it

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Built = TypeVar("Built")
Entry = Literal["cross_attention", "time_embedding"]


class ExperimentError(DarkroomError):
    """An experiment that cannot be run; the message names the field and what is permitted."""


@dataclass(frozen=True)
class DegradationConfig:
    """What low-resolution conditions are made by; see `data.degradations`."""

    kind: Literal["bicubic", "bsr", "bsr_light"]
    scale: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DataConfig:
    """Which images, and what is made of them."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    root: str
    prepared: str | None
    image_size: Positive
    channels: Literal[1, 3]
    held_out: Share
    max_bad: Share
    flip: bool
    crop: Positive | None
    latents: str | None
    degradation: DegradationConfig
    masks: Literal["narrow", "medium", "wide", "boxes", "mixed", "given"]
    workers: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class ClassCondition:
    """A learned token for each label of the image set."""

    type: Literal["class"]
    width: Positive
    classes: Positive | None = None  # None: as many as the set has
    entry: Entry = "cross_attention"


@dataclass(frozen=True)
class TextCondition:
    """Captions through a transformer that is trained with the U-Net."""

    type: Literal["text"]
    width: Positive
    depth: Positive
    length: Positive = 77
    heads: Positive = 8
    head_width: Positive = 64
    entry: Entry = "cross_attention"
    tokenizer: str | None = None  # a vocab.txt or tokenizer.json; None: word pieces learned from the captions
    vocabulary: Positive = 2000  # of those


@dataclass(frozen=True)
class FrozenTextCondition:
    """Captions through a pretrained encoder that stays as it is."""

    type: Literal["frozen_text"]
    encoder: str  # a folder of the transformers library
    length: Positive = 77
    width: Positive | None = None
    masked: bool = True
    entry: Entry = "cross_attention"


@dataclass(frozen=True)
class LayoutCondition:
    """Bounding boxes as tokens through a transformer that is trained with the U-Net."""

    type: Literal["layout"]
    width: Positive
    depth: Positive
    classes: Positive | None = None  # None: as many as the set has
    objects: Positive = 30
    vocabulary: Positive = 8192
    heads: Positive = 8
    head_width: Positive = 64
    entry: Entry = "cross_attention"


@dataclass(frozen=True)
class LayoutMapCondition:
    """Bounding boxes painted over the latent and concatenated to it."""

    type: Literal["layout_map"]
    channels: Positive
    classes: Positive | None = None  # None: as many as the set has
    objects: Positive = 30


@dataclass(frozen=True)
class SemanticMapCondition:
    """The class of each pixel, rescaled to the latent and concatenated to it."""

    type: Literal["semantic_map"]
    channels: Positive
    stages: Annotated[int, Field(ge=0)]
    classes: Positive | None = None  # None: as many as the set has
    method: Literal["nearest", "bilinear", "bicubic", "area"] = "bilinear"


@dataclass(frozen=True)
class LowResolutionCondition:
    """A degraded image, concatenated to the latent."""

    type: Literal["low_resolution"]
    channels: Literal[1, 3] = 3
    method: Literal["bilinear", "bicubic"] = "bicubic"


@dataclass(frozen=True)
class MaskedImageCondition:
    """The latent of an image without its hole, and the hole, concatenated to the latent."""

    type: Literal["masked_image"]
    factor: Positive
    channels: Literal[1, 3] = 3


Condition = Annotated[
    ClassCondition
    | TextCondition
    | FrozenTextCondition
    | LayoutCondition
    | LayoutMapCondition
    | SemanticMapCondition
    | LowResolutionCondition
    | MaskedImageCondition,
    Field(discriminator="type"),
]


@dataclass(frozen=True)
class DiffusionModelConfig:
    """The denoiser: everything of a diffusion release but its autoencoder."""

    unet: UNetConfig
    conditioners: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], Condition]
    diffusion: DiffusionConfig


@dataclass(frozen=True)
class DiffusionLossConfig:
    """See `losses.diffusion_loss` and `recipes.diffusion`."""

    min_snr_gamma: Annotated[float, Field(gt=0)] | None
    timestep_sampling: TimestepSampling
    condition_dropout: Share


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run's state is saved; see `checkpoints`."""

    every_minutes: Annotated[float, Field(gt=0)]
    every_steps: Positive | None
    keep: Positive


@dataclass(frozen=True)
class Shared:
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
    encode_each_step: bool
    model: DiffusionModelConfig
    loss: DiffusionLossConfig
    ema_decay: Share
    gradient_checkpointing: bool


@checked_dataclass(frozen=True, config=STRICT)
class DataAlone:
    """What preparing images needs of an experiment."""

    data: DataConfig


Experiment = AutoencoderExperiment | DiffusionExperiment
RECIPES: dict[str, type[AutoencoderExperiment] | type[DiffusionExperiment]] = {
    "autoencoder": AutoencoderExperiment,
    "diffusion": DiffusionExperiment,
}


def check(experiment: Experiment) -> None:
    """Raise ExperimentError for fields that do not go together."""
    if experiment.batch_size % (experiment.accumulate * experiment.devices):
        raise ExperimentError(
            f"batch_size: {experiment.batch_size} is not allowed; permitted: multiples of accumulate x devices, "
            f"{experiment.accumulate} x {experiment.devices}, for all parts of a batch are as large as each other"
        )
    crop = experiment.data.crop
    if crop is not None and crop > experiment.data.image_size:
        raise ExperimentError(f"data.crop: {crop} is not allowed; permitted: up to image_size, "
                              f"{experiment.data.image_size}")  # fmt: skip
    if isinstance(experiment, AutoencoderExperiment):
        return
    if crop is not None and not experiment.encode_each_step:
        raise ExperimentError("data.crop: latents that are encoded once have no crops; permitted: null, "
                              "or encode_each_step=true")  # fmt: skip
    gamma = experiment.loss.min_snr_gamma
    if experiment.model.diffusion.ends_in_pure_noise and gamma is not None:
        raise ExperimentError(
            f"loss.min_snr_gamma: {gamma} is not allowed with zero_terminal_snr or the schedule 'flow': "
            "pure noise, where sampling begins, would have weight 0; permitted: null"
        )


def built(field: str, build: Callable[[], Built]) -> Built:
    """What `build` returns; its ValueError or FileNotFoundError as an ExperimentError of the field."""
    try:
        return build()
    except (ValueError, FileNotFoundError) as error:
        raise ExperimentError(f"{field}: {error}") from None


def plain(config: Any) -> dict[str, Any]:
    """A configuration as YAML and JSON have it: no tuples."""
    return {key: without_tuples(value) for key, value in asdict(config).items()}


def without_tuples(value: Any) -> Any:
    """Tuples as lists, at every depth."""
    if isinstance(value, dict):
        return {key: without_tuples(inner) for key, inner in value.items()}
    return [without_tuples(inner) for inner in value] if isinstance(value, tuple | list) else value
