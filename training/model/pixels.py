"""Images as bytes, and as the numbers in [-1, 1] that networks take."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """uint8 [N, H, W, C] -> float [N, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """float [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C], rounded to nearest."""
    scaled = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
