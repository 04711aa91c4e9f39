"""`darkroom check`, on parts that do what they should and on parts that do not."""

from sqlalchemy import text

from tests.support.commands import Darkroom
from tests.support.stack import Stack
from tests.support.tenants import administrator


def test_all_is_well(stack: Stack, darkroom_here: Darkroom) -> None:
    with administrator(stack) as owner:  # processes that other tests have killed may still seem alive
        owner.execute("UPDATE workers SET stopped_at = now() WHERE stopped_at IS NULL")
    with stack.process("dispatcher") as dispatcher:
        dispatcher.wait_for("serves")
        done = darkroom_here("check")
    assert done.returncode == 0, done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["ok"] * 4
    assert "1 dispatcher, 0 workers" in done.stdout
    assert "without time-outs" not in done.stdout
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


def test_logins_without_time_outs_are_named(stack: Stack, darkroom_here: Darkroom) -> None:
    with stack.engine("migrator").begin() as connection:
        for login, role in (("by_hand", "worker"), ("bystander", None)):
            connection.execute(text(f"CREATE ROLE {login} LOGIN"))
            if role:
                connection.execute(text(f"GRANT darkroom_{role} TO {login}"))
    try:
        assert "logins without time-outs: by_hand (" in darkroom_here("check").stdout
        with stack.engine("migrator").begin() as connection:
            for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout"):
                connection.execute(text(f"ALTER ROLE by_hand SET {name} = '1min'"))
        assert "without time-outs" not in darkroom_here("check").stdout
    finally:
        with stack.engine("migrator").begin() as connection:
            connection.execute(text("DROP ROLE by_hand, bystander"))
