"""Checkpoints that outlive the pod: written to its disk, and copied to S3 while training continues.

    PREFIX/KEY/lock                                held by the process that may write here
    PREFIX/KEY/step-00000500/state.safetensors
    PREFIX/KEY/step-00000500/losses.csv            the losses since the first step, for the curves
    PREFIX/KEY/step-00000500/run.json              written last: without it the checkpoint does not exist

KEY is a digest of the settings, the images and the code, so a retried stage finds the checkpoints of its last attempt.
"""

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from torch import Tensor

from kfp_pipelines.checkpoints.writer_lock import WriterLock
from kfp_pipelines.events import Message, emit
from services.storage.errors import ObjectStoreError
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient
from training.data.locks import lock_folder
from training.runs.checkpoints import (
    RUN,
    STATE,
    Checkpoint,
    CheckpointError,
    LocalCheckpoints,
    output_checkpoints,
    step_of,
)
from training.runs.identity import Run

LOSSES = "losses.csv"


class DurableCheckpoints:
    """A `CheckpointStore` in S3, with a folder on this machine that it uploads from and downloads to.

    An outage of S3 does not stop training: the next checkpoint is uploaded instead.
    """

    def __init__(self, local: LocalCheckpoints, store: ObjectStore, prefix: str, lock: WriterLock | None) -> None:
        self.local, self.store, self.prefix, self.lock = local, store, prefix.rstrip("/"), lock
        self.losses = local.folder.parent / LOSSES
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._upload: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, Tensor], run: Mapping[str, Any]) -> None:
        """See `CheckpointStore.save`. Waits for the upload of the last checkpoint, and starts that of this one."""
        self.wait()
        self.local.save(step, tensors, run)
        folder = self.local.complete()[-1]
        if self.losses.is_file():
            shutil.copyfile(self.losses, folder / LOSSES)
        self._upload = self._thread.submit(self._upload_folder, folder)

    def latest(self) -> Checkpoint | None:
        """See `CheckpointStore.latest`. Considers S3 and this machine."""
        try:
            with lock_folder(self.local.folder):  # several ranks start at once
                here, there = self.local.complete(), self._complete()
                if there and (not here or step_of(here[-1]) < max(there)):
                    self._fetch(max(there))
        except (BotoCoreError, ClientError) as error:
            raise CheckpointError(f"{self.store.uri(self.prefix)} cannot be read: {error}") from None
        return self.local.latest()

    def clear(self) -> None:
        """See `CheckpointStore.clear`."""
        self.local.clear()
        for step in self._complete():
            self._remove(step)

    def wait(self) -> None:
        """Wait until the current upload has ended. Raises CheckpointError if it failed for good."""
        if self._upload is not None:
            self._upload.result()
            self._upload = None
        if self.lock is not None:
            self.lock.check()

    def close(self) -> None:
        """Wait for the last upload."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _upload_folder(self, folder: Path) -> None:
        if self.lock is not None:
            self.lock.check()
        try:
            for name in (STATE, LOSSES, RUN):
                if (folder / name).is_file():
                    self.store.upload(self._key(folder.name, name), folder / name)
            for step in sorted(self._complete())[: -self.local.keep]:
                self._remove(step)
        except (BotoCoreError, ClientError, ObjectStoreError) as error:
            if not is_transient(error):
                raise CheckpointError(f"{self.store.uri(self.prefix)} cannot be written: {error}") from None
            emit(Message(f"{folder.name} is not in S3 ({error}); the next checkpoint will be uploaded"))

    def _fetch(self, step: int) -> None:
        name = f"step-{step:08d}"
        unfinished = self.local.folder / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for file in (STATE, RUN):
            self.store.download(self._key(name, file), unfinished / file)
        if self.store.etag(self._key(name, LOSSES)) is not None:
            self.store.download(self._key(name, LOSSES), self.losses)
        unfinished.rename(self.local.folder / name)

    def _complete(self) -> list[int]:
        """Return the steps of the complete checkpoints in S3."""
        names = (key.removeprefix(f"{self.prefix}/") for key in self.store.keys(f"{self.prefix}/step-"))
        return [step_of(Path(name).parent) for name in names if Path(name).name == RUN]

    def _remove(self, step: int) -> None:
        name = f"step-{step:08d}"
        self.store.delete([self._key(name, RUN)])  # first, so that no incomplete checkpoint counts
        self.store.delete([self._key(name, file) for file in (STATE, LOSSES)])

    def _key(self, name: str, file: str) -> str:
        return f"{self.prefix}/{name}/{file}"


@dataclass(frozen=True)
class DurableLocation:
    """A `CheckpointLocation` in S3: the checkpoints of each run are stored under PREFIX/KEY. Only rank 0 writes."""

    store: ObjectStore
    prefix: str
    rank: int = 0

    @contextmanager
    def open(self, run: Run) -> Iterator[DurableCheckpoints]:
        """See `CheckpointLocation.open`."""
        local = LocalCheckpoints(output_checkpoints(run), keep=run.config["checkpoint"]["keep"])
        own = f"{self.prefix.strip('/')}/{run.key}"
        if self.rank > 0:
            yield DurableCheckpoints(local, self.store, own, None)
            return
        with WriterLock(self.store, f"{own}/lock") as lock:
            checkpoints = DurableCheckpoints(local, self.store, own, lock)
            try:
                yield checkpoints
            finally:
                checkpoints.close()
