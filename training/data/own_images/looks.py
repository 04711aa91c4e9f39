"""Looks at images closely enough to find near duplicates and odd ones."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.own_images import decoding
from training.data.own_images.crops import crop_box
from training.data.own_images.decoding import BadImageError
from training.data.own_images.probe import Sampled
from training.data.own_images.source import Member

THUMBNAIL = 96  # pixels
BANDS = 8  # parts of a hash; two images with fewer different bits than parts share a part
ASPECT = 3.0  # of the sides; from here on an image is odd
ALIKE = 12.0  # mean difference of pixels, of 255, below which two images with like hashes are the same
DARK = 24  # of 255; an image whose brightest pixel is darker is odd
FLAT = 2.0  # standard deviation of pixels, of 255; below it an image is odd


@dataclass(frozen=True)
class Look(Sampled):
    """An image with a square thumbnail [96, 96, 3] uint8, a hash of its shapes, and how much its pixels vary."""

    thumbnail: NDArray[np.uint8]
    shapes: int
    deviation: float  # of 255


def look_closely(member: Member) -> Look | str:
    """Look at an image. Returns why it cannot be read if it cannot."""
    try:
        data = member.read()
        with decoding.open_image(data, decoding.formats()) as image:
            decoding.check_pixels(image.size)
            size = image.size
            image.draft(None, (2 * THUMBNAIL, 2 * THUMBNAIL))
            image.load()
            turned = decoding.orientation(image)
            if turned in decoding.TURNS:
                image, size = image.transpose(decoding.TURNS[turned]), size[::-1] if turned >= 5 else size
            grey = decoding.is_grey(image)
            plain = decoding.to_mode(image, 3, [])
    except BadImageError as error:
        return error.problem.kind
    except OSError as error:
        return error.strerror or "unreadable"
    square = plain.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, box=crop_box(plain.size))
    pixels = np.asarray(square)
    return Look(member.name, size, grey, pixels, shape_hash(plain), float(pixels.std(axis=(0, 1)).max()))


def shape_hash(image: Image.Image) -> int:
    """Return 64 bits that say where an image becomes brighter from left to right, in 8x8 places (a difference hash)."""
    values = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(values[:, 1:] > values[:, :-1]).tobytes(), "big")


def near_duplicates(looks: Sequence[Look], bits: int = 4) -> list[tuple[str, str]]:
    """Return images that look like an earlier one, each after that one: hashes differ in at most `bits` bits.

    Copies are compared with the first of their kind alone, so that many take no longer than few. Flat images are left
    out. bits: below BANDS.
    """
    firsts: dict[tuple[int, int], list[Look]] = defaultdict(list)
    pairs = []
    for one in looks:
        if one.deviation < FLAT:
            continue
        places = [(band, one.shapes >> (8 * band) & 255) for band in range(BANDS)]
        candidates = {id(other): other for place in places for other in firsts[place]}.values()
        alike = (other for other in candidates if (one.shapes ^ other.shapes).bit_count() <= bits)
        found = next((other for other in alike if difference(one, other) < ALIKE), None)
        if found is not None:
            pairs.append((found.name, one.name))
            continue
        for place in places:
            firsts[place].append(one)
    return pairs


def difference(one: Look, other: Look) -> float:
    """Return the mean difference of the pixels of two thumbnails, of 255."""
    return float(np.abs(one.thumbnail.astype(np.int16) - other.thumbnail.astype(np.int16)).mean())


def odd_ones(looks: Sequence[Look], labels: Mapping[str, str], classes: Mapping[str, int]) -> dict[str, list[str]]:
    """Return the names of images that are unlike the others, by reason."""
    middle = sorted(min(one.size) for one in looks)[len(looks) // 2] if looks else 0
    grey = sum(one.grey for one in looks)
    reasons = {
        "much smaller than the others": [one.name for one in looks if 4 * min(one.size) < middle],
        f"one side is {ASPECT:g} times the other": [
            one.name for one in looks if max(one.size) >= ASPECT * min(one.size)
        ],
        "nearly black, like 12 bits stored as 16": [
            one.name for one in looks if one.deviation >= FLAT and one.thumbnail.max() < DARK
        ],
        "of one colour": [one.name for one in looks if one.deviation < FLAT],
        "grey among colour": [one.name for one in looks if one.grey] if 0 < 10 * grey < len(looks) else [],
        "colour among grey": [one.name for one in looks if not one.grey] if 0 < 10 * (len(looks) - grey) < len(looks)
        else [],
        "the only one of its class": [name for name, label in labels.items() if classes.get(label) == 1],
        "without a label": [one.name for one in looks if one.name not in labels] if labels else [],
    }  # fmt: skip
    return {reason: names for reason, names in reasons.items() if names}
