"""Curves as SVG, drawn by the server, so that a page needs no script for them and prints well."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 200
MOST_POINTS = 400  # of a curve: each is the mean of equally many steps
TICKS = 5


@dataclass(frozen=True)
class Tick:
    """A line across a chart: where, and its value."""

    at: float
    value: float


@dataclass(frozen=True)
class Chart:
    """A curve as the `d` of an SVG path within WIDTH x HEIGHT, with the lines of both axes."""

    name: str
    path: str
    rows: Sequence[Tick]
    columns: Sequence[Tick]
    last: float
    is_log: bool
    width: int = WIDTH
    height: int = HEIGHT


def thin(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most `most` points, each the mean of as many neighbours; points that are not finite are left out."""
    finite = [point for point in points if math.isfinite(point[1])]
    size = max(1, -(-len(finite) // most))
    groups = (finite[start : start + size] for start in range(0, len(finite), size))
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def draw_curve(name: str, points: Sequence[tuple[float, float]]) -> Chart | None:
    """Draw a curve; values that are all positive and differ tenfold have a logarithmic axis. None without points."""
    shown = thin(points)
    if not shown:
        return None
    values = [y for _, y in shown]
    is_log = min(values) > 0 and max(values) >= 10 * min(values)
    scale = math.log10 if is_log else float
    low, high = scale(min(values)), scale(max(values))
    left, right = shown[0][0], shown[-1][0]
    across, up = (right - left) or 1.0, (high - low) or 1.0

    def x_of(step: float) -> float:
        return round((step - left) / across * WIDTH, 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - (scale(value) - low) / up * HEIGHT, 1)

    path = "M" + "L".join(f"{x_of(x)} {y_of(y)}" for x, y in shown)
    rows = [Tick(y_of(value), value) for value in (log_ticks if is_log else ticks)(min(values), max(values))]
    columns = [Tick(x_of(step), step) for step in ticks(left, right) if step == round(step)]
    return Chart(name, path, rows, columns, points[-1][1], is_log)


def ticks(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten from `low` to `high`: two to six, or `low` if it is `high`."""
    if low == high:
        return [low]
    exponent = math.floor(math.log10((high - low) / TICKS))
    step = next(one for one in (10.0**exponent * m for m in (1, 2, 5, 10)) if one >= (high - low) / TICKS)
    return [step * part for part in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from `low` to `high`, or powers alone if these are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    shown = [value for value in every if low <= value <= high]
    if len(shown) <= 2 * TICKS:
        return shown
    whole = [10.0**power for power in powers if low <= 10.0**power <= high]
    return whole[:: -(-len(whole) // (2 * TICKS))]
