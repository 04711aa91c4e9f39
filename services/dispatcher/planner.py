"""Planning: check a submitted job and cut it into shards of images, or reject it with a reason."""

from sqlalchemy import Connection

from services.dispatcher.sharding import LineShards, RequestShards, unsettled_shards
from services.job_queue import jobs, planning, turns
from services.job_queue.leases import Lease
from services.job_queue.plan import Plan
from services.job_queue.planning import SubmittedJob
from services.job_requests.condition_images import check_items
from services.job_requests.schema import Limits, RequestError, parse_json, plan_request
from services.registry import releases
from services.registry.releases import RegistryError, ReleaseRow
from services.storage.object_store import ObjectStore


def plan_job(connection: Connection, store: ObjectStore, lease: Lease) -> str | None:
    """Plan the leased job in this transaction. Returns why it was rejected, or None. Raises LeaseLost."""
    job = planning.find_submitted_job(connection, lease.job_id)
    limits = Limits(job.write_prefixes, job.read_prefixes, job.max_job_images, store.bucket)
    try:
        with connection.begin_nested():  # A rejected job leaves no shards and no failed images.
            if job.plan is None:
                release, plan = _first_plan(connection, store, job, limits)
            else:  # A later revision makes the same images with the same release.
                release, plan = _earlier_release(connection, job), job.plan
            shards: RequestShards | LineShards = RequestShards(plan)
            if "input" in plan:
                rules = releases.request_rules(release.manifest)
                shards = LineShards(connection, store, lease, plan, rules, limits)
            open_shards = iter(shards) if job.plan is None else unsettled_shards(connection, lease, iter(shards))
            turns.add_shards(connection, lease.job_id, release.digest, open_shards)
            total = shards.item_count * plan["images_per_item"]
            planning.record_plan(connection, lease, plan=shards.plan, release_id=release.id, total=total)
    except (RegistryError, RequestError) as error:
        planning.reject_job(connection, lease, str(error))
        return str(error)
    jobs.open_finalizing(connection, lease.job_id)  # A job without a valid line has nothing to sample.
    return None


def _first_plan(
    connection: Connection, store: ObjectStore, job: SubmittedJob, limits: Limits
) -> tuple[ReleaseRow, Plan]:
    """Return the release and the plan of a job's first revision. Raises RegistryError and RequestError.

    The errors list only releases that the tenant may use.
    """
    release = releases.find(connection, job.model, permitted=job.permitted_releases)
    if release.kind != "diffusion":
        raise RegistryError(f"model: {job.model!r} is an {release.kind}; permitted: diffusion releases")
    rules = releases.request_rules(release.manifest)
    plan = plan_request(parse_json(job.request), rules, limits)
    if check_items(plan.get("items", ()), rules, limits) or "input" in plan:
        plan["read_at"] = store.now().isoformat()  # Objects that are replaced later are refused.
    return release, plan


def _earlier_release(connection: Connection, job: SubmittedJob) -> ReleaseRow:
    assert job.release_id is not None
    return releases.find_by_id(connection, job.release_id)
