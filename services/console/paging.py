"""Pages cut by keys: which entries a page shows, and whether there are others before and after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Slice(Generic[Entry]):
    """The entries of one page."""

    entries: Sequence[Entry]
    has_previous: bool
    has_next: bool

    def span(self, field: str) -> tuple[int, int]:
        """Return the least and the greatest value of a field of the entries; (0, -1) without entries."""
        values = [getattr(entry, field) for entry in self.entries]
        return (min(values), max(values)) if values else (0, -1)


def cut(found: Sequence[Entry], limit: int, *, backwards: bool, is_first: bool) -> Slice[Entry]:
    """Return the page of entries, of which one more than `limit` was queried.

    backwards: the entries precede a key, so the one too many is the first of them. is_first: no key was given.
    """
    has_more = len(found) > limit
    if backwards:
        return Slice(found[1:] if has_more else found, has_more, True)
    return Slice(found[:limit], not is_first, has_more)
