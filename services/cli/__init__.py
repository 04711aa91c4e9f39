"""The `darkroom` command. It builds the settings of every process; nothing below it does."""

from typing import Annotated

import typer

from services.cli.commands import LazyGroup

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"darkroom {version('darkroom')}")
        raise typer.Exit


@app.callback()
def darkroom(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train latent diffusion models in Kubeflow pipelines and sample images from them in bulk."""


def main() -> None:
    """Run the command in sys.argv. Every error is one message and an exit code, never a traceback."""
    from services.cli.failures import exit_on_error, exit_on_sigterm

    exit_on_sigterm()
    with exit_on_error():
        app()
