"""Checks of the numbers in an architecture."""

from collections.abc import Mapping, Sequence
from typing import Any


def check_at_least(config: Any, least: Mapping[str, int]) -> None:
    """Raise ValueError naming the first field of a dataclass that has a number below its least permitted one.

    A field may hold several numbers, each of which is checked, or None.
    """
    for field, smallest in least.items():
        value = getattr(config, field)
        for number in value if isinstance(value, Sequence) else [value]:
            if number is not None and number < smallest:
                raise ValueError(f"{field}: {number} is not allowed; permitted: at least {smallest}")


def check_share(config: Any, field: str) -> None:
    """Raise ValueError unless a field of a dataclass is from 0 to 1."""
    value = getattr(config, field)
    if not 0 <= value <= 1:
        raise ValueError(f"{field}: {value} is not allowed; permitted: 0 to 1")
