"""The cache of releases on disk: its limit, full and read-only disks, damaged releases, several processes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.registry import blobs, releases
from services.registry.release_cache import GIB, CacheError, ReleaseCache
from services.storage import layout
from tests.support.releases import make_tiny_release
from tests.support.small_disk import remount, small_disk
from tests.support.stack import Stack
from training.model import release as release_format
from training.model.release import ReleaseError

Manifest = dict[str, Any]
Publish = Callable[[str, int], Manifest]


@pytest.fixture
def publish(stack: Stack, tmp_path: Path) -> Publish:
    """Publish a tiny release under a name, and return its manifest."""

    def run(name: str, seed: int) -> Manifest:
        folder = make_tiny_release(tmp_path / f"{name}-{seed}", seed=seed, name=name)
        with stack.engine("publisher").begin() as connection:
            _, version = releases.publish(connection, stack.store(), folder)
            return releases.find(connection, f"{name}@{version}").manifest

    return run


def size_of(manifest: Manifest) -> int:
    return sum(record["bytes"] for record in manifest["files"].values())


def names(cache: ReleaseCache) -> set[str]:
    return {folder.name for folder in cache.folder.iterdir()}


def fetch(cache: ReleaseCache, manifest: Manifest) -> Path:
    with cache.hold(manifest) as folder:
        return folder


def files_in(folder: Path) -> dict[Path, os.stat_result]:
    return {path: path.stat() for path in folder.rglob("*") if path.is_file()}


def bytes_in(folder: Path) -> int:
    return sum(file.st_size for file in files_in(folder).values())


def test_a_fetched_release_is_the_published_one(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    cache = ReleaseCache(stack.store(), tmp_path / "cache", 1.0)
    manifest = publish("fetched", 3)
    with cache.hold(manifest) as copy:
        assert release_format.read(copy).digest == manifest["digest"]
    blobs = {record["sha256"] for record in manifest["files"].values()}
    assert {release_format.sha256_of(path) for path in copy.iterdir() if path.name != "release.json"} == blobs
    assert fetch(cache, manifest) == copy


def test_the_limit_holds_and_the_releases_used_last_stay(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    manifests = [publish(f"cached-{number}", 10 + number) for number in range(4)]
    limit = 2.5 * size_of(manifests[0])
    cache = ReleaseCache(stack.store(), tmp_path / "cache", limit / GIB)
    for manifest in (manifests[0], manifests[1], manifests[0], manifests[2], manifests[3], manifests[2]):
        fetch(cache, manifest)
        assert bytes_in(cache.folder) <= limit
    assert names(cache) == {manifests[2]["digest"], manifests[3]["digest"]}
    fetch(cache, manifests[0])
    assert names(cache) == {manifests[2]["digest"], manifests[0]["digest"]}


def test_what_killed_processes_left_is_removed(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    cache = ReleaseCache(stack.store(), tmp_path / "cache", 1.0)
    for name in ("fetch-killed", "fetch-123-killed", "removed-1"):
        (cache.folder / name).mkdir(parents=True)
        (cache.folder / name / "weights").write_bytes(b"x" * 1000)
    manifest = publish("leftovers", 20)
    fetch(cache, manifest)
    assert names(cache) == {manifest["digest"]}


def test_a_release_that_another_process_reads_stays(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    first, second = publish("read", 21), publish("wanted", 22)
    cache = ReleaseCache(stack.store(), tmp_path / "cache", 1.5 * size_of(first) / GIB)
    folder = fetch(cache, first)
    lock = "import fcntl, os, sys, time; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{lock}; print('reading', flush=True); time.sleep(600)", str(folder)],
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        with pytest.raises(CacheError, match=r"has no room for .* other processes are reading .* of it; raise it"):
            fetch(cache, second)
        release_format.read(folder)
        reader.kill()
        reader.wait()
        fetch(cache, second)
    assert names(cache) == {second["digest"]}


def test_a_release_larger_than_the_limit_is_refused(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    manifest = publish("large", 23)
    cache = ReleaseCache(stack.store(), tmp_path / "cache", 0.5 * size_of(manifest) / GIB)
    with pytest.raises(CacheError, match=r"'large' needs 0.*GiB on disk; permitted by DARKROOM_CACHE_GB: 0.*Raise it"):
        fetch(cache, manifest)


def test_on_a_full_disk_other_releases_make_room(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    first, second = publish("full-a", 24), publish("full-b", 25)
    with small_disk(tmp_path / "disk", int(1.5 * size_of(first))) as disk:
        cache = ReleaseCache(stack.store(), disk, 1.0)
        fetch(cache, first)
        fetch(cache, second)
        assert names(cache) == {second["digest"]}
        (disk / "filler").write_bytes(b"x" * int(0.4 * size_of(first)))
        fetch(cache, first)
        assert names(cache) == {first["digest"]}


def test_a_disk_that_is_filled_during_the_fetch(
    stack: Stack, tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes the room that was free when the fetch began."""
    first, second = publish("filled-a", 26), publish("filled-b", 27)
    with small_disk(tmp_path / "disk", int(2.5 * size_of(first))) as disk:
        store = stack.store()
        cache = ReleaseCache(store, disk, 1.0)
        fetch(cache, first)
        download = store.download

        def fill_then_download(key: str, path: Path) -> None:
            if not (disk / "filler").exists():
                (disk / "filler").write_bytes(b"x" * int(1.1 * size_of(first)))
            download(key, path)

        monkeypatch.setattr(store, "download", fill_then_download)
        release_format.read(fetch(cache, second))
        assert names(cache) == {second["digest"]}


def test_a_disk_without_room_is_named_and_keeps_no_half_of_a_release(
    stack: Stack, tmp_path: Path, publish: Publish
) -> None:
    manifest = publish("no-room", 28)
    with small_disk(tmp_path / "disk", size_of(manifest) // 2) as disk:
        cache = ReleaseCache(stack.store(), disk, 1.0)
        with pytest.raises(CacheError, match=r"cannot hold release 'no-room', .* No space left on device; make room"):
            fetch(cache, manifest)
        assert names(cache) == set()
        remount(disk, f"size={4 * size_of(manifest)}")
        fetch(cache, manifest)


def test_a_read_only_disk_is_named_and_its_releases_can_be_read(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    first, second = publish("only-a", 29), publish("only-b", 30)
    with small_disk(tmp_path / "disk", 4 * size_of(first)) as disk:
        cache = ReleaseCache(stack.store(), disk, 1.0)
        fetch(cache, first)
        remount(disk, "ro")
        release_format.read(fetch(cache, first))
        with pytest.raises(CacheError, match=r"cannot hold release 'only-b', .* Read-only file system; make room"):
            fetch(cache, second)


def test_a_cache_that_is_no_folder_is_named(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = ReleaseCache(stack.store(), tmp_path / "file", 1.0)
    with pytest.raises(CacheError, match=r"cannot hold release 'nowhere', .* set DARKROOM_CACHE_DIR to a folder that"):
        fetch(cache, publish("nowhere", 31))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["unet.safetensors", "release.json"])
@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip_a_bit], ids=["missing", "truncated", "a bit differs"])
def test_a_damaged_release_is_fetched_once_more(
    stack: Stack, tmp_path: Path, publish: Publish, damage: Callable[[Path], None], file: str
) -> None:
    cache, manifest = ReleaseCache(stack.store(), tmp_path / "cache", 1.0), publish("damaged", 32)
    damage(fetch(cache, manifest) / file)
    assert cache.load(manifest, release_format.read).digest == manifest["digest"]
    assert names(cache) == {manifest["digest"]}


def test_a_disk_that_damages_what_it_holds_is_named(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    cache, manifest = ReleaseCache(stack.store(), tmp_path / "cache", 1.0), publish("decaying", 33)

    def damage_then_read(folder: Path) -> release_format.Release:
        flip_a_bit(folder / "unet.safetensors")
        return release_format.read(folder)

    with pytest.raises(
        CacheError, match=r"'decaying' .* is damaged .*, also after it was fetched again; check the disk of this"
    ):
        cache.load(manifest, damage_then_read)


def test_a_whole_release_that_cannot_be_used_is_not_fetched_again(
    stack: Stack, tmp_path: Path, publish: Publish
) -> None:
    cache, manifest = ReleaseCache(stack.store(), tmp_path / "cache", 1.0), publish("unknown", 34)
    made = fetch(cache, manifest).stat().st_ino

    def refuse(folder: Path) -> None:
        raise ReleaseError("an architecture of the future")

    with pytest.raises(ReleaseError, match="an architecture of the future"):
        cache.load(manifest, refuse)
    assert fetch(cache, manifest).stat().st_ino == made


@pytest.mark.parametrize(("body", "told"), [(None, "missing"), (b"other bytes", "damaged")])
def test_a_blob_that_is_missing_or_damaged_is_named(
    stack: Stack, tmp_path: Path, publish: Publish, body: bytes | None, told: str
) -> None:
    store, manifest = stack.store(), publish("blobless", 35)
    key = layout.blob_key(manifest["files"]["unet.safetensors"]["sha256"])
    before = store.get(key)
    store.delete([key]) if body is None else store.put(key, body, content_type="text/plain")
    cache = ReleaseCache(store, tmp_path / "cache", 1.0)
    wanted = rf"'blobless' \(digest {manifest['digest'][:12]}\): the blob of unet.safetensors, s3://.*{key}, is {told}"
    with pytest.raises(ReleaseError, match=rf"{wanted} in S3; an operator has to publish the release again"):
        fetch(cache, manifest)
    assert names(cache) == set()
    assert publish("blobless", 35) == manifest
    assert store.get(key) == before, "publishing it again mends it"
    fetch(cache, manifest)


def test_a_fetched_release_takes_its_name_while_nobody_counts(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    """A process that makes room would miss it under both names, and let the cache grow past its limit."""
    manifest, other = publish("renamed", 50), ReleaseCache(stack.store(), tmp_path / "cache", 1.0)
    other.folder.mkdir(parents=True)
    fetched, held = threading.Event(), threading.Event()

    def fetch_slowly(*given: Any) -> None:
        download(*given)
        fetched.set()
        held.wait(120)

    def fetch() -> None:
        with ReleaseCache(stack.store(), tmp_path / "cache", 1.0).hold(manifest):
            pass

    download = blobs.download
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blobs, "download", fetch_slowly)
        thread = threading.Thread(target=fetch)
        thread.start()
        assert fetched.wait(120)
        with other._changing():
            held.set()
            thread.join(0.5)
            assert not (other.folder / manifest["digest"]).exists()
        thread.join()
    assert (other.folder / manifest["digest"]).is_dir()


def test_processes_that_share_a_cache_keep_to_its_limit(stack: Stack, tmp_path: Path, publish: Publish) -> None:
    manifests = [publish(f"shared-{number}", 40 + number) for number in range(5)]
    limit, done = 3.2 * size_of(manifests[0]), threading.Event()
    largest, errors, busy = 0, [], 0

    def use(offset: int) -> None:
        nonlocal busy
        cache = ReleaseCache(stack.store(), tmp_path / "cache", limit / GIB)
        for number in range(15):
            manifest = manifests[(offset + 2 * number) % 5]
            try:
                assert cache.load(manifest, release_format.read).digest == manifest["digest"]
            except CacheError:  # two others read releases, so that there is no room at this moment
                busy += 1
            except Exception as error:
                errors.append(error)

    def watch() -> None:
        nonlocal largest
        while not done.is_set():
            try:
                largest = max(largest, bytes_in(tmp_path / "cache" / "releases"))
            except FileNotFoundError:
                continue
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    users = [threading.Thread(target=use, args=(offset,)) for offset in range(3)]
    for thread in (watcher, *users):
        thread.start()
    for thread in users:
        thread.join()
    done.set()
    watcher.join()
    assert errors == []
    assert busy < 15
    assert 0 < largest <= limit


def test_a_folder_that_cannot_be_written_is_named_at_the_start(
    stack: Stack, tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a release there is nothing to serve. A full disk can be emptied."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError) as error:
        ReleaseCache(stack.store(), tmp_path / "file", 1).check()
    problem = f"DARKROOM_CACHE_DIR: {tmp_path}/file/releases cannot be written (Not a directory)"
    assert str(error.value) == f"{problem}; set it to a folder that can be"
    manifest = publish("held", 60)
    with small_disk(tmp_path / "disk", 2 * size_of(manifest)) as disk:
        cache = ReleaseCache(stack.store(), disk, 1)
        cache.check()
        assert names(cache) == set()
        assert caplog.messages == []
        fetch(cache, manifest)
        remount(disk, "ro")
        cache.check()
        ReleaseCache(stack.store(), tmp_path / "file", 1, seed=disk).check()
    for message in caplog.messages[-2:]:
        assert "cannot be written" in message
        assert "; only releases that are there can be served" in message
