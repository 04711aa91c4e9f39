"""Converts images with a colour profile to sRGB, the colours that screens and the model's users expect."""

import io
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

NEARLY_SRGB = 3  # of 255: the largest difference that a profile may make and still count as sRGB


def to_srgb(image: Image.Image, conversions: list[str]) -> Image.Image:
    """Return a decoded image in sRGB; the kinds of conversion are added to `conversions`.

    Images without a profile, with one that cannot be used, or with one that is nearly sRGB are returned unchanged.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or image.mode not in ("RGB", "RGBA", "CMYK", "L", "LA", "P", "PA"):
        return image
    mode = {"RGBA": "RGB", "LA": "L", "P": "RGB", "PA": "RGB"}.get(image.mode, image.mode)
    transform = find_transform(profile, mode, threading.get_ident())
    if transform is None:
        return image
    conversions.append("colour profile")
    conversions += [kind for kind, modes in (("palette", ("P", "PA")), ("cmyk", ("CMYK",))) if image.mode in modes]
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    converted = ImageCms.applyTransform(image.convert(mode), transform)
    assert converted is not None
    converted = converted.convert("L") if mode == "L" else converted
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=64)
def find_transform(profile: bytes, mode: str, thread: int) -> Any:
    """Return the transform from a profile to sRGB; None if the profile cannot be used or changes nothing to speak of.

    thread: the id of the calling thread, because a transform is not shared between threads.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "CMYK":
            return transform
        colours = Image.fromarray(grid() if mode == "RGB" else grid()[..., 0])
        converted = ImageCms.applyTransform(colours, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    assert converted is not None
    change = np.abs(np.asarray(converted, np.int64) - np.asarray(colours.convert("RGB"), np.int64)).max()
    return transform if change > NEARLY_SRGB else None


def grid() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return colours that are spread evenly: [81, 9, 3] uint8."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(81, 9, 3)
