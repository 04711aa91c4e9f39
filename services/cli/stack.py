"""`darkroom up | down | status | db`: the local stack and the database schema."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.cli.session import AsJson
from services.database import logins
from services.job_queue.tenants import ensure_tenant
from services.local_stack import lifecycle
from services.local_stack.logins import Role, local_login, local_password
from services.local_stack.state import StackState
from services.settings import root

console = Console(highlight=False, soft_wrap=True)

LOCAL_ROLES: tuple[Role, ...] = ("submitter", "dispatcher", "worker", "publisher", "pruner", "observer")


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


def start(ports: dict[str, int] | None = None, *, report: object = None) -> StackState:
    """The local stack, migrated and with its logins."""
    from services.database import connections, schema

    say = report if callable(report) else (lambda message: None)
    state = lifecycle.start(root(), ports=ports, report=say)
    migrator = connections.connect(state.postgres_url)
    revision = schema.upgrade(migrator)
    with migrator.begin() as connection:
        for role in LOCAL_ROLES:
            logins.ensure_login(connection, local_login(role), group=role, password=local_password(state, role))
        ensure_tenant(connection, "default", login=local_login("submitter"))
    migrator.dispose()
    say(f"database: at revision {revision}")
    return state


def down() -> None:
    """Stop the local stack, workers and dispatchers started by the demo included. Data is kept."""
    from services.local_stack.background import stop_background

    stopped = [*stop_background(root()), *lifecycle.stop(root())]
    console.print(f"Stopped {', '.join(stopped)}. Data is kept in {root()}." if stopped else "Nothing was running.")


def status(as_json: AsJson = False) -> None:
    """Show what runs. Exit code 0 if all parts of the local stack answer, 1 otherwise."""
    from services.local_stack.background import background_status

    parts = lifecycle.status(root())
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
