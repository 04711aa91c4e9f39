"""Small copies of images, made when they are first looked at and kept in memory up to a size.

The bytes come from S3, where another program may have replaced them: they must have the recorded sha256, and are
decoded within the limits of files that tenants send. A copy is therefore cached by sha256, for all users.
"""

import hashlib
import io
import threading
from collections import OrderedDict

from PIL import Image

from services.job_queue.outputs import Output
from services.job_requests.image_files import MAX_BYTES, decode_image
from services.job_requests.image_rules import ImageRule
from services.storage.object_store import ObjectStore

SIZES = (128, 256, 512)  # pixels of the longer side
KEPT_BYTES = 2**26
DECODED_AT_ONCE = 4
ENLARGED = 128  # pixels of the longer side up to which an image is shown enlarged, and must be exact
COLOUR = ImageRule(channels=3)


class NotShown(Exception):
    """An image cannot be shown; the message says why."""


class Thumbnails:
    """Copies by sha256 and size, the least recently used of which is forgotten first."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self.kept_bytes, self.bytes = kept_bytes, 0
        self._copies: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock, self._decoders = threading.Lock(), threading.BoundedSemaphore(DECODED_AT_ONCE)

    def get(self, store: ObjectStore, image: Output, size: int) -> bytes:
        """Return a WebP file whose longer side has at most `size` pixels. Raises NotShown, and errors of S3."""
        if image.key is None or image.sha256 is None:
            raise NotShown(image.error or "it was not made")
        name = (image.sha256, size)
        with self._lock:
            if name in self._copies:
                self._copies.move_to_end(name)
                return self._copies[name]
        with self._decoders:
            copy = shrink(read_image(store, image), size)
        self._keep(name, copy)
        return copy

    def _keep(self, name: tuple[str, int], copy: bytes) -> None:
        with self._lock:
            if name not in self._copies:
                self._copies[name] = copy
                self.bytes += len(copy)
            while self.bytes > self.kept_bytes:
                self.bytes -= len(self._copies.popitem(last=False)[1])


def read_image(store: ObjectStore, image: Output) -> bytes:
    """Return the file of an image. Raises NotShown if it is gone, too large, or not the one that was recorded."""
    assert image.key is not None
    try:
        body = store.get_at_most(image.key, MAX_BYTES)
    except ValueError as error:
        raise NotShown(str(error)) from None
    if hashlib.sha256(body).hexdigest() != image.sha256:
        raise NotShown(f"{store.uri(image.key)} was replaced after it was made")
    return body


def shrink(body: bytes, size: int) -> bytes:
    """Return a WebP copy of an image file, without loss if the image has at most ENLARGED pixels. Raises NotShown.

    Of a larger one, a copy without loss takes ten times as long and as many bytes.
    """
    try:
        picture = Image.fromarray(decode_image(body, COLOUR))
    except ValueError as error:
        raise NotShown(str(error)) from None
    is_exact = max(picture.size) <= min(size, ENLARGED)
    picture.thumbnail((size, size))
    copy = io.BytesIO()
    picture.save(copy, "WEBP", lossless=is_exact, quality=0 if is_exact else 85, method=0)  # 0: the fastest
    return copy.getvalue()
