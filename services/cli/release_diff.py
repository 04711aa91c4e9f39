"""In what two releases differ."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from sqlalchemy import Connection

from services.registry import releases
from services.registry.evaluations import latest_comparable
from services.settings import Settings
from services.storage import layout
from services.storage.object_store import ObjectStore
from training.experiments import fields

SHEET = "samples.png"
GAP = 16  # pixels between the sheets


@dataclass(frozen=True)
class Differences:
    """Settings by dotted name, and figures of evaluations with the same fingerprint: (one's, the other's)."""

    names: tuple[str, str]
    manifests: tuple[Mapping[str, Any], Mapping[str, Any]]
    settings: Mapping[str, tuple[Any, Any]]
    figures: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"releases": self.names, "settings": self.settings, "figures": self.figures}

    def settings_table(self) -> Table:
        """What was asked for otherwise."""
        table = Table("setting", *self.names, box=None)
        for name, (a, b) in self.settings.items():
            table.add_row(name, str(a), str(b))
        if not self.settings:
            table.add_row("none differs", "", "")
        return table

    def figures_table(self) -> Table:
        """What was measured alike."""
        table = Table("figure", *self.names, "change", box=None)
        for name, (a, b) in self.figures.items():
            table.add_row(name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}")
        if not self.figures:
            table.add_row("never evaluated alike: no two figures compare", "", "", "")
        return table


def differences(connection: Connection, one: str, other: str) -> Differences:
    """Of two references. Raises RegistryError."""
    rows = releases.find(connection, one), releases.find(connection, other)
    changes = fields.differences(*(described(row.manifest) for row in rows))
    return Differences(
        names=(f"{rows[0].name}@{rows[0].version}", f"{rows[1].name}@{rows[1].version}"),
        manifests=(rows[0].manifest, rows[1].manifest),
        settings={name: (a, b) for name, a, b in changes},
        figures=dict(compared(connection, rows[0].id, rows[1].id)),
    )


def described(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a release, without its weights."""
    lineage = manifest["lineage"]
    parents = {name: lineage[name][:12] for name in ("autoencoder", "initial") if name in lineage}
    about = {key: manifest[key] for key in ("kind", "image_shape", "latent_shape", "architecture")}
    return {**about, "parents": parents, "experiment": lineage.get("experiment", {}), "data": lineage.get("data", {})}


def compared(connection: Connection, one: int, other: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """The numbers of the latest pair of evaluations that have the same fingerprint."""
    pair = latest_comparable(connection, one, other)
    if pair is None:
        return
    first, second = pair
    for name, value in first.items():
        both: tuple[Any, Any] = value, second.get(name)
        if all(isinstance(part, int | float) and not isinstance(part, bool) for part in both):
            yield name, both


def draw(found: Differences, settings: Settings, path: Path) -> bool:
    """Both sample sheets side by side, as a PNG. False where a release has none."""
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
