"""What the images of a set can be told apart by, so that a network learns to see them: the targets of a classifier.

label: the set's classes. words: which of its captions' words apply. turn: by how many quarter turns an image was
turned, which needs nothing known of the images (Gidaris et al. 2018).
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from training.data.image_set import ImageSet

RAREST = 0.05  # a word in fewer captions, or in all but fewer, tells images apart too seldom
MOST = 64  # words
TURNS = ("upright", "a quarter turn", "a half turn", "three quarter turns")


@dataclass(frozen=True)
class Targets:
    """kind: see the module. names: of a classifier's outputs."""

    kind: Literal["label", "words", "turn"]
    names: tuple[str, ...]

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Of outputs [R, K] for what `examples` wants."""
        if self.kind == "words":
            return F.binary_cross_entropy_with_logits(outputs, wanted)
        return F.cross_entropy(outputs, wanted)

    def accuracy(self, outputs: Tensor, wanted: Tensor) -> float:
        """The share of images whose label or turn is found; of words, the share of yes and no that is right."""
        found = (outputs > 0).to(wanted) if self.kind == "words" else outputs.argmax(1)
        return float((found == wanted).double().mean())

    def chance(self, wanted: Tensor) -> float:
        """The accuracy of always answering what is most frequent."""
        if self.kind == "words":
            share = wanted.double().mean(0)
            return float(torch.maximum(share, 1 - share).mean())
        return float(wanted.bincount().max() / len(wanted))


def of(images: ImageSet) -> Targets:
    """Labels or words, whichever are more and so say more of an image; turns where there are neither."""
    known = [found for found in (of_labels(images), of_words(images)) if found is not None]
    return max(known, key=lambda found: len(found.names), default=Targets("turn", TURNS))


def of_labels(images: ImageSet) -> Targets | None:
    """The classes, where every image has a label, all of them have names, and there are two or more."""
    labels, names = {record.get("label", -1) for record in images.records}, images.description.classes
    return Targets("label", names) if len(labels) > 1 and labels <= set(range(len(names))) else None


def of_words(images: ImageSet) -> Targets | None:
    """The words that recur in the training images' captions, where every image has one."""
    if any(record.get("text") is None for record in images.records):
        return None
    captions = [images.records[row]["text"] for row in images.rows("train")]
    counts = Counter(word for caption in captions for word in words(caption))
    rarest = RAREST * len(captions)
    telling = sorted(word for word, n in counts.items() if rarest <= n <= len(captions) - rarest)
    telling.sort(key=lambda word: -counts[word])
    return Targets("words", tuple(telling[:MOST])) if telling else None


def words(caption: str) -> set[str]:
    """The words of a caption, in lower case."""
    return set(re.findall(r"\w+", caption.lower()))


def examples(targets: Targets, images: ImageSet, rows: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """The images of `rows`, [R, C, S, S] in [-1, 1], and what is to be found in them: [R] int64, or of words [R, K].

    generator: of the turns.
    """
    pixels = images.pixels(rows.numpy())
    records = [images.records[row] for row in rows.tolist()]
    match targets.kind:
        case "label":
            return pixels, torch.tensor([record["label"] for record in records])
        case "words":
            found = [words(record["text"]) for record in records]
            return pixels, torch.tensor([[float(name in one) for name in targets.names] for one in found])
        case _:
            turns = torch.randint(len(TURNS), (len(rows),), generator=generator)
            turned = [torch.rot90(image, int(turn), (1, 2)) for image, turn in zip(pixels, turns, strict=True)]
            return torch.stack(turned), turns
