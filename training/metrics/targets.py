"""The targets of a classifier of the set's own images.

label: the set's classes. words: the words of captions. turn: the number of quarter turns by which an image was
rotated, which needs no annotation (Gidaris et al. 2018).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from training.data.image_set import ImageSet

RAREST = 0.05  # least share of captions with a word, and of captions without it
MOST = 64  # words
TURNS = ("upright", "a quarter turn", "a half turn", "three quarter turns")


@dataclass(frozen=True)
class Targets:
    """The targets. kind: see the module. names: of the classifier's outputs."""

    kind: Literal["label", "words", "turn"]
    names: tuple[str, ...]

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of outputs [R, K] for the answers of `examples`."""
        if self.kind == "words":
            return F.binary_cross_entropy_with_logits(outputs, wanted)
        return F.cross_entropy(outputs, wanted)

    def rows(self, images: ImageSet, split: str) -> Sequence[int]:
        """Return the rows of a split of which the answers are known."""
        return labelled(images, images.rows(split)) if self.kind == "label" else images.rows(split)

    def accuracy(self, outputs: Tensor, wanted: Tensor) -> float:
        """Return the share of correct labels or turns; for words, the share of correct yes and no answers."""
        found = (outputs > 0).to(wanted) if self.kind == "words" else outputs.argmax(1)
        return float((found == wanted).double().mean())

    def chance(self, wanted: Tensor) -> float:
        """Return the accuracy of the most frequent answer."""
        if self.kind == "words":
            share = wanted.double().mean(0)
            return float(torch.maximum(share, 1 - share).mean())
        return float(wanted.bincount().max() / len(wanted))


def choose(images: ImageSet) -> Targets:
    """Return labels or words, whichever are more; turns if the set has neither."""
    known = [found for found in (of_labels(images), of_words(images)) if found is not None]
    return max(known, key=lambda found: len(found.names), default=Targets("turn", TURNS))


def of_labels(images: ImageSet, *, partly: bool = False) -> Targets | None:
    """Return the classes if every image has a label, all labels have names, and there are at least two.

    partly: some images may have no label.
    """
    labels, names = {record.get("label", -1) for record in images.records}, images.description.classes
    if partly:
        labels -= {-1}
    return Targets("label", names) if len(labels) > 1 and labels <= set(range(len(names))) else None


def labelled(images: ImageSet, rows: Sequence[int]) -> list[int]:
    """Return those of the rows whose images have a label."""
    return [row for row in rows if "label" in images.records[row]]


def of_words(images: ImageSet) -> Targets | None:
    """Return the frequent words of the training images' captions if every image has a caption."""
    if any(record.get("text") is None for record in images.records):
        return None
    captions = [images.records[row]["text"] for row in images.rows("train")]
    counts = Counter(word for caption in captions for word in words(caption))
    rarest = RAREST * len(captions)
    frequent = sorted(word for word, n in counts.items() if rarest <= n <= len(captions) - rarest)
    frequent.sort(key=lambda word: -counts[word])
    return Targets("words", tuple(frequent[:MOST])) if frequent else None


def words(caption: str) -> set[str]:
    """Return the words of a caption in lower case."""
    return set(re.findall(r"\w+", caption.lower()))


def examples(targets: Targets, images: ImageSet, rows: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return the images of `rows`, [R, C, S, S] in [-1, 1], and the answers: [R] int64, or [R, K] for words.

    generator: draws the turns.
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
