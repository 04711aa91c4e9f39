"""Step-level batching: images of any jobs, solvers and step counts share every network evaluation.

The network always runs on the same number of rows, so that its arithmetic, and with it every image, never
depends on what else is in the batch. An image asks for one row a step, or two with guidance; images join and
leave at every step. This module is the one door from the services to the model.
"""

import hashlib
import platform
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.job_requests.condition_images import decode_images
from services.job_requests.image_spec import ImageSpec
from services.observability import metrics
from training.errors import DarkroomError
from training.model.batch import Batch, Run
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, Prepared, load_diffusion
from training.model.noise import seeded_noise
from training.model.pixels import to_bytes
from training.model.release import Release
from training.model.sampling import Sampler, trajectory
from training.model.solvers import Trajectory

DECODE_ROWS = 8  # latents that are decoded together: a decoder needs far more memory a row than a U-Net
DECODE_WAIT_STEPS = 8  # a finished image waits so long for company before it is decoded


@dataclass(frozen=True)
class Finished:
    """A sampled latent [C, h, w] that waits for company before it is decoded."""

    owner: Any
    spec: ImageSpec
    latent: Tensor
    at: int  # the engine's step


@dataclass(frozen=True)
class Developed:
    """A finished image: uint8 [H, W, C], and the owner it was added for."""

    owner: Any
    spec: ImageSpec
    pixels: NDArray[np.uint8]


class OutOfMemory(DarkroomError):
    """The device has no room for a step of so many rows."""


class DeviceFault(DarkroomError):
    """The device is in a state in which this process can compute nothing more."""


class Engine:
    """Develops images of one release.

    rows: the fixed number of network rows, at least 2. device: "cpu", "cuda" or "auto".
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
        self.profile = profile(self.device, rows, self.decode_rows)
        self.condition_names = sorted(release.conditions.get("properties", {}))
        self._batch = Batch(self.model, rows=rows, shape=release.latent_shape)
        self._waiting: deque[Run] = deque()
        self._finished: list[Finished] = []
        self._steps = 0
        self._trajectories: dict[Sampler, Trajectory] = {}
        self._conditions: dict[bytes, Prepared] = {}

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._batch.runs or self._finished)

    @property
    def free_rows(self) -> int:
        """Network rows that the next step would leave empty."""
        return max(0, self._batch.free_rows - sum(self._batch.rows_of(run) for run in self._waiting))

    def add(self, owner: Any, spec: ImageSpec) -> None:
        """Let an image join as soon as there is room. Raises ValueError naming the condition that cannot be used."""
        self._waiting.append(self._run(owner, spec))

    def remove(self, owner: Any) -> None:
        """Drop an owner's images, wherever they stand."""
        self._waiting = deque(run for run in self._waiting if run.owner[0] is not owner)
        for run in [run for run in self._batch.runs if run.owner[0] is owner]:
            self._batch.leave(run)
        self._finished = [finished for finished in self._finished if finished.owner is not owner]

    def owners(self) -> list[Any]:
        """Whose images are under way or wait for it."""
        runs = [run.owner[0] for run in (*self._waiting, *self._batch.runs)]
        return list(dict.fromkeys([*runs, *(finished.owner for finished in self._finished)]))

    @property
    def bytes(self) -> int:
        """Memory of the weights."""
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers()))

    def close(self) -> None:
        """Give the memory back to the device."""
        self._conditions.clear()
        self._finished.clear()
        self.model.cpu()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def step(self) -> list[Developed]:
        """One network evaluation for the oldest images that fit, and the decoding of those that are due.

        Raises OutOfMemory, after which the engine is of no more use, or DeviceFault, after which the process is not.
        """
        try:
            with torch.inference_mode():
                return self._step()
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(str(error).splitlines()[0]) from None
        except torch.AcceleratorError as error:  # an illegal access, an ECC error: CUDA answers no more
            raise DeviceFault(str(error).splitlines()[0]) from None

    def _step(self) -> list[Developed]:
        while self._waiting and self._batch.free_rows >= self._batch.rows_of(self._waiting[0]):
            self._batch.join(self._waiting.popleft())
        if self._batch.runs:
            metrics.ROWS_USED_TOTAL.inc(self.rows - self._batch.free_rows)
            with metrics.STEP_SECONDS.time():
                self._batch.step()
        self._steps += 1
        for run in [run for run in self._batch.runs if run.finished]:
            owner, spec = run.owner
            self._finished.append(Finished(owner, spec, self._batch.leave(run), self._steps))
        metrics.IMAGES_UNDER_WAY.set(len(self._waiting) + len(self._batch.runs))
        return self._decode() if self._decode_is_due() else []

    def _run(self, owner: Any, spec: ImageSpec) -> Run:
        """The sampling run of an image."""
        sampler = Sampler(spec.solver, spec.steps, spec.spacing)
        if sampler not in self._trajectories:
            self._trajectories[sampler] = trajectory(self.model, sampler)
        return Run(
            spec.seed,
            self._trajectories[sampler],
            start=seeded_noise(spec.seed, 0, self.release.latent_shape).to(self.device),
            conditions=self._prepared(spec.conditions),
            null=self._prepared(None) if self.condition_names else None,
            guidance=Guidance(spec.guidance_scale, spec.guidance_interval, spec.guidance_rescale),
            owner=(owner, spec),
        )

    def _decode_is_due(self) -> bool:
        if not self._finished:
            return False
        waited = self._steps - self._finished[0].at
        return len(self._finished) >= self.decode_rows or not self._batch.runs or waited >= DECODE_WAIT_STEPS

    def _decode(self) -> list[Developed]:
        group, self._finished = self._finished[: self.decode_rows], self._finished[self.decode_rows :]
        latents = torch.zeros(self.decode_rows, *self.release.latent_shape, device=self.device)
        for i, finished in enumerate(group):
            latents[i] = finished.latent
        with metrics.DECODE_SECONDS.time():
            images = self.model.autoencoder.decode(latents)
        for i, finished in enumerate(group):
            images[i] = self.model.conditioners.finish(images[i], self._request(finished.spec.conditions))
        pixels = to_bytes(images)
        return [Developed(finished.owner, finished.spec, pixels[i]) for i, finished in enumerate(group)]

    def _prepared(self, conditions: dict[str, Any] | None) -> Prepared:
        """One request's conditions, computed once and with the same row count as all others."""
        key = hashlib.sha256(repr(sorted((conditions or {"": None}).items())).encode()).digest()
        if key not in self._conditions:
            if len(self._conditions) >= 4096:
                self._conditions.clear()
            _, height, width = self.release.latent_shape
            request = None if conditions is None else self._request(conditions)
            with torch.inference_mode():
                prepared = self.model.conditions([request] * self.rows, (height, width))
            self._conditions[key] = prepared.row(0)
        return self._conditions[key]

    def _request(self, conditions: Mapping[str, Any]) -> dict[str, Any]:
        """Conditions with their images read. Raises ValueError for one that is none."""
        rules = self.release.conditions.get("properties", {})
        return {name: decode_images(value, rules[name], name) for name, value in conditions.items()}


def profile(device: torch.device, rows: int, decode_rows: int) -> str:
    """The execution profile: within one, an image is byte-identical; across profiles only close.

    Device, instruction set, threads, torch build, dtype, eager or compiled, rows of the network and of the decoder: all
    that decides the last digit.
    """
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device).replace(" ", "-")
    else:
        hardware = f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}-{torch.get_num_threads()}threads"
    parts = f"{device.type}/{hardware}/torch-{torch.__version__}/float32/eager/{rows}+{decode_rows}rows"
    return f"{parts}#{hashlib.sha256(parts.encode()).hexdigest()[:8]}"
