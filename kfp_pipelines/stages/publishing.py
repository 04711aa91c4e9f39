"""Where training meets the registry: fetch, compare with production, publish, promote."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from kfp_pipelines.build import of_run
from kfp_pipelines.stages.gate import FINGERPRINT, GateError, judge, parse
from services.database import connections
from services.registry import aliases, evaluations, release_cache, releases
from services.settings import load
from services.storage.object_store import ObjectStore

METRICS = "metrics.json"
COMPARISON = "comparison.json"
FIRST_STAGE = "first-stage"  # beside a release that was trained together with it


@contextmanager
def opened() -> Iterator[tuple[Connection, ObjectStore, Any]]:
    """A transaction as the publisher, the bucket, the settings."""
    settings = load("publisher")
    engine = connections.connect(settings.database_url.get_secret_value())
    try:
        with engine.begin() as connection:
            yield connection, ObjectStore.connect(settings), settings
    finally:
        engine.dispose()


def fetch(reference: str, kind: str, folder: Path) -> str:
    """Put a published release into a folder: itself, or for `autoencoder` its first stage. Returns name@version."""
    with opened() as (connection, store, settings):
        row = releases.find(connection, reference)
        if row.kind != kind:
            digest = row.manifest.get("lineage", {}).get("autoencoder")
            if kind != "autoencoder" or digest is None:
                raise releases.RegistryError(f"release: {reference} is of kind {row.kind}; wanted: {kind}")
            row = releases.find_by_digest(connection, digest)
    found = release_cache.fetch(store, row.manifest, settings.cache_dir, settings.cache_gb)
    folder.parent.mkdir(parents=True, exist_ok=True)
    copied(found, folder)
    return f"{row.name}@{row.version}"


def copied(source: Path, target: Path) -> None:
    """Copy a folder, files only."""
    import shutil

    shutil.copytree(source, target, dirs_exist_ok=True)


def compare(rules: Sequence[str], alias: str, images: Path, evaluation: Path, output: Path) -> str:
    """`passed` or `refused`; comparison.json and comparison.md under `output`.

    The release that the alias points at is evaluated now where it was not yet under the same fingerprint.
    Raises GateError.
    """
    scores = json.loads((evaluation / METRICS).read_text())
    parsed = parse(rules)
    version, production = 0, None
    with opened() as (connection, store, settings):
        row = releases.find_by_alias(connection, scores["release"], alias)
        if row is not None:
            version = row.version
            production = evaluations.latest_metrics(connection, row.id, scores[FINGERPRINT])
    if row is not None and production is None and any(rule.beside for rule in parsed):
        found = release_cache.fetch(store, row.manifest, settings.cache_dir, settings.cache_gb)
        production = evaluated_alike(found, scores, images, output / "production")
        with opened() as (connection, _, _):
            evaluations.record_evaluation(connection, f"{row.name}@{row.version}", production[FINGERPRINT], production)
    verdicts = judge(parsed, scores, production if any(rule.beside for rule in parsed) else None)
    verdict = "passed" if all(one.held for one in verdicts) else "refused"
    beside = f"{scores['release']}@{version}" if version else "nothing"
    lines = [f"# {verdict}", "", f"Beside {beside} as {alias}.", "", *(f"- {one}" for one in verdicts)]
    output.mkdir(parents=True, exist_ok=True)
    (output / "comparison.md").write_text("\n".join(lines) + "\n")
    document = {"verdict": verdict, "alias": alias, "version": version, "verdicts": [str(one) for one in verdicts]}
    (output / COMPARISON).write_text(json.dumps(document, indent=2) + "\n")
    print(f"gate: {verdict} beside {beside}" + "".join(f"\ngate: {one}" for one in verdicts), flush=True)
    return verdict


def evaluated_alike(release: Path, scores: dict[str, Any], images: Path, output: Path) -> dict[str, Any]:
    """A release's figures, sampled as `scores` were. Raises GateError if it cannot be evaluated on these images."""
    from training.data.image_set import DataError
    from training.evaluate import run
    from training.evaluation.second_stage import Sampling

    try:
        return run(release, images, output, Sampling(**scores["sampling"]) if "sampling" in scores else None)
    except (DataError, ValueError) as error:
        raise GateError(f"gate: what is in production cannot be evaluated on these images: {error}") from None


def publish(folder: Path, evaluation: Path, alias: str, run: str) -> str:
    """Publish a release folder with its evaluation and point the alias at it. Returns name@version."""
    metrics = json.loads((evaluation / METRICS).read_text())
    with opened() as (connection, store, _):
        origin = of_run(run)
        if (beside := folder.parent / FIRST_STAGE).is_dir():
            releases.publish(connection, store, beside, origin)
        name, version = releases.publish(connection, store, folder, origin)
        reference = f"{name}@{version}"
        evaluations.record_evaluation(connection, reference, metrics[FINGERPRINT], metrics)
        aliases.promote(connection, reference, alias)
    print(f"published {reference} as {alias}", flush=True)
    return reference


def promote(release: str, autoencoder: str, alias: str, comparison: Path) -> None:
    """Point the alias at a release that passed the gate, and at its first stage where one was trained.

    Raises RegistryError where the alias was moved since the comparison.
    """
    compared = json.loads((comparison / COMPARISON).read_text())
    with opened() as (connection, _, _):
        aliases.promote(connection, release, alias, expected=compared["version"])
        if autoencoder:
            aliases.promote(connection, autoencoder, alias)
    print(f"promoted {release} to {alias}", flush=True)
