"""Step-level batching: images of any jobs, solvers and step counts share every network evaluation.

The network always runs on the same number of rows, so that its arithmetic, and therefore every image, never depends on
what else is in the batch. An image takes one row a step, or two with guidance. Images join and leave at every step.

One thread owns an engine. Whatever a request can make slow happens in `read_conditions` and `request`, which any thread
may call: decoding and resizing images, reading texts, computing trajectories.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.job_requests.image_spec import ImageSpec
from services.observability import metrics
from services.worker import self_test
from services.worker.conditions import ConditionEmbedder, ConditionReader, ReadConditions, each
from services.worker.device_faults import named_faults
from services.worker.execution import Execution
from training.errors import summarise
from training.model.batch import Batch, Run
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, Prepared, load_diffusion
from training.model.noise import seeded_noise
from training.model.pixels import to_bytes
from training.model.release import Release
from training.model.sampling import Sampler, trajectory
from training.model.solver_table import Trajectory

# Latents that are decoded at once: a decoder needs far more memory a row than a U-Net. A CPU decodes 4 at a time 1.5
# times as fast as 8.
DECODE_ROWS = {"cpu": 4, "cuda": 8}
EMBED_ROWS = {"cpu": 1, "cuda": 8}  # conditions that are embedded at once; a GPU takes as long for a few as for one
DECODE_WAIT_STEPS = 8  # steps for which a finished latent waits for others before it is decoded
TRAJECTORIES = 64  # that are kept; one of 1,000 steps takes 280 KB and up to 0.2 s
NOT_EMBEDDED = Prepared(None, None, None)  # the conditions of a run until it joins the batch

NOT_FINITE = "it has NaN or infinite values; use a lower guidance_scale, or ask the operator to check the release"
NOT_FINITE_BF16 = "it has NaN or infinite values in bf16; ask the operator to serve the release in fp32"

Owner = TypeVar("Owner")  # whom an image is for; owners are compared by identity


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """An image that can be sampled, with everything that it takes time to compute."""

    spec: ImageSpec
    trajectory: Trajectory
    start: Tensor  # [C, h, w], the noise that sampling starts from, on the host
    conditions: ReadConditions


@dataclass(frozen=True)
class Finished(Generic[Owner]):
    """A sampled latent [C, h, w] that waits to be decoded together with others."""

    owner: Owner
    request: ImageRequest
    latent: Tensor
    step: int  # the engine's step at which it was finished


@dataclass(frozen=True)
class Developed(Generic[Owner]):
    """A decoded image: uint8 [H, W, C]."""

    owner: Owner
    spec: ImageSpec
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Failed(Generic[Owner]):
    """An image that cannot be made, and why. The images beside it are not affected."""

    owner: Owner
    spec: ImageSpec
    error: str


class Engine(Generic[Owner]):
    """Samples images of one release.

    folder: of the release. rows: the fixed number of network rows, at least 2. device: "cpu", "cuda" or "auto".
    profile: see `Execution.choose`. Raises OutOfMemory, and UnstableProfile if the self-test fails.
    """

    def __init__(self, folder: Path, *, rows: int, device: str = "auto", profile: str = "auto") -> None:
        model, release = load_diffusion(folder)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self._execution = Execution.choose(profile, self.device)
        self.model: LatentDiffusion = model
        self.release: Release = release
        self.rows = rows
        self.decode_rows = min(rows, DECODE_ROWS[self.device.type])
        self.embed_rows = min(rows, EMBED_ROWS[self.device.type])
        self.profile = self._execution.name(rows, self.decode_rows, self.embed_rows)
        self._decode_latents = self._execution.decode()
        with named_faults():
            self._execution.prepare(model)
        self._reader = ConditionReader(self.model, release)
        self.item_rules = self._reader.rules
        self._embedder = ConditionEmbedder(self.model, self.embed_rows, release.latent_shape[1:])
        self._trajectory = lru_cache(maxsize=TRAJECTORIES)(partial(trajectory, self.model))
        self._is_conditional = bool(len(self.model.conditioners))
        with named_faults(), torch.inference_mode():
            self._test()
            self._batch = Batch(model, rows=rows, shape=release.latent_shape, take_step=self._execution.take_step())
        self._images: dict[Run, tuple[Owner, ImageRequest]] = {}  # of every waiting or sampling run
        self._waiting: deque[Run] = deque()
        self._finished: list[Finished[Owner]] = []
        self._steps = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to sample or decode."""
        return bool(self._waiting or self._batch.runs or self._finished)

    @property
    def free_rows(self) -> int:
        """Network rows that the next step would leave unused."""
        return max(0, self._batch.free_rows - sum(self._batch.rows_of(run) for run in self._waiting))

    def room_after(self, steps: int) -> int:
        """Return for how many images there will be rows in so many steps if each takes as many as a present one.

        Without one, an image counts as guided.
        """
        remaining = [run for run in self._batch.runs if len(run.trajectory) - run.position > steps]
        taken = [self._batch.rows_of(run) for run in (*remaining, *self._waiting)]
        return -(-max(0, self.rows - sum(taken)) // max(taken, default=2))

    def read_conditions(self, item: Mapping[str, Any]) -> ReadConditions:
        """Decode an item's conditions and resize its images to what the model needs. Every thread may call this.

        Raises ValueError naming the condition that cannot be used.
        """
        return self._reader.read(item)

    def request(self, spec: ImageSpec, conditions: ReadConditions) -> ImageRequest:
        """Compute what sampling an image needs. Every thread may call this. Raises ValueError for an invalid field."""
        path = self._trajectory(Sampler(spec.solver, spec.steps, spec.spacing, spec.eta))
        start = seeded_noise(spec.seed, 0, self.release.latent_shape)
        return ImageRequest(spec, path, start.pin_memory() if self.device.type == "cuda" else start, conditions)

    def add(self, owner: Owner, request: ImageRequest) -> None:
        """Add an image, which joins the batch as soon as there is room."""
        spec = request.spec
        run = Run(
            spec.seed,
            request.trajectory,
            start=request.start,
            conditions=NOT_EMBEDDED,
            null=NOT_EMBEDDED if self._is_conditional else None,
            guidance=Guidance(spec.guidance_scale, spec.guidance_interval, spec.guidance_rescale),
        )
        self._images[run] = owner, request
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
        self._embedder.clear()
        self._finished.clear()
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

    def _test(self) -> None:
        """Raise UnstableProfile unless rows keep their bits at another place and in other company."""
        test = self_test.SelfTest(self.model, self.release.latent_shape, self.profile)
        try:
            test.check_step(self._execution.take_step(), self._embedder.null, self.rows)
            test.check_decoder(self._decode_latents, self.decode_rows)
        except RuntimeError as error:  # of the compiler, such as a missing one
            if not self._execution.compiled or isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
                raise
            raise test.failure(f"it cannot be compiled: {summarise(error)}") from None

    def _step(self) -> list[Developed[Owner] | Failed[Owner]]:
        failed = self._join()
        if self._batch.runs:
            metrics.ROWS_USED_TOTAL.inc(self.rows - self._batch.free_rows)
            with metrics.STEP_SECONDS.time():
                self._batch.step()
        self._steps += 1
        for run in self._batch.finished:
            owner, request = self._images.pop(run)
            self._finished.append(Finished(owner, request, self._batch.leave(run), self._steps))
        metrics.IMAGES_UNDER_WAY.set(len(self._waiting) + len(self._batch.runs))
        return [*failed, *(self._decode() if self._decode_is_due() else [])]

    def _join(self) -> list[Failed[Owner]]:
        """Let the oldest waiting images into the batch. Returns those whose conditions cannot be embedded."""
        failed: list[Failed[Owner]] = []
        while self._waiting and self._batch.free_rows >= self._batch.rows_of(self._waiting[0]):
            if self._waiting[0].conditions is NOT_EMBEDDED:
                failed += self._embed_waiting()
            else:
                self._batch.join(self._waiting.popleft())
        return failed

    def _embed_waiting(self) -> list[Failed[Owner]]:
        """Embed the conditions of the oldest waiting images, as many as there may be in the batch."""
        runs = list(islice(self._waiting, self.rows))
        pairs = self._embedder.embed_pairs([self._images[run][1].conditions for run in runs])
        failed: list[Failed[Owner]] = []
        for run, pair in zip(runs, pairs, strict=True):
            if isinstance(pair, Exception):
                self._waiting.remove(run)
                owner, request = self._images.pop(run)
                failed.append(
                    _failure(owner, request, "conditions", f"its conditions cannot be used: {summarise(pair)}")
                )
            else:
                run.conditions, null = pair
                run.null = null if self._is_conditional else None
        return failed

    def _decode_is_due(self) -> bool:
        if not self._finished:
            return False
        waited = self._steps - self._finished[0].step
        return len(self._finished) >= self.decode_rows or not self._batch.runs or waited >= DECODE_WAIT_STEPS

    def _decode(self) -> list[Developed[Owner] | Failed[Owner]]:
        group = self._finished[: self.decode_rows]
        with metrics.DECODE_SECONDS.time():
            decoded = each(self._decode_group, group)
        del self._finished[: len(group)]
        images: list[Developed[Owner] | Failed[Owner]] = []
        for finished, pixels in zip(group, decoded, strict=True):
            owner, request = finished.owner, finished.request
            if isinstance(pixels, Exception):
                images.append(_failure(owner, request, "decoding", f"it cannot be decoded: {summarise(pixels)}"))
            elif pixels is None:
                precision = self._execution.precision
                metrics.NOT_FINITE.labels(self.release.name, precision).inc()
                error = NOT_FINITE if precision == "fp32" else NOT_FINITE_BF16
                images.append(_failure(owner, request, "not_finite", error))
            else:
                images.append(Developed(owner, request.spec, pixels))
        return images

    def _decode_group(self, group: Sequence[Finished[Owner]]) -> list[NDArray[np.uint8] | None]:
        """Decode latents to uint8 [H, W, C], in calls of one shape; None for one with NaN or infinite values."""
        latents = torch.zeros(self.decode_rows, *self.release.latent_shape, device=self.device)
        for i, finished in enumerate(group):
            latents[i] = finished.latent
        images = self._decode_latents(self.model.autoencoder, latents)
        is_finite = torch.isfinite(latents).flatten(1).all(1) & torch.isfinite(images).flatten(1).all(1)
        for i, finished in enumerate(group):
            images[i] = self.model.conditioners.finish(images[i], finished.request.conditions.values)
        pixels = to_bytes(images)
        return [pixels[i] if finite else None for i, finite in enumerate(is_finite[: len(group)].tolist())]


def _failure(owner: Owner, request: ImageRequest, reason: str, error: str) -> Failed[Owner]:
    metrics.IMAGES_UNUSABLE.labels(reason).inc()
    return Failed(owner, request.spec, error)
