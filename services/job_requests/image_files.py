"""Image files from tenants: decoding, conversion, and messages that say what is permitted.

Tenants are not trusted. The formats and sizes are narrower than those of `training.data.own_images.decoding`, which
reads the image sets of the operator. A file is refused by its header where possible, before it is unpacked.
"""

import base64
import binascii
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from services.errors import quote
from services.job_requests.image_rules import ANY_IMAGE, ImageRule

MAX_BYTES = 16 * 2**20  # of a file
MAX_PIXELS = 4096 * 4096  # a PNG of a few hundred bytes may unpack to gigabytes
MAX_SCANS = 64  # of a JPEG file; each of 30 bytes may go over all pixels again, and encoders write about ten
MAX_PROFILES = 64  # of a PNG file; each of 1 KB may unpack to a megabyte, and encoders write one
MAX_READS = 100_000  # of parts of a file; Pillow reads a chunk or a segment by four at most, and keeps some of them
FORMATS = ("PNG", "JPEG", "WEBP")  # Pillow reads dozens more, and starts programs for some
COLOURS = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's modes by number of channels
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
URL_SAFE = str.maketrans("-_", "+/")


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 text: the standard or the URL-safe alphabet, with or without padding and whitespace.

    The text may be a `data:` URI. Raises ValueError.
    """
    content = text
    if text[:5].lower() == "data:":
        head, comma, content = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError(f"{quote(text)} is not allowed; permitted: a data: URI with ';base64,' before its content")
        content = unquote(content)
    content = "".join(content.split()).translate(URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(content + "=" * (-len(content) % 4), validate=True)
    except (binascii.Error, ValueError):  # a ValueError: not ASCII
        raise ValueError(
            f"{quote(text)} is not a base64-encoded image; "
            "permitted: an image file in base64, a data: URI, or the s3:// URI of an object"
        ) from None


def read_size(image: str | bytes, rule: ImageRule = ANY_IMAGE) -> tuple[int, int]:
    """Return the width and height in an image's header, without unpacking the image. Raises ValueError.

    image: a file's bytes, or the same in base64.
    """
    with _open(image, rule) as opened:
        return opened.size


def read_oriented_size(image: str | bytes) -> tuple[int, int]:
    """Return the width and height that `decode_image` gives an image, from its header. Raises ValueError."""
    with _open(image, ANY_IMAGE) as opened:
        width, height = opened.size
        with suppress(Exception):  # as when it is decoded
            if opened.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
                return height, width
        return width, height


def decode_image(image: str | bytes, rule: ImageRule = ANY_IMAGE) -> NDArray[Any]:
    """Decode an image, rotate it as its EXIF data says, and convert it as the rule says: [H, W] or [H, W, C].

    image: a file's bytes, or the same in base64. Colours are uint8. Labels keep their values, as uint8 or int32.
    Raises ValueError with the value and what is permitted.
    """
    with _open(image, rule) as opened:
        with _pillow_errors():
            opened.load()
        with suppress(Exception):  # Damaged EXIF data is no reason to refuse the pixels.
            ImageOps.exif_transpose(opened, in_place=True)
        _check_size(opened, rule)
        return _labels(opened, rule) if rule.meaning == "labels" else _colours(opened, rule)


class _TooManyParts(ValueError):
    """A file has more parts than any encoder writes."""


class _CountedFile(io.BytesIO):
    """A file in memory that may be read MAX_READS times, since a file of 16 MiB may have millions of empty parts."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise _TooManyParts(
                f"a file of so many chunks or segments that it takes more than {MAX_READS} reads is not allowed; "
                f"permitted: at most {MAX_READS} reads"
            )
        return super().read(size)


@contextmanager
def _open(image: str | bytes, rule: ImageRule) -> Iterator[Image.Image]:
    body = decode_base64(image) if isinstance(image, str) else image
    if len(body) > MAX_BYTES:
        raise ValueError(f"a file of {len(body)} bytes is not allowed; permitted: at most {MAX_BYTES} bytes")
    # Within a scan, these two bytes never follow each other.
    if body.startswith(b"\xff\xd8") and (scans := body.count(b"\xff\xda")) > MAX_SCANS:
        raise ValueError(f"a JPEG file of {scans} scans is not allowed; permitted: at most {MAX_SCANS} scans")
    if body.startswith(b"\x89PNG") and (profiles := body.count(b"iCCP")) > MAX_PROFILES:
        raise ValueError(
            f"a PNG file of {profiles} profiles is not allowed; permitted: at most {MAX_PROFILES} profiles"
        )
    with _pillow_errors(body), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is lower than Pillow's limit
        opened = Image.open(_CountedFile(body), formats=FORMATS)
    with opened:
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"an image of {width}x{height} pixels is not allowed; permitted: at most {MAX_PIXELS} pixels"
            )
        if (width, height) != rule.size:  # else EXIF data may still swap them
            _check_size(opened, rule)
        yield opened


@contextmanager
def _pillow_errors(body: bytes = b"") -> Iterator[None]:
    """Raise ValueError for whatever Pillow raises: almost any exception, for a broken file."""
    try:
        yield
    except (MemoryError, _TooManyParts):
        raise
    except Image.DecompressionBombError as error:
        count = re.sub(r"\D*(\d+) pixels.*", r"\1", str(error), count=1)
        raise ValueError(f"an image of {count} pixels is not allowed; permitted: at most {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        start = f"a file that begins with {body[:12]!r}" if body else "an empty file"
        raise ValueError(f"{start} is not a readable image; permitted: {', '.join(FORMATS)} files") from None
    except Exception as error:
        reason = re.sub(r"<[^>]*>", "file", str(error))[:100]  # Pillow names its buffer by address
        raise ValueError(
            f"a broken file is not a readable image; permitted: {', '.join(FORMATS)} files ({reason})"
        ) from None


def _check_size(opened: Image.Image, rule: ImageRule) -> None:
    width, height = opened.size
    if rule.size is not None and (height, width) != rule.size:
        raise ValueError(
            f"an image {width} pixels wide and {height} high is not allowed; "
            f"permitted: {rule.size[1]} wide and {rule.size[0]} high"
        )


def _labels(opened: Image.Image, rule: ImageRule) -> NDArray[Any]:
    """Return classes [H, W]. A palette's indices are classes; its colours do not matter."""
    if opened.mode not in ("1", "L", "P") and not opened.mode.startswith("I"):
        raise ValueError(
            f"an image with the channels {opened.mode} is not allowed; "
            "permitted: greyscale or palette, where a pixel's value is its class"
        )
    pixels = np.asarray(opened)
    labels = pixels.astype(np.uint8 if pixels.dtype.itemsize == 1 else np.int32)
    if rule.classes is not None and labels.size and (worst := int(labels.max())) >= rule.classes:
        raise ValueError(f"label {worst} is not allowed; permitted: an integer from 0 to {rule.classes - 1}")
    return labels


def _colours(opened: Image.Image, rule: ImageRule) -> NDArray[np.uint8]:
    """Return colours in 8 bits, over white where they are transparent, unless the rule wants transparency."""
    mode = COLOURS.get(rule.channels or 0)
    if mode is None:
        return np.array(opened)
    if opened.mode.startswith("I"):  # 16 bits: 65535 = 257 x 255
        opened = Image.fromarray(((np.asarray(opened).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if mode != "RGBA" and opened.has_transparency_data:
        rgba = opened.convert("RGBA")
        if rule.meaning == "mask" and rgba.getchannel("A").getextrema() != (255, 255):
            raise ValueError(
                "a mask with transparent pixels is not allowed; "
                "permitted: an opaque one, white (128 and more) in the hole"
            )
        opened = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(opened if opened.mode == mode else opened.convert(mode))
