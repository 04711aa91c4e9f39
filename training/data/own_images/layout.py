"""Reads folders: which are splits, and which are labels. Finds the images that records name."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from training.data.own_images.names import PART, split_in_folder, split_of_folder
from training.data.own_images.planes import find_planes
from training.data.own_images.records import Label

BOTH = {"train", "held_out"}
IMAGES = re.compile(r"images?|imgs?|jpegimages", re.IGNORECASE)  # a folder that is no class
PARTS = re.compile(r"(.*[-_ ])?(images?|imgs?|pictures|photos|part|batch|chunk|shard|fold)", re.IGNORECASE)  # of a set
REPEATS = re.compile(r"\d+_(\D.*)")  # as kohya's scripts call folders


def folder_splits(images: Iterable[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the split of each image in a folder such as train or test, and the other folders of each image.

    Folders of one level are splits if both one for training and one that is held out are among them; else train is a
    class like others.
    """
    folders = {name: name.split("/")[:-1] for name in images}
    splits: dict[str, str] = {}
    level = 0
    while True:
        kinds = {part[level] for part in folders.values() if len(part) > level}
        if not kinds:
            return splits, folders
        meanings = split_meanings(kinds)
        if not meanings:
            level += 1
            continue
        for name, part in folders.items():
            if len(part) > level:
                split, rest = meanings.get(part[level], (None, ""))
                if split is not None:
                    splits.setdefault(name, split)
                folders[name] = [*part[:level], *([rest] if split and rest else []), *part[level + 1 :]]


def split_meanings(kinds: Iterable[str]) -> dict[str, tuple[str | None, str]]:
    """Return the split that each folder of one level means and the rest of its name; none if they are not splits."""
    meanings = {kind: split_of_folder(kind) for kind in kinds}
    if {split for split, _ in meanings.values()} >= BOTH:
        return meanings
    alike: dict[str, dict[str, str]] = defaultdict(dict)  # folders whose names differ in a word for a split
    for kind in meanings:
        split, rest = split_in_folder(kind)
        if split is not None:
            alike[rest][kind] = split
    found = [some for some in alike.values() if set(some.values()) >= BOTH]
    return {kind: (split, "") for some in found for kind, split in some.items()}


def folder_labels(images: Iterable[str]) -> dict[str, Label]:
    """Return the label of each image: its folder at the first level with two or more folders that are not splits.

    Images above that level have none, nor have those in a folder such as images. A level of part_1, part_2 and so on
    does not count. Folders below the level do not count,
    nor do the repeats of kohya's folders: the label of 10_cat is cat.
    """
    _, folders = folder_splits(images)
    level = 0
    while kinds := {part[level] for part in folders.values() if len(part) > level}:
        classes = {kind for kind in kinds if not IMAGES.fullmatch(kind)}
        if len(classes) > 1 and not are_parts(classes):
            named = without_repeats(classes)
            labels = {name: named.get(part[level]) for name, part in folders.items() if len(part) > level}
            return {name: label for name, label in labels.items() if label is not None}
        level += 1
    return {}


def are_parts(folders: Collection[str]) -> bool:
    """Return whether folders are parts of a set by their names, which differ in numbers alone: images_001."""
    names = {PART.sub("", folder) for folder in folders}
    return len(names) == 1 and PARTS.fullmatch(names.pop()) is not None


def add_folder_labels(labels: Mapping[str, Label], images: Iterable[str]) -> dict[str, Label]:
    """Return the labels that are given, and those by folders if there are none, or all that are given are folders."""
    of_folders = folder_labels(images)
    return {**of_folders, **labels} if set(labels.values()) <= set(of_folders.values()) else dict(labels)


def without_repeats(kinds: Collection[str]) -> dict[str, str]:
    """Return the label of each folder: without the repeats in front if all have them and the rests differ."""
    rests = {kind: match[1] for kind in kinds if (match := REPEATS.fullmatch(kind))}
    return rests if len(rests) == len(set(rests.values())) == len(kinds) else {kind: kind for kind in kinds}


class Finder:
    """Finds the images of a source by the names that records give them.

    A name is the path relative to the record's file; else a path of which the first folders are missing here, for
    example an absolute one; else a path without ending; else a folder and a file, or a file, that occur once, also in
    other cases. Masks and maps of others are found by their whole names only.
    """

    def __init__(self, images: Collection[str]) -> None:
        self.images = images
        self.by_key: dict[str, str | None] | None = None  # without folders or ending; None for several
        self.by_folded: dict[str, str | None] = {}

    def find(self, name: str) -> str | None:
        """Return the image of this name, or None."""
        if name in self.images:
            return name
        folders = name.lstrip("/").split("/")
        for start in range(1 if folders[0] == name.split("/")[0] else 0, len(folders)):
            if (shorter := "/".join(folders[start:])) in self.images:
                return shorter
        if self.by_key is None:
            self.by_key = {}
            for image in {*self.images} - find_planes(self.images):
                stem = posixpath.splitext(image)[0]
                for key in {"/" + stem, *ends(image), *ends(stem)}:
                    self.by_key[key] = image if self.by_key.get(key, image) == image else None
                key = posixpath.basename(image).casefold()
                self.by_folded[key] = image if self.by_folded.get(key, image) == image else None
        stem = posixpath.splitext(name)[0]
        keys = ("/" + name, "/" + stem, *ends(name), ends(stem)[0])
        found = next((found for key in keys if (found := self.by_key.get(key))), None)
        return found or self.by_folded.get(posixpath.basename(name).casefold())


def ends(path: str) -> tuple[str, str]:
    """Return the last folder and the file of a path, and the file alone."""
    parts = path.rsplit("/", 2)
    return "/".join(parts[-2:]), parts[-1]
