"""The plan of a training: two experiment files, the steps that fit into the time, and what each stage should take."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import yaml

from training.data.own_images.inspection import Inspection
from training.experiments import compose
from training.experiments.schema import AutoencoderExperiment, DiffusionExperiment, Experiment
from training.model.autoencoder import Autoencoder
from training.model.release import sha256_of
from training.model.unet import UNet
from training.planning import fine_tuning, models
from training.planning.budget import (
    GOOD_SECOND,
    LEAST_SECOND,
    MOST_SECOND,
    PREVIEWS,
    Budget,
    Machine,
    Work,
    check_start,
    divide,
)
from training.planning.fine_tuning import Base
from training.planning.first_stages import Published, why_not
from training.planning.models import Condition, Device, Fields
from training.planning.survey import PlanError, Survey, Wanted, choose_condition
from training.planning.timing import measure

AUTOENCODER, DIFFUSION, PLAN = "autoencoder.yaml", "diffusion.yaml", "plan.json"
HEADER = "# Chosen by darkroom train, which reads this file again. Alone: python -m training.train experiment={path}\n"
FREE_BYTES = 500_000_000  # that must stay free beyond what is expected to be written
SKIPPED = 1.5  # sizes are not measured that need this many times fewer steps than the size before promised
COPIES = 3  # of each array: scratch, the prepared set, a stage's copy
CHECKPOINT_BYTES = 40  # for a weight: its value, average and two moments, in the checkpoints that are kept


@dataclass(frozen=True)
class Options:
    """What the user asks for. size: pixels; None chooses. keep_aspect: else pictures are cropped to squares.

    first_stage: auto, new, or a published release. base: the release to begin with, a reference or a folder.
    """

    source: str
    name: str
    minutes: float
    condition: Wanted = "auto"
    size: int | None = None
    alias: str = "candidate"
    keep_aspect: bool = False
    first_stage: str = "auto"
    base: str | None = None


@dataclass(frozen=True)
class Plan:
    """A plan. stamp: of the listing of the pictures. seconds: what each stage should take, by the name of its task.

    max_bad: the share of pictures that may be unusable. bucket_step: of data.bucket_step, where aspect ratios are kept.
    classes: those of the release to begin with, if the pictures have only some of them or others would be their order.
    first_stage: a published one, which is not trained. base: the release to begin with, NAME@VERSION or a folder.
    """

    options: Options
    stamp: str
    size: int
    channels: int
    condition: Condition
    held_out: float
    first_steps: int
    second_steps: int
    samples: int
    weights: int
    seconds: dict[str, float]
    max_bad: float = 0.01
    bucket_step: int | None = None
    first_stage: str | None = None
    base: str | None = None
    classes: list[str] | None = None

    @property
    def variant(self) -> str:
        """The pipeline that trains it."""
        if self.base is not None:
            return "fine-tune"
        return "full" if self.first_stage is None else "diffusion"

    @property
    def total(self) -> float:
        """Seconds from the start of the first stage to the end."""
        return sum(self.seconds.values())

    def fits(self, options: Options, stamp: str) -> bool:
        """Return whether the plan is for these options and pictures."""
        return self.options == options and self.stamp == stamp

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the plan in a folder; None if there is none that this version can read."""
        try:
            fields = json.loads((folder / PLAN).read_text())["plan"]
            return cls(**{**fields, "options": Options(**fields["options"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Draft:
    """The experiments at one size, with the steps that fit."""

    size: int
    first: Fields
    second: Fields
    budget: Budget
    weights: int


def make(
    found: Survey, inspection: Inspection, options: Options, stamp: str, machine: Machine,
    published: Published | Base | None = None,
) -> tuple[Plan, dict[str, Fields]]:  # fmt: skip
    """Return the plan, and the fields of its experiments by file name.

    published: the first stage, instead of a new one, or the release to begin with. Raises PlanError if nothing fits.
    """
    base = published if isinstance(published, Base) else None
    if base is not None:
        fine_tuning.check_fit(base, found, options)
        found = replace(found, channels=base.release.image_shape[0])
    condition = choose_condition(found, options.condition) if base is None else base.condition
    draft = choose_size(found, inspection, options, condition, machine, published)
    budget = draft.budget
    plan = Plan(
        options, stamp, draft.size, found.channels, condition, found.held_out, budget.first_steps, budget.second_steps,
        budget.samples, draft.weights, budget.seconds, found.max_bad,
        draft.second["data"].get("bucket_step"),
        published.reference if isinstance(published, Published) else None, None if base is None else base.reference,
        draft.second["data"].get("classes"),
    )  # fmt: skip
    rate = None if base is None else base.learning_rate
    second = {DIFFUSION: models.with_steps(draft.second, budget.second_steps, previews=PREVIEWS, rate=rate)}
    if published is not None:
        return plan, second
    return plan, {AUTOENCODER: models.with_steps(draft.first, budget.first_steps, previews=PREVIEWS), **second}


def choose_size(
    found: Survey, inspection: Inspection, options: Options, condition: Condition, machine: Machine,
    published: Published | Base | None = None,
) -> Draft:  # fmt: skip
    """Return the experiments at the largest size at which the time suffices for good steps, else at the smallest."""
    check_start(machine.start, options.minutes, machine.spent())
    base = published if isinstance(published, Base) else None
    sizes = [base.size] if base is not None else models.candidate_sizes(found, machine.device, options.size)
    if isinstance(published, Published):
        sizes = [size for size in sizes if why_not(published.autoencoder, size, found.channels) is None]
    classes = [] if condition != "class" else list(found.classes) if base is None else list(base.classes)
    refusal: PlanError | None = None
    draft: Draft | None = None
    while sizes:
        size = sizes.pop(0)
        first, second = draft_experiments(found, options, condition, size, machine.device, published)
        loaded = load_both(first, second)
        timings = measure(*loaded, classes, inspection.texts, None if published is None else published.autoencoder)
        trained = published is None and loaded[0].model.regularisation != "identity"
        least, most = LEAST_SECOND, MOST_SECOND
        if base is not None:
            least, most = fine_tuning.LEAST_STEPS, fine_tuning.most_steps(machine.device, found.training)
        work = Work(
            found.images, int(found.held_out * found.images) + 1, machine.read, machine.start, trained,
            published is not None, base is not None, least, most,
        )  # fmt: skip
        try:
            budget = divide(work, timings, options.minutes, machine.spent())
        except PlanError as error:
            refusal = error
            sizes = [smaller for smaller in sizes if smaller <= size / 2] or sizes[-1:]
            continue
        autoencoder = Autoencoder(loaded[0].model) if published is None else published.autoencoder
        draft = Draft(size, first, second, budget, models.count_weights(autoencoder, UNet(loaded[1].model.unet)))
        if budget.is_good:
            return draft
        affordable = SKIPPED * size**2 * budget.second_steps / GOOD_SECOND  # pixels
        sizes = [smaller for smaller in sizes if smaller**2 <= affordable] or sizes[-1:]
    if draft is None:
        assert refusal is not None
        raise refusal
    return draft


def draft_experiments(
    found: Survey, options: Options, condition: Condition, size: int, device: Device,
    published: Published | Base | None = None,
) -> tuple[Fields, Fields]:  # fmt: skip
    """Return both experiments at a size, with a step each. That of a published first stage is not used."""
    first = models.first_stage(size, found.channels, device)
    channels, factor = first["model"]["latent_channels"], models.factor_of(size)
    if published is not None:
        channels, factor = published.autoencoder.config.latent_channels, published.autoencoder.config.factor
    if isinstance(published, Base):
        second = fine_tuning.second_stage(published, device)
    else:
        second = models.second_stage(size, channels, factor, condition, device)
    data = models.data_fields(found, size, options.source)
    if isinstance(published, Base) and (classes := fine_tuning.other_classes(published, found)):
        data["classes"] = classes
    if options.keep_aspect:
        data["bucket_step"] = factor * 2 ** (len(second["model"]["unet"]["multipliers"]) - 1)
    for one in (first, second):
        one["batch_size"] = min(one["batch_size"], found.training)
    data_of_second = {**data, **models.permit_missing(found, condition)}
    second = models.with_steps({**second, "optimiser": {}}, 1, previews=0)
    return (
        {"name": f"{options.name}-autoencoder", "steps": 1, "data": data, **first},
        {"name": options.name, "data": data_of_second, **second},
    )


def load_both(first: Fields, second: Fields) -> tuple[AutoencoderExperiment, DiffusionExperiment]:
    """Return both experiments from their fields. Raises ExperimentError."""
    one, other = load(first), load(second)
    assert isinstance(one, AutoencoderExperiment)
    assert isinstance(other, DiffusionExperiment)
    return one, other


def load(fields: Fields) -> Experiment:
    """Return an experiment from its fields. Raises ExperimentError."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.yaml"
        path.write_text(yaml.safe_dump(fields, sort_keys=False))
        return compose.load(str(path), ["autoencoder=x"] if "ema_decay" in fields else [])


def write(folder: Path, plan: Plan, experiments: dict[str, Fields]) -> None:
    """Write the experiment files and the plan."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, fields in experiments.items():
        text = yaml.safe_dump(fields, sort_keys=False, default_flow_style=None)
        (folder / name).write_text(HEADER.format(path=folder / name) + text)
    document = {"plan": asdict(plan), "files": {name: sha256_of(folder / name) for name in experiments}}
    (folder / PLAN).write_text(json.dumps(document, indent=2) + "\n")


def are_written(folder: Path, plan: Plan) -> bool:
    """Return whether a folder has the experiment files of a plan."""
    return (plan.variant != "full" or (folder / AUTOENCODER).is_file()) and (folder / DIFFUSION).is_file()


def are_edited(folder: Path) -> bool:
    """Return whether an experiment file differs from what was written."""
    files = json.loads((folder / PLAN).read_text())["files"]
    return any((folder / name).is_file() and sha256_of(folder / name) != known for name, known in files.items())


def check_disk(folder: Path, plan: Plan, images: int) -> None:
    """Raise PlanError unless the disk of a folder, which need not exist, has room for the arrays and checkpoints."""
    pixels = images * plan.size**2 * plan.channels
    needed = COPIES * 2 * pixels + CHECKPOINT_BYTES * plan.weights + FREE_BYTES  # latents are no larger than pixels
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < needed:
        raise PlanError(
            f"the disk of {folder} has {free / 1e9:.2g} GB free; this training needs {needed / 1e9:.2g} GB. Make room, "
            "or set DARKROOM_ROOT to a folder on another disk"
        )


def arguments(plan: Plan, folder: Path) -> list[str]:
    """Return the arguments of the pipeline `plan.variant`, as `darkroom pipeline run` takes them."""
    data: Sequence[tuple[str, Any]] = (
        ("root", plan.options.source), ("image_size", plan.size), ("channels", plan.channels),
        ("held_out", plan.held_out), ("max_bad", plan.max_bad),
        *([("bucket_step", plan.bucket_step)] if plan.bucket_step else []),
        *([("classes", fine_tuning.quoted(plan.classes))] if plan.classes else []),
    )  # fmt: skip
    first = f"autoencoder_experiment={folder / AUTOENCODER}"
    if plan.base is not None:
        first = f"base={plan.base}"
    elif plan.first_stage is not None:
        first = f"autoencoder={plan.first_stage}"
    return [
        "data=images",
        *(f"data_overrides=data.{field}={value}" for field, value in data),
        first,
        f"diffusion_experiment={folder / DIFFUSION}",
        f"sampling=images={plan.samples}",
        f"alias={plan.options.alias}",
    ]
