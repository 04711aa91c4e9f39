"""Archives of a job's images: what is in them, and how they are resumed, through the real processes."""

import hashlib
import io
import json
import signal
import tarfile
import uuid
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import Engine, text
from webdataset.tariterators import group_by_keys, tar_file_expander

from services.dispatcher import archives, finalizer, planner
from services.job_queue import jobs
from services.job_queue.leases import Lease
from services.job_queue.outputs import Output, list_outputs
from services.job_queue.states import WorkState
from services.storage import streaming
from services.storage.errors import ObjectStoreError
from tests.support.freezing import freeze_in
from tests.support.job_queue import call_function, claim, settle
from tests.support.s3_proxy import S3Proxy, s3_proxy
from tests.support.stack import Stack
from tests.support.tenants import QUICK
from training.data.own_images.parquet import read_rows

REST = text("SELECT CAST(extract(epoch FROM lease_until - now()) AS float8) FROM work WHERE id = :id")
SHORTEN = text("UPDATE work SET lease_until = now() + interval '60 seconds' WHERE id = :id")
SMALL_ARCHIVES = "import services.dispatcher.archives as archives; archives.MAX_IMAGES = 16\n"
REQUEST = {
    "items": [
        {"class_label": 3, "id": "three", "metadata": {"sku": "A-1"}, "steps": 2},
        {"class_label": 7, "id": "seven"},
    ],
    "images_per_item": 20,
    "steps": 1,
    "seed": 5,
    "output": {"archive": "tar", "name": "{id}.{index}", "format": "webp"},
}


def manifest_of(stack: Stack, job_id: uuid.UUID) -> Any:
    return json.loads(stack.store().get(stack.job(job_id).manifest_key))


def read_tars(stack: Stack, job_id: uuid.UUID) -> list[dict[str, bytes]]:
    """Return the files of each archive that the manifest names."""
    found = []
    for archive in manifest_of(stack, job_id)["archives"]:
        body = stack.store().get(archive["key"])
        assert len(body) == archive["bytes"]
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            found.append({member.name: tar.extractfile(member).read() for member in tar})  # type: ignore[union-attr]
        assert len(found[-1]) == 2 * archive["images"]
    return found


def test_archives_have_each_image_and_what_is_known_of_it(stack: Stack) -> None:
    with stack.process("dispatcher", first=SMALL_ARCHIVES), stack.process("worker"):
        job_id = stack.submit(REQUEST)
        assert stack.wait(job_id).state == "succeeded"
    rows, store = stack.outputs(job_id), stack.store()
    tars = read_tars(stack, job_id)
    prefix = f"outputs/default/{job_id}/archive-0000"
    assert [one["key"] for one in manifest_of(stack, job_id)["archives"]] == [f"{prefix}{i}.tar" for i in range(3)]
    assert [list(files) for files in tars] == [
        [f"{index:08d}.{suffix}" for index in range(start, min(start + 16, 40)) for suffix in ("webp", "json")]
        for start in (0, 16, 32)
    ]
    files = {name: body for tar in tars for name, body in tar.items()}
    for row in rows:
        assert files[f"{row.index:08d}.webp"] == store.get(row.key)
    assert json.loads(files["00000003.json"]) == {
        "index": 3, "item": 0, "id": "three", "metadata": {"sku": "A-1"}, "class_label": 3, "steps": 2, "seed": 8,
        "key": f"outputs/default/{job_id}/images/three.00000003.webp", "sha256": rows[3].sha256,
        "profile": rows[3].profile,
    }  # fmt: skip
    streams = (
        {"url": one["key"], "stream": io.BytesIO(store.get(one["key"]))}
        for one in manifest_of(stack, job_id)["archives"]
    )
    samples = list(group_by_keys(tar_file_expander(streams)))
    assert [sample["__key__"] for sample in samples] == [f"{index:08d}" for index in range(40)]
    assert [json.loads(sample["json"])["class_label"] for sample in samples] == [3] * 20 + [7] * 20
    for sample in samples:
        with Image.open(io.BytesIO(sample["webp"])) as image:
            assert (image.format, image.size) == ("WEBP", (32, 32))


def submit(stack: Stack, engine: Engine, worker_id: uuid.UUID, **output: Any) -> uuid.UUID:
    """Plan a job of 40 images with archives into three shards: images 0-15, 16-31, 32-39."""
    items = [{"class_label": 1, "id": f"i{number}"} for number in range(40)]
    job_id = stack.submit({"items": items, "seed": 5, "output": {"archive": "tar", **output}})
    (lease,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), lease) is None
    return job_id


def store_images(stack: Stack, engine: Engine, lease: Lease) -> None:
    """Store the images of a shard, which have a few thousand bytes, and settle them."""
    records = []
    for index in range(lease.start, lease.stop):
        key, body = f"outputs/default/{lease.job_id}/images/{index:08d}.png", f"image {index} ".encode() * (300 + index)
        stack.store().put(key, body, content_type="image/png")
        records.append(Output(index, index, 5 + index, key, hashlib.sha256(body).hexdigest(), len(body), "p"))
    with engine.begin() as connection:
        settle(connection, lease, records, is_last=True)


def make_all(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> Lease:
    """Make all images that are planned. Returns the finalizing, leased."""
    for shard in claim(engine, worker_id):
        store_images(stack, engine, shard)
    (finalize,) = claim(engine, worker_id, "finalize")
    return finalize


def names_of(archive: dict[str, bytes]) -> list[int]:
    return [int(name.removesuffix(".png")) for name in archive if name.endswith(".png")]


def test_a_later_revision_adds_archives_of_its_own_images(stack: Stack, engine: Engine, worker_id: uuid.UUID) -> None:
    job_id = submit(stack, engine, worker_id)
    first, *others = claim(engine, worker_id)
    store_images(stack, engine, first)
    for shard in others:
        with engine.begin() as connection:
            jobs.end_shard(connection, shard, WorkState.FAILED, "bad luck")
    (finalize,) = claim(engine, worker_id, "finalize")
    assert finalizer.finalize(engine, stack.store(), finalize) == "partial"
    assert [names_of(archive) for archive in read_tars(stack, job_id)] == [list(range(16))]
    call_function(stack, "retry_job", job_id)
    (lease,) = claim(engine, worker_id, "plan")
    assert planner.plan_job(engine, stack.store(), lease) is None
    assert finalizer.finalize(engine, stack.store(), make_all(stack, engine, worker_id)) == "succeeded"
    assert [names_of(archive) for archive in read_tars(stack, job_id)] == [list(range(16)), list(range(16, 40))]
    keys = [Path(archive["key"]).name for archive in manifest_of(stack, job_id)["archives"]]
    assert keys == ["archive-00000.tar", "archive-r2-00000.tar"]


def test_images_that_are_gone_or_replaced_are_left_out_and_counted(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    job_id, store = submit(stack, engine, worker_id), stack.store()
    finalize = make_all(stack, engine, worker_id)
    gone, replaced, longer = (f"outputs/default/{job_id}/images/{index:08d}.png" for index in (3, 20, 39))
    store.delete([gone])
    store.put(replaced, b"x" * len(store.get(replaced)), content_type="image/png")
    store.put(longer, b"x" * 2**20, content_type="image/png")
    assert finalizer.finalize(engine, store, finalize) == "succeeded"
    (archive,) = read_tars(stack, job_id)
    assert names_of(archive) == [index for index in range(40) if index not in (3, 20, 39)]
    assert stack.job(job_id).reason == "its archives lack 3 images that were removed or replaced before it ended"
    assert manifest_of(stack, job_id)["archives"][0]["missing"] == 3


def test_a_parquet_archive_is_written_once_unless_images_are_gone(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, tmp_path: Path
) -> None:
    """What it lacks is counted again by an attempt that finds the file of an earlier one."""
    job_id, store = submit(stack, engine, worker_id, archive="parquet"), stack.store()
    finalize = make_all(stack, engine, worker_id)
    with engine.begin() as connection:
        plan, images = json.loads(jobs.find_finalizing_job(connection, job_id).plan), list_outputs(connection, job_id)
    prefix = f"outputs/default/{job_id}/archive-"
    first, again = (list(archives.write_archives(store, plan, prefix, images, lambda: None)) for _ in range(2))
    assert first == again
    assert [one.missing for one in first] == [0]
    store.delete([images[3].key, first[0].key])
    for _ in range(2):
        (found,) = archives.write_archives(store, plan, prefix, images, lambda: None)
        assert (found.images, found.missing, found.bytes) == (39, 1, store.head(found.key)["ContentLength"])
    assert finalizer.finalize(engine, store, finalize) == "succeeded"
    assert stack.job(job_id).reason == "its archives lack 1 images that were removed or replaced before it ended"
    (named,) = manifest_of(stack, job_id)["archives"]
    store.download(named["key"], tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet"))
    assert len(rows) == named["images"] == 39
    body, ending, record = rows[3]
    assert (body, ending) == (store.get(images[4].key), ".png")
    assert {name: record[name] for name in ("index", "item", "seed", "id", "class_label", "sha256")} == {
        "index": 4, "item": 4, "seed": 9, "id": "i4", "class_label": "1", "sha256": images[4].sha256,
    }  # fmt: skip


def test_images_that_may_not_be_read_now_are_not_taken_for_gone(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    job_id = submit(stack, engine, worker_id)
    finalize = make_all(stack, engine, worker_id)
    is_denied = S3Proxy(
        refuse=lambda request: 403 if request.method == "GET" and "00000020.png" in request.path else None
    )
    words = r"the store refuses to return s3://.*00000020.png \(Refused\); let the service read it"
    with s3_proxy(stack.settings("dispatcher"), is_denied) as store, pytest.raises(ObjectStoreError, match=words):
        finalizer.finalize(engine, store, finalize)
    assert list(stack.store().keys(f"outputs/default/{job_id}/archive-")) == []
    assert finalizer.finalize(engine, stack.store(), finalize) == "succeeded"
    assert [names_of(archive) for archive in read_tars(stack, job_id)] == [list(range(40))]


def test_a_dispatcher_that_is_killed_between_archives_leaves_the_others_to_the_next(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    """It is killed when its second archive is to be stored; the two listings are stored before."""
    job_id = submit(stack, engine, worker_id)
    for shard in claim(engine, worker_id):
        store_images(stack, engine, shard)
    kill = freeze_in(
        "services.storage.streaming", "StreamedObject.__exit__", before=True, call=4, number=signal.SIGKILL
    )
    with stack.process("dispatcher", first=SMALL_ARCHIVES + kill, **QUICK) as killed:
        assert killed.child.wait(60) == -signal.SIGKILL, killed.log.read_text()
    store, prefix = stack.store(), f"outputs/default/{job_id}/archive-"
    assert list(store.keys(prefix)) == [f"{prefix}00000.tar"]
    with s3_proxy(stack.settings("dispatcher"), proxy := S3Proxy()) as proxied:
        endpoint = proxied.client.meta.endpoint_url
        with stack.process("dispatcher", first=SMALL_ARCHIVES, DARKROOM_S3_ENDPOINT_URL=endpoint, **QUICK):
            assert stack.wait(job_id, timeout=60).state == "succeeded"
    written = [Path(request.path).name for request in proxy.requests if request.method == "PUT"]
    assert [name for name in written if name.startswith("archive")] == ["archive-00001.tar", "archive-00002.tar"]
    read = {Path(request.path).name for request in proxy.requests if request.method == "GET"}
    assert not read & {f"{index:08d}.png" for index in range(16)}
    tars = read_tars(stack, job_id)
    assert [names_of(archive) for archive in tars] == [list(range(16)), list(range(16, 32)), list(range(32, 40))]


def test_the_lease_is_kept_while_archives_are_written(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of large images may take longer than a lease lasts, and losing it again and again would fail the job."""
    submit(stack, engine, worker_id)
    finalize = make_all(stack, engine, worker_id)
    rest: list[float] = []

    def shorten() -> None:
        with engine.begin() as connection:
            rest.append(connection.scalar(REST, {"id": finalize.id}))
            connection.execute(SHORTEN, {"id": finalize.id})

    monkeypatch.setattr(finalizer, "EXTEND_S", 0.0)
    assert finalizer.finalize(engine, stack.store(), finalize, tick=shorten) == "succeeded"
    assert len(rest) > 40
    assert all(seconds > 600 for seconds in rest[-30:])


def test_a_damaged_archive_of_an_earlier_attempt_is_written_again(
    stack: Stack, engine: Engine, worker_id: uuid.UUID
) -> None:
    job_id, store = submit(stack, engine, worker_id), stack.store()
    finalize = make_all(stack, engine, worker_id)
    store.put(f"outputs/default/{job_id}/archive-00000.tar", b"torn", content_type="application/x-tar")
    assert finalizer.finalize(engine, store, finalize) == "succeeded"
    assert [names_of(archive) for archive in read_tars(stack, job_id)] == [list(range(40))]


def test_archives_larger_than_a_part_are_whole_and_bounded(
    stack: Stack, engine: Engine, worker_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(archives, "READ_BYTES", 2**20)
    job_id = submit(stack, engine, worker_id, archive_mib=7)
    bodies = {}
    for shard in claim(engine, worker_id):
        records = []
        for index in range(shard.start, shard.stop):
            key, body = f"outputs/default/{job_id}/images/{index:08d}.png", bytes([index]) * (300_000 + 7 * index)
            stack.store().put(key, body, content_type="image/png")
            bodies[index] = body
            records.append(Output(index, index, 5, key, hashlib.sha256(body).hexdigest(), len(body), "p"))
        with engine.begin() as connection:
            settle(connection, shard, records, is_last=True)
    (finalize,) = claim(engine, worker_id, "finalize")
    assert finalizer.finalize(engine, stack.store(), finalize) == "succeeded"
    tars = read_tars(stack, job_id)
    assert {int(name[:8]): body for tar in tars for name, body in tar.items() if name.endswith("png")} == bodies
    sizes = [archive["bytes"] for archive in manifest_of(stack, job_id)["archives"]]
    assert len(sizes) == 2
    assert all(size <= 7 * 2**20 for size in sizes)
