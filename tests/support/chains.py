"""Jobs whose images go through several releases."""

import uuid
from typing import Any

from services.job_requests.image_spec import ImageSpec
from tests.support.releases import make_small_release, make_upscaling_release
from tests.support.stack import Stack, publish

UP = {"model": "tiny-up@1", "steps": 2}
FINISH = {"model": "tiny@production", "strength": 0.5, "steps": 4}
JOB: dict[str, Any] = {"steps": 2, "seed": 7}


def publish_chain(stack: Stack) -> None:
    """Publish `small`, which makes 8x8 pixels of a class, and `tiny-up`, which makes 32x32 of them."""
    publish(stack, make_small_release(stack.root / "small"))
    publish(stack, make_upscaling_release(stack.root / "tiny-up"))


def submit_chain(stack: Stack, request: dict[str, Any], **columns: Any) -> uuid.UUID:
    """Submit a job of `small`."""
    return stack.submit({**JOB, **request}, model="small@1", **columns)


def noise_seed(seed: int, stage: int) -> int:
    """Return the seed of the noise of an image in a stage."""
    return ImageSpec(0, 0, seed, 1, "ddim", 1.0, stage=stage).noise_seed
