"""One image of a plan: all inputs except the release and its conditions, and its cost."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from services.job_queue.plan import Item, Plan
from services.job_requests.canvas import Size
from services.job_requests.output_options import image_name
from services.job_requests.sampling_fields import DECODER, as_size, merge
from training.model.distilled_solvers import DISTILLED_SOLVERS
from training.model.release import DecoderName
from training.model.solvers import count_evaluations, count_steps, steps_taken

STAGE_SEEDS = 0x1E3779B97F4A7C15  # what the seeds of stages differ by: odd, so that no two images share one


@dataclass(frozen=True)
class ImageSpec:
    """Everything that one image depends on besides the release and its conditions.

    between: two seeds and a share, how far the noise to begin with is from that of the first toward that of the second;
    None is the noise of `seed`. size: width and height in pixels; None is the release's own. growth: its area, in areas
    of the release's own size.
    """

    index: int
    item: int  # the number of its item
    seed: int
    steps: int
    solver: str
    guidance_scale: float
    spacing: str = "trailing"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    eta: float = 0.0
    strength: float = 1.0
    between: tuple[int, int, float] | None = None
    size: Size | None = None
    growth: float = 1.0
    decoder: DecoderName = "full"
    name: str | None = None  # of its file, without a suffix; None: its index
    stage: int = 0  # of a chain

    @property
    def noise_seed(self) -> int:
        """The seed of its noise: `seed` itself, and in each later stage of a chain another one."""
        return (self.seed + self.stage * STAGE_SEEDS) % 2**62 if self.stage else self.seed


def image_spec(plan: Plan, item: Item, index: int) -> ImageSpec:
    """Return image `index` of a plan. Its seed is its item's seed + k, or else the job's seed + index."""
    position, k = divmod(index, int(plan["images_per_item"]))
    fields = merge(plan, item)
    low, high = fields["guidance_interval"]
    size = as_size(fields["size"]) if "size" in fields else None
    seed = int(item["seed"]) + k if "seed" in item else int(plan["seed"]) + index
    toward, between = item.get("toward", {}), None
    if "seed" in toward:
        between = seed, int(toward["seed"]) + k, float(toward["share"])
    elif "variations" in fields:
        between = seed - k, seed, float(fields["variations"])
    return ImageSpec(
        index=index,
        item=position,
        seed=seed,
        steps=int(fields["steps"]),
        solver=fields["solver"],
        spacing=fields["spacing"],
        guidance_scale=float(fields["guidance_scale"]),
        guidance_interval=(float(low), float(high)),
        guidance_rescale=float(fields["guidance_rescale"]),
        eta=float(fields.get("eta", 0)),
        strength=float(fields.get("strength", 1)),
        between=between,
        size=size,
        growth=1.0 if size is None else size[0] * size[1] / plan["own_area"],
        decoder=fields.get("decoder", DECODER),
        name=image_name(plan, item, index, seed),
    )


def image_cost(spec: ImageSpec) -> int:
    """Return the network rows that an image takes: one an evaluation, and two where it is guided, unless distilled.

    A row of another size counts as many rows of the release's own size as its area has, and at least one in all.
    Evaluations are taken as evenly spread over the guidance interval. A schedule that ends in pure noise may save one.
    """
    count = evaluations_in_turn(spec)
    low, high = (min(bound, spec.strength) for bound in spec.guidance_interval)
    has_null = spec.guidance_scale != 1.0 and spec.solver not in DISTILLED_SOLVERS
    rows = count + (round(count * (high - low) / spec.strength) if has_null else 0)
    return ceil(rows * spec.growth)


def evaluations_in_turn(spec: ImageSpec) -> int:
    """Return how often the network is evaluated for an image, one time after the other."""
    whole = spec.strength == 1
    steps = count_steps(spec.spacing, spec.steps) if whole else steps_taken(spec.steps, spec.strength)
    return _count_evaluations(spec.solver, spec.spacing, steps)


@lru_cache(maxsize=1024)  # planning asks for every image of a job, of which there may be a million
def _count_evaluations(solver: str, spacing: str, steps: int) -> int:
    return count_evaluations(solver, steps, ends_at_data=not spacing.startswith("leading"))
