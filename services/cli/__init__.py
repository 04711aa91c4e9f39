"""The `darkroom` command: the composition root. Settings are built here, and nowhere below."""

import logging
import sys
from importlib.metadata import entry_points
from typing import NoReturn

import typer
from rich.console import Console

from services.cli import check, db, evaluate, exports, imports, jobs, prune, queues, releases, run, stack, tenants
from training.errors import DarkroomError

app = typer.Typer(
    help="Train latent diffusion models in Kubeflow pipelines and develop images from them in bulk.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.command()(check.check)
app.add_typer(db.app, name="db")
app.add_typer(releases.app, name="releases")
app.add_typer(jobs.app, name="jobs")
app.add_typer(queues.app, name="queues")
app.add_typer(tenants.app, name="tenants")
app.add_typer(imports.app, name="import")
app.add_typer(exports.app, name="export")
app.command()(run.worker)
app.command()(run.dispatcher)
app.command()(run.exporter)
app.command()(prune.prune)
app.command()(evaluate.evaluate)
for entry in entry_points(group="darkroom.commands"):
    command = entry.load()
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=entry.name)
    else:
        app.command(entry.name)(command)


def main() -> None:
    """Run the command. A mistake that a person can mend is one message and exit code 1, never a stack trace."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    from services.database.connections import brief

    try:
        app()
    except DarkroomError as error:
        fail(str(error), error.exit_code)
    except OperationalError as error:
        hint = "Start the local stack with `darkroom up`, or check DARKROOM_DATABASE_URL."
        fail(f"Postgres does not answer ({brief(error)}). {hint}")
    except DBAPIError as error:
        fail(brief(error))
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """Say what is wrong, to a person or as a line for a program, and end."""
    from services.observability import logs

    if logs.as_json():
        logging.getLogger("darkroom").error("%s", message)
    else:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}")
    sys.exit(exit_code)


def escape(message: str) -> str:
    """A message as it is, for rich."""
    from rich.markup import escape as escape_markup

    return escape_markup(message)
