"""One image of a plan: everything that it depends on besides the release and its conditions, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.job_queue.plan import Plan
from training.model.solvers import count_evaluations


@dataclass(frozen=True)
class ImageSpec:
    """Everything that one image depends on besides the release and its conditions."""

    index: int
    item: int  # the number of its item
    seed: int
    steps: int
    solver: str
    guidance_scale: float
    spacing: str = "trailing"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0


def image_spec(plan: Plan, item: Mapping[str, Any], index: int) -> ImageSpec:
    """Return image `index` of a plan. Its seed is its item's seed + k, or else the job's seed + index."""
    position, k = divmod(index, int(plan["images_per_item"]))
    low, high = plan["guidance_interval"]
    return ImageSpec(
        index=index,
        item=position,
        seed=int(item["seed"]) + k if "seed" in item else int(plan["seed"]) + index,
        steps=int(item.get("steps", plan["steps"])),
        solver=plan["solver"],
        spacing=plan["spacing"],
        guidance_scale=float(item.get("guidance_scale", plan["guidance_scale"])),
        guidance_interval=(float(low), float(high)),
        guidance_rescale=float(plan["guidance_rescale"]),
    )


def image_cost(spec: ImageSpec) -> int:
    """Return the network rows that an image takes: one an evaluation, and two where it is guided.

    Evaluations are taken as evenly spread over the guidance interval. A schedule that ends in pure noise may save one.
    """
    count = _count_evaluations(spec.solver, spec.spacing, spec.steps)
    low, high = spec.guidance_interval
    return count + (round(count * (high - low)) if spec.guidance_scale != 1.0 else 0)


@lru_cache(maxsize=1024)  # planning asks for every image of a job, of which there may be a million
def _count_evaluations(solver: str, spacing: str, steps: int) -> int:
    return count_evaluations(solver, steps, ends_at_data=spacing != "leading")
