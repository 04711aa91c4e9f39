"""`darkroom queues`: lines of work, which an operator may pause."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.cli.session import AsJson, connect_database
from services.errors import CommandError
from services.job_queue import queues

app = typer.Typer(help="Queues: list, add, pause, resume.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)
Name = Annotated[str, typer.Argument(help="a-z, 0-9, _ and -")]


@app.command("list")
def list_queues(as_json: AsJson = False) -> None:
    """Each queue, whether it is paused, and its work that waits and that is under way."""
    engine = connect_database("migrator")
    with engine.connect() as connection:
        rows = queues.list_queues(connection)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    table = Table("queue", "", "waiting", "under way", box=None)
    for row in rows:
        table.add_row(row.name, "paused" if row.paused else "", str(row.waiting), str(row.leased))
    console.print(table)


@app.command()
def add(names: Annotated[list[str], typer.Argument(help="a-z, 0-9, _ and -; may be several")]) -> None:
    """Add queues; jobs name them, and workers serve them with `darkroom worker --queue NAME`."""
    engine = connect_database("migrator")
    with engine.begin() as connection:
        queues.add_queues(connection, names)
    console.print(f"There: {', '.join(names)}")


@app.command()
def pause(name: Name) -> None:
    """Claim nothing more from a queue; what is under way is finished, and jobs may still be submitted."""
    _set(name, paused=True)
    console.print(f"Queue {name} is paused. Go on with: darkroom queues resume {name}")


@app.command()
def resume(name: Name) -> None:
    """Claim from a queue again."""
    _set(name, paused=False)
    console.print(f"Queue {name} goes on.")


def _set(name: str, *, paused: bool) -> None:
    engine = connect_database("migrator")
    with engine.begin() as connection:
        if not queues.set_paused(connection, name, paused=paused):
            known = ", ".join(queues.queue_names(connection))
            raise CommandError(f"queue: {name!r} does not exist; permitted: {known}")
