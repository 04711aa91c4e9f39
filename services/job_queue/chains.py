"""The stages of jobs that are chains: what planning records of them, and what they have made."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, text

from services.job_queue.leases import Lease, lease_lost


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a chain, from 0. cost: network evaluations of an image. keep: its images when the job has ended."""

    stage: int
    model: str
    release_id: int
    digest: str
    cost: int
    keep: bool
    is_last: bool


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is. model: its release as name@version. made: images, those of the last stage being the job's."""

    stage: int
    model: str
    digest: str
    made: int


def record_stages(connection: Connection, lease: Lease, stages: Sequence[PlannedStage]) -> None:
    """Record the stages of a job before its first batch is planned; a later revision keeps them. Raises LeaseLost."""
    held = connection.scalar(
        text("SELECT plan_stages(:id, :token, CAST(:stages AS jsonb))"),
        {"id": lease.id, "token": lease.token, "stages": json.dumps([asdict(stage) for stage in stages])},
    )
    if not held:
        raise lease_lost(lease)


def find_releases(connection: Connection, job_id: uuid.UUID) -> list[int]:
    """Return the ids of the releases of a job's stages; none if it is no chain, or not planned yet."""
    query = text("SELECT release_id FROM job_stages WHERE job_id = :id ORDER BY stage")
    return list(connection.scalars(query, {"id": job_id}))


def list_stages(connection: Connection, job_id: uuid.UUID) -> list[StageProgress]:
    """Return how far the stages of a chain are; none of a job that is none."""
    rows = connection.execute(
        text("""
            SELECT stage, job_stages.model, digest, CASE WHEN is_last THEN succeeded ELSE made END AS made
            FROM job_stages JOIN jobs ON jobs.id = job_id WHERE job_id = :id ORDER BY stage
        """),
        {"id": job_id},
    )
    return [StageProgress(**row._mapping) for row in rows]
