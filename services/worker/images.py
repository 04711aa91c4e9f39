"""The stages of an image in an engine: requested, finished, and developed or failed."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from services.job_requests.image_spec import ImageSpec
from services.worker.conditions import ReadConditions
from training.model.solver_table import Trajectory

Owner = TypeVar("Owner")  # whom an image is for; owners are compared by identity


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """An image that can be sampled, with everything that it takes time to compute."""

    spec: ImageSpec
    trajectory: Trajectory
    start: Tensor  # [C, h, w], the noise that sampling starts from, on the host
    conditions: ReadConditions

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of its latent, (C, h, w)."""
        channels, height, width = self.start.shape
        return channels, height, width


@dataclass(frozen=True)
class Finished(Generic[Owner]):
    """A sampled latent [C, h, w] that waits to be decoded together with others."""

    owner: Owner
    request: ImageRequest
    latent: Tensor
    step: int  # the pack's step at which it was finished
    evaluations: int  # rows of the network that it took
    seconds: float  # of the device, without decoding


@dataclass(frozen=True)
class Developed(Generic[Owner]):
    """A decoded image: uint8 [H, W, C]. profile: see `Execution.name`.

    evaluations: rows of the network of the release's own size, as `image_cost` counts them. seconds: of the device.
    """

    owner: Owner
    spec: ImageSpec
    pixels: NDArray[np.uint8]
    profile: str
    evaluations: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Failed(Generic[Owner]):
    """An image that cannot be made, and why. The images beside it are not affected."""

    owner: Owner
    spec: ImageSpec
    error: str
