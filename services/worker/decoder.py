"""Decodes finished latents to images while other images take their steps."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.observability import metrics
from services.worker.beginnings import restore
from services.worker.conditions import each
from services.worker.device_faults import check_refusals, named_faults
from services.worker.images import Finished, Owner
from training.model.latent_diffusion import LatentDiffusion
from training.model.light_decoder import LatentDecoder
from training.model.pixels import to_uint8

MOST_GROUPS = 2  # that are decoded at the same time: one computes while the one before is copied


@dataclass(frozen=True)
class Copy:
    """Images on their way to the host: uint8 [R, H, W, C], and whether each is finite. event: after the copy."""

    pixels: Tensor
    is_finite: Tensor
    event: Any  # torch.cuda.Event, or None on a CPU

    def is_ready(self) -> bool:
        """Whether the images have arrived."""
        return self.event is None or bool(self.event.query())

    def wait(self) -> None:
        """Wait until they have."""
        if self.event is not None:
            self.event.synchronize()


Arriving = tuple[Copy, int]  # an image of a copy


@dataclass(frozen=True)
class Decoded(Generic[Owner]):
    """What became of a latent: uint8 [H, W, C], None if it has NaN or infinite values, or why it cannot be decoded."""

    finished: Finished[Owner]
    pixels: NDArray[np.uint8] | Exception | None
    seconds: float  # its share of the group's time


@dataclass
class Group(Generic[Owner]):
    """Latents that were decoded together."""

    images: list[tuple[Finished[Owner], Arriving | Exception]]
    size: int
    began: float

    def copies(self) -> list[Copy]:
        """Return what the images arrive in: one, or several if they had to be decoded one by one."""
        return [one[0] for _, one in self.images if not isinstance(one, Exception)]


class Decoder(Generic[Owner]):
    """Decodes latents of one shape, (C, h, w), in calls of `rows` latents. One thread alone may call it.

    decode: takes one of the model's decoders and latents. On a GPU it runs on a stream of its own, and images are
    copied to pinned memory as bytes, so that no step waits: `start` begins a group, and `take` returns what has
    arrived. On a CPU `start` does the work. Both raise OutOfMemory, after which every image that was not taken is still
    among the `finished`.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        decode: Callable[[LatentDecoder, Tensor], Tensor],
        shape: Sequence[int],
        rows: int,
        device: torch.device,
    ) -> None:
        self.rows = rows
        self._model, self._decode, self._shape, self._device = model, decode, tuple(shape), device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # untyped in torch
        self._groups: deque[Group[Owner]] = deque()
        self._arrived: list[Decoded[Owner]] = []

    @property
    def finished(self) -> list[Finished[Owner]]:
        """The latents whose images have not been taken."""
        arrived = [decoded.finished for decoded in self._arrived]
        return [*arrived, *(finished for group in self._groups for finished, _ in group.images)]

    def start(self, group: Sequence[Finished[Owner]]) -> None:
        """Begin to decode at most `rows` latents, all with the same decoder. One that fails does not affect the others.

        Waits for the oldest group if there are MOST_GROUPS.
        """
        with named_faults("the decoder"):
            if len(self._groups) >= MOST_GROUPS:
                self._receive(wait=True)
            began = time.perf_counter()
            results = each(self._begin, group)
        self._groups.append(Group(list(zip(group, results, strict=True)), len(group), began))

    def take(self, *, wait: bool) -> list[Decoded[Owner]]:
        """Return the images that have arrived, oldest first. wait: for the oldest group."""
        with named_faults("the decoder"):
            check_refusals("the network")
            self._receive(wait=wait)
        arrived, self._arrived = self._arrived, []
        return arrived

    def remove(self, owner: Owner) -> None:
        """Drop an owner's images."""
        for group in self._groups:
            group.images = [image for image in group.images if image[0].owner is not owner]
        self._groups = deque(group for group in self._groups if group.images)
        self._arrived = [decoded for decoded in self._arrived if decoded.finished.owner is not owner]

    def clear(self) -> None:
        """Drop all images."""
        self._groups.clear()
        self._arrived.clear()

    def _receive(self, *, wait: bool) -> None:
        """Unpack the groups that have arrived. wait: for the oldest."""
        while self._groups:
            copies = self._groups[0].copies()
            if wait:
                for copy in copies:
                    copy.wait()
            elif not all(copy.is_ready() for copy in copies):
                return
            wait = False
            self._arrived += self._unpack(self._groups.popleft())

    def _unpack(self, group: Group[Owner]) -> list[Decoded[Owner]]:
        seconds = time.perf_counter() - group.began
        metrics.DECODE_SECONDS.observe(seconds)
        received: list[Decoded[Owner]] = []
        for finished, result in group.images:
            if isinstance(result, Exception):
                received.append(Decoded(finished, result, seconds / group.size))
            else:
                copy, i = result
                pixels = copy.pixels[i].numpy() if copy.is_finite[i] else None
                received.append(Decoded(finished, pixels, seconds / group.size))
        return received

    def _begin(self, group: Sequence[Finished[Owner]]) -> list[Arriving]:
        if self._stream is None:
            copy = Copy(*self._compute(group), event=None)
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))  # on which the latents are computed
            with torch.cuda.stream(self._stream):
                copy = copy_to_host(*self._compute(group))
            for finished in group:
                finished.latent.record_stream(self._stream)  # its memory is not used again before this stream read it
        return [(copy, i) for i in range(len(group))]

    def _compute(self, group: Sequence[Finished[Owner]]) -> tuple[Tensor, Tensor]:
        """Return images, uint8 [R, H, W, C], and whether each is finite, in calls of one shape."""
        latents = torch.zeros(self.rows, *self._shape, device=self._device)
        for i, finished in enumerate(group):
            latents[i] = finished.latent
        images = self._decode(self._model.decoders[group[0].request.spec.decoder], latents)
        is_finite = torch.isfinite(latents).flatten(1).all(1) & torch.isfinite(images).flatten(1).all(1)
        for i, finished in enumerate(group):
            conditions = finished.request.conditions
            images[i] = restore(self._model.conditioners.finish(images[i], conditions.values), conditions.beginning)
        return to_uint8(images), is_finite


def copy_to_host(pixels: Tensor, is_finite: Tensor) -> Copy:
    """Begin to copy both to pinned memory, on the current stream."""
    on_host = [
        torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        for tensor in (pixels, is_finite)
    ]
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
    event.record()
    return Copy(on_host[0], on_host[1], event)
