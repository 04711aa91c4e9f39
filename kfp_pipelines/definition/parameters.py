"""The parameters of each pipeline, under the names that the KFP UI and the command line use.

KFP reads a pipeline's parameters from the signature of a function; `signature` makes that signature from one of these
classes. While a pipeline is defined, each field holds KFP's placeholder for a value, not the value.
"""

import inspect
from dataclasses import MISSING, dataclass, field, fields
from typing import get_type_hints


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The parameters that every pipeline has. request_defaults: of requests to the release that it publishes."""

    data: str = "digits"
    data_version: str = ""
    data_overrides: list[str] = field(default_factory=list)
    checkpoints: str = ""
    sampling: list[str] = field(default_factory=lambda: ["images=1000"])
    request_defaults: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SecondStageParameters(Parameters):
    """The parameters of the pipelines that train a diffusion model."""

    diffusion_experiment: str = "digits_diffusion"
    diffusion_overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class GatedParameters(Parameters):
    """The parameters of the pipelines that promote what passes the gate."""

    gate: list[str] = field(default_factory=lambda: ["frechet_distance <= 1.05 * production"])
    alias: str = "production"
    smoke_images: int = 4


@dataclass(frozen=True, kw_only=True)
class FullParameters(SecondStageParameters, GatedParameters):
    """The parameters of `full`."""

    autoencoder_experiment: str = "digits_autoencoder"
    autoencoder_overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DiffusionParameters(SecondStageParameters, GatedParameters):
    """The parameters of `diffusion`. autoencoder: a published release, NAME@VERSION."""

    autoencoder: str


@dataclass(frozen=True, kw_only=True)
class FineTuneParameters(SecondStageParameters, GatedParameters):
    """The parameters of `fine-tune`. base: a published diffusion release, NAME@VERSION."""

    base: str


@dataclass(frozen=True, kw_only=True)
class DistilParameters(GatedParameters):
    """The parameters of `distil`. teacher: a published diffusion release, NAME@VERSION.

    sampling: of the teacher, with which the student is compared; the student has its images, guidance and seed.
    """

    teacher: str
    distillation_experiment: str = "digits_distillation"
    distillation_overrides: list[str] = field(default_factory=list)
    gate: list[str] = field(
        default_factory=lambda: ["frechet_distance <= 1.15 * teacher", "frechet_distance <= 1.05 * production"]
    )


@dataclass(frozen=True, kw_only=True)
class SweepParameters(SecondStageParameters):
    """The parameters of `sweep`. autoencoders: an entry for each, {"experiment": NAME, "overrides": "field=value"}."""

    autoencoders: list[dict[str, str]]
    guidances: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    by: str = "least frechet_distance"


def signature(parameters: type[Parameters]) -> inspect.Signature:
    """Return the signature of a pipeline with these parameters."""
    hints = get_type_hints(parameters)
    found = []
    for one in fields(parameters):
        default = one.default
        if one.default_factory is not MISSING:
            default = one.default_factory()
        found.append(
            inspect.Parameter(
                one.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if default is MISSING else default,
                annotation=hints[one.name],
            )
        )
    return inspect.Signature(sorted(found, key=lambda one: one.default is not inspect.Parameter.empty))
