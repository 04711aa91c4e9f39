"""Measures how well drawn shapes match their conditions by reading them back from pixels, without a network.

For images of the built-in set `shapes`, [R, 3, S, S] in [-1, 1]. The values of the set's held-out images are the upper
bound for a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.data import shapes
from training.model.pixels import to_bytes

Box = Sequence[float]  # x0, y0, x1, y1, as shares of the sides
Layout = Sequence[Mapping[str, Any]]  # {"class": number among CLASSES, "box": Box} of each shape


def caption_accuracy(images: Tensor, captions: Sequence[str]) -> float:
    """Return the share of images that match all of their caption: shapes, colours, ground and positions."""
    return mean(match_captions(images, captions))


def match_captions(images: Tensor, captions: Sequence[str]) -> list[bool]:
    """Return whether each image matches all of its caption."""
    seen = [shapes.read_back(image) for image in to_bytes(images)]
    return [shapes.matches(scene, caption) for scene, caption in zip(seen, captions, strict=True)]


def class_accuracy(images: Tensor, labels: Sequence[int]) -> float:
    """Return the share of images whose largest shape has the requested class."""
    return mean(match_classes(images, labels))


def match_classes(images: Tensor, labels: Sequence[int]) -> list[bool]:
    """Return whether the largest shape of each image has the requested class."""
    seen = [shapes.read_back(image).shapes[:1] for image in to_bytes(images)]
    requested = [shapes.CLASSES[label] for label in labels]
    return [[one.name for one in largest] == [name] for largest, name in zip(seen, requested, strict=True)]


def box_overlap(images: Tensor, layouts: Sequence[Layout]) -> float:
    """Return the mean intersection over union of the requested boxes and the shapes of their classes.

    A missing shape counts as 0, and so does each extra one.
    """
    return mean([value for values in _overlaps(images, layouts) for value in values])


def overlap_boxes(images: Tensor, layouts: Sequence[Layout]) -> list[float]:
    """Return the mean of `box_overlap` within each image; 1 for one that shows nothing as requested."""
    return [mean(values) if values else 1.0 for values in _overlaps(images, layouts)]


def _overlaps(images: Tensor, layouts: Sequence[Layout]) -> Iterator[list[float]]:
    for image, layout in zip(to_bytes(images), layouts, strict=True):
        values: list[float] = []
        seen = list(shapes.read_back(image).shapes)
        for wanted in layout:
            candidates = [one for one in seen if one.name == shapes.CLASSES[wanted["class"]]]
            found = max(candidates, key=lambda one: intersection_over_union(one.box, wanted["box"]), default=None)
            values.append(0.0 if found is None else intersection_over_union(found.box, wanted["box"]))
            if found is not None:
                seen.remove(found)
        yield values + [0.0] * len(seen)


def map_overlap(images: Tensor, maps: NDArray[np.uint8]) -> float:
    """Return the intersection over union of the shapes' maps and the requested ones, [R, S, S]: the mean over classes.

    As usual for semantic segmentation, pixels of all images are counted together, and the ground is a class.
    """
    seen = np.stack([shapes.semantic_map(image) for image in to_bytes(images)])
    classes = range(1 + len(shapes.SHAPES))
    both = np.array([((seen == c) & (maps == c)).sum() for c in classes])
    either = np.array([((seen == c) | (maps == c)).sum() for c in classes])
    return float((both[either > 0] / either[either > 0]).mean())


def agree_with_maps(images: Tensor, maps: NDArray[np.uint8]) -> list[float]:
    """Return the share of the pixels of each image whose class is that of the requested map, [R, S, S]."""
    pairs = zip(to_bytes(images), maps, strict=True)
    return [float((shapes.semantic_map(image) == wanted).mean()) for image, wanted in pairs]


def intersection_over_union(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes."""
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return float(np.mean(values))
