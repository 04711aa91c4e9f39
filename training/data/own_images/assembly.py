"""Assembles the content of an image set: which images, in which order, with which records."""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from training.data.image_set import DataError
from training.data.own_images import layout
from training.data.own_images.advice import advise
from training.data.own_images.annotations import class_names
from training.data.own_images.decoding import BadImageError, Problem, share_box
from training.data.own_images.gathering import Gathered, StoredImage
from training.data.own_images.layout import folder_splits
from training.data.own_images.names import IMAGE_ENDINGS, UNREADABLE_ENDINGS
from training.data.own_images.planes import find_planes
from training.data.own_images.records import Annotation, Label
from training.model.conditioners.text_tokenizer import MAX_CHARACTERS


@dataclass(frozen=True)
class Usable:
    """An image that goes into the set. boxes: (label, shares of the crop)."""

    image: StoredImage
    annotation: Annotation
    boxes: list[tuple[Label, list[float]]] | None
    map: StoredImage | None
    mask: StoredImage | None


@dataclass(frozen=True)
class Content:
    """The content of an image set: the training images, then the held-out ones, each part sorted by name."""

    names: list[str]
    train_count: int
    usable: dict[str, Usable]
    records: list[dict[str, Any]]
    classes: tuple[str, ...]
    box_classes: tuple[str, ...]

    def planes(self, kind: str) -> list[StoredImage]:
        """Return the "image", "map" or "mask" of each name; empty if the set has none."""
        found = [getattr(self.usable[name], kind) for name in self.names]
        return [] if None in found else found


@dataclass(frozen=True)
class Selection:
    """All images: usable, or with a problem. dropped_objects: boxes of which the crop leaves too little.

    planes: images that are masks or maps of others, by their names.
    """

    usable: dict[str, Usable]
    bad: dict[str, Problem]
    not_listed: list[str]
    dropped_objects: int
    planes: list[str]

    @property
    def found(self) -> int:
        """The number of images, usable or not."""
        return len(self.usable) + len(self.bad)


def select_usable(gathered: Gathered) -> Selection:
    """Separate usable images from bad ones."""
    names = expected_images(gathered)
    usable: dict[str, Usable] = {}
    bad = unsupported_images(gathered, names)
    dropped = 0
    maps_and_masks = {**gathered.maps, **gathered.masks}
    for name in sorted(names):
        image = gathered.images.get(name) or missing_problem(name, gathered)
        if isinstance(image, Problem):
            bad[name] = image
            continue
        try:
            annotation = gathered.annotations.of(name, maps_and_masks)
        except DataError as error:
            bad[name] = Problem("annotation", str(error).removeprefix("data.root: "))
            continue
        try:
            map_ = find_plane("map", annotation.map, image, gathered)
            mask = find_plane("mask", annotation.mask, image, gathered)
            boxes = [(label, share_box(box, image.size)) for label, box in annotation.boxes or ()]
        except BadImageError as error:
            bad[name] = error.problem
            continue
        kept = [(label, box) for label, box in boxes if box is not None]
        dropped += len(boxes) - len(kept)
        usable[name] = Usable(image, annotation, None if annotation.boxes is None else kept, map_, mask)
    for kind in ("map", "mask"):
        without = [name for name, one in usable.items() if getattr(one, kind) is None]
        if len(without) < len(usable):
            bad |= {name: Problem(f"no {kind}", f"has no {kind}, and others have one") for name in without}
            usable = {name: one for name, one in usable.items() if name not in bad}
    planes = find_planes(gathered.images) - names
    return Selection(usable, bad, sorted(gathered.images.keys() - names - planes), dropped, sorted(planes))


def expected_images(gathered: Gathered) -> set[str]:
    """Return the images that a metadata file lists, or else all that tables list and all that were found.

    Of those that no table lists, masks and maps of others are left out.
    """
    listed = gathered.annotations.listed.keys()
    if gathered.annotations.complete:
        return set(listed)
    return {*listed, *(gathered.images.keys() - find_planes(gathered.images))}


def unsupported_images(gathered: Gathered, names: set[str]) -> dict[str, Problem]:
    """Return the images whose format cannot be read, except those that are stored in another format too."""
    if gathered.annotations.complete or not names:
        return {}
    found = [name for name, ending in gathered.others.items() if ending in UNREADABLE_ENDINGS and name not in names]
    stems = {posixpath.splitext(name)[0] for name in names} if found else set()
    return {
        name: Problem("unsupported", describe_unsupported(gathered.others[name]))
        for name in sorted(found)
        if posixpath.splitext(name)[0] not in stems
    }


def describe_unsupported(ending: str) -> str:
    """Return why images with this ending are not read."""
    return f"ends in {ending}; images are {', '.join(IMAGE_ENDINGS)}; {advise(f'x{ending}')}"


def missing_problem(name: str, gathered: Gathered) -> Problem:
    """Return why an image that the metadata lists is missing."""
    where = gathered.annotations.where[name]
    if name in gathered.others:
        return Problem("unsupported", describe_unsupported(gathered.others[name]))
    return Problem("missing", f"is listed ({where}), but missing")


def find_plane(kind: str, name: str | None, image: StoredImage, gathered: Gathered) -> StoredImage | None:
    """Return the map or mask of an image. Raises BadImageError, or DataError if it was taken for an image."""
    if name is None:
        return None
    plane = (gathered.maps if kind == "map" else gathered.masks).get(name)
    if plane is None and name in gathered.images:
        raise DataError(
            f"data.root: {name} came before the metadata that calls it a {kind}; put metadata.jsonl first into the "
            f"tar or next to it, or name the file NAME.{kind}.png"
        )
    if plane is None:
        raise BadImageError(kind, f"its {kind} {name} is missing")
    if isinstance(plane, Problem):
        raise BadImageError(kind, f"its {kind} {name} {plane.reason}")
    if plane.size != image.size:
        sizes = ["x".join(map(str, size)) for size in (plane.size, image.size)]
        raise BadImageError(kind, f"its {kind} {name} is {sizes[0]}, the image {sizes[1]} (upright)")
    return plane


def assemble(
    gathered: Gathered, usable: dict[str, Usable], held_out: float, classes: tuple[str, ...] | None = None
) -> Content:
    """Return the content of the set. classes: their names, of which the images may have only some.

    Raises DataError if labels mix numbers and names, or are none of the classes.
    """
    usable = add_folder_splits(add_folder_labels(gathered, usable))
    label_names = class_names(
        {name: [one.annotation.label] for name, one in usable.items() if one.annotation.label is not None}, "labels"
    )
    if classes is not None:
        if unknown := [name for name in label_names if name not in classes]:
            raise DataError(f"data.classes: {', '.join(unknown[:8])} {'is' if len(unknown) == 1 else 'are'} not among "
                            "them, and images have such a label")  # fmt: skip
        label_names = classes
    box_names = class_names({name: [label for label, _ in one.boxes or ()] for name, one in usable.items()},
                            "the boxes' labels")  # fmt: skip
    held = choose_held_out({name: one.annotation.split for name, one in usable.items()}, held_out)
    order = sorted(usable.keys() - held) + sorted(held)
    numbers = {name: number for number, name in enumerate(label_names)}
    box_numbers = {name: number for number, name in enumerate(box_names)}
    records = [build_record(name, usable[name], numbers, box_numbers) for name in order]
    return Content(order, len(order) - len(held), usable, records, label_names, box_names)


def add_folder_labels(gathered: Gathered, usable: dict[str, Usable]) -> dict[str, Usable]:
    """Label the images by their folders if there are no other labels, or those of some images are folders too."""
    if not gathered.annotations.labels_by_folder:
        return usable
    given = {name: one.annotation.label for name, one in usable.items() if one.annotation.label is not None}
    if len(given) == len(usable):
        return usable
    labels = layout.add_folder_labels(given, usable)
    return {
        name: replace(one, annotation=replace(one.annotation, label=labels.get(name))) for name, one in usable.items()
    }


def add_folder_splits(usable: dict[str, Usable]) -> dict[str, Usable]:
    """Split the images of whose split records say nothing by folders such as train and test."""
    splits, _ = folder_splits(usable)
    return {
        name: replace(one, annotation=replace(one.annotation, split=one.annotation.split or splits.get(name)))
        for name, one in usable.items()
    }


def build_record(name: str, one: Usable, numbers: Mapping[str, int], box_numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the record of an image; see `image_set`. Its text is cut to the length that requests may have."""
    made: dict[str, Any] = {"name": name}
    if one.annotation.text is not None:
        made["text"] = one.annotation.text[:MAX_CHARACTERS]
    if one.annotation.label is not None:
        made["label"] = numbers[str(one.annotation.label)]
    if one.boxes is not None:
        made["boxes"] = [{"class": box_numbers[str(label)], "box": box} for label, box in one.boxes]
    return made


def choose_held_out(splits: Mapping[str, str | None], share: float) -> set[str]:
    """Choose the held-out images: those whose split says so if any does, else about `share` of all.

    The choice depends on each image's name alone, so images that are added later do not move others. At least one is
    held out, unless `share` is 0, and at least one is not. Raises DataError if the records hold out all images.
    """
    if held := {name for name, split in splits.items() if split == "held_out"}:
        if len(held) == len(splits):
            raise DataError("data.root: every image's split is held out; some must be for training")
        return held
    if share == 0 or len(splits) < 2:
        return set()
    by_hash = sorted(splits, key=hash_share)
    count = sum(hash_share(name) < share for name in by_hash)
    return set(by_hash[: min(max(count, 1), len(by_hash) - 1)])


def hash_share(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def count_cut_texts(content: Content) -> int:
    """Return the number of images whose text is cut."""
    texts = (content.usable[name].annotation.text for name in content.names)
    return sum(text is not None and len(text) > MAX_CHARACTERS for text in texts)


def count_labels(content: Content) -> dict[str, int]:
    """Return the number of images of each label, by its name."""
    counts = Counter(record["label"] for record in content.records if "label" in record)
    return {name: counts[number] for number, name in enumerate(content.classes)}
