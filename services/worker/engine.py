"""Step-level batching: images of any jobs, solvers and step counts share every network evaluation; see `Pack`.

One thread owns an engine. Whatever a request can make slow happens in `read_conditions` and `request`, which any thread
may call: decoding and resizing images, reading texts, computing trajectories.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor

from services.job_requests.canvas import Canvas
from services.job_requests.image_spec import ImageSpec
from services.observability import metrics
from services.worker.conditions import ConditionReader, ReadConditions
from services.worker.device_faults import named_faults
from services.worker.execution import Execution, choose_device
from services.worker.images import Developed, Failed, ImageRequest, Owner
from services.worker.pack import Pack
from services.worker.packs import Packs
from training.model.latent_diffusion import load_diffusion
from training.model.noise import seeded_noise, slerp
from training.model.sampling import Sampler, trajectory

TRAJECTORIES = 64  # that are kept; one of 1,000 steps takes 280 KB and up to 0.2 s


class Engine(Generic[Owner]):
    """Samples images of one release.

    folder: of the release; see `Release.serve`. rows: the fixed number of network rows, at least 2. device: "cpu",
    "cuda" or "auto". profile: see `Execution.choose`. decode: the most latents that are decoded at once. cache: the
    sha256 of the compile cache that torch has loaded, see `precompile`.
    Raises OutOfMemory, and UnstableProfile if the self-test fails.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: int,
        device: str = "auto",
        profile: str = "auto",
        decode: int = 8,
        cache: str | None = None,
    ) -> None:
        model, release = load_diffusion(folder)
        self.rows = rows = min(rows, release.serve.rows or rows)
        self.device = choose_device(device)
        self.model, self.release = model, release
        execution = replace(Execution.choose(profile, self.device, release.serve.precision), cache=cache)
        self._canvas = Canvas.of(release)
        with named_faults():
            execution.prepare(model)
        self._reader = ConditionReader(self.model, release)
        self.item_rules = self._reader.rules
        self._trajectory = lru_cache(maxsize=TRAJECTORIES)(partial(trajectory, self.model))
        with named_faults(), torch.inference_mode():
            self.pack: Pack[Owner] = Pack(model, release, execution, release.latent_shape, rows, decode)
        self._packs = Packs(self.pack, execution)
        self.profile, self.decode_rows = self.pack.profile, self.pack.decode_rows

    @property
    def busy(self) -> bool:
        """Whether there is anything to sample or decode."""
        return self._packs.busy

    @property
    def free_rows(self) -> int:
        """Network rows that the next step for images of the release's own size would leave unused."""
        return self.pack.free_rows

    def room_after(self, steps: int) -> int:
        """Return for how many images there will be rows in so many steps; see `Pack.room_after`."""
        return self._packs.room_after(steps)

    def read_conditions(self, item: Mapping[str, Any]) -> ReadConditions:
        """Decode an item's conditions and resize its images to what the model needs. Every thread may call this.

        Raises ValueError naming the condition that cannot be used.
        """
        return self._reader.read(item)

    def request(self, spec: ImageSpec, conditions: ReadConditions) -> ImageRequest:
        """Compute what sampling an image needs. Every thread may call this. Raises ValueError for an invalid field."""
        path = self._trajectory(Sampler(spec.solver, spec.steps, spec.spacing, spec.eta, spec.strength))
        start = start_noise(spec, self._shape(spec))
        return ImageRequest(spec, path, start.pin_memory() if self.device.type == "cuda" else start, conditions)

    def add(self, owner: Owner, request: ImageRequest) -> None:
        """Add an image, which joins the batch of its size as soon as there is room."""
        self._packs.add(owner, request)

    def remove(self, owner: Owner) -> None:
        """Drop an owner's images, whether waiting, sampling or finished."""
        self._packs.remove(owner)

    def owners(self) -> list[Owner]:
        """Return the owners of all images that are waiting, sampling or finished."""
        return self._packs.owners()

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers()))

    def close(self) -> None:
        """Free the device's memory."""
        self._packs.close()
        self.model.to_empty(device="meta")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def step(self) -> list[Developed[Owner] | Failed[Owner]]:
        """Evaluate the network once for the oldest images that fit, and decode finished latents that are due.

        Returns the images that are done, one way or the other.
        Raises OutOfMemory, after which the engine cannot be used, or DeviceFault, after which the process cannot.
        """
        with named_faults(), torch.inference_mode():
            return self._step()

    def _step(self) -> list[Developed[Owner] | Failed[Owner]]:
        images = self._packs.step()
        metrics.IMAGES_UNDER_WAY.set(self._packs.images)
        return images

    def _shape(self, spec: ImageSpec) -> tuple[int, int, int]:
        """Return the shape of an image's latent, (C, h, w)."""
        width, height = spec.size or self._canvas.size
        channels, own_height, _ = self.release.latent_shape
        factor = self._canvas.height // own_height
        return channels, height // factor, width // factor


def start_noise(spec: ImageSpec, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise that an image begins with, float32 of `shape`, on the CPU."""
    first, second, share = spec.between or (spec.noise_seed, spec.noise_seed, 0.0)
    if first == second or share in (0.0, 1.0):  # exactly the noise of a seed
        return seeded_noise(second if share == 1.0 else first, 0, shape)
    return slerp(seeded_noise(first, 0, shape), seeded_noise(second, 0, shape), [share])[0]
