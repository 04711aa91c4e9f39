"""`darkroom export`: releases in the layouts of other programs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.errors import CommandError

app = typer.Typer(help="Write releases for other programs.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def _group() -> None:
    """Keep `diffusers` a subcommand while it is the only one."""


@app.command()
def diffusers(
    release_dir: Annotated[Path, typer.Argument(help="A release folder.")],
    out_dir: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
) -> None:
    """Write a release as a folder that diffusers loads with `from_pretrained`, and a README that samples it.

    Weights are renamed and nothing is approximated: what diffusers cannot express is refused.
    """
    from training.model.interop import huggingface

    try:
        loads = huggingface.export(release_dir, out_dir)
    except huggingface.ExportError as error:
        raise CommandError(str(error)) from None
    console.print(f"{out_dir} is written for diffusers' {loads}; {out_dir / 'README.md'} shows how to sample it.")
