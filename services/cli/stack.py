"""`darkroom up | down | status | db`: the local stack and the database schema."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from services import local_stack
from services.settings import DatabaseSettings, Role, Settings, load, load_database, local_login, local_password, root

console = Console(highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
LOCAL_ROLES: tuple[Role, ...] = ("submitter", "dispatcher", "worker", "publisher", "pruner", "observer")


class CommandError(Exception):
    """A command cannot do what was asked; the message says what to do instead."""


def connect(role: Role) -> tuple[Settings, Engine]:
    """The settings of a role, and the database, which has answered and has its tables. Raises DatabaseError."""
    settings = load(role)
    return settings, _opened(settings)


def connect_database(role: Role) -> Engine:
    """The same for a command that needs no S3."""
    return _opened(load_database(role))


def _opened(settings: DatabaseSettings) -> Engine:
    from services import database, schema

    engine = database.connect(settings.database_url.get_secret_value())
    schema.check(engine)
    return engine


def up(
    postgres_port: Annotated[int | None, typer.Option(help="A port of your choice; else a free one.")] = None,
    broker_port: Annotated[int | None, typer.Option(help="A port of your choice; else a free one.")] = None,
    s3_port: Annotated[int | None, typer.Option(help="A port of your choice; else a free one.")] = None,
) -> None:
    """Start Postgres, Valkey and SeaweedFS on this machine and migrate the database.

    State lies under .darkroom/, or under DARKROOM_ROOT. Running it again starts only what is not running.
    """
    asked = {"postgres": postgres_port, "broker": broker_port, "s3": s3_port}
    start({name: port for name, port in asked.items() if port is not None}, report=console.print)
    console.print(f"The stack runs; its state is in {root()}. Stop it with: darkroom down")


def start(ports: dict[str, int] | None = None, *, report: object = None) -> local_stack.StackState:
    """The local stack, migrated and with its logins."""
    from services import database, schema

    say = report if callable(report) else (lambda message: None)
    state = local_stack.start(root(), ports=ports, report=say)
    migrator = database.connect(state.postgres_url)
    revision = schema.upgrade(migrator)
    with migrator.begin() as connection:
        for role in LOCAL_ROLES:
            database.ensure_login(connection, local_login(role), group=role, password=local_password(state, role))
        database.ensure_tenant(connection, "default", login=local_login("submitter"))
    migrator.dispose()
    say(f"database: at revision {revision}")
    return state


def down() -> None:
    """Stop the local stack, workers and dispatchers started by the demo included. Data is kept."""
    from services.cli.serving import stop_background

    stopped = [*stop_background(root()), *local_stack.stop(root())]
    console.print(f"Stopped {', '.join(stopped)}. Data is kept in {root()}." if stopped else "Nothing was running.")


def status(as_json: AsJson = False) -> None:
    """Show what runs. Exit code 0 if all parts of the local stack answer, 1 otherwise."""
    from services.cli.serving import background_status

    parts = local_stack.status(root())
    processes = background_status(root())
    if as_json:
        rows = [
            {"name": p.name, "running": p.running, "pid": p.pid, "port": p.port, "log": str(p.log)} for p in parts
        ] + [{"name": name, "running": pid is not None, "pid": pid, "log": str(log)} for name, pid, log in processes]
        typer.echo(json.dumps({"root": str(root()), "services": rows}))
    elif not parts:
        console.print(f"No local stack in {root()}. Start one with: darkroom up")
    else:
        table = Table("service", "state", "pid", "address", "log", box=None)
        for p in parts:
            table.add_row(p.name, _state(p.running), str(p.pid or ""), f"127.0.0.1:{p.port}", str(p.log))
        for name, pid, log in processes:
            table.add_row(name, _state(pid is not None), str(pid or ""), "", str(log))
        console.print(table)
    if not parts or not all(p.running for p in parts):
        raise typer.Exit(1)


def _state(running: bool) -> str:
    return "[green]running[/]" if running else "[red]stopped[/]"


__all__ = ["CommandError", "connect", "down", "start", "status", "up"]
