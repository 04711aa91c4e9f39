"""Conversion between 8-bit images and the floats in [-1, 1] that networks read and write."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """Convert 8-bit images to floats: uint8 [N, H, W, C] -> float32 [N, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Convert floats to 8-bit images: [N, C, H, W], clamped to [-1, 1] -> uint8 [N, H, W, C], rounded to nearest."""
    scaled = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous()


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Do what `to_uint8` does, and wait for the images."""
    return to_uint8(images).cpu().numpy()
