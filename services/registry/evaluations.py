"""Evaluations of releases. Two compare only if their fingerprints are equal."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from services.registry.releases import find


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a release under a fingerprint: of the images, network, sampling and count."""

    fingerprint: str
    metrics: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class EvaluatedRelease:
    """A release that an alias points at, and its latest metrics."""

    name: str
    version: int
    alias: str
    metrics: dict[str, Any]


def record_evaluation(connection: Connection, reference: str, fingerprint: str, metrics: Mapping[str, Any]) -> None:
    """Record the metrics of a release. Recording the latest ones again changes nothing. Raises RegistryError."""
    release = find(connection, reference)
    if latest_metrics(connection, release.id, fingerprint) == metrics:
        return
    connection.execute(
        text("INSERT INTO evaluations (release_id, fingerprint, metrics) VALUES (:id, :fp, CAST(:metrics AS jsonb))"),
        {"id": release.id, "fp": fingerprint, "metrics": json.dumps(metrics)},
    )


def latest_metrics(connection: Connection, release_id: int, fingerprint: str) -> dict[str, Any] | None:
    """Return the latest metrics of a release under this fingerprint, or None if it was not evaluated under it."""
    query = "SELECT metrics FROM evaluations WHERE release_id = :id AND fingerprint = :fp ORDER BY id DESC LIMIT 1"
    metrics: dict[str, Any] | None = connection.scalar(text(query), {"id": release_id, "fp": fingerprint})
    return metrics


def list_evaluations(connection: Connection, release_id: int) -> list[Evaluation]:
    """Return every evaluation of a release, oldest first."""
    rows = connection.execute(
        text("SELECT fingerprint, metrics, created_at FROM evaluations WHERE release_id = :id ORDER BY id"),
        {"id": release_id},
    )
    return [Evaluation(**row._mapping) for row in rows]


def latest_comparable(connection: Connection, one: int, other: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the metrics of the latest pair of evaluations of two releases that share a fingerprint, or None."""
    pair = connection.execute(
        text("""
            SELECT a.metrics AS a, b.metrics AS b FROM evaluations a JOIN evaluations b USING (fingerprint)
            WHERE a.release_id = :one AND b.release_id = :other ORDER BY a.id DESC, b.id DESC LIMIT 1
        """),
        {"one": one, "other": other},
    ).first()
    return None if pair is None else (pair.a, pair.b)


def list_evaluated(connection: Connection, alias: str) -> list[EvaluatedRelease]:
    """Return the evaluated releases that an alias of this name points at, each with its latest metrics."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT ON (releases.id) releases.name, version, alias, metrics
            FROM aliases JOIN releases ON releases.id = release_id JOIN evaluations USING (release_id)
            WHERE alias = :alias ORDER BY releases.id, evaluations.id DESC
        """),
        {"alias": alias},
    )
    return [EvaluatedRelease(**row._mapping) for row in rows]
