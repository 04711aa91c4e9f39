"""The packs of an engine: one for images of the release's own size, and one for each other requested size."""

from typing import Generic

import torch

from services.observability import metrics
from services.worker.device_faults import OutOfMemory, UnstableProfile, named_faults
from services.worker.execution import Execution
from services.worker.images import Developed, Failed, ImageRequest, Owner
from services.worker.pack import Pack

MOST_PACKS = 8  # that are open; each has a state on the device about as large as the others'
PATIENCE = 8  # steps for which a pack that is not full waits for others that are
AHEAD = 4  # images that may wait for their size, in rows

Shape = tuple[int, int, int]


class Packs(Generic[Owner]):
    """Packs by the shape of their latents. A step is one of a single pack, of full ones before others.

    A pack is opened when it takes its first step, and closed if there are too many and it has nothing to do. own: that
    of the release's own size, which stays.
    """

    def __init__(self, own: Pack[Owner], execution: Execution) -> None:
        self._own, self._execution = own, execution
        self._open: dict[Shape, Pack[Owner]] = {own.shape: own}
        self._queued: dict[Shape, list[tuple[Owner, ImageRequest]]] = {}  # of packs that are not open yet
        self._failed: list[Failed[Owner]] = []  # that the next step to succeed returns
        self._steps = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to sample or decode."""
        return bool(self._queued or self._failed) or any(pack.busy for pack in self._open.values())

    @property
    def images(self) -> int:
        """How many images are waiting or sampling."""
        packs = self._open.values()
        return sum(len(pack.waiting) + len(pack.batch.runs) for pack in packs) + sum(map(len, self._queued.values()))

    def room_after(self, steps: int) -> int:
        """Return for how many images there will be rows in so many steps, in the packs that are busy; else in the own.

        Fewer if many images wait for their size.
        """
        busy = [pack for pack in self._open.values() if pack.busy] or [self._own]
        waiting = sum(len(pack.waiting) for pack in busy) + sum(map(len, self._queued.values()))
        return max(0, min(sum(pack.room_after(steps) for pack in busy), AHEAD * self._own.rows - waiting))

    def add(self, owner: Owner, request: ImageRequest) -> None:
        """Add an image to the pack of its size."""
        shape = request.shape
        if shape in self._open:
            self._open[shape].add(owner, request)
        else:
            self._queued.setdefault(shape, []).append((owner, request))

    def remove(self, owner: Owner) -> None:
        """Drop an owner's images."""
        for pack in self._open.values():
            pack.remove(owner)
        kept = {shape: [image for image in images if image[0] is not owner] for shape, images in self._queued.items()}
        self._queued = {shape: images for shape, images in kept.items() if images}
        self._failed = [failed for failed in self._failed if failed.owner is not owner]

    def owners(self) -> list[Owner]:
        """Return the owners of all images that `step` has not returned, also after it raised."""
        queued = (owner for images in self._queued.values() for owner, _ in images)
        failed = (failed.owner for failed in self._failed)
        opened = (owner for pack in self._open.values() for owner in pack.owners())
        return list(dict.fromkeys([*opened, *queued, *failed]))

    def close(self) -> None:
        """Free the device's memory."""
        for pack in self._open.values():
            pack.close()

    def step(self) -> list[Developed[Owner] | Failed[Owner]]:
        """Take a step of one pack. Returns the images that are done; see `Pack.step`."""
        self._open_queued()
        self._steps += 1
        developed = self._step(self._next())
        failed, self._failed = self._failed, []
        return [*failed, *developed]

    def _step(self, pack: Pack[Owner] | None) -> list[Developed[Owner] | Failed[Owner]]:
        if pack is None:
            return []
        pack.stepped_at = self._steps
        if pack.rows > 2 or pack is self._own:
            return pack.step()
        try:
            with named_faults():
                return pack.step()
        except OutOfMemory as error:  # two rows of another size are no reason to run all with fewer
            return [*self._discard(pack, str(error))]

    def _next(self) -> Pack[Owner] | None:
        """Return the pack whose step is due: one that waited for long, else a full one, else any."""
        busy = [pack for pack in self._open.values() if pack.busy]
        late = [pack for pack in busy if self._steps - pack.stepped_at > PATIENCE]
        full = [pack for pack in busy if pack.is_full]
        return min(late or full or busy, key=lambda pack: pack.stepped_at, default=None)

    def _open_queued(self) -> None:
        """Open packs for the images that wait for one, as far as there may be as many."""
        for shape in list(self._queued):
            if len(self._open) >= MOST_PACKS and not self._close_idle():
                return
            images = self._queued[shape]
            try:
                own = self._own
                with named_faults():
                    pack = Pack[Owner](own.model, own.release, self._execution, shape, own.full_rows, own.full_decode)
            except (UnstableProfile, OutOfMemory) as error:
                metrics.IMAGES_UNUSABLE.labels("memory").inc(len(images))
                self._failed += [
                    Failed(owner, request.spec, size_error(request, str(error))) for owner, request in images
                ]
                del self._queued[shape]
                continue
            pack.stepped_at = self._steps
            self._open[shape] = pack
            for owner, request in images:
                pack.add(owner, request)
            del self._queued[shape]

    def _close_idle(self) -> bool:
        idle = [pack for pack in self._open.values() if not pack.busy and pack is not self._own]
        if not idle:
            return False
        oldest = min(idle, key=lambda pack: pack.stepped_at)
        self._open.pop(oldest.shape).close()
        return True

    def _discard(self, pack: Pack[Owner], problem: str) -> list[Failed[Owner]]:
        """Fail the images of a pack for which there is no memory, and free what it has."""
        failed = pack.fail_all("memory", lambda request: size_error(request, problem))
        self._open.pop(pack.shape).close()
        if self._execution.device.type == "cuda":
            torch.cuda.empty_cache()
        return failed


def size_error(request: ImageRequest, problem: str) -> str:
    """Return the error of an image whose size this worker cannot make."""
    width, height = request.spec.size or (0, 0)
    return f"size: [{width}, {height}] cannot be made by this worker; use a smaller size ({problem[:200]})"
