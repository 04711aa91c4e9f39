"""Releases in Postgres and S3."""

import os
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from services.registry import aliases, evaluations, release_cache, releases
from services.registry.releases import RegistryError
from services.storage import layout
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack
from training.model.release import ReleaseError


def publish(stack: Stack, folder: Path) -> tuple[str, int]:
    with stack.engine("publisher").begin() as connection:
        return releases.publish(connection, stack.store(), folder)


def test_publishing_again_changes_nothing_and_other_content_is_the_next_version(stack: Stack, tmp_path: Path) -> None:
    first = make_tiny_release(tmp_path / "a", seed=1, name="versions")
    second = make_tiny_release(tmp_path / "b", seed=2, name="versions")
    assert publish(stack, first) == ("versions", 1)
    assert publish(stack, first) == ("versions", 1)
    assert publish(stack, second) == ("versions", 2)
    assert publish(stack, first) == ("versions", 1)


def test_concurrent_publishers_get_different_versions(stack: Stack, tmp_path: Path) -> None:
    folders = [make_tiny_release(tmp_path / str(seed), seed=seed, name="racing") for seed in range(4)]
    versions: list[int] = []
    threads = [threading.Thread(target=lambda f=f: versions.append(publish(stack, f)[1])) for f in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == [1, 2, 3, 4]


def test_every_move_of_an_alias_is_recorded(stack: Stack, tmp_path: Path) -> None:
    for seed in (1, 2):
        publish(stack, make_tiny_release(tmp_path / str(seed), seed=seed, name="moving"))
    with stack.engine("publisher").begin() as connection:
        for reference in ("moving@1", "moving@2", "moving@2", "moving@1"):
            aliases.promote(connection, reference, "production")
        assert releases.find(connection, "moving").version == 1
        assert releases.find(connection, "moving@production").version == 1
        assert releases.find(connection, "moving@2").version == 2
        moves = connection.execute(
            text("""
                SELECT a.version AS before, b.version AS after, promoted_by FROM promotions
                LEFT JOIN releases a ON a.id = from_release JOIN releases b ON b.id = to_release
                WHERE promotions.name = 'moving' ORDER BY promotions.id
            """)
        ).all()
    assert [(move.before, move.after) for move in moves] == [(None, 1), (1, 2), (2, 1)]
    assert {move.promoted_by for move in moves} == {"local_publisher"}


def test_rolling_back_twice(stack: Stack, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        publish(stack, make_tiny_release(tmp_path / str(seed), seed=seed, name="stepping"))
    with stack.engine("publisher").begin() as connection:
        for version in (1, 2, 3):
            aliases.promote(connection, f"stepping@{version}", "production")
        assert aliases.rollback(connection, "stepping", "production").version == 2
        assert aliases.rollback(connection, "stepping", "production").version == 1
        with pytest.raises(RegistryError, match="stepping@production has no earlier release to roll back to"):
            aliases.rollback(connection, "stepping", "production")
        aliases.promote(connection, "stepping@3", "production")
        assert aliases.rollback(connection, "stepping", "production").version == 1
        moves = aliases.list_promotions(connection, "stepping")
    told = [(move.before, move.after, move.rollback) for move in moves]
    assert told == [
        (None, 1, False), (1, 2, False), (2, 3, False), (3, 2, True), (2, 1, True), (1, 3, False), (3, 1, True),
    ]  # fmt: skip
    assert {move.promoted_by for move in moves} == {"local_publisher"}


def test_an_alias_that_moved_meanwhile_is_not_moved(stack: Stack, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        publish(stack, make_tiny_release(tmp_path / str(seed), seed=seed, name="contested"))
    with stack.engine("publisher").begin() as connection:
        aliases.promote(connection, "contested@1", "production", expected=0)
        aliases.promote(connection, "contested@2", "production", expected=1)
        with pytest.raises(RegistryError, match="contested@production was moved meanwhile and is version 2 now"):
            aliases.promote(connection, "contested@3", "production", expected=1)
        aliases.promote(connection, "contested@2", "production", expected=1)  # a retry after it succeeded
        assert len(aliases.list_promotions(connection, "contested")) == 2


def test_the_first_publisher_sets_the_origin(stack: Stack, tmp_path: Path) -> None:
    folder = make_tiny_release(tmp_path / "a", seed=1, name="made")
    with stack.engine("publisher").begin() as connection:
        for run in ("first", "second"):
            assert releases.publish(connection, stack.store(), folder, {"run": run}) == ("made", 1)
        row = releases.find(connection, "made@1")
        assert (row.origin, row.published_by) == ({"run": "first"}, "local_publisher")
        assert releases.find_by_digest(connection, row.digest).digest == row.digest
        with pytest.raises(RegistryError, match="no release of digest ffffffffffff is published"):
            releases.find_by_digest(connection, "f" * 64)
        for metrics in ({"psnr": 30.0}, {"psnr": 30.0}, {"psnr": 31.0}):
            evaluations.record_evaluation(connection, "made@1", "fingerprint", metrics)
        assert evaluations.latest_metrics(connection, row.id, "fingerprint") == {"psnr": 31.0}
        assert evaluations.latest_metrics(connection, row.id, "another") is None
        count = connection.scalar(text("SELECT count(*) FROM evaluations WHERE release_id = :id"), {"id": row.id})
        assert count == 2, "the same again is not written again"


@pytest.mark.parametrize("reference", ["", "Upper", "a@", "a@0", "a@b@c", "a b", "../a", "a@1;drop", "x" * 70])
def test_an_invalid_reference_says_what_is_permitted(stack: Stack, reference: str) -> None:
    with (
        stack.engine("publisher").connect() as connection,
        pytest.raises(RegistryError, match="permitted: name, name@"),
    ):
        releases.find(connection, reference)


def test_a_fetched_release_is_the_published_one(stack: Stack, tmp_path: Path) -> None:
    folder = make_tiny_release(tmp_path / "a", seed=3, name="fetched")
    publish(stack, folder)
    with stack.engine("publisher").connect() as connection:
        manifest = releases.find(connection, "fetched@1").manifest
    copy = release_cache.fetch(stack.store(), manifest, tmp_path / "cache", 1.0)
    assert {p.name: p.read_bytes() for p in copy.iterdir() if p.suffix == ".safetensors"} == {
        p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".safetensors"
    }
    assert release_cache.fetch(stack.store(), manifest, tmp_path / "cache", 1.0) == copy


def test_a_tampered_blob_is_refused_and_nothing_stays_in_the_cache(stack: Stack, tmp_path: Path) -> None:
    folder = make_tiny_release(tmp_path / "a", seed=4, name="tampered")
    publish(stack, folder)
    with stack.engine("publisher").connect() as connection:
        manifest = releases.find(connection, "tampered@1").manifest
    store = stack.store()
    store.put(
        layout.blob_key(manifest["files"]["unet.safetensors"]["sha256"]), b"other bytes", content_type="text/plain"
    )
    with pytest.raises(ReleaseError, match=r"unet\.safetensors: sha256 differs"):
        release_cache.fetch(store, manifest, tmp_path / "cache", 1.0)
    assert list((tmp_path / "cache" / "releases").iterdir()) == []


def test_the_cache_keeps_the_releases_used_last(stack: Stack, tmp_path: Path) -> None:
    manifests = []
    for number in range(4):
        publish(stack, make_tiny_release(tmp_path / str(number), seed=10 + number, name=f"cached-{number}"))
        with stack.engine("publisher").connect() as connection:
            manifests.append(releases.find(connection, f"cached-{number}@1").manifest)
    size = sum(record["bytes"] for record in manifests[0]["files"].values())
    room_for_two = 2.5 * size / 2**30
    folders = []
    for hours, manifest in zip((5, 3), manifests[:2], strict=True):
        folders.append(release_cache.fetch(stack.store(), manifest, tmp_path / "cache", room_for_two))
        os.utime(folders[-1], (time.time() - 3600 * hours,) * 2)
    left_by_a_kill = tmp_path / "cache" / "releases" / "fetch-killed"
    left_by_a_kill.mkdir()
    os.utime(left_by_a_kill, (time.time() - 3600 * 9,) * 2)
    assert (
        release_cache.fetch(stack.store(), manifests[0], tmp_path / "cache", room_for_two) == folders[0]
    )  # used again
    folders.append(release_cache.fetch(stack.store(), manifests[2], tmp_path / "cache", room_for_two))
    assert [folder.is_dir() for folder in (*folders, left_by_a_kill)] == [True, False, True, False]
    # A release that another process may still read stays, whatever the limit.
    release_cache.fetch(stack.store(), manifests[3], tmp_path / "cache", room_for_two)
    assert [folder.is_dir() for folder in folders] == [True, False, True]


def test_objects_are_written_once(stack: Stack) -> None:
    store = stack.store()
    first = store.put_if_absent("once/object", b"first")
    second = store.put_if_absent("once/object", b"the second, longer")
    assert second == first
    assert store.get("once/object") == b"first"


def test_the_publisher_cannot_read_jobs(stack: Stack) -> None:
    with stack.engine("publisher").connect() as connection, pytest.raises(Exception, match="permission denied"):
        connection.execute(text("SELECT * FROM jobs"))
