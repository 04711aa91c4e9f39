"""One image of a planned request: everything it depends on besides the release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ImageSpec:
    """Everything that one image depends on, beside the release."""

    index: int
    item: int
    seed: int
    steps: int
    solver: str
    guidance_scale: float
    conditions: dict[str, Any]
    spacing: str = "trailing"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0


def image_spec(
    planned: Mapping[str, Any], item: Mapping[str, Any], condition_names: Sequence[str], index: int
) -> ImageSpec:
    """Image `index` of a planned request: its item's seed + k, else the job's seed + index."""
    position, k = divmod(index, int(planned["images_per_item"]))
    return ImageSpec(
        index=index,
        item=position,
        seed=int(item["seed"]) + k if "seed" in item else int(planned["seed"]) + index,
        steps=int(item.get("steps", planned["steps"])),
        solver=planned["solver"],
        spacing=planned["spacing"],
        guidance_scale=float(item.get("guidance_scale", planned["guidance_scale"])),
        guidance_interval=(float(planned["guidance_interval"][0]), float(planned["guidance_interval"][1])),
        guidance_rescale=float(planned["guidance_rescale"]),
        # JSON has one kind of number: 3.0 is the class 3.
        conditions={name: _integral(item[name]) for name in condition_names},
    )


def evaluations(spec: ImageSpec) -> int:
    """Network evaluations that an image costs, about: two a step of Heun's; twice as many while it is guided."""
    steps = spec.steps * (2 if spec.solver == "heun" else 1)
    low, high = spec.guidance_interval
    return steps + (round(steps * (high - low)) if spec.guidance_scale != 1.0 else 0)


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
