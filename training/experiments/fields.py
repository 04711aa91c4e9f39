"""The fields of nested mappings by dotted name, such as `optimiser.learning_rate`. Needs no torch."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for every field that is not a mapping itself, sorted at each level."""
    for key, value in sorted(mapping.items()):
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def field_names(content: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all fields, those that hold further fields included."""
    if not isinstance(content, Mapping):
        return []
    names = []
    for key, value in content.items():
        names += [f"{prefix}{key}", *field_names(value, f"{prefix}{key}.")]
    return names


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (dotted name, value before, value after) for every field that differs; a missing field is None."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return [(name, old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
