"""Images of one size that share every network evaluation.

The network always runs on the same number of rows, so that its arithmetic, and therefore every image, never depends on
what else is in the batch. An image takes one row a step, or two with guidance. Images join and leave at every step.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Generic

from torch import Tensor

from services.job_requests.image_spec import ImageSpec
from services.observability import metrics
from services.worker import self_test
from services.worker.beginnings import BeginningEncoder
from services.worker.conditions import ConditionEmbedder, each
from services.worker.decoder import Decoded, Decoder
from services.worker.device_faults import check_refusals, named_faults
from services.worker.execution import Execution
from services.worker.images import Developed, Failed, Finished, ImageRequest, Owner
from services.worker.large_images import decode_in_tiles, is_large
from training.errors import summarise
from training.model.batch import Batch, Run
from training.model.guidance import Guidance
from training.model.latent_diffusion import LatentDiffusion, Prepared
from training.model.release import Release

# Latents that are decoded at once: a decoder needs far more memory a row than a U-Net. A CPU decodes 4 at a time 1.5
# times as fast as 8.
DECODE_ROWS = {"cpu": 4, "cuda": 8}
EMBED_ROWS = {"cpu": 1, "cuda": 8}  # conditions that are embedded at once; a GPU takes as long for a few as for one
DECODE_WAIT_STEPS = 8  # steps for which a finished latent waits for others before it is decoded
NOT_EMBEDDED = Prepared(None, None, None)  # the conditions of a run until it joins the batch

NOT_FINITE = "it has NaN or infinite values; use a lower guidance_scale, or ask the operator to check the release"
NOT_FINITE_BF16 = "it has NaN or infinite values in bf16; ask the operator to serve the release in fp32"


class Pack(Generic[Owner]):
    """Samples images whose latents have one shape, (C, h, w).

    rows: the number of network rows for the release's own size, at least 2. Another size has a number that follows from
    its area, so that a step takes about as long and as much memory. decode: the most latents of that size that are
    decoded at once. Raises OutOfMemory, and UnstableProfile if the self-test fails.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        release: Release,
        execution: Execution,
        shape: tuple[int, int, int],
        rows: int,
        decode: int,
    ) -> None:
        own, device = release.latent_shape, execution.device.type

        def share(rows: int) -> int:
            return rows if shape == own else even_rows(min(rows, rows * own[1] * own[2] // (shape[1] * shape[2])))

        if shape != own:  # a compiled network has one shape
            execution = replace(execution, compiled=False)
        self.model, self.release, self.shape, self.rows = model, release, shape, max(2, share(rows))
        self.stepped_at = 0  # the engine's step at which the pack took its last one
        self._execution, self.full_rows, self.full_decode = execution, rows, decode
        _, *parts = rows_of_parts(rows, decode, device)
        self.decode_rows, self.embed_rows = (max(1, share(part)) for part in parts)
        counts = self.rows, self.decode_rows, self.embed_rows
        self.profile = execution.name(*counts)
        self._profiles = {name: execution.name(*counts, decoder=name) for name in model.decoders}  # of images
        self._decode_latents = execution.decode()
        if shape != own and is_large(model.autoencoder, shape):
            self._decode_latents = decode_in_tiles
        self.embedder = ConditionEmbedder(model, self.embed_rows, shape[1:])
        self._beginnings = BeginningEncoder(model, in_tiles=self._decode_latents is decode_in_tiles)
        self._has_null = model.has_null
        self._test()
        self.batch = Batch(model, rows=self.rows, shape=shape, take_step=execution.take_step())
        self._images: dict[Run, tuple[Owner, ImageRequest]] = {}  # of every waiting or sampling run
        self.waiting: deque[Run] = deque()
        self._failed: list[Failed[Owner]] = []  # that the next step to succeed returns
        self._finished: list[Finished[Owner]] = []
        self._decoder: Decoder[Owner] = Decoder(model, self._decode_latents, shape, self.decode_rows, execution.device)
        self._steps = 0
        self._row_seconds = 0.0  # the sum over all steps of the time that one row took
        self._joined_at: dict[Run, tuple[float, int]] = {}  # by that clock and by `_steps`

    @property
    def busy(self) -> bool:
        """Whether there is anything to sample or decode."""
        return bool(self.waiting or self.batch.runs or self._failed or self._finished or self._decoder.finished)

    @property
    def is_full(self) -> bool:
        """Whether the next step has no rows left for another image."""
        return self.free_rows < max((self.batch.rows_of(run) for run in self.batch.runs), default=2)

    @property
    def free_rows(self) -> int:
        """Network rows that the next step would leave unused."""
        return max(0, self.batch.free_rows - sum(self.batch.rows_of(run) for run in self.waiting))

    def room_after(self, steps: int) -> int:
        """Return for how many images there will be rows in so many steps if each takes as many as a present one.

        Without one, an image counts as guided.
        """
        remaining = [run for run in self.batch.runs if len(run.trajectory) - run.position > steps]
        taken = [self.batch.rows_of(run) for run in (*remaining, *self.waiting)]
        return -(-max(0, self.rows - sum(taken)) // max(taken, default=2))

    def add(self, owner: Owner, request: ImageRequest) -> None:
        """Add an image, which joins the batch as soon as there is room."""
        spec = request.spec
        run = Run(
            spec.noise_seed,
            request.trajectory,
            start=request.start,
            conditions=NOT_EMBEDDED,
            null=NOT_EMBEDDED if self._has_null else None,
            guidance=Guidance(spec.guidance_scale, spec.guidance_interval, spec.guidance_rescale),
        )
        self._images[run] = owner, request
        self.waiting.append(run)

    def remove(self, owner: Owner) -> None:
        """Drop an owner's images, whether waiting, sampling or finished."""
        for run in [run for run, (other, _) in self._images.items() if other is owner]:
            if run in self.batch.runs:
                self.batch.leave(run)
            elif run in self.waiting:
                self.waiting.remove(run)
            del self._images[run]
            self._joined_at.pop(run, None)
        self._failed = [failed for failed in self._failed if failed.owner is not owner]
        self._finished = [finished for finished in self._finished if finished.owner is not owner]
        self._decoder.remove(owner)

    def fail_all(self, reason: str, describe: Callable[[ImageRequest], str]) -> list[Failed[Owner]]:
        """Drop all images. Returns them with their errors."""
        finished = [*self._finished, *self._decoder.finished]
        images = [*self._images.values(), *((one.owner, one.request) for one in finished)]
        failed = self._failed
        self._images.clear()
        self._failed = []
        self._finished.clear()
        self._decoder.clear()
        return [*failed, *(_failure(owner, request.spec, reason, describe(request)) for owner, request in images)]

    def owners(self) -> list[Owner]:
        """Return the owners of all images that `step` has not returned, also after it raised."""
        sampling = [owner for owner, _ in self._images.values()]
        finished = [*self._finished, *self._decoder.finished]
        return [*sampling, *(one.owner for one in self._failed), *(one.owner for one in finished)]

    def close(self) -> None:
        """Free the device's memory."""
        self.embedder.clear()
        self._beginnings.clear()
        self._finished.clear()
        self._decoder.clear()

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [decode_rows, C, h, w] as a group of finished ones: [decode_rows, channels, H, W]."""
        images: Tensor = self._decode_latents(self.model.autoencoder, latents)
        return images

    def step(self) -> list[Developed[Owner] | Failed[Owner]]:
        """Evaluate the network once for the oldest images that fit, and decode finished latents that are due.

        Returns the images that are done, one way or the other.
        """
        began = time.perf_counter()
        self._join()
        if self.batch.runs:
            used = self.rows - self.batch.free_rows
            metrics.ROWS_USED_TOTAL.inc(used * self.full_rows / self.rows)
            with metrics.STEP_SECONDS.time():
                self.batch.step()
            self._row_seconds += (time.perf_counter() - began) / max(used, 1)
        self._steps += 1
        for run in self.batch.finished:
            owner, request = self._images.pop(run)
            rows = self.batch.total_rows_of(run)
            since, step = self._joined_at.pop(run)  # it takes no rows in steps in which it waits for them
            seconds = (self._row_seconds - since) * rows / (self._steps - step)
            self._finished.append(Finished(owner, request, self.batch.leave(run), self._steps, rows, seconds))
        developed = self._decode()
        failed, self._failed = self._failed, []
        return [*failed, *developed]

    def _test(self) -> None:
        """Raise UnstableProfile if the profile cannot be used; see `SelfTest`."""
        test = self_test.SelfTest(self.model, self.shape, self._execution, self.profile)
        with test.named_failures():
            test.check_step(self._execution.take_step(), self.embedder.null, self.rows)
            check_refusals("the network")
            with named_faults("the decoder"):
                test.check_decoder(self._decode_latents, self.decode_rows)
            check_refusals("the decoder")

    def _join(self) -> None:
        """Let the oldest waiting images into the batch."""
        while self.waiting and self.batch.free_rows >= self.batch.rows_of(self.waiting[0]):
            if self.waiting[0].conditions is NOT_EMBEDDED:
                self._embed_waiting()
                continue
            run = self.waiting.popleft()
            (problem,) = each(self._begin, [run])
            if isinstance(problem, Exception):
                self._fail(run, f"its image cannot be used: {summarise(problem)}")
            else:
                self.batch.join(run)
                self._joined_at[run] = self._row_seconds, self._steps

    def _embed_waiting(self) -> None:
        """Embed the conditions of the oldest waiting images, as many as there may be in the batch."""
        runs = list(islice(self.waiting, self.rows))
        pairs = self.embedder.embed_pairs([self._images[run][1].conditions for run in runs])
        for run, pair in zip(runs, pairs, strict=True):
            if isinstance(pair, Exception):
                self.waiting.remove(run)
                self._fail(run, f"its conditions cannot be used: {summarise(pair)}")
            else:
                run.conditions, null = pair
                run.null = null if self._has_null else None

    def _begin(self, runs: Sequence[Run]) -> list[None]:
        """Let each run begin with its image if it has one."""
        for run in runs:
            request = self._images[run][1]
            if request.conditions.beginning is not None:
                self._beginnings.begin(run, request.conditions.beginning, request.spec.strength)
        return [None] * len(runs)

    def _due_group(self) -> list[Finished[Owner]]:
        """Return the latents to decode now, all of one decoder."""
        groups: dict[str, list[Finished[Owner]]] = {}
        for finished in self._finished:
            groups.setdefault(finished.request.spec.decoder, []).append(finished)
        oldest = next(iter(groups.values()), [])
        if oldest and (not self.batch.runs or self._steps - oldest[0].step >= DECODE_WAIT_STEPS):
            return oldest[: self.decode_rows]
        return next((group[: self.decode_rows] for group in groups.values() if len(group) >= self.decode_rows), [])

    def _decode(self) -> list[Developed[Owner] | Failed[Owner]]:
        """Begin to decode what is due, and return the images that have arrived."""
        group = self._due_group()
        if group:
            self._decoder.start(group)
            begun = set(map(id, group))
            self._finished = [finished for finished in self._finished if id(finished) not in begun]
        has_other_work = bool(self.waiting or self.batch.runs or self._finished)
        return [self._develop(one) for one in self._decoder.take(wait=not has_other_work)]

    def _develop(self, one: Decoded[Owner]) -> Developed[Owner] | Failed[Owner]:
        owner, spec = one.finished.owner, one.finished.request.spec
        if isinstance(one.pixels, Exception):
            return _failure(owner, spec, "decoding", f"it cannot be decoded: {summarise(one.pixels)}")
        if one.pixels is None:
            precision = self._execution.precision
            metrics.NOT_FINITE.labels(self.release.name, precision).inc()
            return _failure(owner, spec, "not_finite", NOT_FINITE if precision == "fp32" else NOT_FINITE_BF16)
        seconds = one.finished.seconds + one.seconds
        evaluations = math.ceil(one.finished.evaluations * spec.growth)
        return Developed(owner, spec, one.pixels, self._profiles[spec.decoder], evaluations, seconds)

    def _fail(self, run: Run, error: str) -> None:
        owner, request = self._images.pop(run)
        self._failed.append(_failure(owner, request.spec, "conditions", error))


def even_rows(rows: int) -> int:
    """Return so many rows or fewer: a multiple of 8, else a power of two.

    The matrix products of a CPU give the remaining rows of other numbers other bits.
    """
    return rows - rows % 8 if rows >= 8 else 1 << max(rows, 1).bit_length() - 1


def rows_of_parts(rows: int, decode: int, device: str) -> tuple[int, int, int]:
    """Return the rows of the network, the decoder and the conditions for a release's own size; see `Pack`.

    device: "cpu" or "cuda".
    """
    return max(2, rows), max(1, min(rows, decode, DECODE_ROWS[device])), max(1, min(rows, EMBED_ROWS[device]))


def _failure(owner: Owner, spec: ImageSpec, reason: str, error: str) -> Failed[Owner]:
    metrics.IMAGES_UNUSABLE.labels(reason).inc()
    return Failed(owner, spec, error)
