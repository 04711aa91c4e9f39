"""The 1,797 handwritten digits of scikit-learn (UCI, Alpaydin & Kaynak 1998), resized to 32x32 grey."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from training.data.image_set import ImageSet, write
from training.model.pixels import to_bytes

HELD_OUT = 360  # a fifth, stratified by class


def prepare(root: Path) -> ImageSet:
    """Write the digits to `root`, held-out images last. The bytes are the same every time."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    order = np.concatenate(
        train_test_split(
            np.arange(len(bunch.target)), test_size=HELD_OUT, random_state=0, shuffle=True, stratify=bunch.target
        )
    )
    small = torch.from_numpy(bunch.images[order]).float()[:, None] / 8 - 1  # 0..16 -> [-1, 1]
    large = F.interpolate(small, size=(32, 32), mode="bicubic", align_corners=False)
    labels = bunch.target[order].tolist()
    return write(
        root,
        name="digits",
        images=to_bytes(large),
        records=[{"name": f"digit-{row:04d}", "label": label} for row, label in zip(order, labels, strict=True)],
        train_count=len(order) - HELD_OUT,
        classes=[str(digit) for digit in range(10)],
    )
