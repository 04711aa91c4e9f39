"""Layouts, objects in bounding boxes, as tokens."""

from math import isqrt
from typing import Any

from training.model.conditioners import boxes
from training.model.conditioners.boxes import BOX_SCHEMA, Box
from training.model.conditioners.conditioner import Entry
from training.model.conditioners.token_transformer import TokenTransformer, TransformerConditioner

WHOLE = (0.0, 0.0, 1.0, 1.0)


class LayoutConditioner(TransformerConditioner):
    """Bounding boxes as tokens through a trained transformer (Rombach et al. 2022, section 4.3.1).

    An object is three tokens: its class, the upper left and the lower right corner. A corner's token counts the
    points of a grid of s x s, s = isqrt(vocabulary), row by row:

        token(x, y) = round(y (s - 1)) s + round(x (s - 1))

    If there are fewer than `objects`, the last token of the vocabulary, which means none, fills the rest. With `crops`
    two more corners follow, those of the part of the annotated image that is shown; boxes then refer to the uncropped
    image. With `groups` an object may be a group of such objects, with the token class + classes. Objects keep their
    order, so training data should be shuffled. The null condition has no objects.

    The tokens are those of `ObjectsBoundingBoxConditionalBuilder` of github.com/CompVis/taming-transformers, with which
    the released layout-to-image model was trained (vocabulary 8192, 30 objects, crops, groups: 92 tokens).
    Raises ValueError if the vocabulary is too small for the classes.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        depth: int,
        objects: int = 30,
        vocabulary: int = 8192,
        crops: bool = False,
        groups: bool = False,
        heads: int = 8,
        head_width: int = 64,
        entry: Entry = "cross_attention",
    ) -> None:
        if not 0 < classes * (1 + groups) < vocabulary:
            most = (vocabulary - 1) // (1 + groups)
            raise ValueError(f"classes: {classes} is not allowed; permitted: from 1 to {most} with this vocabulary")
        length = 3 * objects + 2 * crops
        super().__init__(TokenTransformer(vocabulary, length, width, depth, heads=heads, head_width=head_width), entry)
        self.classes, self.objects, self.crops, self.groups = classes, objects, crops, groups
        self.null = {"boxes": []}

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        return {
            "type": "layout", "classes": self.classes, "objects": self.objects, "crops": self.crops,
            "groups": self.groups, "vocabulary": self.transformer.vocabulary, **self.sizes(),
        }  # fmt: skip

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one value."""
        schema = boxes.schema(self.classes, self.objects)
        properties = schema["properties"]
        if self.groups:
            properties["boxes"]["items"]["properties"]["group"] = {"type": "boolean"}
        if self.crops:
            properties["crop"] = BOX_SCHEMA
        return schema

    def read(self, value: Any) -> list[int]:
        """Return the token ids of a layout. Raises ValueError naming what is not allowed."""
        objects = boxes.read(value, self.classes, self.objects)
        ids = []
        for one in objects:
            if one.group and not self.groups:
                raise ValueError("group: this model does not know groups")
            ids += [one.label + self.classes * one.group, *self._corners(one.box)]
        none = self.transformer.vocabulary - 1
        ids += [none] * (3 * (self.objects - len(objects)))
        if self.crops:
            crop = value.get("crop", WHOLE)
            boxes.check(crop)
            ids += self._corners(crop)
        elif "crop" in value:
            raise ValueError("crop: this model does not know crops")
        return ids

    def _corners(self, box: Box) -> tuple[int, int]:
        """Return the tokens of a box's upper left and lower right corner."""
        return self._point(box[0], box[1]), self._point(box[2], box[3])

    def _point(self, x: float, y: float) -> int:
        side = isqrt(self.transformer.vocabulary)
        return round(y * (side - 1)) * side + round(x * (side - 1))
