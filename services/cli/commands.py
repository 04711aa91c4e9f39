"""The table of commands. A command's module is imported when the command runs, so that `darkroom` starts fast."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import Command, Context

EXTENSIONS = "darkroom.commands"  # the entry-point group in which other packages register commands


class Entry(NamedTuple):
    """Where a command is defined, as module:attribute, and its line on the help page."""

    target: str
    help: str


COMMANDS = {
    "up": Entry("services.cli.stack:up", "Start the local stack, a dispatcher and a worker."),
    "down": Entry("services.cli.stack:down", "Stop the local stack and its background processes."),
    "status": Entry("services.cli.stack:status", "Show which parts of the local stack are running."),
    "check": Entry("services.cli.check:check", "Check Postgres, S3, the broker and the running processes."),
    "db": Entry("services.cli.db:app", "Manage the database schema and its logins."),
    "releases": Entry("services.cli.releases:app", "Manage published releases and their aliases."),
    "jobs": Entry("services.cli.jobs:app", "Submit and follow jobs."),
    "queues": Entry("services.cli.queues:app", "List, add, pause and resume queues."),
    "tenants": Entry("services.cli.tenants:app", "List, add and configure tenants."),
    "webhooks": Entry("services.cli.webhooks:app", "Manage webhooks for jobs that end."),
    "import": Entry("services.cli.imports:app", "Convert models of other projects to releases."),
    "export": Entry("services.cli.exports:app", "Convert releases to formats of other projects."),
    "worker": Entry("services.cli.processes:worker", "Run a worker until SIGTERM."),
    "dispatcher": Entry("services.cli.processes:dispatcher", "Run a dispatcher until SIGTERM."),
    "exporter": Entry("services.cli.processes:exporter", "Serve metrics of the queue to Prometheus until SIGTERM."),
    "console": Entry("services.cli.console:console", "Serve the web console and the HTTP API until SIGTERM."),
    "prune": Entry("services.cli.prune:prune", "Delete expired jobs, unused blobs and unfinished uploads."),
    "generate": Entry("services.cli.generate:generate", "Sample images of a release, as a contact sheet."),
    "pictures": Entry("services.cli.pictures:app", "Inspect images before training."),
    "distil": Entry("services.cli.distil:distil", "Distil a release to 1, 2, 4 or 8 network evaluations."),
    "distil-decoder": Entry("services.cli.distil_decoder:distil_decoder", "Train a light decoder for a release."),
    "tune": Entry("services.cli.tune:tune", "Measure a release by number of rows, and recommend one."),
    "evaluate": Entry("services.cli.evaluate:evaluate", "Score a release on the held-out images of an image set."),
}


def command_group(summary: str) -> typer.Typer:
    """Return an empty group of commands whose help is plain text, which needs no import of rich."""
    return typer.Typer(
        help=summary,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )


class LazyGroup(TyperGroup):
    """The commands of `COMMANDS` and those of the entry-point group `darkroom.commands`.

    Help pages and shell completion read the table. Only the command that runs is imported. The entry points are read
    only for a name that is not in the table; their modules are imported to get their help.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.help, rich_markup_mode=None))

    def list_commands(self, ctx: "Context") -> list[str]:
        """Return the names in the order in which the help page shows them."""
        return [*self.commands, *sorted(_extensions())]

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":
        """Return a command's name and help line. A command of the table cannot be invoked yet."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        extensions = _extensions()
        return build(cmd_name, extensions[cmd_name]) if cmd_name in extensions else None

    def resolve_command(self, ctx: "Context", args: list[str]) -> "tuple[str | None, Command | None, list[str]]":
        """Return the command to invoke, which is imported here."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = build(name, COMMANDS[name].target)
        return name, command, rest


def build(name: str, target: str) -> "Command":
    """Import module:attribute, a Typer group or a function, and return it as a command called `name`."""
    module, _, attribute = target.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.name = name
        return group
    alone = command_group("")
    alone.command(name)(found)
    return typer.main.get_command(alone)


def _extensions() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=EXTENSIONS)}
