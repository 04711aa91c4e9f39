"""Images in conditions: base64 in the request, or the URI of an object that the worker fetches.

The release's JSON Schema marks which parts of a condition are images (`contentEncoding`). Tenants are not trusted: the
formats and sizes that this module decodes are narrower than those of `training.data.own_images.decoding`, which reads
the image sets of the operator.
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

from services.job_requests.messages import JsonSchema
from services.job_requests.schema import Limits, resolve_key
from services.storage.object_store import ObjectStore
from services.storage.uri import SCHEME, ObjectUri

MAX_BYTES = 16 * 2**20  # of an object
MAX_PIXELS = 4096 * 4096  # a PNG of a few hundred bytes may unpack to gigabytes
FORMATS = ("PNG", "JPEG", "WEBP")  # Pillow reads dozens more, and starts programs for some


def map_images(value: Any, rule: JsonSchema, change: Callable[[Any, str], Any], field: str = "") -> Any:
    """Return a condition's value with each image replaced by `change(image, field)`; `rule` is its JSON Schema."""
    if isinstance(value, dict):
        rules = rule.get("properties", {})
        return {
            name: map_images(part, rules.get(name, {}), change, f"{field}.{name}".lstrip("."))
            for name, part in value.items()
        }
    return change(value, field) if rule.get("contentEncoding") == "base64" else value


def check_references(item: Mapping[str, Any], conditions: JsonSchema, limits: Limits, field: str = "") -> None:
    """Raise RequestError if the item refers to an image that its tenant may not read."""

    def check(image: Any, name: str) -> None:
        if image.startswith(SCHEME):
            resolve_key(name, image, limits)

    map_images(dict(item), conditions, check, field)


def fetch_images(item: Mapping[str, Any], conditions: JsonSchema, store: ObjectStore) -> dict[str, Any]:
    """Return the item with each object that it refers to replaced by its bytes; `check_references` has passed.

    Raises ValueError for an object that is missing or too large.
    """

    def fetch(image: Any, name: str) -> Any:
        uri = None if isinstance(image, bytes) else ObjectUri.parse(image)
        if uri is None:
            return image
        try:
            return store.get_at_most(uri.key, MAX_BYTES)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    fetched: dict[str, Any] = map_images(dict(item), conditions, fetch)
    return fetched


def decode_images(value: Any, rule: JsonSchema, field: str) -> Any:
    """Return a condition's value with its images decoded to arrays [H, W] or [H, W, C].

    Raises ValueError naming the field if an image is not base64, not in FORMATS, broken or too large.
    """

    def decode(image: Any, name: str) -> NDArray[Any]:
        try:
            return decode_image(image)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    return map_images(value, rule, decode, field)


def decode_image(image: str | bytes) -> NDArray[Any]:
    """Decode an image file, given as bytes or in base64. Raises ValueError."""
    try:
        body = base64.b64decode(image, validate=True) if isinstance(image, str) else image
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not a base64-encoded image ({error})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is lower than Pillow's limit
            with Image.open(io.BytesIO(body), formats=FORMATS) as opened:
                width, height = opened.size
                if width * height <= MAX_PIXELS:
                    return np.asarray(opened)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises almost any exception for a broken file
        raise ValueError(f"not a readable image; permitted: {', '.join(FORMATS)} ({str(error)[:100]})") from None
    raise ValueError(f"an image of {width}x{height} pixels is not allowed; permitted: at most {MAX_PIXELS} pixels")
