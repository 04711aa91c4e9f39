"""From what was gathered to the content of an image set: which pictures, in which order, with which records."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from training.data.image_set import DataError
from training.data.own_images.annotations import Label, Told, class_names, folder_labels
from training.data.own_images.decoding import BadPictureError, Problem, share_box
from training.data.own_images.gathering import Gathered, Kept
from training.data.own_images.sources import PICTURE_ENDINGS


@dataclass(frozen=True)
class Usable:
    """A picture that goes into the set. boxes: (label, shares of the crop)."""

    picture: Kept
    told: Told
    boxes: list[tuple[Label, list[float]]] | None
    map: Kept | None
    mask: Kept | None


@dataclass(frozen=True)
class Content:
    """What an image set is written from: the training pictures, then the held-out ones, each part by name."""

    names: list[str]
    train_count: int
    usable: dict[str, Usable]
    records: list[dict[str, Any]]
    classes: tuple[str, ...]
    box_classes: tuple[str, ...]

    def planes(self, kind: str) -> list[Kept]:
        """The "picture", "map" or "mask" of each name; empty where the set has none."""
        found = [getattr(self.usable[name], kind) for name in self.names]
        return [] if None in found else found


@dataclass(frozen=True)
class Judged:
    """Every picture, as usable or with its problem. dropped_objects: of which the crop leaves too little."""

    usable: dict[str, Usable]
    bad: dict[str, Problem]
    not_listed: list[str]
    dropped_objects: int

    @property
    def found(self) -> int:
        """Pictures that should be usable."""
        return len(self.usable) + len(self.bad)


def judge(gathered: Gathered) -> Judged:
    """Sort the pictures into usable ones and bad ones. Raises DataError for what is said in no permitted form."""
    listed = gathered.annotations.listed
    names = set(listed or gathered.pictures)
    usable: dict[str, Usable] = {}
    bad: dict[str, Problem] = {}
    dropped = 0
    for name in sorted(names):
        picture = gathered.pictures.get(name) or absent(name, gathered)
        if isinstance(picture, Problem):
            bad[name] = picture
            continue
        told = gathered.annotations.of(name, {**gathered.maps, **gathered.masks})
        try:
            map_ = fitting("map", told.map, picture, gathered)
            mask = fitting("mask", told.mask, picture, gathered)
            boxes = [(label, share_box(box, picture.size)) for label, box in told.boxes or ()]
        except BadPictureError as error:
            bad[name] = error.problem
            continue
        kept = [(label, box) for label, box in boxes if box is not None]
        dropped += len(boxes) - len(kept)
        usable[name] = Usable(picture, told, None if told.boxes is None else kept, map_, mask)
    for kind in ("map", "mask"):
        without = [name for name, one in usable.items() if getattr(one, kind) is None]
        if len(without) < len(usable):
            bad |= {name: Problem(f"no {kind}", f"has no {kind}, and others have one") for name in without}
            usable = {name: one for name, one in usable.items() if name not in bad}
    return Judged(usable, bad, sorted(gathered.pictures.keys() - names), dropped)


def absent(name: str, gathered: Gathered) -> Problem:
    """Why there is no picture of a name that the metadata lists."""
    where = gathered.annotations.where[name]
    if name in gathered.others:
        ending = gathered.others[name]
        return Problem("unsupported", f"ends in {ending}; pictures are {', '.join(PICTURE_ENDINGS)}")
    return Problem("missing", f"is listed ({where}), but not there")


def fitting(kind: str, name: str | None, picture: Kept, gathered: Gathered) -> Kept | None:
    """The map or mask of a picture. Raises BadPictureError, and DataError where it was taken for a picture."""
    if name is None:
        return None
    plane = (gathered.maps if kind == "map" else gathered.masks).get(name)
    if plane is None and name in gathered.pictures:
        raise DataError(
            f"data.root: {name} came before the metadata that calls it a {kind}; put metadata.jsonl first into the "
            f"tar or beside it, or name the file NAME.{kind}.png"
        )
    if plane is None:
        raise BadPictureError(kind, f"its {kind} {name} is not there")
    if isinstance(plane, Problem):
        raise BadPictureError(kind, f"its {kind} {name} {plane.reason}")
    if plane.size != picture.size:
        sizes = ["x".join(map(str, size)) for size in (plane.size, picture.size)]
        raise BadPictureError(kind, f"its {kind} {name} is {sizes[0]}, the picture {sizes[1]} (upright)")
    return plane


def assemble(gathered: Gathered, usable: dict[str, Usable], held_out: float) -> Content:
    """The content of the set. Raises DataError for labels of two kinds."""
    usable = with_labels(gathered, usable)
    label_names = class_names(
        {name: [one.told.label] for name, one in usable.items() if one.told.label is not None}, "labels"
    )
    box_names = class_names({name: [label for label, _ in one.boxes or ()] for name, one in usable.items()},
                            "the boxes' labels")  # fmt: skip
    held = held_out_names({name: one.told.split for name, one in usable.items()}, held_out)
    order = sorted(usable.keys() - held) + sorted(held)
    numbers = {name: number for number, name in enumerate(label_names)}
    box_numbers = {name: number for number, name in enumerate(box_names)}
    records = [record(name, usable[name], numbers, box_numbers) for name in order]
    return Content(order, len(order) - len(held), usable, records, label_names, box_names)


def with_labels(gathered: Gathered, usable: dict[str, Usable]) -> dict[str, Usable]:
    """Labelled by folders, where nothing else says anything of labels."""
    if gathered.annotations.listed or any(one.told.label is not None for one in usable.values()):
        return usable
    labels = folder_labels(usable)
    return {name: replace(one, told=replace(one.told, label=labels.get(name))) for name, one in usable.items()}


def record(name: str, one: Usable, numbers: Mapping[str, int], box_numbers: Mapping[str, int]) -> dict[str, Any]:
    """A picture's record; see `image_set`."""
    made: dict[str, Any] = {"name": name}
    if one.told.text is not None:
        made["text"] = one.told.text
    if one.told.label is not None:
        made["label"] = numbers[str(one.told.label)]
    if one.boxes is not None:
        made["boxes"] = [{"class": box_numbers[str(label)], "box": box} for label, box in one.boxes]
    return made


def held_out_names(splits: Mapping[str, str | None], share: float) -> set[str]:
    """Which pictures are held out: those whose record says so if any record does, else about `share` of all.

    Then it depends on a picture's name alone: pictures that are added later move no other. At least one is held out
    (unless `share` is 0) and at least one is not. Raises DataError where no record leaves one to train on.
    """
    if any(splits.values()):
        held = {name for name, split in splits.items() if split == "held_out"}
        if len(held) == len(splits):
            raise DataError("data.root: every picture's split is held out; some have to be for training")
        return held
    if share == 0 or len(splits) < 2:
        return set()
    by_place = sorted(splits, key=place)
    count = sum(place(name) < share for name in by_place)
    return set(by_place[: min(max(count, 1), len(by_place) - 1)])


def place(name: str) -> float:
    """A number in [0, 1) that is a name's own."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def counted(content: Content) -> dict[str, int]:
    """How many pictures have each label, by its name."""
    counts = Counter(record["label"] for record in content.records if "label" in record)
    return {name: counts[number] for number, name in enumerate(content.classes)}
