"""`darkroom up`, `down` and `status`: the service on this machine."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated

import typer

from services.cli.session import AsJson
from services.cli.terminal import print_json, print_table
from services.errors import CommandError
from services.local_stack import lifecycle
from services.local_stack.logins import Role, local_login, local_password
from services.local_stack.state import StackState, stack_root

LOCAL_ROLES: tuple[Role, ...] = ("submitter", "dispatcher", "worker", "publisher", "pruner", "observer", "console")
PROCESSES = ("dispatcher", "worker")
SUBMIT = """darkroom jobs submit --model NAME --request '{"items": [{"class_label": 3}]}'"""


def up(
    postgres_port: Annotated[int | None, typer.Option(help="The port of Postgres; default: a free one.")] = None,
    broker_port: Annotated[int | None, typer.Option(help="The port of Valkey; default: a free one.")] = None,
    s3_port: Annotated[int | None, typer.Option(help="The port of SeaweedFS; default: a free one.")] = None,
    parts: Annotated[str, typer.Option(help="dispatcher, worker, or none of them.")] = ",".join(PROCESSES),
    as_json: AsJson = False,
) -> None:
    """Start the local stack, a dispatcher and a worker.

    The stack is Postgres, Valkey and SeaweedFS. Upgrades the database schema and creates the logins. State is kept in
    .darkroom/, or in DARKROOM_ROOT. Parts that already run are left alone. `--parts none` starts the stack alone.
    """
    from services.local_stack.background import start_background

    processes = parse_parts(parts)
    requested = {"postgres": postgres_port, "broker": broker_port, "s3": s3_port}
    ports = {name: port for name, port in requested.items() if port is not None}
    state = start(ports, report=lambda message: typer.echo(message, err=as_json))
    pids = {name: start_background(stack_root(), name) for name in processes}
    url = client_url()
    if as_json:
        print_json(
            {
                "root": str(stack_root()),
                "ports": {name: state.ports[name] for name in requested},
                "processes": pids,
                "database_url": url,
            }
        )
        return
    for name, pid in pids.items():
        typer.echo(f"{name}: process {pid}")
    typer.echo(f"The local stack is running; its state is in {stack_root()}. Stop it with: darkroom down")
    typer.echo(f"Clients elsewhere need: DARKROOM_DATABASE_URL={url}")
    typer.echo("Submit a job:           " + SUBMIT)


def parse_parts(text: str) -> list[str]:
    """Return the processes to start. Raises CommandError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*PROCESSES, "none"):
            raise CommandError(f"--parts: {name!r} is not allowed; permitted: {', '.join(PROCESSES)}, or none")
    chosen = [name for name in PROCESSES if name in names]
    if "worker" in chosen and find_spec("torch") is None:
        raise CommandError("--parts: the worker needs torch; install darkroom[worker], or give --parts dispatcher")
    return chosen


def client_url() -> str:
    """Return the URL of the database with the login of a client."""
    from services.settings import load_database

    return load_database("submitter").database_url.get_secret_value()


def start(ports: dict[str, int] | None = None, *, report: Callable[[str], None] = lambda _: None) -> StackState:
    """Start the local stack, upgrade its schema and create its logins."""
    from services.database import connections, logins, schema
    from services.job_queue.tenants import ensure_tenant

    state = lifecycle.start(stack_root(), ports=ports, report=report)
    migrator = connections.connect(state.postgres_url)
    revision = schema.upgrade(migrator)
    with migrator.begin() as connection:
        for role in LOCAL_ROLES:
            logins.ensure_login(connection, local_login(role), group=role, password=local_password(state, role))
        ensure_tenant(connection, "default", login=local_login("submitter"))
    migrator.dispose()
    report(f"database: at revision {revision}")
    return state


def start_if_local() -> None:
    """Start the local stack, unless DARKROOM_DATABASE_URL names another database."""
    if "DARKROOM_DATABASE_URL" not in os.environ:
        start()


def start_processes_if_local() -> None:
    """Start a dispatcher and a worker for the local stack, unless DARKROOM_DATABASE_URL names another database."""
    from services.local_stack import processes
    from services.local_stack.background import start_background

    if "DARKROOM_DATABASE_URL" in os.environ:
        return
    missing = [name for name in PROCESSES if processes.find(stack_root(), name) is None]
    if missing:
        them = "it" if len(missing) == 1 else "them"
        told = f"Starting a {' and a '.join(missing)}, which takes some seconds. Stop {them} with: darkroom down"
        typer.echo(told, err=True)
    for name in missing:
        start_background(stack_root(), name)


def down(as_json: AsJson = False) -> None:
    """Stop the local stack and its background processes. Data is kept."""
    from services.local_stack.background import stop_background

    stopped = [*stop_background(stack_root()), *lifecycle.stop(stack_root())]
    if as_json:
        print_json({"root": str(stack_root()), "stopped": stopped})
    elif stopped:
        typer.echo(f"Stopped {', '.join(stopped)}. Data is kept in {stack_root()}.")
    else:
        typer.echo("Nothing was running.")


def status(as_json: AsJson = False) -> None:
    """Show which parts of the local stack are running. Exit code 1 unless all that were started run."""
    from services.local_stack.background import background_status

    root = stack_root()
    parts = lifecycle.status(root)
    processes = background_status(root)
    if as_json:
        rows = [
            {"name": p.name, "running": p.running, "pid": p.pid, "port": p.port, "log": str(p.log)} for p in parts
        ] + [{"name": name, "running": pid is not None, "pid": pid, "log": str(log)} for name, pid, log in processes]
        print_json({"root": str(root), "services": rows})
    elif not parts:
        typer.echo(f"There is no local stack in {root}. Start one with: darkroom up")
    else:
        cells = [(p.name, _state(p.running), str(p.pid or ""), f"127.0.0.1:{p.port}", str(p.log)) for p in parts]
        cells += [(name, _state(pid is not None), str(pid or ""), "", str(log)) for name, pid, log in processes]
        print_table(("service", "state", "pid", "address", "log"), cells)
    if not parts or not all(p.running for p in parts) or not all(pid for _, pid, _ in processes):
        raise typer.Exit(1)


def _state(running: bool) -> str:
    return typer.style("running", fg="green") if running else typer.style("stopped", fg="red")
