"""`darkroom queues`: lines of work, which an operator may pause."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from services.cli.session import AsJson, connect_database
from services.errors import CommandError

app = typer.Typer(help="Queues: list, add, pause, resume.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)
Name = Annotated[str, typer.Argument(help="a-z, 0-9, _ and -")]


@app.command("list")
def list_queues(as_json: AsJson = False) -> None:
    """Each queue, whether it is paused, and its work that waits and that is under way."""
    engine = connect_database("migrator")
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT name, paused,
                    (SELECT count(*) FROM work WHERE queue = name AND state IN ('ready', 'delayed')) AS waiting,
                    (SELECT count(*) FROM work WHERE queue = name AND state = 'leased') AS leased
                FROM queues ORDER BY name
            """)
        ).all()
    if as_json:
        typer.echo(json.dumps([dict(row._mapping) for row in rows]))
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
        for name in names:
            connection.execute(text("INSERT INTO queues (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name})
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
        found = connection.execute(
            text("UPDATE queues SET paused = :paused WHERE name = :name"), {"paused": paused, "name": name}
        )
        if found.rowcount == 0:
            known = ", ".join(connection.scalars(text("SELECT name FROM queues ORDER BY name")))
            raise CommandError(f"queue: {name!r} does not exist; permitted: {known}")
        connection.execute(text("NOTIFY darkroom_work"))
