"""Reading images and masks that are values of conditions.

An image is a float tensor [C, H, W] in [-1, 1], or a uint8 array [H, W, C] as decoded from a file.
A mask is a tensor or array [H, W] or [H, W, 1] of bool, uint8 up to 255, or float in [0, 1].
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def png_schema(description: str) -> dict[str, Any]:
    """Return the JSON Schema of an image in a request."""
    return {
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": "image/png",
        "description": description,
    }


def read_image(value: object, channels: int) -> Tensor:
    """Convert an image to float32 [channels, H, W] in [-1, 1]. Raises ValueError naming what is permitted."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        array = value[:, :, None] if value.ndim == 2 else value
        # A copy, because torch cannot read mirrored views. In place, because an image may have 16 million pixels.
        image = torch.from_numpy(array.copy()).movedim(-1, 0).float().div_(127.5).sub_(1)
    elif isinstance(value, Tensor) and value.is_floating_point():
        image = value.float()
    else:
        raise ValueError(
            f"{describe(value)} is not an image; permitted: a float tensor [{channels}, H, W] in [-1, 1] "
            f"or a uint8 array [H, W, {channels}]"
        )
    if image.dim() != 3 or image.shape[0] != channels or not image.numel():
        raise ValueError(
            f"{describe(value)} does not have {channels} channels; permitted: {channels} channels, H and W"
        )
    if isinstance(value, Tensor) and not bool((image.abs() <= 1).all()):  # also refuses NaN
        low, high = (float(x) for x in image.aminmax())
        raise ValueError(f"an image with values from {low:.4g} to {high:.4g} is not allowed; permitted: -1 to 1")
    return image


def read_mask(value: object) -> Tensor:
    """Convert a mask to float32 [1, H, W]: 1 where the value is at least half of the largest possible, else 0.

    Raises ValueError naming what is permitted.
    """
    mask = to_plane(value)
    if mask.dim() != 2 or not mask.numel() or not (mask.dtype in (torch.bool, torch.uint8) or mask.is_floating_point()):
        raise ValueError(f"{describe(value)} is not a mask; permitted: [H, W] of bool, uint8, or float from 0 to 1")
    if mask.is_floating_point() and not bool(((mask >= 0) & (mask <= 1)).all()):
        low, high = (float(x) for x in mask.aminmax())
        raise ValueError(f"a mask with values from {low:.4g} to {high:.4g} is not allowed; permitted: 0 to 1")
    half = {torch.bool: 1, torch.uint8: 128}.get(mask.dtype, 0.5)
    return (mask >= half).float()[None]


def to_plane(value: object) -> Tensor:
    """Convert an array, a tensor or nested lists [H, W] or [H, W, 1] to a tensor [H, W]; other shapes do not change.

    Raises ValueError if the value does not consist of numbers.
    """
    try:
        # A copy, because torch cannot read mirrored views
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError):
        raise ValueError(f"{describe(value)} is not an array of numbers; permitted: [H, W]") from None
    return tensor[:, :, 0] if tensor.dim() == 3 and tensor.shape[2] == 1 else tensor


def describe(value: object) -> str:
    """Describe a value in an error: its type, or its dtype and shape."""
    shape = getattr(value, "shape", None)
    dtype = str(getattr(value, "dtype", None)).removeprefix("torch.")
    return type(value).__name__ if shape is None else f"{dtype} {tuple(shape)}"
