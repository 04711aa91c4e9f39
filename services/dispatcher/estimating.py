"""Estimates the cost of a job from its release's earlier jobs, and its start and end from the backlog of its queue."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from services.dispatcher.sharding import PlannedItem
from services.job_queue import estimates
from services.job_queue.estimates import Backlog
from services.job_queue.planning import SubmittedJob
from services.registry.releases import ReleaseRow

MAX_MISTAKES = 10  # in an estimate
NOT_MEASURED = "this release has made no images in the last 30 days, so its cost is unknown"
NOT_SERVED = "no worker serves the queue now, so the time is unknown"


@dataclass(frozen=True)
class StageWork:
    """What a stage of a job does. evaluations: of all of its images."""

    release: ReleaseRow
    evaluations: int
    decoder: str


def sum_items(items: Iterable[PlannedItem], per_item: int) -> dict[str, Any]:
    """Return the images and evaluations of items, how many of them are not valid, and the first mistakes."""
    valid = invalid = evaluations = 0
    mistakes: list[str] = []
    for item in items:
        if item.error is None:
            valid += 1
            evaluations += item.cost * per_item
        else:
            invalid += 1
            mistakes += [item.error] if len(mistakes) < MAX_MISTAKES else []
    return {
        "images": valid * per_item,
        "evaluations": evaluations,
        "invalid_items": invalid,
        "mistakes": mistakes,
    }


def estimate(
    connection: Connection,
    job: SubmittedJob,
    stages: Sequence[StageWork],
    found: Mapping[str, Any],
    now: datetime,
    copies: int = 1,
) -> dict[str, Any]:
    """Return the estimate of a job that has these images and evaluations, as docs/sql.md describes it.

    copies: how often each image is stored.
    """
    answer = {**found, "release": f"{stages[0].release.name}@{stages[0].release.version}"}
    read = [estimates.read_cost(connection, one.release.id, job.queue, one.decoder) for one in stages]
    costs = [cost for cost in read if cost is not None]
    if len(costs) < len(stages):
        return {**answer, "unknown": NOT_MEASURED}
    seconds = sum(
        stage.evaluations * cost.seconds + found["images"] * cost.image_seconds
        for stage, cost in zip(stages, costs, strict=True)
    )
    if costs[-1].bytes is not None:
        answer["bytes"] = round(found["images"] * costs[-1].bytes) * copies
    answer["gpu_seconds"] = seconds
    workers = estimates.count_workers(connection, job.queue)
    if not workers:
        return {**answer, "unknown": NOT_SERVED}
    backlogs = estimates.read_backlogs(connection, job.queue, job.priority)
    own = backlogs.pop(job.tenant, Backlog(job.weight, 0, 0))
    rate = workers / (seconds / found["evaluations"] if seconds else costs[0].seconds)
    starts = finish_time(replace(own, evaluations=own.before), backlogs.values(), rate)
    ends = finish_time(replace(own, evaluations=own.before + found["evaluations"]), backlogs.values(), rate)
    return {
        **answer,
        "starts_at": (now + timedelta(seconds=starts)).isoformat(timespec="seconds"),
        "ends_at": (now + timedelta(seconds=ends)).isoformat(timespec="seconds"),
    }


def finish_time(own: Backlog, others: Iterable[Backlog], rate: float) -> float:
    """Return after how many seconds a tenant's backlog is done if all share `rate` evaluations a second by weight.

    A tenant that is done leaves its share to the rest: generalised processor sharing (Parekh and Gallager, 1993).
    """
    waiting = sorted(others, key=lambda other: other.evaluations / other.weight)
    seconds, served = 0.0, 0.0  # served: evaluations of each unit of weight
    weight = own.weight + sum(other.weight for other in waiting)
    target = own.evaluations / own.weight
    for other in waiting:
        level = min(other.evaluations / other.weight, target)
        seconds += (level - served) * weight / rate
        served = level
        weight -= other.weight
    return seconds + max(target - served, 0.0) * own.weight / rate
