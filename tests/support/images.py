"""Image files, good and hostile ones."""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def image_file(image: Any, file_format: str = "PNG", **options: Any) -> bytes:
    """Encode a Pillow image, or an array of pixels."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format=file_format, **options)
    return buffer.getvalue()


def as_base64(body: bytes) -> str:
    """Encode a file as an image in a request."""
    return base64.b64encode(body).decode()


def random_labels(seed: int) -> bytes:
    """Return a semantic map of 32x32 pixels and four classes, for `make_map_release`, as a PNG."""
    return image_file(np.random.default_rng(seed).integers(0, 4, (32, 32), dtype=np.uint8))


def decompression_bomb(side: int) -> bytes:
    """Return a PNG of a few kilobytes that declares side x side pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    lines = zlib.compress(b"\0" * min(side * (side // 8 + 1), 2**24), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
