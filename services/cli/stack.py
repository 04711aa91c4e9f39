"""`darkroom up | down | status | db`: the local stack and the database schema."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from services import local_stack
from services.settings import Role, Settings, load, local_login, local_password, root

console = Console(highlight=False, soft_wrap=True)
db = typer.Typer(help="The database schema and its logins.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
LOCAL_ROLES: tuple[Role, ...] = ("submitter", "dispatcher", "worker", "publisher", "pruner")


class CommandError(Exception):
    """A command cannot do what was asked; the message says what to do instead."""


def connect(role: Role) -> tuple[Settings, Engine]:
    """The settings of a role, and the database, which has answered and has its tables. Raises DatabaseError."""
    from services import database

    settings = load(role)
    engine = database.connect(settings.database_url.get_secret_value())
    database.check(engine)
    return settings, engine


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
    from services import database

    say = report if callable(report) else (lambda message: None)
    state = local_stack.start(root(), ports=ports, report=say)
    migrator = database.connect(state.postgres_url)
    revision = database.upgrade(migrator)
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


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to the newest schema, as the role that owns it."""
    from services import database

    settings = load("migrator")
    revision = database.upgrade(database.connect(settings.database_url.get_secret_value()))
    console.print(f"The database is at revision {revision}.")


@db.command("add-tenant")
def db_add_tenant(
    name: Annotated[str, typer.Argument(help="a-z, 0-9, _ and -; its outputs lie under outputs/NAME.")],
    password_file: Annotated[Path, typer.Option(help="A file with the password of the tenant's new login.")],
) -> None:
    """Add a tenant and its login tenant_NAME, which may submit jobs and read its own, and nothing else."""
    from services import database

    if not password_file.is_file():
        raise CommandError(f"--password-file: {password_file} does not exist")
    password = password_file.read_text().strip()
    if len(password) < 12:
        raise CommandError("--password-file: the password is too short; permitted: 12 characters or more")
    _, engine = connect("migrator")
    with engine.begin() as connection:
        login = f"tenant_{name}"
        database.ensure_login(connection, login, group="submitter", password=password)
        database.ensure_tenant(connection, name, login=login)
    console.print(f"Tenant {name} submits as login {login}.")


__all__ = ["CommandError", "connect", "db", "down", "start", "status", "up"]
