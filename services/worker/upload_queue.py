"""The order of uploads: each tenant in turn. An image that waits after an error occupies no thread."""

import threading
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from services.observability import metrics
from services.worker.held_shards import HeldShard, HeldShards
from services.worker.images import Developed

MAX_BYTES = 256 * 2**20  # of images that are not stored yet; the engine waits when there are more
MIN_BYTES = 64 * 2**10  # as which a small image counts
AT_ONCE = 16  # uploads, without those that take longer than SLOW_S
SLOW_S = 2.0
MAX_SLOW = 4  # of one tenant, which then gets no further thread
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
GRACE_S = 10.0  # for which a tenant's images are kept that cannot be stored while others' can, once memory is short
LONGEST_WAIT_S = 120.0  # for which any image is kept that cannot be stored


@dataclass(eq=False)
class Upload:
    """A finished image on its way to the store."""

    image: Developed[HeldShard]
    profile: str
    body: bytes = b""  # once it is encoded
    is_doubtful: bool = False  # the store has accepted it and may not keep it
    pause_s: float = FIRST_PAUSE_S
    due: float = 0.0
    troubled_at: float | None = None  # when it first failed, or began a slow attempt
    problem: str = "the store takes long"

    @property
    def shard(self) -> HeldShard:
        """The shard of the image."""
        return self.image.owner

    @property
    def tenant(self) -> str:
        """The tenant of the image."""
        return self.image.owner.lease.tenant

    @property
    def bytes(self) -> int:
        """The memory as which it counts."""
        return max(self.image.pixels.nbytes, MIN_BYTES)


@dataclass
class TenantUploads:
    """A tenant's uploads that have no thread, and when one of its images was last stored."""

    ready: deque[Upload] = field(default_factory=deque)
    delayed: list[Upload] = field(default_factory=list)
    stored_at: float = 0.0


class UploadQueue:
    """Uploads by tenant. Every thread may call every method."""

    def __init__(self, shards: HeldShards) -> None:
        self.shards = shards
        self._tenants: OrderedDict[str, TenantUploads] = OrderedDict()
        self._under_way: dict[Upload, float] = {}  # when they began
        self._checking: dict[Upload, float] = {}  # those that the store has accepted, which occupy no thread
        self._bytes = self._count = 0
        self._lock = threading.Lock()
        self._work, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        self._closed = self._hurry = False

    def put(self, upload: Upload, timeout_s: float) -> bool:
        """Add an upload. Returns False if there is no memory for it within `timeout_s` seconds."""
        with self._lock:
            if not self._room.wait_for(lambda: self._has_room(upload), timeout_s):
                return False
            self._count_in(upload, 1)
            upload.shard.storing += 1
            self._tenants.setdefault(upload.tenant, TenantUploads()).ready.append(upload)
            self._work.notify()
            return True

    def take(self) -> Upload | None:
        """Wait for an upload that may begin, and return it. Returns None once the queue is closed and empty."""
        with self._lock:
            while True:
                now = time.monotonic()
                if (upload := self._next(now)) is not None:
                    self._under_way[upload] = now
                    return upload
                if self._closed and not self._count:
                    return None
                self._work.wait(self._next_change_s(now))

    def accept(self, upload: Upload) -> None:
        """Note that the store has accepted an upload. It ends once it is checked that the store keeps it."""
        with self._lock:  # the thread that calls this takes the next one, so no other need wake
            self._checking[upload] = self._under_way.pop(upload)
            upload.shard.storing -= 1

    @property
    def is_storing(self) -> bool:
        """Whether there are uploads that the store has not accepted yet."""
        return self._count > len(self._checking)

    def finish(self, upload: Upload, *, stored: bool) -> None:
        """End an upload: it is stored, or it is given up."""
        with self._lock:
            if self._checking.pop(upload, None) is None:
                del self._under_way[upload]
                upload.shard.storing -= 1
            if stored:
                self._tenants[upload.tenant].stored_at = time.monotonic()
            self._count_in(upload, -1)

    def check_again(self, upload: Upload) -> None:
        """Begin an upload again at once, because the store may not keep what it accepted."""
        with self._lock:
            upload.is_doubtful = True
            del self._checking[upload]
            upload.shard.storing += 1
            self._tenants[upload.tenant].ready.append(upload)
            self._work.notify()

    def retry(self, upload: Upload, problem: str) -> bool:
        """Begin an upload again after a pause, each longer than the one before.

        Returns False if that has lasted for LONGEST_WAIT_S: the caller gives it up.
        """
        with self._lock:
            now = time.monotonic()
            upload.troubled_at = upload.troubled_at or self._under_way[upload]
            if now - upload.troubled_at > LONGEST_WAIT_S:
                return False
            upload.problem, upload.due = problem, now + upload.pause_s
            upload.pause_s = min(2 * upload.pause_s, LONGEST_PAUSE_S)
            del self._under_way[upload]
            self._tenants[upload.tenant].delayed.append(upload)
            self._work.notify()
            return True

    def hopeless(self) -> dict[HeldShard, str]:
        """Return the shards whose images cannot be stored, although other tenants' images can, and why."""
        with self._lock:
            now = time.monotonic()
            begun = {**self._under_way, **self._checking}
            for upload, began in begun.items():
                if now - began > SLOW_S and upload.troubled_at is None:
                    upload.troubled_at = began
            waiting = [upload for tenant in self._tenants.values() for upload in tenant.delayed]
            return {
                upload.shard: upload.problem
                for upload in (*waiting, *begun)
                if upload.troubled_at is not None and self._is_hopeless(upload.tenant, upload.troubled_at, now)
            }

    def discard_ended(self) -> None:
        """Free the memory of waiting images whose shards have ended."""
        with self._lock:
            for tenant in self._tenants.values():
                for uploads in (tenant.ready, tenant.delayed):
                    for upload in [upload for upload in uploads if upload.shard not in self.shards]:
                        uploads.remove(upload)
                        upload.shard.storing -= 1
                        self._count_in(upload, -1)

    def hurry(self) -> None:
        """Make every delayed upload due."""
        with self._lock:
            self._hurry = True
            self._work.notify_all()

    def close(self) -> None:
        """Let `take` return None once every upload has ended."""
        with self._lock:
            self._closed = True
            self._work.notify_all()

    def _has_room(self, upload: Upload) -> bool:
        return self._bytes == 0 or self._bytes + upload.bytes <= MAX_BYTES

    def _next(self, now: float) -> Upload | None:
        slow = Counter(upload.tenant for upload, began in self._under_way.items() if now - began > SLOW_S)
        if len(self._under_way) - slow.total() >= AT_ONCE:
            return None
        for name, tenant in self._tenants.items():
            for upload in [upload for upload in tenant.delayed if upload.due <= now or self._hurry]:
                tenant.delayed.remove(upload)
                tenant.ready.append(upload)
            if tenant.ready and slow[name] < MAX_SLOW:
                self._tenants.move_to_end(name)
                return tenant.ready.popleft()
        return None

    def _next_change_s(self, now: float) -> float | None:
        """Return after how many seconds a delayed upload is due or one under way becomes slow."""
        times = [upload.due for tenant in self._tenants.values() for upload in tenant.delayed]
        times += [began + SLOW_S for began in self._under_way.values() if now - began <= SLOW_S]
        return max(min(times) - now, 0.0) + 0.001 if times else None

    def _is_hopeless(self, tenant: str, since: float, now: float) -> bool:
        if now - since > LONGEST_WAIT_S:
            return True
        are_others_stored = any(uploads.stored_at > since for name, uploads in self._tenants.items() if name != tenant)
        return now - since > GRACE_S and are_others_stored and self._tenants[tenant].stored_at < since

    def _count_in(self, upload: Upload, sign: int) -> None:
        self._bytes += sign * upload.bytes
        self._count += sign
        metrics.UPLOADS_UNDER_WAY.set(self._count)
        if sign < 0:
            self._room.notify()
            if self._closed:
                self._work.notify_all()
