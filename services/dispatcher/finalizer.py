"""Finalizing: write what a job stores in S3 next to its images, the manifest last, and end the job.

{prefix}/{job_id}/images/00000000.png
{prefix}/{job_id}/outputs-00000.jsonl    one line for each stored image
{prefix}/{job_id}/errors.jsonl           one line for each failed image
{prefix}/{job_id}/manifest.json          counts, release, request; once it exists, the job's objects are complete
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection

from services.job_queue import jobs
from services.job_queue.jobs import FinalizingJob
from services.job_queue.leases import Lease
from services.job_queue.outputs import stream_outputs
from services.job_queue.states import JobState
from services.job_requests.items import echo_reader
from services.storage.layout import job_prefix
from services.storage.object_store import ObjectStore

LINES_PER_FILE = 10_000


def finalize(connection: Connection, store: ObjectStore, lease: Lease) -> JobState:
    """Write the job's listings and then its manifest, and end the job. Returns its state. Raises LeaseLost.

    A retry after a crash writes the same bytes. A later revision adds listings of its own.
    """
    job = jobs.find_finalizing_job(connection, lease.job_id)
    prefix = job_prefix(job.plan["output_prefix"], job.id)
    key = f"{prefix}/manifest.json"
    mark = "" if job.revision == 1 else f"r{job.revision}-"
    earlier = json.loads(store.get(key))["outputs"] if job.manifest_key and mark else []
    files = [name for name in earlier if f"/outputs-{mark}" not in name]
    for number, lines in enumerate(split_lines(_lines(connection, store, job, stored=True), LINES_PER_FILE)):
        files.append(f"{prefix}/outputs-{mark}{number:05d}.jsonl")
        store.put(files[-1], "".join(lines).encode(), content_type="application/jsonl")
    errors = f"{prefix}/errors{mark and '-' + mark[:-1]}.jsonl"
    failed = "".join(_lines(connection, store, job, stored=False))
    store.put(errors, failed.encode(), content_type="application/jsonl")
    manifest = {
        "job_id": str(job.id),
        "revision": job.revision,
        "counts": {"total": job.total, "succeeded": job.succeeded, "failed": job.failed},
        "release": {"name": job.release_name, "version": job.release_version, "digest": job.release_digest},
        "request": job.request,
        "plan": job.plan,
        "outputs": files,
        "errors": errors,
        "submitted_at": job.created_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
    }
    store.put(key, (json.dumps(manifest, indent=2) + "\n").encode(), content_type="application/json")
    return jobs.end_job(connection, lease, key)


def _lines(connection: Connection, store: ObjectStore, job: FinalizingJob, *, stored: bool) -> Iterator[str]:
    """Yield a JSON line for each image that the revision stored, or for each that failed in it, by index."""
    echo = echo_reader(store, job.plan)
    for image in stream_outputs(connection, job.id, job.revision, stored=stored):
        line: dict[str, Any] = {"index": image.index, "item": image.item, **echo(image.item)}
        if image.seed is not None:
            line["seed"] = image.seed
        if stored:
            line |= {"key": image.key, "sha256": image.sha256, "bytes": image.bytes, "profile": image.profile}
        else:
            line["error"] = image.error
        yield json.dumps(line) + "\n"


def split_lines(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield lists of at most `size` lines, or one empty list if there are no lines."""
    chunk: list[str] = []
    is_first = True
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk, is_first = [], False
    if chunk or is_first:
        yield chunk
