"""Finalizing: writes listings, archives and last the manifest of a job to S3, and ends the job.

{prefix}/{job_id}/images/00000000.png
{prefix}/{job_id}/outputs-00000.jsonl    one line for each stored image
{prefix}/{job_id}/errors.jsonl           one line for each failed image
{prefix}/{job_id}/archive-00000.tar      the stored images again, if the request asks for archives
{prefix}/{job_id}/manifest.json          counts, release, request; once it exists, the job's objects are complete

Images are read page by page in short transactions, and nothing is written to S3 within one.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any

from sqlalchemy import Engine as Database

from services.dispatcher.archives import archive_revision, write_archives
from services.dispatcher.listings import CONTENT_TYPE, ErrorCounts, ListingFiles, encode_line, listing_revision
from services.job_queue import chains, jobs, leases, outputs, stopping
from services.job_queue.jobs import FinalizingJob
from services.job_queue.leases import Lease, lease_lost
from services.job_queue.outputs import Output
from services.job_queue.plan import Item, Plan
from services.job_queue.states import JobState
from services.job_requests.items import EchoReader, limit_echo
from services.storage.layout import job_prefix
from services.storage.object_store import ObjectStore
from services.storage.streaming import StreamedObject

PAGE = 10_000  # images of one transaction
EXTEND_S = 30.0  # after which the lease is extended while an input is read or archives are written
MAX_MANIFEST = 16 * 2**20  # bytes of an earlier manifest, which another program may have replaced


def finalize(database: Database, store: ObjectStore, lease: Lease, tick: Callable[[], None] = lambda: None) -> JobState:
    """Write the job's listings and then its manifest, and end the job. Returns its state.

    A retry after a crash writes the same bytes. A later revision adds listings of the images that no listing names.
    A manifest replaces only the one that was there when the images were read: a process that froze in between does not
    replace the manifest of a later revision. tick: called after each page of images and each piece of an input. Raises
    LeaseLost.
    """
    with database.begin() as connection:
        job = jobs.find_finalizing_job(connection, lease.job_id)
        stages = chains.list_stages(connection, lease.job_id)
    plan: Plan = json.loads(job.plan)
    prefix = job_prefix(plan["output_prefix"], job.id)
    key = f"{prefix}/manifest.json"
    found = store.etag(key)  # The pages below check the lease, so this is of a time when it was held.
    if job.succeeded + job.failed < job.total:
        job = _fail_missing_images(database, lease, job, tick)
    mark = "" if job.revision == 1 else f"r{job.revision}-"
    earlier = _earlier_manifest(store, job)
    listed = max(map(listing_revision, earlier["outputs"]), default=0)
    errors = f"{prefix}/errors{mark and '-' + mark[:-1]}.jsonl"
    keep = _keep_lease(database, lease, tick)
    counts, echo = ErrorCounts(), EchoReader(store, plan, keep)
    with ExitStack() as stack:
        files = stack.enter_context(ListingFiles(store, f"{prefix}/outputs-{mark}"))
        failed = stack.enter_context(StreamedObject(store, errors, content_type=CONTENT_TYPE))
        for revision, image in _read_images(database, lease, job, tick):
            if image.error is not None:
                failed.write(encode_line(_line(image, limit_echo(echo(image.item)), error=image.error)))
                counts.add(image.error)
            elif revision > listed:
                stored = {"key": image.key, "sha256": image.sha256, "bytes": image.bytes, "profile": image.profile}
                files.write(_line(image, echo(image.item), **stored))
    objects: dict[str, Any] = {"outputs": [*earlier["outputs"], *files.keys], "errors": errors}
    problems = [f"its listings have no ids and metadata: {echo.problem}"] if echo.problem else []
    if stages:
        objects["stages"] = [{"model": one.model, "digest": one.digest} for one in stages]
    if "archive" in plan.get("output", {}):
        new = (image for revision, image in _read_images(database, lease, job, tick) if image.key and revision > listed)
        written = list(write_archives(store, plan, f"{prefix}/archive-{mark}", new, keep))
        objects["archives"] = [*earlier["archives"], *map(asdict, written)]
        if missing := sum(archive.missing for archive in written):
            problems.append(f"its archives lack {missing} images that were removed or replaced before it ended")
    manifest = _manifest(job, objects).encode()
    # A request whose answer was lost is repeated, and then finds the manifest that it has stored.
    if not store.put_if_unchanged(key, manifest, etag=found, content_type="application/json") and not _is_stored(
        store, key, manifest
    ):
        raise lease_lost(lease)
    store.check_size(key, len(manifest))
    reason = counts.reason(job.total) or "; ".join(problems) or None
    with database.begin() as connection:
        return jobs.end_job(connection, lease, key, reason)


def _fail_missing_images(
    database: Database, lease: Lease, job: FinalizingJob, tick: Callable[[], None]
) -> FinalizingJob:
    """Record unsettled images as failed, unless the job was cancelled. Returns the job."""
    with database.begin() as connection:
        requests = stopping.find_stop_requests(connection, [job.id])
    if any(request.cancelled for request in requests):
        return job
    reason = job.reason or (requests[0].reason if requests else "it was not made, because its job was stopped")
    for start in range(0, job.total, PAGE):
        with database.begin() as connection:
            leases.extend(connection, lease)
            outputs.fail_images(connection, job.id, start, min(start + PAGE, job.total), reason)
        tick()
    with database.begin() as connection:
        return jobs.find_finalizing_job(connection, lease.job_id)


def _read_images(
    database: Database, lease: Lease, job: FinalizingJob, tick: Callable[[], None]
) -> Iterator[tuple[int, Output]]:
    """Yield the settled images of a job by index, each with the revision that settled it, and keep the lease."""
    for start in range(0, job.total, PAGE):
        with database.begin() as connection:
            leases.extend(connection, lease)
            page = outputs.read_outputs(connection, job.id, start, start + PAGE)
        yield from page
        tick()


def _keep_lease(database: Database, lease: Lease, tick: Callable[[], None]) -> Callable[[], None]:
    """Return a function to call often that also extends the lease, since a page of large images or lines takes long."""
    extended_at = time.monotonic()

    def keep() -> None:
        nonlocal extended_at
        tick()
        if time.monotonic() - extended_at >= EXTEND_S:
            with database.begin() as connection:
                leases.extend(connection, lease)
            extended_at = time.monotonic()

    return keep


def _earlier_manifest(store: ObjectStore, job: FinalizingJob) -> dict[str, list[Any]]:
    """Return the listings of stored images and the archives that the manifest of an earlier revision names.

    There are none if the manifest was removed, or replaced by what is no manifest: all images are then listed again.
    Those of this revision are of an attempt that was interrupted.
    """
    if job.manifest_key is not None:
        with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            named = json.loads(store.get_at_most(job.manifest_key, MAX_MANIFEST))
            return {
                "outputs": [key for key in named["outputs"] if 0 < listing_revision(key) < job.revision],
                "archives": [
                    one for one in named.get("archives", ()) if 0 < archive_revision(one["key"]) < job.revision
                ],
            }
    return {"outputs": [], "archives": []}


def _is_stored(store: ObjectStore, key: str, manifest: bytes) -> bool:
    try:
        return store.get_at_most(key, len(manifest)) == manifest
    except ValueError:
        return False


def _line(image: Output, echo: Item, **fields: Any) -> dict[str, Any]:
    seed = {} if image.seed is None else {"seed": image.seed}
    return {"index": image.index, "item": image.item, **echo, **seed, **fields}


def _manifest(job: FinalizingJob, objects: Mapping[str, Any]) -> str:
    """Return the manifest. objects: the keys of what is stored beside it.

    The request and the plan are copied as text, since each may be megabytes of small values.
    """
    fields: dict[str, Any] = {
        "job_id": str(job.id),
        "revision": job.revision,
        "counts": {"total": job.total, "succeeded": job.succeeded, "failed": job.failed},
        "release": {"name": job.release_name, "version": job.release_version, "digest": job.release_digest},
        **objects,
        "submitted_at": job.created_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
    }
    lines = [f'  "{name}": {json.dumps(value)}' for name, value in fields.items()]
    lines += [f'  "request": {job.request}', f'  "plan": {job.plan}']
    return "{\n" + ",\n".join(lines) + "\n}\n"
