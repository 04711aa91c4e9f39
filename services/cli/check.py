"""`darkroom check`: whether what the service stands on does what it needs, seen with a dispatcher's rights."""

import uuid
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from services.errors import CommandError
from services.settings import load

console = Console(highlight=False, soft_wrap=True)
KEY = "checks/{}"


def check() -> None:
    """Look at Postgres, S3, the broker and the processes. Exit code 0 if all is well, 1 otherwise."""
    from sqlalchemy.exc import DBAPIError

    from services.database import connections
    from services.process import celery_app
    from services.storage.object_store import ObjectStore

    settings = load("dispatcher")
    engine = connections.connect(settings.database_url.get_secret_value())
    checks: dict[str, Callable[[], str]] = {
        "Postgres": lambda: _database(engine),
        "S3": lambda: _written_once(ObjectStore.connect(settings)),
        "broker": lambda: _broker(celery_app.make_app(settings)),
        "processes": lambda: _processes(engine, settings.stale_s),
    }
    table, well = Table(box=None, show_header=False), True
    for name, look in checks.items():
        try:
            table.add_row(name, "[green]well[/]", look())
        except (CommandError, connections.DatabaseError, DBAPIError) as error:
            well = False
            table.add_row(name, "[red]not well[/]", connections.brief(error))
        except Exception as error:  # whatever a client of S3 or of the broker may raise
            well = False
            table.add_row(name, "[red]not well[/]", f"{type(error).__name__}: {connections.brief(error)}")
    console.print(table)
    if not well:
        raise typer.Exit(1)


def _database(engine: Any) -> str:
    from services.database import connections, schema
    from services.job_queue.queues import queue_names

    found = schema.check_schema(engine)
    with engine.connect() as connection:
        version, queues = connections.server_version(connection), ", ".join(queue_names(connection))
    return f"version {version}; schema {found.revision}; queues {queues}"


def _written_once(store: Any) -> str:
    """A store that ignores conditions would let a lost worker overwrite what its successor has stored."""
    key = KEY.format(uuid.uuid4().hex)
    store.check()
    try:
        first = store.put_if_absent(key, b"first")
        second = store.put_if_absent(key, b"second")
        if (first, store.get(key)) != (second, b"first"):
            raise CommandError("the store ignores If-None-Match; Darkroom needs one that keeps what was written first")
    finally:
        store.delete([key])
    return f"bucket {store.bucket} takes, keeps and removes objects"


def _broker(app: Any) -> str:
    from services.process.celery_app import check_broker

    check_broker(app)
    return "takes hints"


def _processes(engine: Any, stale_s: float) -> str:
    from services.job_queue.processes import count_alive

    with engine.connect() as connection:
        alive = count_alive(connection, stale_s)
    if not alive.get("dispatcher"):
        raise CommandError("no dispatcher runs, so no job is planned: start one with `darkroom dispatcher`")
    return f"{alive['dispatcher']} dispatchers, {alive.get('worker', 0)} workers"
