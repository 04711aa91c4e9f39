"""Planning: a submitted job becomes shards of images, or is rejected with a reason."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from services.job_queue import jobs, outputs, planning
from services.job_queue.leases import Lease
from services.job_queue.outputs import MAX_ERROR, Output
from services.job_queue.plan import Plan
from services.job_queue.planning import Shard, SubmittedJob
from services.job_requests.condition_images import check_references
from services.job_requests.image_spec import image_cost, image_spec
from services.job_requests.items import InputObject, ItemReader, Line
from services.job_requests.schema import Limits, RequestError, check_count, parse_json, plan_request
from services.registry import releases
from services.registry.releases import ReleaseRow
from services.storage.object_store import ObjectStore

SHARD_IMAGES = 16  # small enough that a lost process loses little, large enough to fill a batch


def plan_job(connection: Connection, store: ObjectStore, lease: Lease) -> str | None:
    """Plan the leased job in this transaction. Returns why it was rejected, or None. Raises LeaseLost."""
    job = planning.find_submitted_job(connection, lease.job_id)
    limits = Limits(job.write_prefixes, job.read_prefixes, job.max_job_images, store.bucket)
    try:
        with connection.begin_nested():  # a job that is rejected half-way leaves nothing behind
            planned: Plan
            if job.plan is None:
                release = _permitted_release(connection, job)
                rules = releases.request_rules(release.manifest)
                planned = plan_request(parse_json(job.request), rules, limits)
                for number, item in enumerate(planned.get("items", ())):
                    check_references(item, rules, limits, f"items[{number}]")
            else:  # another revision: the same images, by the same release
                release, planned = _planned_release(connection, job), job.plan
                rules = releases.request_rules(release.manifest)
            items: Listed | Lines = Listed(planned)
            if "input" in planned:
                items = Lines(connection, store, lease, planned, rules, limits)
            shards = iter(items) if job.plan is None else unsettled(connection, lease, iter(items))
            planning.add_shards(connection, lease.job_id, release.digest, shards)
            total = items.count * planned["images_per_item"]
            planning.record_plan(connection, lease, plan=items.plan, release_id=release.id, total=total)
    except (releases.RegistryError, RequestError) as error:
        planning.reject_job(connection, lease, str(error))
        return str(error)
    jobs.open_finalizing(connection, lease.job_id)  # where no line is good there is nothing to sample
    return None


def _permitted_release(connection: Connection, job: SubmittedJob) -> ReleaseRow:
    """The release that the job names. What its tenant may not use it is not told of either."""
    release = releases.find(connection, job.model, permitted=job.permitted_releases)
    if release.kind != "diffusion":
        raise releases.RegistryError(f"model: {job.model!r} is an {release.kind}; permitted: diffusion releases")
    return release


def _planned_release(connection: Connection, job: SubmittedJob) -> ReleaseRow:
    """The release of the job's earlier revision."""
    assert job.release_id is not None
    return releases.find_by_id(connection, job.release_id)


# -- items in the request ----------------------------------------------------------------------


class Listed:
    """The shards of a job whose items are in its request: at most SHARD_IMAGES consecutive images each."""

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self.count = len(planned.get("items", ()))

    def __iter__(self) -> Iterator[Shard]:
        per_item, items = self.plan["images_per_item"], self.plan["items"]
        total = self.count * per_item
        for start in range(0, total, SHARD_IMAGES):
            stop = min(start + SHARD_IMAGES, total)
            yield Shard(start, stop, sum(cost(self.plan, items[i // per_item], i) for i in range(start, stop)))


def cost(planned: Plan, item: Mapping[str, Any], index: int) -> int:
    """Network evaluations of an image."""
    return image_cost(image_spec(planned, item, [], index))


def unsettled(connection: Connection, lease: Lease, shards: Iterator[Shard]) -> Iterator[Shard]:
    """The shards of which images are still to be made."""
    for shard in shards:
        if len(outputs.settled_indices(connection, lease.job_id, shard.start, shard.stop)) < shard.stop - shard.start:
            yield shard


# -- items in an object ------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadLine:
    """A line and its item, None where it fails."""

    line: Line
    item: Mapping[str, Any] | None


class Lines:
    """The shards of a job whose items are lines. Lines that do not fit are settled as failed on the way."""

    def __init__(
        self,
        connection: Connection,
        store: ObjectStore,
        lease: Lease,
        planned: Plan,
        conditions: Mapping[str, Any],
        limits: Limits,
    ) -> None:
        given = planned["input"]
        if "etag" in given:
            self.items = InputObject(store, given["key"], given["etag"])
        else:
            self.items = InputObject.open(store, given["key"])
        self.plan: Plan = {**planned, "input": {"key": self.items.key, "etag": self.items.etag}}
        self.connection, self.lease, self.limits = connection, lease, limits
        self.reader = ItemReader(conditions, limits)
        self.per_item = int(planned["images_per_item"])
        self.count = 0
        self.ids: set[str] = set()

    def __iter__(self) -> Iterator[Shard]:
        """Reads the object once. Raises RequestError for an empty one, and for one of too many lines."""
        together = max(1, SHARD_IMAGES // self.per_item)
        group: list[ReadLine] = []
        for line in self.items.lines():
            self.count += 1
            check_count(self.count * self.per_item, self.limits)
            group.append(ReadLine(line, self._item(line)))
            if len(group) == together:
                yield from self._shards(group)
                group = []
        yield from self._shards(group)
        if not self.count:
            raise RequestError(f"input_uri: {self.items.key!r} has no lines; give one item a line")

    def _item(self, line: Line) -> Mapping[str, Any] | None:
        try:
            item = self.reader.read(line)
            if (name := item.get("id")) in self.ids:
                raise RequestError(f"the id {name!r} is that of an earlier line")
        except RequestError as error:
            first = line.number * self.per_item
            failed = [
                Output(index, line.number, None, error=f"line {line.number + 1}: {error}"[:MAX_ERROR])
                for index in range(first, first + self.per_item)
            ]
            outputs.record_outputs(self.connection, self.lease.job_id, failed)
            return None
        if name is not None:
            self.ids.add(name)
        return item

    def _shards(self, group: list[ReadLine]) -> Iterator[Shard]:
        """Of a few lines, or of a part of one that asks for many images."""
        if not any(read.item is not None for read in group):
            return
        first, last = group[0].line, group[-1].line
        begin, end = first.number * self.per_item, (last.number + 1) * self.per_item
        for start in range(begin, end, SHARD_IMAGES):
            stop = min(start + SHARD_IMAGES, end)
            found = [(i, group[i // self.per_item - first.number].item) for i in range(start, stop)]
            costs = [cost(self.plan, item, i) for i, item in found if item is not None]
            yield Shard(start, stop, sum(costs), first.number, first.start, last.stop)
