"""Plans a training that begins with the weights of a release: what fits it, and the experiment that follows from it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from training.data.own_images.annotations import class_names
from training.experiments.schema import DiffusionLossConfig, to_plain
from training.model.autoencoder import Autoencoder
from training.model.diffusion import DiffusionConfig
from training.model.release import Release
from training.model.unet import UNetConfig
from training.planning import models
from training.planning.models import Condition, Device, Fields
from training.planning.survey import MOST, PlanError, Survey, describe_lack, possible_conditions

if TYPE_CHECKING:
    from training.planning.plan import Options

PASSES = 100  # epochs at most: more would memorize a small set
LEAST_STEPS, USUAL_STEPS = 50, 200  # the fewest of a training; what a set may have however small it is
RATE_SHARE, RATE = 0.3, 3e-5  # of the release's learning rate, see docs/training.md; without one, of the usual 1e-4
CONDITIONS: dict[str, Condition] = {"class": "class", "text": "caption"}  # by the type of a conditioner


@dataclass(frozen=True)
class Base:
    """The release with whose weights a training begins. reference: NAME@VERSION, or an absolute folder."""

    reference: str
    release: Release
    autoencoder: Autoencoder

    @property
    def size(self) -> int:
        """The side of its images in pixels."""
        return self.release.image_shape[1]

    @property
    def condition(self) -> Condition:
        """What it is sampled by."""
        types = [one["type"] for one in self.release.architecture["conditioners"].values()]
        return CONDITIONS[types[0]] if types else "none"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in their order; none if it is not sampled by class."""
        for field, one in self.release.architecture["conditioners"].items():
            if one["type"] == "class":
                return self.release.class_names(field) or tuple(map(str, range(one["classes"])))
        return ()

    @property
    def own_rate(self) -> float | None:
        """The peak of the learning rate of the release's own training, if it states one."""
        rate = self.release.lineage.get("experiment", {}).get("optimiser", {}).get("learning_rate")
        return None if rate is None else float(rate)

    @property
    def learning_rate(self) -> float:
        """The peak of the learning rate of a training that begins with it: its own if it was fine-tuned itself."""
        if self.own_rate is None:
            return RATE
        return self.own_rate if self.is_tuned else RATE_SHARE * self.own_rate

    @property
    def is_tuned(self) -> bool:
        """Whether its own training began with a release."""
        return "initial" in self.release.lineage


def check_release(release: Release, reference: str) -> None:
    """Raise PlanError unless a training of `darkroom train` can begin with a release. Reads no weights."""
    refused = f"--from: {reference} is not allowed; "
    if release.kind != "diffusion":
        raise PlanError(f"{refused}it is a first stage alone; permitted: a diffusion release. "
                        f"Use it with --first-stage {reference}")  # fmt: skip
    if release.distilled is not None or release.architecture["unet"].get("numbers"):
        raise PlanError(f"{refused}it is distilled to few evaluations; permitted: the release that it was made of, "
                        "which can be distilled again afterwards")  # fmt: skip
    types = [one["type"] for one in release.architecture["conditioners"].values()]
    if len(types) > 1 or any(one not in CONDITIONS for one in types):
        raise PlanError(f"{refused}its conditions are {', '.join(types)}; permitted: one of {', '.join(CONDITIONS)}, "
                        "or none. Others are fine-tuned with python -m training.train initial=RELEASE")  # fmt: skip


def check_fit(base: Base, found: Survey, options: "Options") -> None:
    """Raise PlanError unless the pictures and the options fit the release."""
    reference, release = base.reference, base.release
    for option, given, own in (
        ("--size", options.size, base.size),
        ("--condition", None if options.condition == "auto" else options.condition, base.condition),
    ):
        if given not in (None, own):
            raise PlanError(f"{option}: {given} is not allowed with --from {reference}; permitted: {own}, which the "
                            "release has")  # fmt: skip
    if options.first_stage != "auto":
        raise PlanError(f"--first-stage: {options.first_stage} is not allowed with --from, because the first stage of "
                        "the release is used; permitted: auto")  # fmt: skip
    if found.channels > release.image_shape[0]:
        raise PlanError(f"PICTURES: they are in colour, and {reference} makes grey images; permitted: grey pictures")
    if base.size > 2 * found.small_side:
        raise PlanError(f"PICTURES: many have a shorter side of {found.small_side} pixels, and {reference} makes "
                        f"images of {base.size}; permitted: at least {-(-base.size // 2)}")  # fmt: skip
    of_one = base.condition == "class" and len(found.classes) == 1 and found.labelled >= MOST
    if not (possible_conditions(found)[base.condition] or of_one):
        lack = describe_lack(found, base.condition)
        raise PlanError(f"PICTURES: {reference} is sampled by {base.condition}, but {lack}; permitted: pictures with a "
                        f"{base.condition}")  # fmt: skip
    if base.condition == "class":
        check_classes(base, found)


def check_classes(base: Base, found: Survey) -> None:
    """Raise PlanError unless the classes of the pictures are among those of the release, by name."""
    own = base.classes
    if new := [name for name in found.classes if name not in own]:
        raise PlanError(f"PICTURES: classes: {list_some(new)} {'is' if len(new) == 1 else 'are'} not among those of "
                        f"{base.reference}; permitted: {list_some(own)}")  # fmt: skip
    if other_classes(base, found) and (
        odd := [name for name in own if set(name) & set('\\$"') or not name.isprintable()]
    ):
        raise PlanError(f"PICTURES: classes: without pictures of all classes, none of {base.reference} may have a "
                        f"backslash, a quote, $ or a line break in its name, as {odd[0]!r} has")  # fmt: skip


def other_classes(base: Base, found: Survey) -> list[str] | None:
    """Return the classes of the release if the pictures would give others: some are missing, or the order differs."""
    if base.condition != "class" or class_names({name: [name] for name in found.classes}, "labels") == base.classes:
        return None
    return list(base.classes)


def quoted(names: Sequence[str]) -> str:
    """Return names as the value of an override."""
    return f"[{','.join(json.dumps(name, ensure_ascii=False) for name in names)}]"


def list_some(names: Sequence[str]) -> str:
    """Return the first names in words."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


def second_stage(base: Base, device: Device) -> Fields:
    """Return the fields of the second stage's experiment, but for its steps: the model and the loss of the release."""
    architecture = base.release.architecture
    known = {field.name for field in fields(DiffusionLossConfig)}
    trained = base.release.lineage.get("experiment", {}).get("loss", {})
    usual = {"condition_dropout": 0.1 if base.release.guided else 0.0}
    return {
        "defaults": [{"override /data": "images"}, {"override /recipe": "diffusion"}],
        "batch_size": models.SECOND_BATCH[device],
        "model": {
            "unet": to_plain(UNetConfig(**architecture["unet"])),
            "conditioners": {field: experiment_of(one) for field, one in architecture["conditioners"].items()},
            "diffusion": asdict(DiffusionConfig(**architecture["diffusion"])),
        },
        "loss": {**usual, **{name: value for name, value in trained.items() if name in known}},
    }


def experiment_of(conditioner: dict[str, Any]) -> Fields:
    """Return a conditioner of a release as a field of an experiment, which has no token for the null condition."""
    return {name: value for name, value in conditioner.items() if name != "null"}


def batch_size(device: Device, training: int) -> int:
    """Return the pictures of a step. training: how many there are."""
    return min(models.SECOND_BATCH[device], training)


def most_steps(device: Device, training: int) -> int:
    """Return the steps of PASSES over the pictures that are trained on, and at least USUAL_STEPS."""
    return max(USUAL_STEPS, PASSES * training // batch_size(device, training))


def describe(base: Base, steps: int, device: Device, found: Survey) -> Sequence[str]:
    """Return what comes from the release, and how it is changed, in lines."""
    training = found.training
    has = {"class": f"{len(base.classes)} classes", "caption": "captions", "none": "no condition"}[base.condition]
    colour = "grey" if base.release.image_shape[0] == 1 else "colour"
    passes = max(1, round(steps * batch_size(device, training) / training))
    share = "that of the release" if base.is_tuned else f"{RATE_SHARE:g} of the release's"
    if base.own_rate is None:
        share = "the release states none"
    missing = [name for name in base.classes if name not in found.classes]
    lack = (f"no pictures of {list_some(missing)}: the release keeps these classes, but may draw them worse",)
    return (
        f"begin with {base.reference}: its first stage, U-Net and {has}, {base.size}x{base.size} pixels in {colour}",
        f"second stage: {steps:,} steps, which see each picture {passes} times; learning rate "
        f"{base.learning_rate:.2g}, {share}",
        *(lack if missing else ()),
    )
