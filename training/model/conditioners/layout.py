"""Layouts: objects in bounding boxes."""

from collections.abc import Sequence
from math import isqrt
from operator import index
from typing import Any

from training.model.conditioners.conditioner import Entry
from training.model.conditioners.token_transformer import TokenTransformer, TransformerConditioner

WHOLE = (0.0, 0.0, 1.0, 1.0)
BOX_SCHEMA = {
    "type": "array",
    "items": {"type": "number", "minimum": 0, "maximum": 1},
    "minItems": 4,
    "maxItems": 4,
    "description": "x0, y0, x1, y1 with x0 < x1 and y0 < y1, as shares of the image's width and height.",
}


class LayoutConditioner(TransformerConditioner):
    """Bounding boxes as tokens through a trained transformer (Rombach et al. 2022, section 4.3.1).

    An object is three tokens: its class, the upper left and the lower right corner. A corner's token counts the
    points of a grid of s x s, s = isqrt(vocabulary), row by row:

        token(x, y) = round(y (s - 1)) s + round(x (s - 1))

    Fewer than `objects` are filled up with the last token of the vocabulary, which stands for none. With `crops`
    two corners follow: the crop of the annotated image that the picture shows. The boxes are then those of the
    uncropped image. With `groups` an object may be a group of such objects, with the token class + classes.
    Objects keep their order, so training data should be shuffled. The null condition has no object.

    The tokens are those of `ObjectsBoundingBoxConditionalBuilder` of github.com/CompVis/taming-transformers, which
    the released layout-to-image model was trained on (vocabulary 8192, 30 objects, crops, groups: 92 tokens).
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
        """JSON Schema of one value: {"boxes": [{"class": 3, "box": [x0, y0, x1, y1]}, ...]}."""
        item: dict[str, Any] = {
            "type": "object",
            "properties": {
                "class": {"type": "integer", "minimum": 0, "maximum": self.classes - 1},
                "box": BOX_SCHEMA,
            },
            "required": ["class", "box"],
            "additionalProperties": False,
        }
        if self.groups:
            item["properties"]["group"] = {"type": "boolean"}
        properties: dict[str, Any] = {"boxes": {"type": "array", "items": item, "maxItems": self.objects}}
        if self.crops:
            properties["crop"] = BOX_SCHEMA
        return {
            "type": "object",
            "properties": properties,
            "required": ["boxes"],
            "additionalProperties": False,
        }

    def read(self, value: Any) -> list[int]:
        """A layout -> its token ids. Raises ValueError."""
        try:
            boxes, crop = value["boxes"], value.get("crop", WHOLE)
            objects = [(index(box["class"]), box["box"], bool(box.get("group"))) for box in boxes]
        except (AttributeError, KeyError, TypeError):
            raise ValueError('is not a layout; permitted: {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}]}') from None
        if len(objects) > self.objects:
            raise ValueError(f"{len(objects)} boxes are too many; permitted: at most {self.objects}")
        ids = []
        for label, box, group in objects:
            if not 0 <= label < self.classes:
                raise ValueError(f"class {label} is not allowed; permitted: an integer from 0 to {self.classes - 1}")
            if group and not self.groups:
                raise ValueError("group: is not known to this model")
            ids += [label + self.classes * group, *self._corners(box)]
        none = self.transformer.vocabulary - 1
        ids += [none] * (3 * (self.objects - len(objects)))
        if self.crops:
            ids += self._corners(crop)
        elif "crop" in value:
            raise ValueError("crop: is not known to this model")
        return ids

    def _corners(self, box: Sequence[float]) -> tuple[int, int]:
        """The tokens of a box's corners."""
        numbers = isinstance(box, Sequence) and len(box) == 4 and all(isinstance(x, int | float) for x in box)
        if not numbers or not 0 <= box[0] < box[2] <= 1 or not 0 <= box[1] < box[3] <= 1:
            raise ValueError(
                f"box {box} is not allowed; permitted: [x0, y0, x1, y1] from 0 to 1, with x0 < x1 and y0 < y1"
            )
        return self._point(box[0], box[1]), self._point(box[2], box[3])

    def _point(self, x: float, y: float) -> int:
        side = isqrt(self.transformer.vocabulary)
        return round(y * (side - 1)) * side + round(x * (side - 1))
