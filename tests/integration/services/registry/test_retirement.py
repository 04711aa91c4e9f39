"""A retired release is used by no new job, and its blobs go when no open job needs them."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, ProgrammingError

from services import retention
from services.job_queue.release_use import count_open_jobs
from services.registry import aliases, locks, releases, retirement
from services.registry.releases import RegistryError
from services.storage.layout import blob_key
from tests.support.commands import Darkroom
from tests.support.releases import make_tiny_release
from tests.support.stack import Stack

NOW = timedelta(0)
REQUEST = {"items": [{"class_label": 1}], "steps": 1}


def publish(stack: Stack, folder: Path, name: str, *seeds: int) -> None:
    for seed in seeds:
        made = make_tiny_release(folder / f"{name}-{seed}", seed=seed, name=name)
        with stack.engine("publisher").begin() as connection:
            releases.publish(connection, stack.store(), made)


def unet_key(stack: Stack, reference: str) -> str:
    with stack.engine("publisher").connect() as connection:
        row = releases.find(connection, reference, retired=True)
    return blob_key(row.manifest["files"]["unet.safetensors"]["sha256"])


@pytest.mark.usefixtures("dispatcher")
def test_a_retired_release_is_used_by_no_new_job(stack: Stack, tmp_path: Path, darkroom_here: Darkroom) -> None:
    publish(stack, tmp_path, "old", 70, 71, 72)
    with stack.engine("publisher").begin() as connection:
        for version in (1, 2):
            aliases.promote(connection, f"old@{version}", "production")
    told = darkroom_here("releases", "retire", "old@2")
    assert told.returncode == 1
    assert "old@2 cannot be retired while aliases point at it: old@production. Move them first" in told.stderr
    assert darkroom_here("releases", "retire", "old@1").stdout == "old@1 is retired; 0 open jobs still use it.\n"
    assert darkroom_here("releases", "retire", "old@1").returncode == 0, "again changes nothing"
    job = stack.wait(stack.submit(REQUEST, model="old@1"))
    assert job.state == "rejected"
    assert job.reason.startswith("model: old@1 was retired on 2")
    assert job.reason.endswith("; there are: 2, 3")
    assert any("old@1" in line and "retired" in line for line in darkroom_here("releases", "list").stdout.splitlines())
    assert re.search(r"^retired +2.* by \w+$", darkroom_here("releases", "show", "old@1").stdout, re.MULTILINE)
    with stack.engine("publisher").begin() as connection:
        for move in (
            lambda: aliases.promote(connection, "old@1", "production"),
            lambda: aliases.rollback(connection, "old", "production"),
        ):
            with pytest.raises(RegistryError, match=r"old@1.* was retired on"):
                move()
        with pytest.raises(RegistryError, match=r"old@1 has this content and was retired .* retire old@1 --undo"):
            releases.publish(connection, stack.store(), tmp_path / "old-70")
    assert "old@1 can be used again" in darkroom_here("releases", "retire", "old@1", "--undo").stdout
    with stack.engine("publisher").begin() as connection:
        assert releases.find(connection, "old@1").version == 1


@pytest.mark.parametrize("reference", ["old", "old@production", "OLD@1", "none@1"])
def test_what_cannot_be_retired_is_named(stack: Stack, darkroom_here: Darkroom, reference: str) -> None:
    told = darkroom_here("releases", "retire", reference)
    assert told.returncode == 1
    assert "permitted: name@version" in told.stderr or "no release is called 'none'" in told.stderr


def test_blobs_of_a_retired_release_stay_for_open_jobs(stack: Stack, tmp_path: Path) -> None:
    publish(stack, tmp_path, "leaving", 73, 74)
    key, store, pruner = unet_key(stack, "leaving@1"), stack.store(), stack.engine("pruner")
    with stack.process("dispatcher"):
        job_id = stack.submit(REQUEST, model="leaving@1")
        stack.wait(job_id, "planned")
        with stack.engine("migrator").begin() as connection:
            release = retirement.retire(connection, "leaving@1")
            assert count_open_jobs(connection, release.id) == 1
        retention.prune_blobs(pruner, store, NOW)
        assert store.etag(key) is not None, "an open job needs it"
        with stack.process("worker", DARKROOM_CACHE_DIR=str(tmp_path / "cache")):
            assert stack.wait(job_id).state == "succeeded"
    retention.prune_blobs(pruner, store, timedelta(hours=1))
    assert store.etag(key) is not None, "planning may have begun just before it was retired"
    assert retention.prune_blobs(pruner, store, NOW)
    assert store.etag(key) is None
    assert store.etag(unet_key(stack, "leaving@2")) is not None


@pytest.mark.parametrize("role", ["publisher", "pruner", "dispatcher", "worker"])
def test_only_the_owner_of_the_tables_retires(stack: Stack, role: str) -> None:
    with (
        stack.engine(role).begin() as connection,  # type: ignore[arg-type]
        pytest.raises(ProgrammingError, match="permission denied for table releases"),
    ):
        connection.execute(text("UPDATE releases SET retired_at = now()"))


def test_no_client_reaches_the_locks_of_the_registry(stack: Stack) -> None:
    for statement in (
        "SELECT FROM service_locks FOR SHARE",
        "LOCK TABLE service_locks IN ACCESS SHARE MODE",
        "UPDATE service_locks SET name = 'x'",
    ):
        with (
            stack.engine("submitter").begin() as connection,
            pytest.raises(ProgrammingError, match="permission denied for table service_locks"),
        ):
            connection.execute(text(statement))


def test_the_locks_end_with_their_transaction_and_say_who_waits(stack: Stack) -> None:
    publisher, pruner = stack.engine("publisher"), stack.engine("pruner")
    with publisher.begin() as one, publisher.begin() as two:
        locks.keep_blobs(one)
        locks.keep_blobs(two)
        with pruner.begin() as other:
            assert not locks.try_lock_blobs(other)
    with pruner.begin() as other, publisher.begin() as one:
        assert locks.try_lock_blobs(other)
        one.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(OperationalError, match="lock timeout"):
            locks.keep_blobs(one)
