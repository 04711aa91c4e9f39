"""The differences between two releases."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from services.registry import releases
from services.registry.comparison import comparable_fields
from services.registry.evaluations import latest_comparable
from services.settings import Settings
from services.storage import layout
from services.storage.object_store import ObjectStore
from training.experiments import fields

SHEET = "samples.png"
GAP = 16  # pixels between the sheets


@dataclass(frozen=True)
class Differences:
    """Settings that differ, and metrics of comparable evaluations: by name, the value of one and of the other."""

    names: tuple[str, str]
    manifests: tuple[Mapping[str, Any], Mapping[str, Any]]
    settings: Mapping[str, tuple[Any, Any]]
    metrics: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """Return a document for programs. Its keys are part of the command's contract."""
        return {"releases": self.names, "settings": self.settings, "figures": self.metrics}

    def setting_rows(self) -> list[tuple[str, ...]]:
        """Return a row for each setting: name and both values."""
        return [(name, str(a), str(b)) for name, (a, b) in self.settings.items()]

    def metric_rows(self) -> list[tuple[str, ...]]:
        """Return a row for each metric: name, both values and the change."""
        return [(name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}") for name, (a, b) in self.metrics.items()]


def compare(connection: Connection, one: str, other: str) -> Differences:
    """Compare two releases, each given as name, name@alias or name@version. Raises RegistryError."""
    rows = releases.find(connection, one), releases.find(connection, other)
    changes = fields.differences(*(comparable_fields(row.manifest) for row in rows))
    return Differences(
        names=(f"{rows[0].name}@{rows[0].version}", f"{rows[1].name}@{rows[1].version}"),
        manifests=(rows[0].manifest, rows[1].manifest),
        settings={name: (a, b) for name, a, b in changes},
        metrics=dict(compare_metrics(connection, rows[0].id, rows[1].id)),
    )


def compare_metrics(connection: Connection, one: int, other: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield the numbers of the latest pair of evaluations with the same fingerprint, which makes them comparable."""
    pair = latest_comparable(connection, one, other)
    if pair is None:
        return
    first, second = pair
    for name, value in first.items():
        both: tuple[Any, Any] = value, second.get(name)
        if all(isinstance(part, int | float) and not isinstance(part, bool) for part in both):
            yield name, both


def write_sheets(found: Differences, settings: Settings, path: Path) -> bool:
    """Write both sample sheets side by side, as a PNG. Return False if a release has none."""
    from PIL import Image

    store = ObjectStore.connect(settings)
    records = [manifest["files"].get(SHEET) for manifest in found.manifests]
    if None in records:
        return False
    sheets = [Image.open(io.BytesIO(store.get(layout.blob_key(record["sha256"])))).convert("RGB") for record in records]
    width = sum(sheet.width for sheet in sheets) + GAP
    both = Image.new("RGB", (width, max(sheet.height for sheet in sheets)), "white")
    both.paste(sheets[0], (0, 0))
    both.paste(sheets[1], (sheets[0].width + GAP, 0))
    both.save(path)
    return True
