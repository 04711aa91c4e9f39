"""Step-level batching: images of any jobs, solvers and step counts share every network evaluation.

The network always runs on the same number of rows, so that its arithmetic, and therefore every image, never depends on
what else is in the batch. An image takes one row a step, or two with guidance. Images join and leave at every step.
"""

import hashlib
import platform
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.job_requests.condition_images import decode_images
from services.job_requests.image_rules import add_image_rules
from services.job_requests.image_spec import ImageSpec
from services.job_requests.messages import JsonSchema
from services.observability import metrics
from training.errors import DarkroomError, first_line
from training.model.batch import Batch, Run
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, Prepared, load_diffusion
from training.model.noise import seeded_noise
from training.model.pixels import to_bytes
from training.model.release import Release
from training.model.sampling import Sampler, trajectory
from training.model.solvers import Trajectory

DECODE_ROWS = 8  # latents that are decoded at once: a decoder needs far more memory a row than a U-Net
DECODE_WAIT_STEPS = 8  # steps for which a finished latent waits for others before it is decoded
MAX_PREPARED = 4096  # requests whose prepared conditions are kept

Owner = TypeVar("Owner")  # whom an image is for; owners are compared by identity


@dataclass(frozen=True)
class Finished(Generic[Owner]):
    """A sampled latent [C, h, w] that waits to be decoded together with others."""

    owner: Owner
    spec: ImageSpec
    latent: Tensor
    step: int  # the engine's step at which it was finished


@dataclass(frozen=True)
class Developed(Generic[Owner]):
    """A decoded image: uint8 [H, W, C]."""

    owner: Owner
    spec: ImageSpec
    pixels: NDArray[np.uint8]


class OutOfMemory(DarkroomError):
    """The device has no memory for a step of so many rows."""


class DeviceFault(DarkroomError):
    """The device has failed, and this process cannot use it any more."""


class Engine(Generic[Owner]):
    """Samples images of one release.

    folder: of the release. rows: the fixed number of network rows, at least 2. device: "cpu", "cuda" or "auto".
    """

    def __init__(self, folder: Path, *, rows: int, device: str = "auto") -> None:
        model, release = load_diffusion(folder)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model: LatentDiffusion = model.to(self.device)
        self.release: Release = release
        self.rows = rows
        self.decode_rows = min(rows, DECODE_ROWS)
        self.profile = execution_profile(self.device, rows, self.decode_rows)
        rules = add_image_rules(release.conditions, release.architecture, release.latent_shape)
        self._rules: Mapping[str, JsonSchema] = rules["properties"]
        self.condition_names = sorted(self._rules)
        self._batch = Batch(self.model, rows=rows, shape=release.latent_shape)
        self._images: dict[Run, tuple[Owner, ImageSpec]] = {}  # of every waiting or sampling run
        self._waiting: deque[Run] = deque()
        self._finished: list[Finished[Owner]] = []
        self._steps = 0
        self._trajectories: dict[Sampler, Trajectory] = {}
        self._conditions: dict[bytes, Prepared] = {}

    @property
    def busy(self) -> bool:
        """Whether there is anything to sample or decode."""
        return bool(self._waiting or self._batch.runs or self._finished)

    @property
    def free_rows(self) -> int:
        """Network rows that the next step would leave unused."""
        return max(0, self._batch.free_rows - sum(self._batch.rows_of(run) for run in self._waiting))

    def add(self, owner: Owner, spec: ImageSpec) -> None:
        """Add an image, which joins the batch as soon as there is room.

        Raises ValueError naming the condition that cannot be used.
        """
        run = self._make_run(spec)
        self._images[run] = owner, spec
        self._waiting.append(run)

    def remove(self, owner: Owner) -> None:
        """Drop an owner's images, whether waiting, sampling or finished."""
        for run in [run for run, (other, _) in self._images.items() if other is owner]:
            if run in self._batch.runs:
                self._batch.leave(run)
            else:
                self._waiting.remove(run)
            del self._images[run]
        self._finished = [finished for finished in self._finished if finished.owner is not owner]

    def owners(self) -> list[Owner]:
        """Return the owners of all images that are waiting, sampling or finished."""
        sampling = [self._images[run][0] for run in (*self._waiting, *self._batch.runs)]
        return list(dict.fromkeys([*sampling, *(finished.owner for finished in self._finished)]))

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers()))

    def close(self) -> None:
        """Free the device's memory."""
        self._conditions.clear()
        self._finished.clear()
        self.model.cpu()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def step(self) -> list[Developed[Owner]]:
        """Evaluate the network once for the oldest images that fit, and decode finished latents that are due.

        Raises OutOfMemory, after which the engine cannot be used, or DeviceFault, after which the process cannot.
        """
        try:
            with torch.inference_mode():
                return self._step()
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(first_line(error)) from None
        except torch.AcceleratorError as error:  # an illegal access or ECC error: CUDA then refuses every call
            raise DeviceFault(first_line(error)) from None

    def _step(self) -> list[Developed[Owner]]:
        while self._waiting and self._batch.free_rows >= self._batch.rows_of(self._waiting[0]):
            self._batch.join(self._waiting.popleft())
        if self._batch.runs:
            metrics.ROWS_USED_TOTAL.inc(self.rows - self._batch.free_rows)
            with metrics.STEP_SECONDS.time():
                self._batch.step()
        self._steps += 1
        for run in [run for run in self._batch.runs if run.finished]:
            owner, spec = self._images.pop(run)
            self._finished.append(Finished(owner, spec, self._batch.leave(run), self._steps))
        metrics.IMAGES_UNDER_WAY.set(len(self._waiting) + len(self._batch.runs))
        return self._decode() if self._decode_is_due() else []

    def _make_run(self, spec: ImageSpec) -> Run:
        sampler = Sampler(spec.solver, spec.steps, spec.spacing)
        if sampler not in self._trajectories:
            self._trajectories[sampler] = trajectory(self.model, sampler)
        return Run(
            spec.seed,
            self._trajectories[sampler],
            start=seeded_noise(spec.seed, 0, self.release.latent_shape).to(self.device),
            conditions=self._prepare(spec.conditions),
            null=self._prepare(None) if self.condition_names else None,
            guidance=Guidance(spec.guidance_scale, spec.guidance_interval, spec.guidance_rescale),
        )

    def _decode_is_due(self) -> bool:
        if not self._finished:
            return False
        waited = self._steps - self._finished[0].step
        return len(self._finished) >= self.decode_rows or not self._batch.runs or waited >= DECODE_WAIT_STEPS

    def _decode(self) -> list[Developed[Owner]]:
        group, self._finished = self._finished[: self.decode_rows], self._finished[self.decode_rows :]
        latents = torch.zeros(self.decode_rows, *self.release.latent_shape, device=self.device)
        for i, finished in enumerate(group):
            latents[i] = finished.latent
        with metrics.DECODE_SECONDS.time():
            images = self.model.autoencoder.decode(latents)
        for i, finished in enumerate(group):
            images[i] = self.model.conditioners.finish(images[i], self._decode_conditions(finished.spec.conditions))
        pixels = to_bytes(images)
        return [Developed(finished.owner, finished.spec, pixels[i]) for i, finished in enumerate(group)]

    def _prepare(self, conditions: Mapping[str, Any] | None) -> Prepared:
        """Prepare one request's conditions, or the null condition, once, with the row count of every evaluation."""
        key = hashlib.sha256(repr(sorted((conditions or {"": None}).items())).encode()).digest()
        if key not in self._conditions:
            if len(self._conditions) >= MAX_PREPARED:
                self._conditions.clear()
            _, height, width = self.release.latent_shape
            request = None if conditions is None else self._decode_conditions(conditions)
            with torch.inference_mode():
                prepared = self.model.conditions([request] * self.rows, (height, width))
            self._conditions[key] = prepared.row(0)
        return self._conditions[key]

    def _decode_conditions(self, conditions: Mapping[str, Any]) -> dict[str, Any]:
        """Return conditions with their images decoded. Raises ValueError for an image that cannot be decoded."""
        return {name: decode_images(value, self._rules[name], name) for name, value in conditions.items()}


def execution_profile(device: torch.device, rows: int, decode_rows: int) -> str:
    """Name everything that decides the last digit of an image.

    That is the device, its instruction set and threads, torch, the dtype, eager or compiled, and the rows of network
    and decoder. Images of equal profiles are byte-identical; images of different profiles are only close.
    """
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device).replace(" ", "-")
    else:
        hardware = f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}-{torch.get_num_threads()}threads"
    parts = f"{device.type}/{hardware}/torch-{torch.__version__}/float32/eager/{rows}+{decode_rows}rows"
    return f"{parts}#{hashlib.sha256(parts.encode()).hexdigest()[:8]}"
