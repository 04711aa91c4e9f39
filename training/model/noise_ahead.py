"""The noise of evaluations, drawn in threads while the network runs."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from training.model.noise import fill_with_noise

THREADS = 4
VALUES_A_THREAD = 2**15  # fewer take less time than to start a thread
BUFFERS = 3  # one is copied to the device, one waits for its step, and one is written

Key = tuple[int, int]  # seed and index, see `seeded_noise`


class NoiseAhead:
    """The noise of each slot's next evaluation, in pinned memory if the device is a GPU.

    Only slots whose evaluation takes noise cost anything. A buffer is used again for the third evaluation after its
    own, so the caller may run at most one evaluation ahead of the device.
    """

    def __init__(self, slots: int, shape: Sequence[int], device: torch.device) -> None:
        self._buffers = [torch.zeros(slots, *shape, pin_memory=device.type == "cuda") for _ in range(BUFFERS)]
        self._size = self._buffers[0][0].numel()
        self._turn = 0
        self._expected: dict[int, Key] = {}  # by slot, what is in the buffer or about to be
        self._futures: list[Future[None]] = []

    def expect(self, wanted: Mapping[int, Key]) -> None:
        """Start to draw noise for slots, as the next `take` will probably want it."""
        if not wanted:
            return
        self._finish()  # what was expected for a step that took none is drawn into the same buffer
        self._expected = dict(wanted)
        pairs = list(wanted.items())
        parts = min(THREADS, 1 + len(pairs) * self._size // VALUES_A_THREAD)
        self._futures = [_threads().submit(self._draw, pairs[first::parts]) for first in range(parts)]

    def take(self, wanted: Mapping[int, Key]) -> Tensor:
        """Return noise for slots: float32 [slots, ...], on the host. Other slots have any finite values."""
        self._finish()
        self._draw([(slot, key) for slot, key in wanted.items() if self._expected.get(slot) != key])
        noise = self._buffers[self._turn]
        self._expected = {}
        self._turn = (self._turn + 1) % BUFFERS
        return noise

    def _finish(self) -> None:
        """Wait until nothing writes into a buffer."""
        for future in self._futures:
            future.result()
        self._futures = []

    def _draw(self, pairs: Sequence[tuple[int, Key]]) -> None:
        buffer = self._buffers[self._turn].numpy()
        for slot, (seed, index) in pairs:
            fill_with_noise(buffer[slot], seed, index)


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="noise")
