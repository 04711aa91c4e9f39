"""Planning: checks a submitted job and cuts it into shards of images, or rejects it with a reason.

Requests are checked, and S3 is read, outside of transactions. Each transaction then records a batch of images, so that
the first ones are sampled while the others are planned. After a crash, planning continues at the first missing batch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import Engine as Database

from services.database.connections import autocommit
from services.dispatcher import chain_planning
from services.dispatcher.estimating import estimate, sum_items
from services.dispatcher.inputs import LineSource, open_input, reopen_input
from services.dispatcher.sharding import NO_COST, PlannedItem, cut_batches, item_cost, request_items
from services.job_queue import chains, leases, planning, stopping
from services.job_queue.estimates import end_dry_run
from services.job_queue.leases import Lease
from services.job_queue.plan import Plan
from services.job_queue.planning import SubmittedJob
from services.job_queue.states import JobState
from services.job_queue.stopping import StopRequest
from services.job_requests.chains import costs_of
from services.job_requests.condition_images import check_items
from services.job_requests.items import ItemReader, parse_line
from services.job_requests.output_options import ImageNames, check_named
from services.job_requests.packed_input import LineNames
from services.job_requests.schema import Limits, check_count, plan_request
from services.job_requests.seen_ids import SeenIds
from services.job_requests.strict_json import RequestError, parse_json
from services.registry import releases
from services.registry.chains import check_of, plan_chain
from services.registry.releases import RegistryError, ReleaseRow
from services.storage.layout import input_key
from services.storage.object_store import ObjectStore

CHECK_S = 1.0  # how often a long read checks whether to continue


class JobStopped(Exception):
    """The job was cancelled, or its deadline has passed, while it was planned."""


@dataclass(frozen=True)
class CheckedJob:
    """A job whose request is valid. source: what has its items as lines, if they are not in its request.

    stages: the releases of a chain, the first one included.
    """

    release: ReleaseRow
    plan: Plan
    total: int
    limits: Limits
    source: LineSource | None = None
    line_names: LineNames = field(default_factory=LineNames)
    stages: Sequence[ReleaseRow] = ()


def plan_job(
    database: Database, store: ObjectStore, lease: Lease, tick: Callable[[], None] = lambda: None
) -> str | None:
    """Plan the leased job. Returns why it was rejected or stopped, or None.

    tick: called whenever planning has made progress. Raises LeaseLost.
    """
    progress = _Progress(database, lease, tick)
    try:
        with autocommit(database).connect() as connection:
            job = planning.find_submitted_job(connection, lease.job_id)
            release = _find_release(connection, job)
        checked = _check(database, store, lease, job, release, progress)
    except (RegistryError, RequestError) as error:
        return _reject(database, lease, error)
    except JobStopped as stopped:
        return str(stopped)
    try:
        if checked.plan.get("dry_run"):
            _end_dry_run(database, lease, job, checked, progress)
        else:
            _plan_batches(database, lease, job, checked, progress)
    except planning.TooManyRows as error:
        return _reject(database, lease, error)
    except JobStopped as stopped:
        return str(stopped)
    return None


def _reject(database: Database, lease: Lease, error: Exception) -> str:
    reason = leases.printable(str(error))
    with database.begin() as connection:
        planning.reject_job(connection, lease, reason)
    return reason


def _find_release(connection: Connection, job: SubmittedJob) -> ReleaseRow:
    """Return the job's release, which is settled by its first batch. Raises RegistryError.

    The errors list only releases that the tenant may use.
    """
    if job.release_id is not None:
        return releases.find_by_id(connection, job.release_id)
    return chain_planning.find_diffusion(connection, job.model, job.permitted_releases)


def _check(
    database: Database, store: ObjectStore, lease: Lease, job: SubmittedJob, release: ReleaseRow, progress: "_Progress"
) -> CheckedJob:
    """Return the plan of a job. A later revision makes the same images with the same releases.

    Raises RequestError and RegistryError.
    """
    limits = Limits(job.write_prefixes, job.read_prefixes, job.max_job_images, store.bucket)
    if job.plan is not None:
        stages = _find_chain(database, job, job.plan, release)
        if "input" not in job.plan:
            return CheckedJob(release, job.plan, job.total, limits, stages=stages)
        source, names = reopen_input(store, job.plan["input"])
        return CheckedJob(release, job.plan, job.total, limits, source, names, stages)
    rules = releases.request_rules(release.manifest)
    plan = plan_request(parse_json(job.request), rules, limits)
    stages = _find_chain(database, job, plan, release)
    if stages:
        chain = plan_chain(plan, stages)
        if "input" not in plan:
            chain.check_items()
    if check_items(plan.get("items", ()), rules, limits, job=plan) or "input" in plan:
        plan["read_at"] = store.now().isoformat()  # Objects that are replaced later are refused.
    if "input" not in plan:
        total = len(plan["items"]) * plan["images_per_item"]
        return CheckedJob(release, plan, total, limits, stages=stages)
    # The lines are counted first, so that a job with too many of them is rejected before any of it is planned.
    most = limits.max_images // plan["images_per_item"]
    target = None if plan.get("dry_run") else input_key(limits.write_prefixes[0], lease.job_id, lease.token)
    opened = open_input(store, plan["input"]["key"], target, most, progress)
    plan["input"] = opened.reference
    check_count(total := opened.count * plan["images_per_item"], limits)
    check_named(plan, total)
    return CheckedJob(release, plan, total, limits, opened.source, opened.names, stages)


def _find_chain(database: Database, job: SubmittedJob, plan: Plan, release: ReleaseRow) -> list[ReleaseRow]:
    """Return the releases of a chain's stages; none if the plan is no chain. Raises RegistryError."""
    if "then" not in plan:
        return []
    with autocommit(database).connect() as connection:
        return chain_planning.find_chain(connection, job, plan, release)


def _end_dry_run(
    database: Database, lease: Lease, job: SubmittedJob, checked: CheckedJob, progress: "_Progress"
) -> None:
    """End a dry run with what the job would take. Raises JobStopped and LeaseLost."""
    items = request_items(checked.plan) if checked.source is None else _read_lines(checked, 0, progress)
    found, extent = sum_items(items, int(checked.plan["images_per_item"]))
    copies = 2 if "archive" in checked.plan.get("output", {}) else 1
    with database.begin() as connection:
        stages = chain_planning.stage_work(
            checked.plan, checked.release, checked.stages, found["images"], found["evaluations"], extent
        )
        answer = estimate(connection, job, stages, found, datetime.now(UTC), copies)
        end_dry_run(connection, lease, answer)


def _plan_batches(
    database: Database, lease: Lease, job: SubmittedJob, checked: CheckedJob, progress: "_Progress"
) -> None:
    """Record batch after batch. Raises JobStopped and LeaseLost."""
    plan, per_item = checked.plan, int(checked.plan["images_per_item"])
    items = request_items(plan) if checked.source is None else _read_lines(checked, job.planned_to, progress)
    new_plan = plan if job.plan is None else None
    if checked.stages and not job.planned_to:
        with autocommit(database).connect() as connection:
            chains.record_stages(connection, lease, chain_planning.planned_stages(plan, checked.stages))
    for batch in cut_batches(items, per_item, job.planned_to):
        try:
            with autocommit(database).connect() as connection:
                planning.record_batch(
                    connection,
                    lease,
                    batch,
                    release_id=checked.release.id,
                    digest=checked.release.digest,
                    per_item=per_item,
                    total=checked.total,
                    new_plan=new_plan,
                )
        except planning.JobMustStop:
            progress.check()
            raise leases.lease_lost(lease) from None
        new_plan = None
        progress.tick()


def _read_lines(checked: CheckedJob, planned_to: int, progress: "_Progress") -> Iterator[PlannedItem]:
    """Yield the items of the input object's lines, with an error for each that is not valid.

    Of the lines before image `planned_to` only the ids and the names of images are read.
    """
    assert checked.source is not None
    plan = checked.plan
    reader = ItemReader(releases.request_rules(checked.release.manifest), checked.limits, plan)
    check_stages = check_of(plan, checked.stages)
    ids, names = SeenIds(checked.total // plan["images_per_item"]), ImageNames(plan, checked.total)
    first_line, later = planned_to // plan["images_per_item"], sum(costs_of(plan))
    for line in checked.source.lines(tick=progress):
        progress()
        cost, error = NO_COST, None
        try:
            item = parse_line(line)
            name = item.get("id")
            is_new = not isinstance(name, str) or ids.add(name)
            if line.number < first_line:
                with suppress(RequestError):
                    names.check(item, line.number)
                continue
            reader.check(item)
            if check_stages is not None:
                check_stages(item)
            if not is_new:
                raise RequestError(f"id: {name!r} is not unique; permitted: a different id in each line")
            names.check(item, line.number)
            cost = item_cost(plan, item, later)
        except RequestError as problem:
            error = f"{checked.line_names(line.number)}: {problem}"
        yield PlannedItem(line.number, cost, error, (line.start, line.stop))


def _stop_if_requested(connection: Connection, lease: Lease) -> StopRequest | None:
    """End the planning of a job that must stop. Returns why, or None. Raises LeaseLost."""
    for request in stopping.find_stop_requests(connection, [lease.job_id]):
        state = JobState.CANCELLED if request.cancelled else JobState.FAILED
        planning.stop_planning(connection, lease, state, request.reason)
        return request
    return None


class _Progress:
    """Called often while an object is read: ticks, keeps the lease, and raises JobStopped if the job must stop."""

    def __init__(self, database: Database, lease: Lease, tick: Callable[[], Any]) -> None:
        self.tick = tick
        self._database, self._lease = database, lease
        self._checked_at = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._checked_at < CHECK_S:
            return
        self.tick()
        self.check()
        self._checked_at = time.monotonic()

    def check(self) -> None:
        """Extend the lease. Raises LeaseLost, and JobStopped after recording that the job is planned no further."""
        with self._database.begin() as connection:
            leases.extend(connection, self._lease)
            stop = _stop_if_requested(connection, self._lease)
        if stop is not None:
            raise JobStopped(stop.reason)
