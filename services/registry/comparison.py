"""The inputs that determine a release, for a comparison with another one."""

from collections.abc import Mapping
from typing import Any


def comparable_fields(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines a release, without its weights."""
    lineage = manifest["lineage"]
    parents = {name: lineage[name][:12] for name in ("autoencoder", "teacher", "initial") if name in lineage}
    about = {key: manifest[key] for key in ("kind", "image_shape", "latent_shape", "architecture")}
    return {**about, "parents": parents, "experiment": lineage.get("experiment", {}), "data": lineage.get("data", {})}
