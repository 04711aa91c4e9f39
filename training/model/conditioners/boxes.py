"""Objects in bounding boxes, as requests give them: {"boxes": [{"class": 3, "box": [x0, y0, x1, y1]}, ...]}."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

BOX_SCHEMA = {
    "type": "array",
    "items": {"type": "number", "minimum": 0, "maximum": 1},
    "minItems": 4,
    "maxItems": 4,
    "description": "x0, y0, x1, y1 with x0 < x1 and y0 < y1, as shares of the image's width and height.",
}

Box = Sequence[float]  # x0, y0, x1, y1 in [0, 1], as shares of the width and height


@dataclass(frozen=True)
class PlacedObject:
    """An object of class `label` in its box, or a group of such objects."""

    label: int
    box: Box
    group: bool = False


def schema(classes: int, objects: int) -> dict[str, Any]:
    """Return the JSON Schema of a layout of at most `objects` objects, with labels in [0, classes)."""
    item: dict[str, Any] = {
        "type": "object",
        "properties": {"class": {"type": "integer", "minimum": 0, "maximum": classes - 1}, "box": BOX_SCHEMA},
        "required": ["class", "box"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"boxes": {"type": "array", "items": item, "maxItems": objects}},
        "required": ["boxes"],
        "additionalProperties": False,
    }


def read(value: Any, classes: int, objects: int) -> list[PlacedObject]:
    """Return the objects of a layout. Raises ValueError naming what is not allowed."""
    try:
        found = [PlacedObject(index(one["class"]), one["box"], bool(one.get("group"))) for one in value["boxes"]]
    except (AttributeError, KeyError, TypeError):
        raise ValueError('is not a layout; permitted: {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}]}') from None
    if len(found) > objects:
        raise ValueError(f"{len(found)} boxes are too many; permitted: at most {objects}")
    for one in found:
        if not 0 <= one.label < classes:
            raise ValueError(f"class {one.label} is not allowed; permitted: an integer from 0 to {classes - 1}")
        check(one.box)
    return found


def check(box: Box) -> None:
    """Raise ValueError unless a box is inside the image and not empty."""
    numbers = isinstance(box, Sequence) and len(box) == 4 and all(isinstance(x, int | float) for x in box)
    if not numbers or not 0 <= box[0] < box[2] <= 1 or not 0 <= box[1] < box[3] <= 1:
        raise ValueError(f"box {box} is not allowed; permitted: [x0, y0, x1, y1] from 0 to 1, with x0 < x1 and y0 < y1")
