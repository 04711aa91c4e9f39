"""`darkroom check`, on parts that do what they should and on parts that do not."""

from tests.support.commands import Darkroom
from tests.support.stack import Stack


def test_all_is_well(stack: Stack, darkroom_here: Darkroom) -> None:
    with stack.process("dispatcher") as dispatcher:
        dispatcher.wait_for("serves")
        done = darkroom_here("check")
    assert done.returncode == 0, done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["ok"] * 4
    assert "1 dispatchers" in done.stdout
    assert list(stack.store().keys("checks/")) == []  # nothing of it stays


def test_every_part_that_is_not_well_is_named(stack: Stack, darkroom_here: Darkroom) -> None:
    done = darkroom_here(
        "check",
        DARKROOM_S3_BUCKET="another",
        DARKROOM_BROKER_URL="redis://:a-secret-password@127.0.0.1:1/0",
        DARKROOM_DATABASE_URL="postgresql+psycopg://nobody:a-secret-password@127.0.0.1:1/darkroom",
    )
    assert done.returncode == 1
    assert done.stdout.count("FAILED") == 4
    for words in ("Postgres at", "bucket 'another' does not exist", "The broker at"):
        assert words in done.stdout
    assert "a-secret-password" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_without_a_dispatcher(stack: Stack, darkroom_here: Darkroom) -> None:
    done = darkroom_here("check")
    assert done.returncode == 1
    assert "no dispatcher is running" in done.stdout
