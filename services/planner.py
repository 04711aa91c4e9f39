"""Planning: a submitted job becomes shards of images, or is rejected with a reason."""

from typing import Any

from sqlalchemy import Connection, text

from services import job_queue, registry
from services.job_queue import Lease, Shard
from services.job_request import RequestError, evaluations, image_spec, plan

SHARD_IMAGES = 16  # small enough that a lost process loses little, large enough to fill a batch


def plan_job(connection: Connection, lease: Lease) -> str | None:
    """Plan the leased job in this transaction. Returns why it was rejected, or None."""
    job = connection.execute(
        text("""
            SELECT jobs.model, jobs.request, tenants.name AS tenant, tenants.permitted_releases, tenants.write_prefixes
            FROM jobs JOIN tenants ON tenants.name = jobs.tenant WHERE jobs.id = :id
        """),
        {"id": lease.job_id},
    ).one()
    try:
        release = _permitted_release(connection, job)
        planned = plan(job.request, release.manifest["conditions"], job.write_prefixes)
    except (registry.RegistryError, RequestError) as error:
        job_queue.reject(connection, lease, str(error))
        return str(error)
    job_queue.planned(
        connection,
        lease,
        plan=planned,
        release_id=release.id,
        pack_key=release.digest,
        shards=cut(planned),
    )
    return None


def _permitted_release(connection: Connection, job: Any) -> Any:
    release = registry.find(connection, job.model)
    if release.kind != "diffusion":
        raise registry.RegistryError(f"model: {job.model!r} is an {release.kind}; permitted: diffusion releases")
    if "*" not in job.permitted_releases and release.name not in job.permitted_releases:
        raise registry.RegistryError(
            f"model: {release.name!r} is not permitted to tenant {job.tenant!r}; "
            f"permitted: {', '.join(job.permitted_releases) or 'none'}"
        )
    return release


def cut(planned: dict[str, Any]) -> list[Shard]:
    """Shards of at most SHARD_IMAGES consecutive images, with what each costs."""
    total = len(planned["items"]) * planned["images_per_item"]
    return [
        Shard(start, stop, sum(evaluations(image_spec(planned, [], index)) for index in range(start, stop)))
        for start in range(0, total, SHARD_IMAGES)
        for stop in [min(start + SHARD_IMAGES, total)]
    ]
