"""The stages that use the registry: fetch, compare with production, publish, promote."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from kfp_pipelines.events import Message, emit
from kfp_pipelines.stages.gate import FINGERPRINT, PRODUCTION, TEACHER, GateError, judge, parse_rules
from services.registry import aliases, evaluations, releases
from services.registry.release_cache import ReleaseCache
from services.registry.releases import ReleaseRow
from services.storage.object_store import ObjectStore

METRICS = "metrics.json"
COMPARISON, COMPARISON_PAGE = "comparison.json", "comparison.md"
FIRST_STAGE = "first-stage"  # next to a release that was trained together with it


@dataclass(frozen=True)
class Registry:
    """The registry of releases, the bucket of their files, and the cache of this machine."""

    engine: Engine
    store: ObjectStore
    cache_dir: Path
    cache_gb: float

    def hold(self, row: ReleaseRow) -> AbstractContextManager[Path]:
        """Yield the folder of a release in the cache, fetched if needed."""
        return ReleaseCache(self.store, self.cache_dir, self.cache_gb).hold(row.manifest)


def fetch(registry: Registry, reference: str, kind: str, folder: Path) -> str:
    """Copy a published release into `folder`. Returns name@version.

    If `kind` is `autoencoder` and the release is a diffusion model, copy its autoencoder. Kind `teacher` is a diffusion
    release that can be distilled. Raises RegistryError if the release is of another kind, and ExperimentError for
    a release that cannot be distilled.
    """
    is_teacher = kind == TEACHER
    kind = "diffusion" if is_teacher else kind
    with registry.engine.connect() as connection:
        row = releases.find(connection, reference)
        if row.kind != kind:
            digest = row.manifest.get("lineage", {}).get("autoencoder")
            if kind != "autoencoder" or digest is None:
                raise releases.RegistryError(f"release: {reference} is of kind {row.kind}; wanted: {kind}")
            row = releases.find_by_digest(connection, digest)
    if is_teacher:
        from training.experiments.teachers import check_teacher  # loads torch
        from training.model.release import parse

        check_teacher(parse(row.manifest))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with registry.hold(row) as cached:
        shutil.copytree(cached, folder, dirs_exist_ok=True)
    return f"{row.name}@{row.version}"


def compare(registry: Registry, rules: Sequence[str], alias: str, images: Path, evaluation: Path, output: Path) -> str:
    """Judge an evaluation by the rules, and write the comparison to `output`. Returns `passed` or `refused`.

    If a rule refers to production and production has no evaluation with the same fingerprint, evaluate it now.
    Raises GateError.
    """
    scores = json.loads((evaluation / METRICS).read_text())
    parsed = parse_rules(rules)
    relative = any(rule.reference == PRODUCTION for rule in parsed)
    version, production = 0, None
    with registry.engine.connect() as connection:
        row = releases.find_by_alias(connection, scores["release"], alias)
        if row is not None:
            version = row.version
            production = evaluations.latest_metrics(connection, row.id, scores[FINGERPRINT])
    if row is not None and production is None and relative:
        with registry.hold(row) as release:
            production = evaluate_production(release, scores, images, output / "production")
        with registry.engine.begin() as connection:
            evaluations.record_evaluation(connection, f"{row.name}@{row.version}", production[FINGERPRINT], production)
    verdicts = judge(parsed, scores, production if relative else None)
    verdict = "passed" if all(one.held for one in verdicts) else "refused"
    reference = f"{scores['release']}@{version}" if version else "nothing"
    output.mkdir(parents=True, exist_ok=True)
    lines = [f"# {verdict}", "", f"Compared with {reference} as {alias}.", "", *(f"- {one}" for one in verdicts)]
    (output / COMPARISON_PAGE).write_text("\n".join(lines) + "\n")
    document = {"verdict": verdict, "alias": alias, "version": version, "verdicts": [str(one) for one in verdicts]}
    (output / COMPARISON).write_text(json.dumps(document, indent=2) + "\n")
    emit(Message(f"gate: {verdict}, compared with {reference}" + "".join(f"\ngate: {one}" for one in verdicts)))
    return verdict


def evaluate_production(release: Path, scores: Mapping[str, Any], images: Path, output: Path) -> dict[str, Any]:
    """Evaluate a release with the sampling settings of `scores`. Returns its metrics.

    Raises GateError if it cannot be evaluated on these images.
    """
    from training.data.image_set import DataError
    from training.evaluate import run
    from training.evaluation.second_stage import Sampling

    try:
        return run(release, images, output, Sampling(**scores["sampling"]) if "sampling" in scores else None)
    except (DataError, ValueError) as error:
        raise GateError(f"gate: production cannot be evaluated on these images: {error}") from None


def publish(registry: Registry, folder: Path, evaluation: Path, alias: str, origin: Mapping[str, str]) -> str:
    """Publish a release folder with its evaluation, and point the alias at it. Returns name@version.

    origin: recorded with the release; see `build.origin_of`.
    """
    metrics = json.loads((evaluation / METRICS).read_text())
    if (first := folder.parent / FIRST_STAGE).is_dir():
        with registry.engine.begin() as connection:
            releases.publish(connection, registry.store, first, origin)
    with registry.engine.begin() as connection:
        name, version = releases.publish(connection, registry.store, folder, origin)
        reference = f"{name}@{version}"
        evaluations.record_evaluation(connection, reference, metrics[FINGERPRINT], metrics)
        aliases.promote(connection, reference, alias)
    emit(Message(f"published {reference} as {alias}"))
    return reference


def promote(registry: Registry, release: str, autoencoder: str, alias: str, comparison: Path) -> None:
    """Point the alias at a release that passed the gate, and at `autoencoder` unless that is empty.

    Raises RegistryError if the alias was moved since the comparison.
    """
    compared = json.loads((comparison / COMPARISON).read_text())
    with registry.engine.begin() as connection:
        aliases.promote(connection, release, alias, expected=compared["version"])
        if autoencoder:
            aliases.promote(connection, autoencoder, alias)
    emit(Message(f"promoted {release} to {alias}"))
