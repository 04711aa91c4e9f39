"""The stages that use the registry: fetch, compare with production, publish, promote."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from kfp_pipelines.events import Message, emit
from kfp_pipelines.stages.gate import FINGERPRINT, PRODUCTION, TEACHER, GateError, judge, parse_rules
from services.registry import aliases, evaluations, releases
from services.registry.release_cache import ReleaseCache
from services.registry.releases import ReleaseRow
from services.storage.object_store import ObjectStore
from training.model.release import AUTOENCODER_FILE
from training.model.release import read as read_release
from training.model.release import write as write_release

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
    """Copy a published release, or an absolute release folder of this machine, into `folder`. Returns its reference.

    If `kind` is `autoencoder` and the release is a diffusion model, copy its autoencoder: the published one, if that
    has the same weights, else that part of the release. Kind `teacher` is a diffusion release that can be distilled.
    Raises RegistryError if the release is of another kind, and ExperimentError for a release that cannot be distilled.
    """
    if Path(reference).is_absolute():
        return fetch_folder(Path(reference), kind, folder)
    is_teacher = kind == TEACHER
    kind = "diffusion" if is_teacher else kind
    with registry.engine.connect() as connection:
        row = releases.find(connection, reference)
        if row.kind != kind:
            if kind != "autoencoder":
                raise releases.RegistryError(f"release: {reference} is of kind {row.kind}; permitted: {kind}")
            found = find_first_stage(connection, row)
            if found is None:
                with registry.hold(row) as cached:
                    extract_first_stage(cached, folder)
                return f"{row.name}@{row.version}"
            row = found
    if is_teacher:
        from training.experiments.teachers import check_teacher  # loads torch
        from training.model.release import parse

        check_teacher(parse(row.manifest))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with registry.hold(row) as cached:
        shutil.copytree(cached, folder, dirs_exist_ok=True)
    return f"{row.name}@{row.version}"


def fetch_folder(source: Path, kind: str, folder: Path) -> str:
    """Copy a release folder of this machine, or its first stage for kind `autoencoder`. Returns the source.

    Raises ReleaseError if it is damaged, and RegistryError if it is of another kind.
    """
    description = read_release(source)
    if kind == "autoencoder" and description.kind != kind:
        extract_first_stage(source, folder)
        return str(source)
    if description.kind != kind:
        raise releases.RegistryError(f"release: {source} is of kind {description.kind}; permitted: {kind}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return str(source)


def find_first_stage(connection: Connection, row: ReleaseRow) -> ReleaseRow | None:
    """Return the published first stage of a diffusion release, if it has the same weights.

    They differ if the latent scale of an imported first stage was measured when the release was trained.
    """
    digest = row.manifest.get("lineage", {}).get("autoencoder")
    try:
        found = None if digest is None else releases.find_by_digest(connection, digest)
    except releases.RegistryError:
        return None
    if found is None or found.kind != "autoencoder":
        return None
    weights = [one.manifest["files"].get(AUTOENCODER_FILE, {}).get("sha256") for one in (found, row)]
    return found if weights[0] == weights[1] else None


def extract_first_stage(source: Path, folder: Path) -> None:
    """Write the first stage of a diffusion release folder as a release of its own, with the same weights."""
    description = read_release(source)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / AUTOENCODER_FILE, folder / AUTOENCODER_FILE)
    architecture = {"autoencoder": description.architecture["autoencoder"]}
    write_release(
        folder,
        replace(
            description, name=f"{description.name[:50]}-autoencoder", kind="autoencoder", architecture=architecture,
            conditions={}, lineage={}, metrics={}, files={},
        ),
    )  # fmt: skip


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


def publish(
    registry: Registry,
    folder: Path,
    evaluation: Path,
    alias: str,
    origin: Mapping[str, str],
    request_defaults: Mapping[str, Any] = releases.NOTHING,
) -> str:
    """Publish a release folder with its evaluation, and point the alias at it. Returns name@version.

    origin: recorded with the release; see `build.origin_of`. request_defaults: the release's own, beside those that it
    was trained with. Raises RegistryError for one that it does not permit.
    """
    metrics = json.loads((evaluation / METRICS).read_text())
    if (first := folder.parent / FIRST_STAGE).is_dir():
        with registry.engine.begin() as connection:
            releases.publish(connection, registry.store, first, origin)
    with registry.engine.begin() as connection:
        name, version = releases.publish(connection, registry.store, folder, origin, sampling=request_defaults)
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
