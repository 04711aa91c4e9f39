"""`darkroom check`: checks what the service depends on, with a dispatcher's rights."""

import uuid
from typing import TYPE_CHECKING, Any

import typer

from services.cli.session import AsJson, create_engine
from services.cli.terminal import print_json, print_table
from services.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from services.storage.object_store import ObjectStore

KEY = "checks/{}"


def check(as_json: AsJson = False) -> None:
    """Check Postgres, S3, the broker and the running processes. Exit code 1 if any check fails."""
    from services.process.celery_app import make_app
    from services.settings import load
    from services.storage.object_store import ObjectStore

    settings = load("dispatcher")
    engine = create_engine(settings)
    checks: dict[str, Callable[[], str]] = {
        "Postgres": lambda: _check_database(engine),
        "S3": lambda: _check_store(ObjectStore.connect(settings)),
        "broker": lambda: _check_broker(make_app(settings)),
        "processes": lambda: _check_processes(engine, settings.stale_s),
    }
    results = [(name, *_run(look)) for name, look in checks.items()]
    ok = all(one_ok for _, one_ok, _ in results)
    if as_json:
        rows = [{"name": name, "ok": one_ok, "detail": detail} for name, one_ok, detail in results]
        print_json({"ok": ok, "checks": rows})
    else:
        words = {True: typer.style("ok", fg="green"), False: typer.style("FAILED", fg="red")}
        print_table((), [(name, words[one_ok], detail) for name, one_ok, detail in results])
    if not ok:
        raise typer.Exit(1)


def _run(look: "Callable[[], str]") -> tuple[bool, str]:
    """Return whether a check passed, and what it found or why it failed."""
    from sqlalchemy.exc import DBAPIError

    from services.database.connections import brief
    from training.errors import DarkroomError

    try:
        return True, look()
    except (DarkroomError, DBAPIError) as error:
        return False, brief(error)
    except Exception as error:  # the clients of S3 and of the broker have many
        return False, f"{type(error).__name__}: {brief(error)}"


def _check_database(engine: "Engine") -> str:
    from services.database import connections, logins, schema
    from services.job_queue.queues import queue_names

    found = schema.check_schema(engine)
    with engine.connect() as connection:
        version, queues = connections.server_version(connection), ", ".join(queue_names(connection))
        unlimited = ", ".join(logins.logins_without_limits(connection))
    warning = f"; logins without time-outs: {unlimited} (see Time-outs in docs/operations.md)" if unlimited else ""
    return f"version {version}; schema {found.revision}; queues {queues}{warning}"


def _check_store(store: "ObjectStore") -> str:
    """In a store that ignores If-None-Match, a lost worker could overwrite the images of its successor."""
    key = KEY.format(uuid.uuid4().hex)
    store.check()
    try:
        first = store.put_if_absent(key, b"first")
        second = store.put_if_absent(key, b"second")
        if (first, store.get(key)) != (second, b"first"):
            raise CommandError("the store ignores If-None-Match; Darkroom needs a store that honours it on PUT")
    finally:
        store.delete([key])
    return f"bucket {store.bucket}: objects can be written, read and deleted"


def _check_broker(app: Any) -> str:
    from services.process.celery_app import check_broker

    check_broker(app)
    return "accepts hints"


def _check_processes(engine: "Engine", stale_s: float) -> str:
    from services.job_queue.processes import count_alive

    with engine.connect() as connection:
        alive = count_alive(connection, stale_s)
    if not alive.get("dispatcher"):
        raise CommandError("no dispatcher is running, so no job is planned; start one with `darkroom dispatcher`")
    return ", ".join(_count(alive.get(kind, 0), kind) for kind in ("dispatcher", "worker"))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
