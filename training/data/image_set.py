"""A set of images on disk: two arrays and a description, read through a memory map."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IMAGES, LABELS, DESCRIPTION = "images.npy", "labels.npy", "images.json"
LABEL_FIELD = "class_label"  # the condition that a model is given as a set's labels


class DataError(Exception):
    """A data set that cannot be used; the message names what is wrong and what to do."""


@dataclass(frozen=True)
class Description:
    """What `images.json` holds. The first `train_count` images are for training, the rest are held out."""

    name: str
    classes: int
    train_count: int
    fingerprint: str  # sha256 over images and labels


@dataclass(frozen=True)
class ImageSet:
    """Images [N, H, W, C] uint8 and class labels [N] int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    description: Description

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.images.shape[1])

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """The "train" or "held_out" part: images [N, C, H, W] in [-1, 1] and labels [N]."""
        cut = self.description.train_count
        part = slice(None, cut) if name == "train" else slice(cut, None)
        return to_unit(torch.from_numpy(np.array(self.images[part]))), torch.from_numpy(np.array(self.labels[part]))


def to_unit(images: Tensor) -> Tensor:
    """uint8 [N, H, W, C] -> float [N, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """float [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C], rounded to nearest."""
    scaled = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def write(
    root: Path, *, name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, train_count: int
) -> ImageSet:
    """Write a set under `root` and return it."""
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / IMAGES, images)
    np.save(root / LABELS, labels)
    fingerprint = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    description = Description(name, classes, train_count, fingerprint)
    (root / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n")
    return ImageSet(images, labels, description)


def read(root: Path) -> ImageSet:
    """Read a set. Raises DataError when `root` does not hold one, or a damaged one."""
    if not (root / DESCRIPTION).is_file():
        raise DataError(f"data.root: {root} holds no image set ({DESCRIPTION} is missing); prepare the data first")
    try:
        images = np.load(root / IMAGES, mmap_mode="r")
        labels = np.load(root / LABELS)
        description = Description(**json.loads((root / DESCRIPTION).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"data.root: {root} holds a damaged image set ({error}); prepare the data again") from None
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] != images.shape[2]:
        raise DataError(f"data.root: {root / IMAGES} is {images.dtype} {images.shape}; [N, S, S, C] uint8 is needed")
    if len(labels) != len(images) or not 0 < description.train_count <= len(images):
        raise DataError(f"data.root: {root} holds {len(images)} images, {len(labels)} labels and a train_count of "
                        f"{description.train_count}, which do not fit; prepare the data again")  # fmt: skip
    return ImageSet(images, labels, description)
