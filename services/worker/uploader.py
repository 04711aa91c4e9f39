"""Encodes and stores finished images in threads while the engine takes its next steps."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from services.database.connections import brief, describe
from services.job_queue.outputs import Output
from services.observability import logs, metrics
from services.process.threads import start_thread
from services.storage import layout
from services.storage.content import Content
from services.storage.object_store import ObjectStore
from services.storage.transient import is_transient
from services.worker import encoding
from services.worker.held_shards import HeldShard, HeldShards
from services.worker.images import Developed
from services.worker.settler import Settler
from services.worker.upload_queue import Upload, UploadQueue
from services.worker.verifier import Verifier, Written

log = logging.getLogger("darkroom.uploader")

THREADS = 32  # as many as the client of S3 has connections


class Uploader:
    """Stores images and has them settled. While S3 is unavailable it retries, and the engine waits for it."""

    def __init__(self, store: ObjectStore, shards: HeldShards, settler: Settler) -> None:
        self.store, self.shards, self.settler = store, shards, settler
        self._queue = UploadQueue(shards)
        self._verifier = Verifier(
            store,
            on_kept=self._finish,
            on_doubt=lambda written: self._queue.check_again(written.upload),
            is_more_coming=lambda: self._queue.is_storing,
        )
        self._threads: list[threading.Thread] = []
        self._hurry = threading.Event()

    def start(self) -> None:
        """Start the threads."""
        self.settler.start()
        self._verifier.start()
        self._threads = [start_thread(self._run, f"upload-{i}") for i in range(THREADS)]

    def add(self, image: Developed[HeldShard], profile: str, tick: Callable[[], None]) -> None:
        """Accept an image. While there is no memory for it, this waits, and calls `tick` every second.

        Shards whose images cannot be stored while others' can return to the queue then.
        """
        upload = Upload(image, profile)
        while not self._queue.put(upload, timeout_s=1.0):
            tick()
            for shard, problem in self._queue.hopeless().items():
                self.shards.postpone(shard, f"its images cannot be stored: {problem}")
            self._queue.discard_ended()

    def stop(self, within_s: float) -> None:
        """Return when every image is settled. After `within_s` seconds, unsettled shards return to the queue."""
        timer = threading.Timer(within_s, self._give_up)
        timer.start()
        self._queue.close()
        for thread in self._threads:
            thread.join()
        self._verifier.stop()
        self.settler.stop()
        timer.cancel()

    def _give_up(self) -> None:
        self._hurry.set()
        self._queue.hurry()
        self.settler.hurry()

    def _run(self) -> None:
        while (upload := self._queue.take()) is not None:
            if upload.shard not in self.shards:
                self._queue.finish(upload, stored=False)
                continue
            try:
                output, unchecked = self._store(upload)
            except Exception as error:
                self._handle(upload, error)
            else:
                written = Written(upload, output, unchecked)
                if unchecked is None:
                    self._finish([written])
                else:
                    self._queue.accept(upload)
                    self._verifier.add(written)

    def _finish(self, stored: Sequence[Written]) -> None:
        self.settler.add_all([(written.upload.shard, written.output) for written in stored])
        for written in stored:
            self._queue.finish(written.upload, stored=True)

    def _handle(self, upload: Upload, error: Exception) -> None:
        """Try an image again while the store is away. Anything else fails an attempt of its shard."""
        shard, index = upload.shard, upload.image.spec.index
        reason = f"image {index} could not be stored: {describe(error)}"
        message = f"job {shard.lease.job_id}: {reason}"
        log.warning("%s", message, extra=logs.lease_fields(shard.lease))
        if not is_transient(error):
            self.shards.fail_attempt(shard, reason)
        elif self._hurry.is_set():
            self.shards.return_to_queue(shard)
        elif self._queue.retry(upload, brief(error)):
            return
        else:
            self.shards.postpone(shard, reason)
        self._queue.finish(upload, stored=False)

    def _store(self, upload: Upload) -> tuple[Output, Content | None]:
        """Encode and store an image. Returns its record, and its content if it is yet to be checked."""
        plan, spec, lease = upload.shard.plan, upload.image.spec, upload.shard.lease
        image_format, options = plan["format"], plan.get("output", {})
        key = layout.image_key(plan["output_prefix"], lease.job_id, spec.index, image_format, spec.name)
        if upload.shard.is_intermediate:  # its pixels are what the next stage takes
            image_format, options = "png", {}
            prefix = layout.job_prefix(plan["output_prefix"], lease.job_id)
            key = f"{layout.stage_prefix(prefix, upload.shard.revision, spec.stage)}{spec.index:08d}.png"
        if not upload.body:
            origin = {"job": str(lease.job_id), "index": spec.index, "release": lease.pack_key, "seed": spec.seed}
            encode = partial(encoding.encode_image, upload.image.pixels, image_format, quality=options.get("quality"))
            with metrics.ENCODE_SECONDS.labels(image_format).time():
                body = encode(metadata=origin if options.get("metadata") else None)
            if "thumbnail" in options:  # first, so that a recorded image has one
                small = encode(longest=options["thumbnail"])
                self.store.put_if_absent(layout.thumbnail_key(key), small, content_type=f"image/{image_format}")
            upload.body = body
        with metrics.UPLOAD_SECONDS.time():
            stored = self.store.put_if_absent(
                key, upload.body, content_type=f"image/{image_format}", checked_later=not upload.is_doubtful
            )
        output = Output(spec.index, spec.item, spec.seed, key, stored.sha256, stored.bytes, upload.profile)
        output = replace(output, evaluations=upload.image.evaluations, gpu_seconds=upload.image.seconds)
        return output, stored.unchecked
