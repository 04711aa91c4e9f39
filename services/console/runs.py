"""Reads the folders of training runs: the losses of every step, and sample sheets of some."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.console.charts import Chart, draw_curve

LOSSES, PICTURES = "losses.csv", "pictures"
SHEET = re.compile(r"step-(?P<step>[0-9]{8})-(?P<kind>[a-z0-9_-]{1,60})\.png")
DEEPEST = 5  # folders below the root
MOST_RUNS = 500
MOST_BYTES = 2**26  # of losses.csv that are read
ALIVE_S = 120  # a run whose losses are older is not shown as running


@dataclass(frozen=True)
class Run:
    """A run. name: its folder below the root. changed_at: when its last step was recorded."""

    name: str
    folder: Path
    changed_at: datetime

    @property
    def is_running(self) -> bool:
        """Whether a step was recorded a moment ago."""
        return (datetime.now(UTC) - self.changed_at).total_seconds() < ALIVE_S

    def sheets(self) -> dict[str, list[int]]:
        """Return the steps of which there are sample sheets, by kind."""
        found: dict[str, list[int]] = {}
        folder = self.folder / PICTURES
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            if match := SHEET.fullmatch(name):
                found.setdefault(match["kind"], []).append(int(match["step"]))
        return found

    def sheet(self, name: str) -> Path | None:
        """Return the file of a sample sheet, or None if there is none of this name."""
        path = self.folder / PICTURES / name
        return path if SHEET.fullmatch(name) and path.is_file() else None

    def losses(self) -> dict[str, list[tuple[float, float]]]:
        """Return (step, value) of every column of the losses. Other lines are left out."""
        with (self.folder / LOSSES).open(newline="", errors="replace") as file:
            names, *lines = list(csv.reader(file.read(MOST_BYTES).splitlines())) or [[]]
        rows = [row for row in map(_numbers, lines) if len(row) == len(names)]
        return {name: [(row[0], row[place]) for row in rows] for place, name in enumerate(names) if place}

    def charts(self) -> list[Chart]:
        """Return the curves of the losses, those that never change left out."""
        curves = (draw_curve(name, points) for name, points in self.losses().items())
        return [curve for curve in curves if curve is not None and len(curve.rows) > 1]


def _numbers(line: Sequence[str]) -> list[float]:
    try:
        return [float(cell) for cell in line]
    except ValueError:
        return []


def find_runs(root: Path) -> list[Run]:
    """Return the runs below a folder, the last changed first, at most MOST_RUNS."""
    found = []
    for folder, inner, files in os.walk(root):
        path = Path(folder)
        if LOSSES in files:
            changed = datetime.fromtimestamp((path / LOSSES).stat().st_mtime, UTC)
            found.append(Run(path.relative_to(root).as_posix(), path, changed))
        if LOSSES in files or len(path.relative_to(root).parts) >= DEEPEST:
            inner.clear()
        if len(found) >= MOST_RUNS:
            break
    return sorted(found, key=lambda run: run.changed_at, reverse=True)


def find_run(root: Path, name: str) -> Run | None:
    """Return the run of a name, or None. A name that leads out of the root is that of no run."""
    return next((run for run in find_runs(root) if run.name == name), None)


def read_settings(run: Run) -> Mapping[str, str]:
    """Return the files of a run that say how it was set up, as text, by name."""
    names: Sequence[str] = ("config.yaml", "experiment.yaml")
    return {name: (run.folder / name).read_text() for name in names if (run.folder / name).is_file()}
