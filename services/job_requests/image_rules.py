"""The images that a release accepts in a condition, derived from its conditioners.

The JSON Schema of a condition says only that a value is an image. `add_image_rules` adds under IMAGE_RULE what
shape and colours the conditioner needs, so that a process without torch can convert an image or refuse it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.job_requests.messages import JsonSchema

# Keywords that JSON Schema does not know, and therefore ignores
IMAGE_RULE = "imageRule"
KEPT_IN_NULL = "keptInNull"  # whether a condition is also part of the null condition, from which guidance leads away

Meaning = Literal["colour", "mask", "labels"]


@dataclass(frozen=True)
class ImageRule:
    """What one image must be.

    meaning: "colour" is converted to the number of channels; so is a "mask", which must be opaque. The values of
        "labels" are classes, which no conversion may change.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA); None leaves the channels as they are.
    size: (height, width) in pixels; None permits any. classes: labels are in [0, classes); None permits any.
    """

    meaning: Meaning = "colour"
    channels: int | None = None
    size: tuple[int, int] | None = None
    classes: int | None = None


ANY_IMAGE = ImageRule()


def add_image_rules(
    conditions: JsonSchema, architecture: Mapping[str, Any], latent_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Return the JSON Schema of a release's conditions with an ImageRule in the schema of every image.

    architecture, latent_shape: of the release. A type of conditioner that this module does not know gets no rules.
    """
    properties = dict(conditions.get("properties", {}))
    for name, config in architecture.get("conditioners", {}).items():
        match config.get("type"):
            case "low_resolution":
                properties[name] = {**properties[name], IMAGE_RULE: ImageRule(channels=config["channels"])}
            case "semantic_map":
                size = _scaled(latent_shape, 2 ** config["stages"])
                rule = ImageRule("labels", size=size, classes=config["classes"])
                properties[name] = {**properties[name], IMAGE_RULE: rule}
            case "masked_image":
                size = _scaled(latent_shape, config["factor"])
                parts = dict(properties[name]["properties"])
                parts["image"] = {**parts["image"], IMAGE_RULE: ImageRule("colour", config["channels"], size)}
                parts["mask"] = {**parts["mask"], IMAGE_RULE: ImageRule("mask", 1, size)}
                kept = config.get("style") == "stable_diffusion"
                properties[name] = {**properties[name], "properties": parts, KEPT_IN_NULL: kept}
    return {**conditions, "properties": properties}


def _scaled(latent_shape: tuple[int, int, int], factor: int) -> tuple[int, int]:
    return latent_shape[1] * factor, latent_shape[2] * factor
