"""Allows one writer under a prefix of S3: an object that its holder renews with conditional writes.

An evicted pod may still run when its successor starts. The successor waits until the object has not been renewed for
one lease, by the store's clock. At its next renewal, the first pod finds that the etag has changed, and stops.
"""

import threading
import time
import uuid
from types import TracebackType

from botocore.exceptions import BotoCoreError, ClientError

from kfp_pipelines.events import Message, emit
from services.storage.object_store import ObjectStore
from training.runs.checkpoints import CheckpointError

LEASE_S = 90.0
RENEWALS = 4  # per lease
TIMEOUT_S = 600.0


class WriterLock:
    """A lock that is held within `with`. Raises CheckpointError if another process holds it longer than `timeout_s`."""

    def __init__(self, store: ObjectStore, key: str, *, lease_s: float = LEASE_S, timeout_s: float = TIMEOUT_S) -> None:
        self.store, self.key, self.lease_s, self.timeout_s = store, key, lease_s, timeout_s
        self.owner = uuid.uuid4().hex
        self._etag = ""
        self._lost = self._stopping = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._renew, name="writer-lock", daemon=True)

    def __enter__(self) -> "WriterLock":
        self._acquire()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        if not self._lost:
            self.store.delete_if_unchanged(self.key, etag=self._etag)

    def check(self) -> None:
        """Raise CheckpointError if another process has taken over."""
        if self._lost:
            raise CheckpointError(
                f"{self.store.uri(self.key)}: another process of the same run has taken over while this one could not "
                "renew its lock; training continues there, and stops here"
            )

    def _acquire(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        waiting = False
        while True:
            held = self.store.age(self.key)
            if held is None or held[1] > self.lease_s:
                etag = self.store.put_if_unchanged(self.key, self._body(), etag=held and held[0])
                if etag is not None:
                    self._etag = etag
                    return
            elif not waiting:
                emit(Message(f"waiting for another process of this run, which wrote {held[1]:.0f} s ago"))
                waiting = True
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"{self.store.uri(self.key)}: another process is training this run (the same settings, images "
                    "and code). Wait for it, stop it, or change the seed"
                )
            time.sleep(self.lease_s / 20)

    def _renew(self) -> None:
        with self._wake:
            while not self._wake.wait_for(lambda: self._stopping, self.lease_s / RENEWALS):
                try:
                    etag = self.store.put_if_unchanged(self.key, self._body(), etag=self._etag)
                except (BotoCoreError, ClientError):
                    continue  # during an outage of S3 no other process can take the lock
                if etag is None:
                    self._lost = True
                    return
                self._etag = etag

    def _body(self) -> bytes:
        return f"{self.owner} {time.time():.3f}".encode()
