"""Finds files that are not images of the set but masks or maps of others, by their names."""

import posixpath
import re
from collections.abc import Collection

WORDS = r"masks?|gt|groundtruths?|ground[-_ ]truths?|mattes?|segmentations?"
SUFFIX = re.compile(rf"(.+?)[-_ .]({WORDS}|seg|depth|canny)([-_ ]?\d+)?", re.IGNORECASE)
PLANE_FOLDER = re.compile(
    rf"(.+[-_ ])?({WORDS}|annotations?|labels?|segmentation(class|object)|trimaps?)([-_ ].+)?", re.IGNORECASE
)
PICTURE_FOLDER = re.compile(
    r"(.+[-_ ])?(images?|imgs?|jpegimages|photos?|pictures?|inputs?|originals?|rgb)([-_ ].+)?", re.IGNORECASE
)


def find_planes(images: Collection[str]) -> set[str]:
    """Return the images that are masks or maps of others.

    cat_mask.png       beside cat.png, or in a folder such as train_masks if cat.png is anywhere
    masks/cat.png      and images/cat.jpg; annotations/train/cat.png and images/train/cat.jpg
    """
    suffixed = {name: match[1] for name in images if (match := SUFFIX.fullmatch(stem_of(name)))}
    foldered = {name: level for name in images if (level := level_of(name, PLANE_FOLDER)) is not None}
    if not suffixed and not foldered:
        return set()
    wanted = {*suffixed.values(), *map(stem_of, foldered)}
    beside, below, anywhere = set(), set(), set()
    for name in images:
        stem = stem_of(name)
        if stem not in wanted or name in foldered:
            continue
        anywhere.add(stem)
        beside.add((posixpath.dirname(name), stem))
        level = level_of(name, PICTURE_FOLDER)
        if level is not None:
            below.add((above(name, level), stem))
    return {
        *(name for name, stem in suffixed.items() if (posixpath.dirname(name), stem) in beside),
        *(name for name, stem in suffixed.items() if name in foldered and stem in anywhere),
        *(name for name, level in foldered.items() if (above(name, level), stem_of(name)) in below),
    }


def stem_of(name: str) -> str:
    """Return the name of a file without its folders and its ending."""
    return posixpath.splitext(posixpath.basename(name))[0]


def level_of(name: str, folder: re.Pattern[str]) -> int | None:
    """Return the level of the first folder of an image that is called so, or None."""
    return next((level for level, part in enumerate(name.split("/")[:-1]) if folder.fullmatch(part)), None)


def above(name: str, level: int) -> tuple[str, ...]:
    """Return the folders of an image above a level."""
    return tuple(name.split("/")[:level])
