"""The images that a reader has not seen yet, as ranges of indices: few, however many images there are."""

from collections.abc import Iterable

Range = tuple[int, int]  # [start, stop)


def remove(ranges: Iterable[Range], indices: Iterable[int]) -> list[Range]:
    """Return the ranges, which are sorted and apart, without these indices."""
    left, seen = [], sorted(indices)
    position = 0
    for start, stop in ranges:
        while position < len(seen) and seen[position] < stop:
            if start < seen[position]:
                left.append((start, seen[position]))
            start = max(start, seen[position] + 1)
            position += 1
        if start < stop:
            left.append((start, stop))
    return left
