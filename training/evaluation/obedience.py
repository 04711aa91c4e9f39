"""Measures how well each sample of a comparison obeys its request."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.data import shapes
from training.data.image_set import ImageSet
from training.evaluation.agreement import find_judge
from training.evaluation.second_stage import EvaluationRequests
from training.metrics import conditions, psnr
from training.metrics.pixels import MOST


class Obedience(NamedTuple):
    """A figure of samples [N, C, H, W] in [-1, 1]: its name, and one value per sample [N], of which more is better."""

    name: str
    measure: Callable[[Tensor], Tensor]


def find(types: Mapping[str, str], images: ImageSet, requested: EvaluationRequests) -> Obedience | None:
    """Return the measure for the first condition that can be judged; None where none can.

    types: of each field, as in `conditioners.TYPES`. Conditions of drawn shapes are read back from the pixels. Classes
    of other images are told by a classifier of real ones. Enlarged and completed images are compared with originals.
    """
    for field, kind in types.items():
        values = [request[field] for request in requested.requests]
        if any(value is None for value in values):
            continue
        if (found := _find_of(kind, values, images, requested)) is not None:
            return found
    return None


def _find_of(kind: str, values: Sequence[Any], images: ImageSet, requested: EvaluationRequests) -> Obedience | None:
    has_shapes = images.description.box_classes == shapes.CLASSES
    if kind == "class" and not has_shapes:
        judge = find_judge(images)
        return judge and Obedience("class_accuracy", partial(_match, judge[0], torch.tensor(values)))
    if kind in ("low_resolution", "masked_image") and requested.rows is not None:
        return Obedience("psnr", partial(_psnr, images.pixels(requested.rows)))
    if not has_shapes:
        return None
    if kind == "class":
        return Obedience("class_accuracy", partial(_of_list, conditions.match_classes, values))
    if kind in ("text", "frozen_text"):
        return Obedience("caption_accuracy", partial(_of_list, conditions.match_captions, values))
    if kind in ("layout", "layout_map"):
        layouts = [value["boxes"] for value in values]
        return Obedience("box_overlap", partial(_of_list, conditions.overlap_boxes, layouts))
    if kind == "semantic_map":
        return Obedience("map_agreement", partial(_of_list, conditions.agree_with_maps, np.stack(values)))
    return None


def _psnr(originals: Tensor, samples: Tensor) -> Tensor:
    return psnr(samples, originals).clamp(max=MOST)


def _match(predict: Callable[[Tensor], Tensor], wanted: Tensor, samples: Tensor) -> Tensor:
    return (predict(samples) == wanted).double()


def _of_list(measure: Callable[[Tensor, Any], Sequence[float]], values: Any, samples: Tensor) -> Tensor:
    return torch.tensor(measure(samples, values), dtype=torch.float64)
