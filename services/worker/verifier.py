"""Checks that the store keeps what it has accepted: many images by one listing, instead of one request an image."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.job_queue.outputs import Output
from services.process.threads import start_thread
from services.storage.content import Content
from services.storage.listing import find_kept
from services.storage.object_store import ObjectStore
from services.worker.upload_queue import Upload

log = logging.getLogger("darkroom.uploader")

MOST_TOGETHER = 256  # images of one check
GATHER_S = 0.02  # for which a check waits for images that are being stored
SHARD_S = 0.2  # for which it waits if every shard that it checks has such images: no shard ends later for it
LOOK_S = 0.005  # how often it looks whether there are


@dataclass(frozen=True)
class Written:
    """An image that the store has accepted, and what its key should hold."""

    upload: Upload
    output: Output
    content: Content | None  # None: it is checked already


class Verifier:
    """Checks images in one thread. Those that are accepted at about the same time are checked together.

    on_kept: called with images that the store keeps. on_doubt: with one that it may not keep. is_more_coming: whether
    more images may be accepted soon.
    """

    def __init__(
        self,
        store: ObjectStore,
        on_kept: Callable[[Sequence[Written]], None],
        on_doubt: Callable[[Written], None],
        is_more_coming: Callable[[], bool],
    ) -> None:
        self.store, self._on_kept, self._on_doubt, self._is_more_coming = store, on_kept, on_doubt, is_more_coming
        self._written: list[Written] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread(self._run, "verify")

    def add(self, written: Written) -> None:
        """Check an image soon."""
        with self._changed:
            self._written.append(written)
            if len(self._written) == 1:
                self._changed.notify()

    def stop(self) -> None:
        """Return when every image is checked."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (group := self._take()) is not None:
            try:
                kept = find_kept(
                    self.store, {one.output.key: one.content for one in group if one.output.key and one.content}
                )
            except Exception as error:  # Of any kind: each image is then checked by itself.
                log.debug("images could not be listed: %s", error)
                kept = set()
            self._on_kept([written for written in group if written.output.key in kept])
            for written in group:
                if written.output.key not in kept:
                    self._on_doubt(written)

    def _take(self) -> list[Written] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._written or self._stopping)
            began = time.monotonic()
            while len(self._written) < MOST_TOGETHER and time.monotonic() - began < self._gather_s():
                self._changed.wait(LOOK_S)
            group, self._written = self._written[:MOST_TOGETHER], self._written[MOST_TOGETHER:]
            return group or None

    def _gather_s(self) -> float:
        """Return for how many seconds to wait for more images."""
        if not self._is_more_coming():
            return 0.0
        return SHARD_S if all(one.upload.shard.storing for one in self._written) else GATHER_S
