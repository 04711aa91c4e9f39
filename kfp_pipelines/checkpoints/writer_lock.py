"""One writer under a prefix of S3: an object that its holder renews, by conditional writes.

A pod that was evicted may still run when its successor starts. The successor waits until the object has not been
renewed for a lease, by the store's own clock; the first one finds another's etag at its next renewal, and stops.
"""

import threading
import time
import uuid
from types import TracebackType

from botocore.exceptions import BotoCoreError, ClientError

from services.storage.object_store import ObjectStore
from training.runs.checkpoints import CheckpointError

LEASE_S = 90.0
RENEWALS = 4  # in a lease


class WriterLock:
    """Held within `with`. Raises CheckpointError where another process holds it for longer than `patience_s`."""

    def __init__(self, store: ObjectStore, key: str, *, lease_s: float = LEASE_S, patience_s: float = 600.0) -> None:
        self.store, self.key, self.lease_s, self.patience_s = store, key, lease_s, patience_s
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
                "renew its lock; it goes on there, this one stops"
            )

    def _acquire(self) -> None:
        deadline = time.monotonic() + self.patience_s
        told = False
        while True:
            held = self.store.age(self.key)
            if held is None or held[1] > self.lease_s:
                etag = self.store.put_if_unchanged(self.key, self._body(), etag=held and held[0])
                if etag is not None:
                    self._etag = etag
                    return
            elif not told:
                print(f"waiting for another process of this run, which wrote {held[1]:.0f} s ago", flush=True)
                told = True
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"{self.store.uri(self.key)}: another process trains the same (settings, images and code are "
                    "equal). Wait for it, stop it, or change the seed"
                )
            time.sleep(self.lease_s / 20)

    def _renew(self) -> None:
        with self._wake:
            while not self._wake.wait_for(lambda: self._stopping, self.lease_s / RENEWALS):
                try:
                    etag = self.store.put_if_unchanged(self.key, self._body(), etag=self._etag)
                except (BotoCoreError, ClientError):
                    continue  # S3 is away: nobody else can take the lock meanwhile
                if etag is None:
                    self._lost = True
                    return
                self._etag = etag

    def _body(self) -> bytes:
        return f"{self.owner} {time.time():.3f}".encode()
