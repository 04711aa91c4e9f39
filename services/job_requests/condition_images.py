"""Images in conditions: base64 in the request, or the URI of an object that the worker fetches.

Which parts of a condition are images is told by the release's JSON Schema (`contentEncoding`).
"""

import base64
import binascii
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.job_requests.schema import Limits, resolve_key
from services.storage.object_store import ObjectStore

MAX_BYTES = 16 * 2**20  # of an object
MAX_PIXELS = 4096 * 4096  # a few hundred bytes of PNG may unpack to gigabytes
FORMATS = ("PNG", "JPEG", "WEBP")  # Pillow knows dozens more, and starts programs for some
SCHEME = "s3://"

Rules = Mapping[str, Any]


def map_images(value: Any, rule: Rules, change: Callable[[Any, str], Any], field: str = "") -> Any:
    """A condition's value with `change(image, field)` in the place of each image in it; `rule` is its JSON Schema."""
    if isinstance(value, dict):
        rules = rule.get("properties", {})
        return {
            name: map_images(part, rules.get(name, {}), change, f"{field}.{name}".lstrip("."))
            for name, part in value.items()
        }
    return change(value, field) if rule.get("contentEncoding") == "base64" else value


def check_references(item: Mapping[str, Any], conditions: Rules, limits: Limits, field: str = "") -> None:
    """Raise RequestError for an image that its tenant may not read."""

    def check(image: Any, name: str) -> None:
        if image.startswith(SCHEME):
            resolve_key(name, image, limits)

    map_images(dict(item), conditions, check, field)


def fetch_images(item: Mapping[str, Any], conditions: Rules, store: ObjectStore) -> dict[str, Any]:
    """The item with each object that it refers to read, as bytes; the planner has checked where it lies.

    Raises ValueError for an object that is missing or too large.
    """

    def fetch(image: Any, name: str) -> Any:
        if isinstance(image, bytes) or not image.startswith(SCHEME):
            return image
        try:
            return store.get_at_most(image.removeprefix(SCHEME).partition("/")[2], MAX_BYTES)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    read: dict[str, Any] = map_images(dict(item), conditions, fetch)
    return read


def decode_images(value: Any, rule: Rules, field: str) -> Any:
    """A condition's value with its images as arrays [H, W] or [H, W, C].

    Raises ValueError naming the field for what is not base64, no PNG, JPEG or WebP, broken, or too large.
    """

    def read(image: Any, name: str) -> NDArray[Any]:
        try:
            return decode_image(image)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    return map_images(value, rule, read, field)


def decode_image(image: str | bytes) -> NDArray[Any]:
    """The pixels of an image file, or of one in base64. Raises ValueError."""
    try:
        body = base64.b64decode(image, validate=True) if isinstance(image, str) else image
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not an image in base64 ({error})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(io.BytesIO(body), formats=FORMATS) as opened:
                width, height = opened.size
                if width * height <= MAX_PIXELS:
                    return np.asarray(opened)
    except MemoryError:
        raise
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise ValueError(f"not a readable {', '.join(FORMATS)} ({str(error)[:100]})") from None
    raise ValueError(f"an image of {width}x{height} pixels is not allowed; permitted: at most {MAX_PIXELS} pixels")
