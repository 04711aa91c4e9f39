"""Measures the agreement of samples with their conditions, for each type of condition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data import degradations, shapes
from training.data.image_set import ImageSet
from training.evaluation.fidelity import Fidelity
from training.evaluation.networks import Networks
from training.metrics import DigitJudge, classifier, conditions, mean_psnr, rms, targets
from training.model.pixels import to_bytes, to_unit

MOST_CLASSES = 100  # whose shares are listed
JUDGE_SEED = 1  # not the network whose features are compared


@dataclass(frozen=True)
class Answer:
    """The samples of a condition, and what they are compared with."""

    images: ImageSet
    values: Sequence[Any]  # of the condition, one per sample
    samples: Tensor  # [R, C, H, W] in [-1, 1]
    originals: Tensor | None  # [R, C, H, W], the images that the values describe, if any
    networks: Networks
    fidelity: Fidelity
    scale: int  # of low-resolution conditions

    @property
    def has_shapes(self) -> bool:
        """Whether the images are scenes of shapes, whose conditions can be read back from pixels."""
        return self.images.description.box_classes == shapes.CLASSES


def of_class(answer: Answer) -> dict[str, Any]:
    """Return the share of samples of the requested class, read back or seen by a classifier of real images.

    Nothing where the images have a single class.
    """
    if answer.has_shapes:
        return share_by_class(answer, torch.tensor(conditions.match_classes(answer.samples, answer.values)))
    images, requested = answer.images, torch.tensor(answer.values)
    found = find_judge(images)
    if found is None:
        return {}
    predict, name = found
    held_out = targets.labelled(images, images.rows("held_out"))
    real = predict(images.pixels(held_out)) == images.labels(held_out)
    return {
        **share_by_class(answer, predict(answer.samples) == requested),
        "class_accuracy_of_held_out_images": float(real.double().mean()),
        "judge": name,
    }


def share_by_class(answer: Answer, right: Tensor) -> dict[str, Any]:
    """Return the share of samples that are right, [R] bool, of all and of each class by its name."""
    requested, names = torch.tensor(answer.values), answer.images.description.classes
    found: dict[str, Any] = {"class_accuracy": float(right.double().mean())}
    if len(names) <= MOST_CLASSES:
        found["class_accuracy_by_class"] = {
            name: float(right[requested == number].double().mean())
            for number, name in enumerate(names)
            if bool((requested == number).any())
        }
    return found


def find_judge(images: ImageSet) -> tuple[Callable[[Tensor], Tensor], str] | None:
    """Return what tells the class of images [R, C, H, W] in [-1, 1] as [R] int64, trained on real ones; and its name.

    It is not the network whose features are compared. None where the images have no two classes to tell apart, or no
    held-out image has a label.
    """
    if images.description.name == "digits":
        train = images.rows("train")
        return DigitJudge(images.pixels(train), images.labels(train)).predict, "support vector machine"
    wanted = targets.of_labels(images, partly=True)
    if wanted is None or not targets.labelled(images, images.rows("held_out")):
        return None
    network = classifier.train(images, wanted, seed=JUDGE_SEED)
    return network.predict, f"{images.description.name} CNN, seed {JUDGE_SEED}"


def of_text(answer: Answer) -> dict[str, Any]:
    """Return the share of samples that match their whole caption, and their agreement as a CLIP sees it, if given."""
    found: dict[str, Any] = {}
    if answer.has_shapes:
        found["caption_accuracy"] = conditions.caption_accuracy(answer.samples, answer.values)
    agreement = answer.networks.agreement
    if agreement is not None:
        found["text_agreement"] = float(agreement(answer.samples, answer.values).mean())
        if answer.originals is not None:
            found["text_agreement_of_held_out_images"] = float(agreement(answer.originals, answer.values).mean())
        found["text_agreement_network"] = agreement.name
    return found


def of_layout(answer: Answer) -> dict[str, Any]:
    """Return the overlap of the requested boxes with those of the shapes."""
    if not answer.has_shapes:
        return {}
    return {"box_overlap": conditions.box_overlap(answer.samples, [value["boxes"] for value in answer.values])}


def of_map(answer: Answer) -> dict[str, Any]:
    """Return the overlap of the requested maps with those of the shapes."""
    if not answer.has_shapes:
        return {}
    return {"map_overlap": conditions.map_overlap(answer.samples, np.stack(answer.values))}


def of_low_resolution(answer: Answer) -> dict[str, Any]:
    """Return distances to the originals, compared with bicubic enlargement, and the error of the reduced sample."""
    small = to_unit(torch.from_numpy(np.stack(answer.values)))  # [R, C, h, w]
    side = answer.samples.shape[-1]
    bicubic = F.interpolate(small, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    rng = np.random.default_rng(0)  # bicubic degradation draws nothing
    again = [degradations.degrade(image, answer.scale, "bicubic", rng) for image in to_bytes(answer.samples)]
    found: dict[str, Any] = {
        "low_resolution_error": float(rms(to_unit(torch.from_numpy(np.stack(again))), small).mean()),
        "bicubic_frechet_distance": answer.fidelity.distance(bicubic),
    }
    if answer.originals is not None:
        found |= distances(answer, answer.samples, answer.originals, "")
        found |= distances(answer, bicubic, answer.originals, "bicubic_")
    return found


def of_masked_image(answer: Answer) -> dict[str, Any]:
    """Return the number of known pixels that changed, and the distances to the originals."""
    holes = torch.from_numpy(np.stack([value["mask"] for value in answer.values])).bool()  # [R, H, W]
    made, given = to_bytes(answer.samples), np.stack([value["image"] for value in answer.values])
    changed = (made != given).any(axis=-1)[~holes.numpy()].sum()
    found: dict[str, Any] = {"known_pixels_changed": int(changed)}
    if answer.originals is not None:
        found |= distances(answer, answer.samples, answer.originals, "")
    return found


def distances(answer: Answer, images: Tensor, originals: Tensor, prefix: str) -> dict[str, float]:
    """Return PSNR and the distance of features to the originals, and LPIPS if its weights are given."""
    found = {f"{prefix}psnr": mean_psnr(images, originals)}
    network = answer.networks.features
    apart = (network.features(images) - network.features(originals)).norm(dim=1)
    found[f"{prefix}feature_distance"] = float(apart.mean())
    if answer.networks.perceptual is not None:
        found[f"{prefix}lpips"] = float(answer.networks.perceptual(images, originals).mean())
    return found


SCORES: dict[str, Callable[[Answer], dict[str, Any]]] = {
    "class": of_class,
    "text": of_text,
    "frozen_text": of_text,
    "layout": of_layout,
    "layout_map": of_layout,
    "semantic_map": of_map,
    "low_resolution": of_low_resolution,
    "masked_image": of_masked_image,
}
