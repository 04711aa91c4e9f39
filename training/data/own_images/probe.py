"""Looks at some images of a source: their sizes, and whether they are grey. Takes seconds, whatever the set's size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data import pointer
from training.data.image_set import IMAGES, DataError
from training.data.own_images import decoding
from training.data.own_images.crops import Size
from training.data.own_images.decoding import BadImageError
from training.data.own_images.names import MAP_ENDING, MASK_ENDING, is_image, may_be_image
from training.data.own_images.source import Member, Source
from training.data.own_images.sources import open_source

SAMPLE = 256  # images


@dataclass(frozen=True)
class Sampled:
    """An image that was looked at. size: in pixels, upright. grey: whether all its pixels are."""

    name: str
    size: Size
    grey: bool


def sample(source: Source, count: int = SAMPLE) -> Iterator[Member]:
    """Yield images: evenly spread over a source whose names are known, the first ones of other sources."""
    names = [name for name in source.names if (is_image(name) or may_be_image(name)) and not is_plane(name)]
    chosen = set(names[:: max(1, -(-len(names) // count))])

    def wanted(name: str) -> bool:
        return name in chosen if names else is_image(name) and not is_plane(name)

    found = 0
    for member in source.members(wanted):
        if found >= count:
            return
        if member.body is not None and (member.record is not None or wanted(member.name)):
            found += 1
            yield member


def is_plane(name: str) -> bool:
    """Return whether a file of this name is a map or a mask."""
    return name.lower().endswith((MAP_ENDING, MASK_ENDING))


def look(member: Member) -> Sampled | None:
    """Look at an image. Returns None if it cannot be read, which preparing counts."""
    try:
        with decoding.open_image(member.read(), decoding.formats()) as image:
            size = image.size
            decoding.check_pixels(size)
            image.draft(None, (64, 64))  # a JPEG is decoded at a part of its size
            image.load()
            turned = decoding.orientation(image) >= 5
            return Sampled(member.name, size[::-1] if turned else size, decoding.is_grey(image))
    except (BadImageError, OSError):
        return None


def find_channels(root: str) -> int:
    """Return 1 if all images that are looked at are grey, else 3; of a prepared set the number that it has.

    A source that cannot be read has 3: preparing tells why it cannot be read.
    """
    prepared = pointer.resolve(Path(root)) / IMAGES
    try:
        if prepared.is_file():
            return int(np.load(prepared, mmap_mode="r").shape[3])
        with decoding.ignore_pillow_warnings():
            seen = 0
            for member in sample(open_source(root)):
                found = look(member)
                if found is not None and not found.grey:
                    return 3
                seen += found is not None
            return 1 if seen else 3
    except (DataError, OSError, ValueError, IndexError):
        return 3


def check_sizes(root: str, image_size: int, max_bad: float) -> None:
    """Raise DataError if more images than permitted are too small for `image_size`, before all are read."""
    with decoding.ignore_pillow_warnings():
        found = [one for one in map(look, sample(open_source(root))) if one is not None]
    tiny = [one for one in found if 2 * min(one.size) < image_size]
    if len(tiny) <= max_bad * len(found):
        return
    shorter = sorted(min(one.size) for one in found)[len(found) // 2]
    fitting = max(1, round(shorter / 16)) * 16 if shorter >= 8 else shorter
    raise DataError(
        f"data.image_size: {image_size} is more than twice the shorter side of {len(tiny):,} of {len(found):,} images "
        f"(the first: {tiny[0].name}, {tiny[0].size[0]}x{tiny[0].size[1]}), and such images are not used; "
        f"set data.image_size={fitting}"
    )
