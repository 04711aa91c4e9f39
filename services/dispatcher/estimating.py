"""Estimates the cost of a job from its release's earlier jobs, and its start and end from the backlog of its queue."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from services.dispatcher.sharding import SHARD_IMAGES, PlannedItem
from services.job_queue import estimates
from services.job_queue.estimates import Backlog, Cost
from services.job_queue.planning import SubmittedJob
from services.registry.releases import ReleaseRow

MAX_MISTAKES = 10  # in an estimate
NOT_MEASURED = "this release has made no images in the last 30 days, so its cost is unknown"
NOT_SERVED = "no worker serves the queue now, so the time is unknown"


@dataclass(frozen=True)
class Extent:
    """The images of a stage. area: the sum of theirs, in areas of the release's own size.

    depth: the most evaluations that one of them takes, one after the other. resized: the share of the area that is of
    images of other sizes.
    """

    area: float
    depth: int
    resized: float = 0.0


@dataclass(frozen=True)
class StageWork:
    """What a stage of a job does. evaluations: of all of its images."""

    release: ReleaseRow
    evaluations: int
    decoder: str
    extent: Extent

    def seconds(self, cost: Cost) -> float:
        """Return the device's seconds of all of its images, in full batches."""
        seconds = self.evaluations * cost.seconds + self.extent.area * cost.image_seconds
        if cost.resized_seconds is None:
            return seconds
        resized = self.extent.resized
        return (1 - resized) * seconds + resized * self.evaluations * cost.resized_seconds


def sum_items(items: Iterable[PlannedItem], per_item: int) -> tuple[dict[str, Any], Extent]:
    """Return the images and evaluations of items, how many of them are not valid, and the first mistakes."""
    valid = invalid = evaluations = depth = 0
    area = resized = 0.0
    mistakes: list[str] = []
    for item in items:
        if item.error is None:
            valid += 1
            evaluations += item.cost.evaluations * per_item
            area += item.cost.area * per_item
            resized += item.cost.area * per_item * (item.cost.area != 1)
            depth = max(depth, item.cost.depth)
        else:
            invalid += 1
            mistakes += [item.error] if len(mistakes) < MAX_MISTAKES else []
    found = {
        "images": valid * per_item,
        "evaluations": evaluations,
        "invalid_items": invalid,
        "mistakes": mistakes,
    }
    return found, Extent(area, depth, resized / area if area else 0.0)


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
    seconds = sum(stage.seconds(cost) for stage, cost in zip(stages, costs, strict=True))
    if costs[-1].bytes is not None:
        answer["bytes"] = round(stages[-1].extent.area * costs[-1].bytes) * copies
    answer["gpu_seconds"] = seconds
    workers = estimates.read_workers(connection, job.queue)
    if not workers:
        return {**answer, "unknown": NOT_SERVED}
    usual = seconds / found["evaluations"] if seconds else costs[0].seconds
    backlogs = estimates.read_backlogs(connection, job.queue, job.priority, usual)
    own = backlogs.pop(job.tenant, Backlog(job.weight, 0.0, 0.0))
    starts = finish_time(replace(own, seconds=own.before), backlogs.values(), len(workers))
    ends = finish_time(replace(own, seconds=own.before + seconds), backlogs.values(), len(workers))
    in_turn = sum(stage.extent.depth * cost.seconds for stage, cost in zip(stages, costs, strict=True))
    used = min(len(workers), -(-found["images"] // SHARD_IMAGES))
    shortest = max(min(workers) * in_turn, seconds / max(used, 1))
    return {
        **answer,
        "starts_at": (now + timedelta(seconds=starts)).isoformat(timespec="seconds"),
        "ends_at": (now + timedelta(seconds=max(ends, starts + shortest))).isoformat(timespec="seconds"),
    }


def finish_time(own: Backlog, others: Iterable[Backlog], rate: float) -> float:
    """Return after how many seconds a tenant's backlog is done if all share `rate` workers by weight.

    A tenant that is done leaves its share to the rest: generalised processor sharing (Parekh and Gallager, 1993).
    """
    waiting = sorted(others, key=lambda other: other.seconds / other.weight)
    seconds, served = 0.0, 0.0  # served: seconds of work of each unit of weight
    weight = own.weight + sum(other.weight for other in waiting)
    target = own.seconds / own.weight
    for other in waiting:
        level = min(other.seconds / other.weight, target)
        seconds += (level - served) * weight / rate
        served = level
        weight -= other.weight
    return seconds + max(target - served, 0.0) * own.weight / rate
