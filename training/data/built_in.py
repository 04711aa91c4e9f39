"""The built-in image sets, which need no download, by name."""

from collections.abc import Callable
from pathlib import Path

from training.data import digits
from training.data.image_set import DataError, ImageSet


def shapes(root: Path, image_size: int) -> ImageSet:
    """Write the set of drawn shapes."""
    # Imported here because scipy is slow to import.
    from training.data import shapes

    return shapes.prepare(root, image_size=image_size)


SETS: dict[str, Callable[[Path, int], ImageSet]] = {
    "digits": lambda root, image_size: digits.prepare(root),
    "shapes": shapes,
}


def prepare(name: str, root: Path, *, image_size: int = 32) -> ImageSet:
    """Write the built-in set `name` to `root`. Digits ignore `image_size`. Raises DataError for an unknown name."""
    if name not in SETS:
        raise DataError(f"data.name: {name!r} is not a built-in set; permitted: {', '.join(sorted(SETS))}")
    return SETS[name](root, image_size)
