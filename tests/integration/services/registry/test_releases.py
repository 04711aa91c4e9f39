"""Releases in Postgres and S3."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from services.registry import aliases, evaluations, releases
from services.registry.releases import RegistryError
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack


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


def test_a_condition_with_the_name_of_a_field_of_all_requests_is_not_published(stack: Stack, tmp_path: Path) -> None:
    conditioners = {"image": {"type": "low_resolution", "channels": 1}}
    folder = make_tiny_release(tmp_path / "clash", name="clash", conditioners=conditioners, in_channels=3)
    with (
        pytest.raises(RegistryError, match="release: image is a field of all requests; permitted: another name of the"),
        stack.engine("publisher").begin() as connection,
    ):
        releases.publish(connection, stack.store(), folder)


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


def test_the_publisher_cannot_read_jobs(stack: Stack) -> None:
    with stack.engine("publisher").connect() as connection, pytest.raises(Exception, match="permission denied"):
        connection.execute(text("SELECT * FROM jobs"))
