"""`darkroom queues`: lists, adds, pauses and resumes queues."""

from dataclasses import asdict
from typing import Annotated

import typer

from services.cli.commands import COMMANDS, command_group
from services.cli.session import AsJson, connect_database
from services.cli.terminal import print_json, print_table
from services.errors import CommandError, quote

app = command_group(COMMANDS["queues"].help)
Name = Annotated[str, typer.Argument(help="The name of the queue.")]


@app.command("list")
def list_queues(as_json: AsJson = False) -> None:
    """List queues with their waiting and leased work."""
    from services.job_queue import queues

    engine = connect_database("migrator")
    with engine.connect() as connection:
        rows = queues.list_queues(connection)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    cells = [(row.name, "paused" if row.paused else "", str(row.waiting), str(row.leased)) for row in rows]
    print_table(("queue", "", "waiting", "leased"), cells)


@app.command()
def add(
    names: Annotated[list[str], typer.Argument(help="One or more names of a-z, 0-9, _ and -.")], as_json: AsJson = False
) -> None:
    """Add queues.

    Jobs name their queue; workers serve a queue with `darkroom worker --queue NAME`. A queue that exists is unchanged.
    """
    from services.job_queue import queues
    from services.settings import QUEUE_NAME

    if wrong := [name for name in names if not QUEUE_NAME.fullmatch(name)]:
        raise CommandError(
            f"queue: {quote(wrong[0])} is not allowed; permitted: a letter a-z, then a-z, 0-9, _ and -, at most 63"
        )
    engine = connect_database("migrator")
    with engine.begin() as connection:
        queues.add_queues(connection, names)
    if as_json:
        print_json({"queues": names})
    else:
        typer.echo(f"Queues: {', '.join(names)}")


@app.command()
def pause(name: Name, as_json: AsJson = False) -> None:
    """Pause a queue.

    Workers claim nothing more from it and finish what they have. Jobs can still be submitted.
    """
    _set_paused(name, True)
    if as_json:
        print_json({"name": name, "paused": True})
    else:
        typer.echo(f"Queue {name} is paused. Resume it with: darkroom queues resume {name}")


@app.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Resume a paused queue."""
    _set_paused(name, False)
    if as_json:
        print_json({"name": name, "paused": False})
    else:
        typer.echo(f"Queue {name} is resumed.")


def _set_paused(name: str, paused: bool) -> None:
    from services.job_queue import queues

    engine = connect_database("migrator")
    with engine.begin() as connection:
        if not queues.set_paused(connection, name, paused=paused):
            known = ", ".join(queues.queue_names(connection))
            raise CommandError(f"queue: {name!r} does not exist; permitted: {known}")
