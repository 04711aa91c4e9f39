"""Images as the values of conditions.

Image: a float tensor [C, H, W] in [-1, 1], or a uint8 array [H, W, C] as it is decoded from a file.
Mask: a tensor or array [H, W] or [H, W, 1]; bool, or uint8 up to 255, or float in [0, 1].
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def png_schema(description: str) -> dict[str, Any]:
    """JSON Schema of an image in a request."""
    return {
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": "image/png",
        "description": description,
    }


def read_image(value: Any, channels: int) -> Tensor:
    """An image -> float32 [channels, H, W] in [-1, 1]. Raises ValueError."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        array = value[:, :, None] if value.ndim == 2 else value
        image = torch.tensor(array.copy()).movedim(-1, 0).float() / 127.5 - 1  # torch reads no mirrored views
    elif isinstance(value, Tensor) and value.is_floating_point():
        image = value.float()
    else:
        raise ValueError(
            f"{told(value)} is not an image; permitted: a float tensor [{channels}, H, W] in [-1, 1] "
            f"or a uint8 array [H, W, {channels}]"
        )
    if image.dim() != 3 or image.shape[0] != channels or not image.numel():
        raise ValueError(f"{told(value)} has not {channels} channels; permitted: {channels} channels, H and W")
    if not bool((image.abs() <= 1).all()):  # also refuses NaN
        low, high = (float(x) for x in image.aminmax())
        raise ValueError(f"an image with values from {low:.4g} to {high:.4g} is not allowed; permitted: -1 to 1")
    return image


def read_mask(value: Any) -> Tensor:
    """A mask -> float32 [1, H, W], 1 where the value is at least half of the largest possible, else 0.

    Raises ValueError.
    """
    mask = plane(value)
    if mask.dim() != 2 or not mask.numel() or not (mask.dtype in (torch.bool, torch.uint8) or mask.is_floating_point()):
        raise ValueError(f"{told(value)} is not a mask; permitted: [H, W] of bool, uint8, or float from 0 to 1")
    if mask.is_floating_point() and not bool(((mask >= 0) & (mask <= 1)).all()):
        low, high = (float(x) for x in mask.aminmax())
        raise ValueError(f"a mask with values from {low:.4g} to {high:.4g} is not allowed; permitted: 0 to 1")
    half = {torch.bool: 1, torch.uint8: 128}.get(mask.dtype, 0.5)
    return (mask >= half).float()[None]


def plane(value: Any) -> Tensor:
    """An array, a tensor or nested lists, [H, W] or [H, W, 1] -> a tensor [H, W]. Another shape stays as it is.

    Raises ValueError for what is not made of numbers.
    """
    try:
        # A copy: torch reads no mirrored views.
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError):
        raise ValueError(f"{told(value)} is not an array of numbers; permitted: [H, W]") from None
    return tensor[:, :, 0] if tensor.dim() == 3 and tensor.shape[2] == 1 else tensor


def told(value: Any) -> str:
    """What a value is, in an error's words."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{str(value.dtype).removeprefix('torch.')} {tuple(shape)}"
