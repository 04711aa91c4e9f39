"""Surveys pictures for a training: their number, their sizes, and what they can be conditioned on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from training.data.own_images.inspection import Inspection
from training.data.own_images.looks import FLAT, near_duplicates
from training.errors import DarkroomError

Wanted = Literal["auto", "class", "caption", "none"]

LEAST = 16  # pictures; fewer have no held-out ones to speak of
LEAST_SIDE = 8  # pixels
MOST = 0.8  # share of pictures that must have a label or a caption, so that it becomes the condition
MOST_CLASSES = 1000
MOST_BAD = 0.2  # share of the pictures that were looked at that may be unusable
LEAST_BAD = 0.05  # share of all pictures that may be unusable, however few of those looked at were
RARE = 0.05  # share of pictures that may be smaller than half of the chosen size


class PlanError(DarkroomError):
    """No training fits the pictures, the time or the disk; the message says what is permitted."""


@dataclass(frozen=True)
class Survey:
    """What an inspection found. Sides are in pixels and of the shorter side; shares are of all pictures."""

    images: int
    complete: bool  # whether all were listed; else there are at least `images`
    channels: int
    side: int  # the median
    small_side: int  # only RARE of the pictures have a smaller one
    same_size: bool  # all that were looked at are squares of `side`
    classes: Mapping[str, int]
    labelled: float
    captioned: float
    own_held_out: int | None = None  # by the user's split
    bad: float = 0.0  # share of the pictures that were looked at and cannot be used

    @property
    def max_bad(self) -> float:
        """The share of pictures that may be unusable: twice the share that was seen, because few were looked at."""
        return round(max(LEAST_BAD, 2 * self.bad), 4)

    @property
    def held_out(self) -> float:
        """The share to hold out: at least 16 pictures where that is at most a fifth."""
        return round(min(0.2, max(0.05, 16 / self.images)), 4)

    @property
    def training(self) -> int:
        """The pictures that are trained on, at least: some may turn out to be bad."""
        held_out = self.held_out * self.images if self.own_held_out is None else self.own_held_out
        return max(1, int(0.9 * (self.images - held_out)))


def survey(found: Inspection) -> Survey:
    """Return what an inspection found. Raises PlanError for pictures that no training can use."""
    if found.images < LEAST and found.complete:
        reasons = ", ".join(f"{len(names):,} {reason}" for reason, names in found.left_out.items())
        noun = "picture" if found.images == 1 else "pictures"
        raise PlanError(
            f"PICTURES: {found.source} holds {found.images} {noun}; permitted: at least {LEAST}"
            + (f". Left out: {reasons}" if reasons else "")
        )
    if not found.looks and not found.bad:
        raise PlanError(f"PICTURES: no picture of {found.source} can be read; see: darkroom pictures inspect")
    looked = len(found.looks) + len(found.bad)
    if len(found.bad) > MOST_BAD * looked:
        groups = Counter(found.bad.values()).most_common()
        reasons = ", ".join(f"{count:,} {reason.removeprefix('cannot be used: ')}" for reason, count in groups)
        raise PlanError(
            f"PICTURES: {len(found.bad):,} of {looked:,} pictures that were looked at cannot be used ({reasons}; the "
            f"first: {min(found.bad)}); permitted: {100 * MOST_BAD:.0f} %. Repair or remove them"
        )
    if found.complete and found.splits.get("train") == 0:
        raise PlanError("PICTURES: every picture's split is held out; some must be for training")
    distinct = count_distinct(found)
    if distinct < LEAST:
        raise PlanError(
            f"PICTURES: of {len(found.looks):,} pictures that were looked at, only {distinct} differ; permitted: at "
            f"least {LEAST}. The others are copies or nearly so; see: darkroom pictures inspect"
        )
    sides = sorted(min(one.size) for one in found.looks)
    side = sides[len(sides) // 2]
    if side < LEAST_SIDE:
        raise PlanError(f"PICTURES: the median shorter side is {side} pixels; permitted: at least {LEAST_SIDE}")
    read = len(found.looks) if found.labels_from.startswith("files") else found.images
    return Survey(
        found.images, found.complete, found.channels, side, sides[int(RARE * len(sides))],
        all(one.size == (side, side) for one in found.looks), found.classes, sum(found.classes.values()) / read,
        found.with_text / max(found.images, 1), found.splits.get("held_out"), len(found.bad) / looked,
    )  # fmt: skip


def count_distinct(found: Inspection) -> int:
    """Return how many of the pictures that were looked at are left if near duplicates and flat colours count once."""
    flat = [one for one in found.looks if one.deviation < FLAT]
    colours = {tuple(one.thumbnail.mean((0, 1)).round().tolist()) for one in flat}
    return len(found.looks) - len(near_duplicates(found.looks)) - len(flat) + len(colours)


def choose_condition(found: Survey, wanted: Wanted) -> Literal["class", "caption", "none"]:
    """Return what the model is conditioned on. Captions come before classes, because they say more.

    Raises PlanError if the wanted condition is missing.
    """
    possible = possible_conditions(found)
    if wanted == "auto":
        return "caption" if possible["caption"] else "class" if possible["class"] else "none"
    if not possible[wanted]:
        raise PlanError(f"--condition: {wanted} is not allowed; {describe_lack(found, wanted)}; permitted: "
                        f"{', '.join(name for name, ok in possible.items() if ok)}")  # fmt: skip
    return wanted


def possible_conditions(found: Survey) -> dict[str, bool]:
    """Return, by condition, whether the pictures have it."""
    useful = 1 < len(found.classes) <= min(MOST_CLASSES, found.images // 2)
    return {"caption": found.captioned >= MOST, "class": useful and found.labelled >= MOST, "none": True}


def describe_no_condition(found: Survey) -> str:
    """Return why the pictures have neither captions nor classes that can be a condition."""
    return f"{describe_lack(found, 'caption')}; {describe_lack(found, 'class')}"


def describe_lack(found: Survey, condition: str) -> str:
    """Return why the pictures have no such condition."""
    if condition == "caption":
        return f"{100 * found.captioned:.0f} % of the pictures have a caption, and {100 * MOST:.0f} % must"
    if len(found.classes) < 2:
        return f"the pictures have {len(found.classes) or 'no'} {'class' if found.classes else 'labels'}"
    few = ", but classes need two pictures on average" if 2 * len(found.classes) > found.images else ""
    return (
        f"the pictures have {len(found.classes):,} classes for {found.images:,} pictures, "
        f"and {100 * found.labelled:.0f} % have one{few}"
    )


def most_frequent(classes: Mapping[str, int], count: int) -> Sequence[str]:
    """Return the classes with the most pictures, each with its number."""
    shown = [f"{name} ({number:,})" for name, number in Counter(classes).most_common(count)]
    return [*shown, "..."] if len(classes) > count else shown
