"""The data sets that need no download, by name."""

from collections.abc import Callable
from pathlib import Path

from training.data import digits
from training.data.image_set import DataError, ImageSet

SETS: dict[str, Callable[[Path], ImageSet]] = {"digits": digits.prepare}


def prepare(name: str, root: Path) -> ImageSet:
    """Write the built-in set `name` under `root`. Raises DataError for a name that is not known."""
    if name not in SETS:
        raise DataError(f"data.name: {name!r} is not a built-in set; permitted: {', '.join(sorted(SETS))}")
    return SETS[name](root)
