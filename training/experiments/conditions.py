"""The conditions of an experiment: one dataclass for each type of conditioner."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Positive = Annotated[int, Field(gt=0)]
Entry = Literal["cross_attention", "time_embedding"]


@dataclass(frozen=True)
class ClassCondition:
    """A learned token for each label of the image set."""

    type: Literal["class"]
    width: Positive
    classes: Positive | None = None  # None: the number of classes of the set
    entry: Entry = "cross_attention"


@dataclass(frozen=True)
class TextCondition:
    """Captions through a transformer that is trained with the U-Net."""

    type: Literal["text"]
    width: Positive
    depth: Positive
    length: Positive = 77
    heads: Positive = 8
    head_width: Positive = 64
    entry: Entry = "cross_attention"
    tokenizer: str | None = None  # a vocab.txt or tokenizer.json; None: word pieces learned from the captions
    vocabulary: Positive = 2000  # number of those word pieces


@dataclass(frozen=True)
class FrozenTextCondition:
    """Captions through a pretrained encoder that is not trained."""

    type: Literal["frozen_text"]
    encoder: str  # a folder of the transformers library
    length: Positive = 77
    width: Positive | None = None
    masked: bool = True
    entry: Entry = "cross_attention"


@dataclass(frozen=True)
class LayoutCondition:
    """Bounding boxes as tokens through a transformer that is trained with the U-Net."""

    type: Literal["layout"]
    width: Positive
    depth: Positive
    classes: Positive | None = None  # None: the number of classes of the set
    objects: Positive = 30
    vocabulary: Positive = 8192
    heads: Positive = 8
    head_width: Positive = 64
    entry: Entry = "cross_attention"


@dataclass(frozen=True)
class LayoutMapCondition:
    """Bounding boxes painted over the latent and concatenated to it."""

    type: Literal["layout_map"]
    channels: Positive
    classes: Positive | None = None  # None: the number of classes of the set
    objects: Positive = 30


@dataclass(frozen=True)
class SemanticMapCondition:
    """The class of each pixel, rescaled to the latent and concatenated to it."""

    type: Literal["semantic_map"]
    channels: Positive
    stages: Annotated[int, Field(ge=0)]
    classes: Positive | None = None  # None: the number of classes of the set
    method: Literal["nearest", "bilinear", "bicubic", "area"] = "bilinear"


@dataclass(frozen=True)
class LowResolutionCondition:
    """A degraded image, concatenated to the latent."""

    type: Literal["low_resolution"]
    channels: Literal[1, 3] = 3
    method: Literal["bilinear", "bicubic"] = "bicubic"


@dataclass(frozen=True)
class MaskedImageCondition:
    """The latent of an image with a hole, and the mask of the hole, concatenated to the latent."""

    type: Literal["masked_image"]
    factor: Positive
    channels: Literal[1, 3] = 3


Condition = Annotated[
    ClassCondition
    | TextCondition
    | FrozenTextCondition
    | LayoutCondition
    | LayoutMapCondition
    | SemanticMapCondition
    | LowResolutionCondition
    | MaskedImageCondition,
    Field(discriminator="type"),
]
