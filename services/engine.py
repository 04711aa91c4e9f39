"""Step-level batching: images of any jobs, solvers and step counts share every network evaluation.

The network always runs on the same number of rows, so that its arithmetic, and with it every image, never
depends on what else is in the batch. An image asks for one row a step, or two with guidance; images join and
leave at every step. This module is the one door from the services to the model.
"""

import hashlib
import platform
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.job_request import ImageSpec
from training.data.image_set import to_bytes
from training.model import solvers
from training.model.latent_diffusion import LatentDiffusion, load_diffusion
from training.model.release import Release
from training.model.solvers import Trajectory

DECODE_WAIT_STEPS = 4  # a finished image waits so long for company before it is decoded


@dataclass(frozen=True)
class Developed:
    """A finished image: uint8 [H, W, C], and the owner it was added for."""

    owner: Any
    spec: ImageSpec
    pixels: NDArray[np.uint8]


@dataclass
class Latent:
    """An image on its way: its solver state and where it stands in its trajectory."""

    owner: Any
    spec: ImageSpec
    trajectory: Trajectory
    contexts: list[Tensor]  # [M, width] of the condition, then of the null condition if guided
    state: Tensor  # [5, C, h, w]
    position: int = 0
    finished_at: int = field(default=0)

    @property
    def rows(self) -> int:
        """Network rows it asks for at each step."""
        return max(1, len(self.contexts))


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
        self.profile = profile(self.device, rows)
        self.condition_names = sorted(release.conditions.get("properties", {}))
        self._active: deque[Latent] = deque()
        self._finished: list[Latent] = []
        self._steps = 0
        self._trajectories: dict[tuple[str, int], Trajectory] = {}
        self._contexts: dict[str, Tensor] = {}

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._active or self._finished)

    @property
    def free_rows(self) -> int:
        """Network rows that the next step would leave empty."""
        return max(0, self.rows - sum(latent.rows for latent in self._active))

    def add(self, owner: Any, spec: ImageSpec) -> None:
        """Let an image join at the next step."""
        guided = spec.guidance_scale != 1.0 and bool(self.condition_names)
        contexts = []
        if self.condition_names:
            contexts = [self._context(spec.conditions), *([self._context(None)] if guided else [])]
        key = (spec.solver, spec.steps)
        if key not in self._trajectories:
            self._trajectories[key] = self.model.trajectory(*key)
        state = torch.zeros(5, *self.release.latent_shape, device=self.device)
        state[0] = solvers.seeded_noise(spec.seed, 0, self.release.latent_shape).to(self.device)
        self._active.append(Latent(owner, spec, self._trajectories[key], contexts, state))

    def remove(self, owner: Any) -> None:
        """Drop an owner's images, wherever they stand."""
        self._active = deque(latent for latent in self._active if latent.owner is not owner)
        self._finished = [latent for latent in self._finished if latent.owner is not owner]

    @torch.inference_mode()
    def step(self) -> list[Developed]:
        """One network evaluation for the oldest images that fit, and the decoding of those that are due."""
        batch = self._next_batch()
        if batch:
            self._denoise(batch)
        self._steps += 1
        for latent in batch:
            if latent.position == len(latent.trajectory):
                latent.finished_at = self._steps
                self._finished.append(latent)
        self._active = deque(latent for latent in self._active if latent.position < len(latent.trajectory))
        return self._decode() if self._decode_is_due() else []

    def _next_batch(self) -> list[Latent]:
        batch, rows = [], 0
        for latent in self._active:
            if rows + latent.rows > self.rows:
                break  # not skipped: an image never waits for a later one
            batch.append(latent)
            rows += latent.rows
        return batch

    def _denoise(self, batch: Sequence[Latent]) -> None:
        """Advance each image of the batch by one evaluation. Everything is padded to the fixed row count."""
        shape = self.release.latent_shape
        x = torch.zeros(self.rows, *shape, device=self.device)
        t = torch.zeros(self.rows, device=self.device)
        context = None
        if self.condition_names:
            context = torch.zeros(self.rows, *batch[0].contexts[0].shape, device=self.device)
        state = torch.zeros(self.rows, 5, *shape, device=self.device)
        noise = torch.zeros(self.rows, *shape, device=self.device)
        A = torch.zeros(self.rows, 5, 7, dtype=torch.float64)
        first = []  # of each image's rows
        row = 0
        for i, latent in enumerate(batch):
            first.append(row)
            state[i] = latent.state
            A[i] = torch.from_numpy(latent.trajectory.A[latent.position])
            if latent.trajectory.noisy(latent.position):
                noise[i] = solvers.seeded_noise(latent.spec.seed, latent.position + 1, shape).to(self.device)
            for k in range(latent.rows):
                x[row], t[row] = latent.state[0], float(latent.trajectory.t[latent.position])
                if context is not None:
                    context[row] = latent.contexts[k]
                row += 1
        answers = self.model.denoise(x, t, context)
        denoised = torch.zeros_like(noise)
        for i, latent in enumerate(batch):
            conditional = answers[first[i]]
            if latent.rows == 2:
                # Ho & Salimans 2022, eq. 6, on the denoised estimate.
                null = answers[first[i] + 1]
                conditional = null + latent.spec.guidance_scale * (conditional - null)
            denoised[i] = conditional
        state = solvers.step(state, denoised, noise, A.to(self.device, torch.float32))
        for i, latent in enumerate(batch):
            latent.state = state[i].clone()
            latent.position += 1

    def _decode_is_due(self) -> bool:
        if not self._finished:
            return False
        waited = self._steps - self._finished[0].finished_at
        return len(self._finished) >= self.rows or not self._active or waited >= DECODE_WAIT_STEPS

    def _decode(self) -> list[Developed]:
        group, self._finished = self._finished[: self.rows], self._finished[self.rows :]
        latents = torch.zeros(self.rows, *self.release.latent_shape, device=self.device)
        for i, latent in enumerate(group):
            latents[i] = latent.state[0]
        pixels = to_bytes(self.model.autoencoder.decode(latents))
        return [Developed(latent.owner, latent.spec, pixels[i]) for i, latent in enumerate(group)]

    def _context(self, conditions: dict[str, Any] | None) -> Tensor:
        """Tokens [M, width] of one request, computed once and with the same row count as all others."""
        key = repr(sorted(conditions.items())) if conditions is not None else "null"
        if key not in self._contexts:
            if len(self._contexts) >= 4096:
                self._contexts.clear()
            with torch.inference_mode():
                tokens = self.model.context([conditions] * self.rows)
            assert tokens is not None
            self._contexts[key] = tokens[0].clone()
        return self._contexts[key]


def profile(device: torch.device, rows: int) -> str:
    """The execution profile: within one, an image is byte-identical; across profiles only close.

    Device, instruction set, threads, torch build, dtype, eager or compiled, rows: all that decides the last digit.
    """
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device).replace(" ", "-")
    else:
        hardware = f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}-{torch.get_num_threads()}threads"
    parts = f"{device.type}/{hardware}/torch-{torch.__version__}/float32/eager/{rows}rows"
    return f"{parts}#{hashlib.sha256(parts.encode()).hexdigest()[:8]}"
