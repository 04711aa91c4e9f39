"""Divides the time of a training among its stages, and chooses numbers of steps."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from training.metrics import copies
from training.metrics.classifier import STEPS as CLASSIFIER_STEPS
from training.planning.models import MEASUREMENTS, Device
from training.planning.survey import PlanError
from training.planning.timing import Timings

USED = 0.9  # share of the time that is planned; the rest is for what takes longer than it was measured
FIRST = 0.3  # share of the training that the first stage gets
LEAST_FIRST, LEAST_SECOND = 100, 200  # steps; fewer give noise
GOOD_FIRST, GOOD_SECOND = 400, 1200  # steps below which a smaller size is better
MOST_FIRST, MOST_SECOND = 20_000, 200_000
PREVIEWS = 3  # during each stage
PREVIEW_ROWS, PREVIEW_STEPS = 40, 15
SOLVER_STEPS = 20
LIGHT = ("gate", "publish", "publish-2", "smoke", "promote", "tell-end")  # tasks that run no model
STAGES = 6 + len(LIGHT)
GUIDED = 2  # evaluations of the U-Net for a step with guidance
LEAST_SAMPLES, MOST_SAMPLES = 64, 1000  # of the evaluation


@dataclass(frozen=True)
class Start:
    """Seconds until a stage starts. imports: of all stages, which are made once. stage: of each stage in addition."""

    imports: float
    stage: float


@dataclass(frozen=True)
class Machine:
    """The machine of a training. read: seconds to read a picture. spent: returns seconds since the command began."""

    device: Device
    read: float
    start: Start
    spent: Callable[[], float]


@dataclass(frozen=True)
class Work:
    """What has to be done however long the training takes. read: seconds to read a picture."""

    images: int
    held_out: int
    read: float
    start: Start
    first_trained: bool  # else the pixels, or a published release, are the first stage
    published: bool = False
    tuned: bool = False  # the second stage begins with a published release, which is fetched and evaluated too
    least_second: int = LEAST_SECOND
    most_second: int = MOST_SECOND


@dataclass(frozen=True)
class Budget:
    """Steps and samples, and the seconds that each stage is expected to take."""

    first_steps: int
    second_steps: int
    samples: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds from here to the end."""
        return sum(self.seconds.values())

    @property
    def is_good(self) -> bool:
        """Whether the steps suffice for more than a sketch."""
        return self.second_steps >= GOOD_SECOND and (self.first_steps >= GOOD_FIRST or self.first_steps == 1)

    def to_json(self) -> dict[str, Any]:
        """Return the budget as JSON."""
        return asdict(self)


def stage_seconds(work: Work, timings: Timings, first_steps: int, second_steps: int, samples: int) -> dict[str, float]:
    """Return the seconds that each stage is expected to take, by its name in KFP's local runner, in their order."""
    t = timings
    preview = PREVIEW_ROWS * (PREVIEW_STEPS * GUIDED * t.denoise + t.decode)
    sample = SOLVER_STEPS * GUIDED * t.denoise + t.decode
    measurement = 4 * min(work.held_out, 256) * t.denoise  # four bands of timesteps
    measurement += copies.SAMPLES * (copies.STEPS * t.denoise + t.decode)
    features = 0.2 * t.classifier_step / 64  # seconds of a picture through the classifier, without gradients
    seconds = {
        "prepare-data": work.images * work.read + CLASSIFIER_STEPS * t.classifier_step,
        "train-autoencoder": first_steps * t.first_step + min(work.images, 10_000) * t.encode,
        "evaluate": work.held_out * (t.encode + t.decode) + work.images * features,
        "encode-latents": work.images * t.encode,
        "train-diffusion": second_steps * t.second_step + (PREVIEWS + 1) * preview + MEASUREMENTS * measurement,
        "evaluate-2": samples * sample + work.images * features,
    }
    light = list(LIGHT)
    if work.published:
        del seconds["train-autoencoder"], seconds["evaluate"]
        seconds["evaluate"] = seconds.pop("evaluate-2")
        fetched = ("fetch-release", "fetch-release-2") if work.tuned else ("fetch-release",)
        seconds = dict.fromkeys(fetched, 0.0) | seconds
        light.remove("publish-2")
    if work.tuned:
        seconds["evaluate"] *= 2
    seconds |= dict.fromkeys(light, 0.0)
    seconds[next(iter(seconds))] += work.start.imports  # the first stage waits for them
    return {name: work.start.stage + value for name, value in seconds.items()}


def check_start(start: Start, minutes: float, spent: float) -> None:
    """Raise PlanError if the time does not even suffice to start all stages."""
    least = start.imports + STAGES * start.stage
    if least > USED * (60 * minutes - spent):
        raise too_short(minutes, least, spent)


def too_short(minutes: float, least: float, spent: float, *, training: float = 0.0, steps: int = 0) -> PlanError:
    """Return the error of a time that is too short. least: seconds that are needed at least, besides those spent.

    training: those of the fewest steps, `steps`.
    """
    most = "starting, preparing and evaluating"
    if training > least / 2:
        most = f"the fewest steps of training, {steps:,}"
    return PlanError(
        f"--minutes: {minutes:g} is not allowed; permitted for these pictures on this machine: at least "
        f"{math.ceil((least / USED + spent) / 60)}, as busy as it is now, most of it for {most}"
    )


def divide(work: Work, timings: Timings, minutes: float, spent: float) -> Budget:
    """Return the steps that fit into `minutes`, of which `spent` seconds are over.

    Raises PlanError naming the time that is needed at least.
    """
    seconds = 60 * minutes - spent
    first_least = LEAST_FIRST if work.first_trained else 1
    one_sample = SOLVER_STEPS * GUIDED * timings.denoise + timings.decode
    samples = int(min(MOST_SAMPLES, max(LEAST_SAMPLES, 0.05 * seconds / one_sample)))
    samples -= samples % 8
    fixed = sum(stage_seconds(work, timings, 0, 0, samples).values())
    training = first_least * timings.first_step + work.least_second * timings.second_step
    if fixed + training > USED * seconds:
        steps = work.least_second + (first_least if work.first_trained else 0)
        raise too_short(minutes, fixed + training, spent, training=training, steps=steps)
    free = USED * seconds - fixed
    first = 1
    if work.first_trained:
        first = int(min(MOST_FIRST, max(LEAST_FIRST, FIRST * free / timings.first_step)))
    second = (free - first * timings.first_step) / timings.second_step
    second = int(min(work.most_second, max(work.least_second, second)))
    return Budget(first, second, samples, stage_seconds(work, timings, first, second, samples))
