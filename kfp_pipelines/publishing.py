"""Publishing from a pipeline: the one place where training's results meet the services."""

import json
from pathlib import Path

from services import database, registry
from services.object_store import ObjectStore
from services.settings import load


def publish_release(folder: Path, evaluation: Path, alias: str) -> str:
    """Publish a release folder, record `evaluation`/metrics.json for it, move the alias. Returns name@version."""
    settings = load("publisher")
    engine = database.connect(settings.database_url.get_secret_value())
    metrics = json.loads((evaluation / "metrics.json").read_text())
    with engine.begin() as connection:
        name, version = registry.publish(connection, ObjectStore.connect(settings), folder)
        reference = f"{name}@{version}"
        registry.evaluate(connection, reference, str(metrics.get("data_fingerprint", "")), metrics)
        registry.promote(connection, reference, alias)
    return reference
